"""ROCM_AITER_MLA: AITER's assembly MLA decode and flash-attention prefill.

Contract: docs/reference/backends.md#rocm-aiter-mla; aiter's functions:
docs/reference/aiter.md#flash-attn-varlen-func and #mla-decode-fwd.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from pytest_rocm_attn.backends.aiter_api import FLASH_ATTN_VARLEN, MLA_DECODE
from pytest_rocm_attn.backends.launch_target import target_of
from pytest_rocm_attn.backends.mla_layer import RANK, ROPE, MlaLayer
from pytest_rocm_attn.errors import BackendLimitError

if TYPE_CHECKING:
    from pytest_rocm_attn.backends.batch import Batch
    from pytest_rocm_attn.request import Request

HEADS = (16, 128)  # query heads per rank that aiter's kernel has at vLLM 0.12.0's pin


class RocmAiterMLA(MlaLayer):
    """One MLA layer on ROCM_AITER_MLA.

    Any block size: aiter's kernel gets pages of one token, and each block of the cache is that many
    pages.

    Args:
        request: what the layer needs; request.num_heads is 16 or 128.
        device: where it runs.
        scale: factor of the dot product; aiter's own default would be another.

    Raises:
        BackendLimitError: the backend does not do what the request asks.
        AiterError: AMD's aiter is absent, broken, too old, or the unrelated package.
    """

    name = "ROCM_AITER_MLA"
    source = "docs/reference/backends.md#rocm-aiter-mla"
    contiguous = True

    def __init__(self, request: Request, device: torch.device, *, scale: float) -> None:
        super().__init__(request, device, scale=scale)
        target = target_of(self.device).name
        if target.startswith("gfx") and target not in ("gfx942", "gfx950"):
            raise BackendLimitError(
                f"ROCM_AITER_MLA does not support {target}: aiter has its kernel for gfx942 and"
                f" gfx950 ({self.source})"
            )
        for function in (MLA_DECODE, FLASH_ATTN_VARLEN):
            function.find(self.name)

    @classmethod
    def _refusals(cls, request: Request) -> tuple[tuple[bool, str], ...]:
        heads = request.num_heads
        return (
            (request.dtype != "bfloat16", f"dtype {request.dtype}: it must be bfloat16"),
            (heads not in HEADS, f"{heads} query heads: it must be one of {HEADS}"),
            *super()._refusals(request),
        )

    def _decode(
        self,
        query: torch.Tensor,
        cache: torch.Tensor,
        batch: Batch,
        out: torch.Tensor,
        plans: dict[Any, Any],
    ) -> None:
        tokens, requests = len(batch.slot_mapping), len(batch.seq_lens)
        if tokens != requests:
            raise BackendLimitError(
                f"ROCM_AITER_MLA decodes one token per request, got {tokens} for {requests} requests"
                f" ({self.source}); leave out the requests that have none"
            )
        if not plans:
            ones = torch.ones(requests, dtype=torch.int32, device=self.device)
            plans["pages"] = (*self._pages(batch), ones)
        starts, pages, ones = plans["pages"]
        MLA_DECODE.call(
            self.name,
            q=query,
            kv_buffer=cache.view(-1, 1, 1, RANK + ROPE),
            o=out,
            qo_indptr=batch.query_start_loc,
            kv_indptr=starts,
            kv_indices=pages,
            kv_last_page_lens=ones,
            max_seqlen_q=1,
            page_size=1,
            nhead_kv=1,
            sm_scale=self.scale,
            logit_cap=0.0,
        )

    def prefill(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        out: torch.Tensor,
        *,
        query_start_loc: torch.Tensor,
        key_start_loc: torch.Tensor,
        max_query_len: int,
        max_key_len: int,
        causal: bool = True,
    ) -> torch.Tensor:
        """Attention over materialised keys and values of a ragged batch.

        Args:
            query: [query tokens, heads, 192], contiguous, as all others.
            key: [key tokens, heads, 192].
            value: [key tokens, heads, 128].
            out: [query tokens, heads, 128].
            query_start_loc, key_start_loc: [requests + 1] int32, prefix sums.
            max_query_len, max_key_len: the longest query, and the most keys of a request.
            causal: bottom-right aligned; False for a chunk of cached context.
        Returns: out.

        Raises:
            BackendInputError: shapes, dtypes or devices disagree; nothing is called or written.
        """
        self._check_prefill(query, key, value, out, query_start_loc, key_start_loc)
        if len(query) == 0:
            return out
        out.copy_(
            FLASH_ATTN_VARLEN.call(
                self.name,
                q=query,
                k=key,
                v=value,
                cu_seqlens_q=query_start_loc,
                cu_seqlens_k=key_start_loc,
                max_seqlen_q=max_query_len,
                max_seqlen_k=max_key_len,
                softmax_scale=self.scale,
                causal=causal,
                return_lse=False,
            )
        )
        return out

    def _pages(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return kv_indptr and kv_indices: the cache slot of each token of each request."""
        starts = torch.zeros(len(batch.seq_lens) + 1, dtype=torch.int32, device=self.device)
        starts[1:] = batch.seq_lens.cumsum(0)
        position = torch.arange(batch.max_seq_len, device=self.device)
        slots = batch.block_table[:, position // self.block_size].long() * self.block_size
        slots = slots + position % self.block_size
        used = position[None, :] < batch.seq_lens[:, None]
        return starts, slots[used].to(torch.int32)
