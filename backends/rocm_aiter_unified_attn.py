"""ROCM_AITER_UNIFIED_ATTN: AITER's Triton unified attention.

Contract: docs/reference/backends.md#rocm-aiter-unified-attn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from pytest_rocm_attn.backends.aiter_api import UNIFIED_ATTENTION
from pytest_rocm_attn.backends.paged_layer import PagedLayer, Step
from pytest_rocm_attn.errors import BackendLimitError

if TYPE_CHECKING:
    from pytest_rocm_attn.request import Request


class SplitHalves(PagedLayer):
    """A layer whose cache is (2, blocks, block size, KV heads, D), keys before values."""

    def cache_shape(self, blocks: int) -> tuple[int, int, int, int, int]:
        """Return the shape of the KV cache: (2, blocks, block size, KV heads, head size)."""
        request = self.request
        return 2, blocks, self.block_size, request.num_kv_heads, request.head_size

    def _blocks(self, kv_cache: torch.Tensor) -> int:
        return kv_cache.shape[1]

    def _halves(self, kv_cache: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        key_cache, value_cache = kv_cache.unbind(0)
        return key_cache, value_cache

    def _unified(self, step: Step) -> None:
        """Call aiter's unified_attention for all requests of a step; it writes step.out."""
        batch, window = step.batch, self.request.sliding_window
        tokens, requests = batch.slot_mapping.shape[0], len(batch.seq_lens)
        kv_heads = step.key_cache.shape[2]

        def expanded(one: torch.Tensor | None) -> torch.Tensor | None:
            return None if one is None else one.reshape(1, 1).expand(requests, kv_heads)

        UNIFIED_ATTENTION.call(
            self.name,
            q=step.query[:tokens],
            k=step.key_cache,
            v=step.value_cache,
            out=step.out[:tokens],
            cu_seqlens_q=batch.query_start_loc,
            max_seqlen_q=batch.max_query_len,
            seqused_k=batch.seq_lens,
            max_seqlen_k=batch.max_seq_len,
            softmax_scale=self.scale,
            causal=True,
            # A window counts the token itself.
            window_size=(-1, -1) if window is None else (window - 1, 0),
            block_table=batch.block_table,
            softcap=self.request.logits_soft_cap or 0.0,
            q_descale=None,
            k_descale=expanded(step.k_scale),
            v_descale=expanded(step.v_scale),
            alibi_slopes=self.alibi_slopes,
            sinks=self.sinks,
        )


class RocmAiterUnifiedAttention(SplitHalves):
    """One attention layer on ROCM_AITER_UNIFIED_ATTN. The cache: (2, blocks, block size, heads, D).

    Raises:
        AiterError: AMD's aiter is absent, broken, too old, or the unrelated package.
        BackendLimitError, BackendInputError: as PagedLayer.
    """

    name = "ROCM_AITER_UNIFIED_ATTN"
    source = "docs/reference/backends.md#rocm-aiter-unified-attn"

    def _prepare(self) -> None:
        UNIFIED_ATTENTION.find(self.name)

    @classmethod
    def _refusals(cls, request: Request) -> tuple[tuple[bool, str], ...]:
        return (
            *super()._refusals(request),
            (request.dtype == "float32", "dtype float32: it must be float16 or bfloat16"),
        )

    def _forward(self, step: Step) -> None:
        if not step.batch.causal:
            raise BackendLimitError(
                f"{self.name} does not support batches that are not causal: aiter asserts causal"
                f" ({UNIFIED_ATTENTION.source})"
            )
        self._unified(step)
