"""ROCM_AITER_FA: AITER's flash attention, routed by what each request does in the step.

Contract: docs/reference/backends.md#rocm-aiter-fa. A request decodes (one new token), extends
(several, after cached ones) or prefills (nothing cached). Unlike vLLM 0.12.0's, keys of prefills
and extends are gathered from the cache and attended to in one causal call, so that soft cap, ALiBi
and an fp8 cache are right there too, and decodes with sinks take unified attention, which knows
them.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from pytest_rocm_attn.backends.aiter_api import (
    FLASH_ATTN_VARLEN,
    PAGED_ATTENTION_V1,
    UNIFIED_ATTENTION,
)
from pytest_rocm_attn.backends.batch import Batch
from pytest_rocm_attn.backends.paged_layer import Step
from pytest_rocm_attn.backends.rocm_aiter_unified_attn import SplitHalves
from pytest_rocm_attn.errors import BackendLimitError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_rocm_attn.request import Request

HEAD_SIZES = (64, 128, 256)
PARTITION = 256  # tokens; docs/reference/aiter.md#paged-attention-v1
WORKSPACE_TOKENS = 32 * 1024  # gathered at a time, unless one request alone has more


class Route(enum.Enum):
    """What a request does in a step."""

    PREFILL = "prefill"
    EXTEND = "extend"
    DECODE = "decode"


@dataclass(frozen=True, slots=True)
class Group:
    """Requests of one route.

    Args:
        requests: their numbers in the step.
        rows: [tokens] int64, their rows of query and output.
        query_lens, seq_lens: on the host.
    """

    requests: tuple[int, ...]
    rows: torch.Tensor
    query_lens: tuple[int, ...]
    seq_lens: tuple[int, ...]

    def batch(self, of: Batch) -> Batch:
        """Return the metadata of these requests alone."""
        index = torch.tensor(self.requests, device=of.block_table.device)
        return Batch.build(
            list(self.query_lens),
            list(self.seq_lens),
            of.block_table[index],
            of.slot_mapping[self.rows],
            causal=of.causal,
        )


@dataclass(frozen=True, slots=True)
class Part:
    """Requests whose keys are gathered at a time, and what layers of a kind share of that in a step.

    Args:
        group: the requests.
        batch: their metadata.
        key_start_loc: [requests + 1] int32, where the gathered keys of each start.
        slots: [keys] int64, where those lie in the cache.
    """

    group: Group
    batch: Batch
    key_start_loc: torch.Tensor
    slots: torch.Tensor


def route(batch: Batch) -> dict[Route, Group]:
    """Group a step's requests. Reads the lengths from the device.

    Requests without new tokens belong to no group.
    """
    starts, seq_lens = batch.query_start_loc.tolist(), batch.seq_lens.tolist()
    members: dict[Route, list[int]] = {}
    for i, seq_len in enumerate(seq_lens):
        new = starts[i + 1] - starts[i]
        if new:
            where = Route.DECODE if new == 1 else Route.EXTEND if new < seq_len else Route.PREFILL
            members.setdefault(where, []).append(i)
    return {
        where: Group(
            requests=tuple(numbers),
            rows=torch.cat([torch.arange(starts[i], starts[i + 1]) for i in numbers]).to(
                batch.block_table.device
            ),
            query_lens=tuple(starts[i + 1] - starts[i] for i in numbers),
            seq_lens=tuple(seq_lens[i] for i in numbers),
        )
        for where, numbers in members.items()
    }


class RocmAiterFlashAttention(SplitHalves):
    """One attention layer on ROCM_AITER_FA. The cache: (2, blocks, block size, KV heads, D).

    Raises:
        AiterError: AMD's aiter is absent, broken, too old, or the unrelated package.
        BackendLimitError, BackendInputError: as PagedLayer.
    """

    name = "ROCM_AITER_FA"
    source = "docs/reference/backends.md#rocm-aiter-fa"

    def _prepare(self) -> None:
        target = self.target.name
        if target.startswith("gfx") and target not in ("gfx90a", "gfx942", "gfx950"):
            raise BackendLimitError(
                f"{self.name} is only supported on gfx9 (gfx90a, gfx942, gfx950), not on {target}"
                f" ({self.source})"
            )
        if self.fp8 and self.cache_dtype != self.platform_fp8:
            raise BackendLimitError(
                f"{self.name} reads an fp8 cache as {self.platform_fp8}, the GPU's own, not as"
                f" {self.cache_dtype} ({self.source})"
            )
        unified = self.request.sliding_window is not None or self.request.has_sink
        for function in (FLASH_ATTN_VARLEN, UNIFIED_ATTENTION if unified else PAGED_ATTENTION_V1):
            function.find(self.name)

    @classmethod
    def _refusals(cls, request: Request) -> tuple[tuple[bool, str], ...]:
        size = request.head_size
        return (
            *super()._refusals(request),
            (request.dtype == "float32", "dtype float32: it must be float16 or bfloat16"),
            (size not in HEAD_SIZES, f"head size {size}: it must be one of {HEAD_SIZES}"),
        )

    def _forward(self, step: Step) -> None:
        if not step.batch.causal:
            raise BackendLimitError(
                f"{self.name} does not support batches that are not causal ({self.source})"
            )
        if not step.plans:
            step.plans["gathered"], step.plans["decoded"] = self._planned(step.batch)
        for part in step.plans["gathered"]:
            self._attend_to_gathered(step, part)
        if step.plans["decoded"] is not None:
            self._decode(step, *step.plans["decoded"])

    def _planned(self, batch: Batch) -> tuple[list[Part], tuple[Group, Batch] | None]:
        """Return the parts of prefills and of extends, and the decodes, in the order of work within a
        call (docs/reference/backends.md#rocm-aiter-fa)."""
        groups = route(batch)
        parts = [
            self._part(part, batch)
            for where in (Route.PREFILL, Route.EXTEND)
            if where in groups
            for part in _parts(groups[where])
        ]
        decoded = groups.get(Route.DECODE)
        return parts, None if decoded is None else (decoded, decoded.batch(batch))

    def _part(self, group: Group, of: Batch) -> Part:
        batch = group.batch(of)
        device = batch.block_table.device
        starts = torch.tensor([0, *group.seq_lens], device=device).cumsum(0)
        rows = []
        for i, seq_len in enumerate(group.seq_lens):
            position = torch.arange(seq_len, device=device)
            block = batch.block_table[i, position // self.block_size].long()
            rows.append(block * self.block_size + position % self.block_size)
        return Part(group, batch, starts.to(torch.int32), torch.cat(rows))

    def _attend_to_gathered(self, step: Step, part: Part) -> None:
        """Prefills and extends: one varlen call for each part that fits the workspace."""
        batch, rows = part.batch, part.group.rows
        window = self.request.sliding_window
        step.out[rows] = FLASH_ATTN_VARLEN.call(
            self.name,
            q=step.query[rows],
            k=self._gathered(step.key_cache, part, step.k_scale),
            v=self._gathered(step.value_cache, part, step.v_scale),
            cu_seqlens_q=batch.query_start_loc,
            cu_seqlens_k=part.key_start_loc,
            max_seqlen_q=batch.max_query_len,
            max_seqlen_k=batch.max_seq_len,
            min_seqlen_q=1,
            softmax_scale=self.scale,
            logits_soft_cap=self.request.logits_soft_cap or 0.0,
            causal=True,
            window_size=(-1, -1) if window is None else (window - 1, 0),
            alibi_slopes=self.alibi_slopes,
            return_lse=False,
            sink_ptr=self.sinks,
        )

    def _gathered(
        self, cache: torch.Tensor, part: Part, scale: torch.Tensor | None
    ) -> torch.Tensor:
        """Return the keys, or values, of requests one after the other: [tokens, KV heads, D]."""
        taken = cache[part.slots // self.block_size, part.slots % self.block_size]
        if self.fp8 and scale is not None:
            return (taken.to(torch.float32) * scale).to(self.dtype)
        return taken

    def _decode(self, step: Step, group: Group, batch: Batch) -> None:
        query = step.query[group.rows]
        out = torch.empty_like(query)
        if self.request.sliding_window is not None or self.request.has_sink:
            part = Step(
                query, step.key_cache, step.value_cache, batch, out, step.k_scale, step.v_scale
            )
            self._unified(part)
            step.out[group.rows] = out
            return
        requests, heads, head_size = query.shape
        partitions = -(-batch.max_seq_len // PARTITION)
        rows = requests * heads * partitions
        one = torch.ones((), dtype=torch.float32, device=query.device)
        PAGED_ATTENTION_V1.call(
            self.name,
            out=out,
            workspace_buffer=torch.empty(
                rows * (head_size * query.element_size() + 8),
                dtype=torch.uint8,
                device=query.device,
            ),
            query=query,
            key_cache=step.key_cache,
            value_cache=step.value_cache,
            scale=self.scale,
            block_tables=batch.block_table,
            cu_query_lens=None,
            context_lens=batch.seq_lens,
            max_context_len=batch.max_seq_len,
            alibi_slopes=self.alibi_slopes,
            kv_cache_dtype="fp8" if self.fp8 else "auto",
            kv_cache_layout="NHD",
            logits_soft_cap=self.request.logits_soft_cap or 0.0,
            k_scale=one if step.k_scale is None else step.k_scale,
            v_scale=one if step.v_scale is None else step.v_scale,
            fp8_out_scale=None,
            partition_size=PARTITION,
        )
        step.out[group.rows] = out


def _parts(group: Group) -> Iterator[Group]:
    """Split a group so that a part's keys fit the workspace; a single request is never split."""
    start, tokens, row, first_row = 0, 0, 0, 0
    for i, seq_len in enumerate(group.seq_lens):
        if i > start and tokens + seq_len > WORKSPACE_TOKENS:
            yield _slice(group, start, i, first_row, row)
            start, tokens, first_row = i, 0, row
        tokens += seq_len
        row += group.query_lens[i]
    yield _slice(group, start, len(group.requests), first_row, row)


def _slice(group: Group, start: int, end: int, first_row: int, last_row: int) -> Group:
    return Group(
        group.requests[start:end],
        group.rows[first_row:last_row],
        group.query_lens[start:end],
        group.seq_lens[start:end],
    )
