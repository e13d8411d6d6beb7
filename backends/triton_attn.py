"""TRITON_ATTN: prefill, chunked prefill, decode and mixed batches by one Triton kernel.

Contract: docs/reference/backends.md#triton-attn. Wider than vLLM 0.12.0's: non-causal batches are
computed too.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from pytest_rocm_attn.backends.cache import NHD
from pytest_rocm_attn.backends.launch_config import (
    SMALLEST_ROWS,
    Pass,
    Shape,
    Work,
    choose_passes,
    choose_short_tile,
    choose_tile,
    decode_length,
)
from pytest_rocm_attn.backends.paged_layer import PagedLayer, Step

if TYPE_CHECKING:
    from pytest_rocm_attn.backends.batch import Batch
    from pytest_rocm_attn.backends.kernels.attention import AttentionPlan
    from pytest_rocm_attn.backends.launch_tiles import Tile


class TritonAttention(PagedLayer):
    """One attention layer on TRITON_ATTN. It has the arguments and errors of PagedLayer."""

    name = "TRITON_ATTN"
    source = "docs/reference/backends.md#triton-attn"
    can_be_batch_invariant = True

    def _prepare(self) -> None:
        # Both are chosen here, so that what does not fit is refused before any launch.
        self.prefill_tile = self._fitted(choose_tile("prefill", self._shape(128), self.target))
        decode = self._shape(self.group)
        self.decode_tile = choose_tile("decode", decode, self.target)
        self.split_tile = choose_tile("decode", replace(decode, split=True), self.target)

    def _shape(self, rows: int) -> Shape:
        element, cache, request = self.dtype.itemsize, self.cache_dtype.itemsize, self.request
        # The addresses of another layout take registers, as masks and biases do.
        plain = self.layout is NHD and not (
            request.sliding_window or request.logits_soft_cap or request.alibi
        )
        biased = bool(request.alibi)
        return Shape(rows, request.head_size, 0, element, cache, plain=plain, biased=biased)

    def _fitted(self, tile: Tile) -> Tile:
        """Return a tile as the backend's cache layout allows it."""
        return tile

    def _tile_for(self, rows: int, filled: bool) -> Tile:
        if rows <= max(SMALLEST_ROWS, self.group):
            return self.decode_tile if filled else self.split_tile
        return self._fitted(choose_short_tile(self._shape(rows), self.target))

    def _forward(self, step: Step) -> None:
        batch, fp8 = step.batch, self.fp8
        decoded = batch.min_query_len == 1 and self._decode(step)
        key_cache, value_cache = step.key_cache, step.value_cache
        if fp8:
            key_cache, value_cache = key_cache.view(torch.uint8), value_cache.view(torch.uint8)
        plans = step.plans.get(decoded)
        if plans is None:
            shortest = 2 if decoded else batch.min_query_len
            plans = step.plans[decoded] = self._plan(step, key_cache, value_cache, shortest)
        for plan in plans:
            plan(
                step.query,
                key_cache,
                value_cache,
                step.out,
                query_start_loc=batch.query_start_loc,
                seq_lens=batch.seq_lens,
                pages=batch.block_table,
                alibi_slopes=self.alibi_slopes,
                sinks=self.sinks,
                k_scale=step.k_scale if fp8 else None,
                v_scale=step.v_scale if fp8 else None,
            )

    def _plan(
        self, step: Step, key_cache: torch.Tensor, value_cache: torch.Tensor, shortest: int
    ) -> list[AttentionPlan]:
        """Plan the requests with `shortest` new tokens or more: decodes, then prefills."""
        from pytest_rocm_attn.backends.kernels.attention import plan_attention

        batch = step.batch
        return [
            plan_attention(
                step.query,
                key_cache,
                value_cache,
                step.out,
                requests=batch.seq_lens.shape[0],
                pages=batch.block_table,
                page_size=self.block_size,
                min_query_len=one.first,
                max_query_len=one.last,
                scale=self.scale,
                tile=one.tile,
                segments=one.segments,
                causal=batch.causal,
                window=self.request.sliding_window,
                soft_cap=self.request.logits_soft_cap,
                fp8=self.fp8,
                tokens=batch.slot_mapping.shape[0],
            )
            for one in self._passes(batch, shortest)
        ]

    def _decode(self, step: Step) -> bool:
        """Compute the requests with one new token by a kernel of the backend's own, if it has one."""
        return False

    def _lengths(self, batch: Batch, shortest: int) -> tuple[int, ...] | None:
        lengths = batch.query_lens
        if lengths is not None and shortest > batch.min_query_len:  # others are computed already
            return tuple(length for length in lengths if length >= shortest)
        return lengths

    def _passes(self, batch: Batch, shortest: int) -> tuple[Pass, ...]:
        request, longest = self.request, batch.max_query_len
        if self.batch_invariant:  # by the request's own length alone, and never split
            decode = min(longest, decode_length(self.group))
            passes = (
                Pass(shortest, decode, self.decode_tile, 1),
                Pass(max(shortest, decode_length(self.group) + 1), longest, self.prefill_tile, 1),
            )
            return tuple(one for one in passes if one.first <= one.last)
        work = Work(
            requests=batch.seq_lens.shape[0],
            tokens=batch.slot_mapping.shape[0],
            shortest=shortest,
            longest=longest,
            lengths=self._lengths(batch, shortest),
            keys=batch.max_seq_len,
            window=request.sliding_window,
            heads=request.num_heads,
            kv_heads=request.num_kv_heads,
            value_size=request.head_size,
        )
        return choose_passes(work, self.target.processors, self.prefill_tile, self._tile_for)
