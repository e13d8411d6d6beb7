"""ROCM_AITER_MLA: AITER's assembly MLA decode and flash-attention prefill.

Contract: facts/backends.md 4.3; aiter's functions: facts/aiter-api.md 3.1 and 3.5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from pytest_rocm_attn.backends.aiter_api import FLASH_ATTN_VARLEN, MLA_DECODE
from pytest_rocm_attn.backends.cache import concat_and_cache_mla
from pytest_rocm_attn.backends.launch_config import target_of
from pytest_rocm_attn.backends.triton_mla import NOPE, RANK, ROPE, VALUE
from pytest_rocm_attn.errors import BackendInputError, BackendLimitError

if TYPE_CHECKING:
    from pytest_rocm_attn.backends.batch import Batch
    from pytest_rocm_attn.request import Request

SOURCE = "facts/backends.md 4.3"
HEADS = (16, 128)  # query heads per rank that aiter's kernel has at vLLM 0.12.0's pin


class RocmAiterMLA:
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

    def __init__(self, request: Request, device: torch.device, *, scale: float) -> None:
        refuse(request)
        if scale <= 0:
            raise BackendLimitError(f"ROCM_AITER_MLA takes a positive scale, got {scale}")
        target = target_of(device).name
        if target.startswith("gfx") and target not in ("gfx942", "gfx950"):
            raise BackendLimitError(
                f"ROCM_AITER_MLA does not support {target}: aiter has its kernel for gfx942 and"
                f" gfx950 ({SOURCE})"
            )
        for function in (MLA_DECODE, FLASH_ATTN_VARLEN):
            function.find(self.name)
        self.request = request
        self.device = device
        self.scale = scale
        self.dtype: torch.dtype = getattr(torch, request.dtype)
        self.block_size = request.block_size or 16

    def cache_shape(self, blocks: int) -> tuple[int, int, int]:
        """Return the shape of the latent cache: (blocks, block size, 576)."""
        return blocks, self.block_size, RANK + ROPE

    def write_cache(
        self, kv_c: torch.Tensor, k_pe: torch.Tensor, cache: torch.Tensor, batch: Batch
    ) -> None:
        """Write the step's latent rows, [tokens, 512] and [tokens, 64], to their slots.

        Raises:
            BackendInputError: see `concat_and_cache_mla`.
        """
        concat_and_cache_mla(kv_c, k_pe, cache, batch.slot_mapping)

    def decode(
        self,
        query: torch.Tensor,
        cache: torch.Tensor,
        batch: Batch,
        out: torch.Tensor,
        *,
        check: bool = False,
    ) -> torch.Tensor:
        """Absorbed decode, one token a request.

        Args:
            query: [requests, heads, 576] contiguous: the absorbed query, then its rope part.
            cache: as `cache_shape` says, contiguous.
            batch: the step's metadata, every query length 1.
            out: [requests, heads, 512] contiguous.
            check: also check slots and block table, which reads the device.
        Returns: out.

        Raises:
            BackendInputError: shapes, dtypes or devices disagree; nothing is called or written.
        """
        requests, heads = batch.seq_lens.shape[0], self.request.num_heads
        self._check("query", query, (requests, heads, RANK + ROPE))
        self._check("out", out, (requests, heads, RANK))
        self._check("cache", cache, self.cache_shape(cache.shape[0]))
        if (batch.min_query_len, batch.max_query_len) != (1, 1) and requests:
            raise BackendLimitError(
                f"ROCM_AITER_MLA decodes one token a request, got {batch.min_query_len} to"
                f" {batch.max_query_len} ({SOURCE}); use prefill"
            )
        if check:
            batch.check(cache.shape[0], self.block_size)
        if requests == 0:
            return out
        starts, pages = self._pages(batch)
        ones = torch.ones(requests, dtype=torch.int32, device=self.device)
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
        return out

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
            query: [query tokens, heads, 192].
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
        heads, tokens, keys = self.request.num_heads, query.shape[0], key.shape[0]
        self._check("query", query, (tokens, heads, NOPE + ROPE))
        self._check("key", key, (keys, heads, NOPE + ROPE))
        self._check("value", value, (keys, heads, VALUE))
        self._check("out", out, (tokens, heads, VALUE))
        if tokens == 0:
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

    def _check(self, name: str, tensor: torch.Tensor, wanted: tuple[int, ...]) -> None:
        problem = ""
        if tuple(tensor.shape) != wanted or not tensor.is_contiguous():
            problem = f"has shape {tuple(tensor.shape)}, wanted {wanted}, contiguous"
        elif tensor.dtype != self.dtype:
            problem = f"is {tensor.dtype}, the layer's dtype is {self.dtype}"
        elif tensor.device != self.device:
            problem = f"is on {tensor.device}, the layer is on {self.device}"
        if problem:
            raise BackendInputError(f"ROCM_AITER_MLA: {name} {problem} ({SOURCE})")


def refuse(request: Request) -> None:
    """Check a request against what ROCM_AITER_MLA does.

    Raises:
        BackendLimitError: it asks for more; the message names value, limit and source.
    """
    heads = request.num_heads
    refusals = (
        (not request.use_mla or request.use_sparse, "anything but dense MLA"),
        (request.dtype != "bfloat16", f"dtype {request.dtype}: it must be bfloat16"),
        (request.head_size != RANK + ROPE, f"head size {request.head_size}: it must be 576"),
        (heads not in HEADS, f"{heads} query heads: it must be one of {HEADS}"),
        (
            request.kv_cache_dtype not in ("auto", request.dtype),
            f"kv_cache_dtype {request.kv_cache_dtype!r}: it must be 'auto'",
        ),
        (request.attn_type != "decoder", f"{request.attn_type} attention"),
        (request.alibi, "ALiBi"),
        (request.has_sink, "sinks"),
        (request.sliding_window is not None, f"a sliding window of {request.sliding_window}"),
        (request.logits_soft_cap is not None, f"a soft cap of {request.logits_soft_cap}"),
    )
    for refused, what in refusals:
        if refused:
            raise BackendLimitError(f"ROCM_AITER_MLA does not support {what} ({SOURCE})")
