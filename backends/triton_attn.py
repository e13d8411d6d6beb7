"""TRITON_ATTN: prefill, chunked prefill, decode and mixed batches by one Triton kernel.

Contract: facts/backends.md 3.1. Wider than vLLM 0.12.0's: non-causal batches are computed too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from pytest_rocm_attn.backends.launch_config import Shape, choose_segments, choose_tile
from pytest_rocm_attn.backends.paged_layer import PagedLayer, Step

if TYPE_CHECKING:
    from pytest_rocm_attn.backends.batch import Batch
    from pytest_rocm_attn.backends.kernels.attention import AttentionPlan

# A request counts as decode while its rows fit the smallest matrix operand.
SMALLEST_ROWS = 16


class TritonAttention(PagedLayer):
    """One attention layer on TRITON_ATTN. Arguments and errors: PagedLayer."""

    name = "TRITON_ATTN"
    source = "facts/backends.md 3.1"

    def _prepare(self) -> None:
        head_size, cache = self.request.head_size, self.cache_dtype.itemsize
        element = self.dtype.itemsize
        self.decode_len = max(1, SMALLEST_ROWS // self.group)
        self.prefill_shape = Shape(128, head_size, 0, element, cache)
        self.decode_shape = Shape(self.group, head_size, 0, element, cache)
        # Both are chosen here, so that what does not fit is refused before any launch.
        self.prefill_tile = choose_tile("prefill", self.prefill_shape, self.target)
        self.decode_tile = choose_tile("decode", self.decode_shape, self.target)

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
        last = min(batch.max_query_len, self.decode_len)
        passes = [
            (shortest, last, self.decode_tile, self._segments(batch)),
            (max(shortest, self.decode_len + 1), batch.max_query_len, self.prefill_tile, 1),
        ]
        return [
            plan_attention(
                step.query,
                key_cache,
                value_cache,
                step.out,
                requests=batch.seq_lens.shape[0],
                pages=batch.block_table,
                page_size=self.block_size,
                min_query_len=first,
                max_query_len=last,
                scale=self.scale,
                tile=tile,
                segments=segments,
                causal=batch.causal,
                window=self.request.sliding_window,
                soft_cap=self.request.logits_soft_cap,
                fp8=self.fp8,
                tokens=batch.slot_mapping.shape[0],
            )
            for first, last, tile, segments in passes
            if first <= last
        ]

    def _decode(self, step: Step) -> bool:
        """Compute the requests with one new token by a kernel of the backend's own, if it has one."""
        return False

    def _segments(self, batch: Batch) -> int:
        if self.batch_invariant:
            return 1
        seen = min(batch.max_seq_len, self.request.sliding_window or batch.max_seq_len)
        blocks = self.request.num_kv_heads * -(-self.group // self.decode_tile.block_m)
        return choose_segments(
            batch.seq_lens.shape[0] * blocks,
            -(-seen // self.decode_tile.block_n),
            self.target.processors,
            self.decode_tile.saturating,
        )
