"""TRITON_MLA: multi-head latent attention. Contract: facts/backends.md 4.1 and 4.2.

Decode attends over the latent cache itself: 576 columns of key, of which the first 512 are the
value, loaded once. Prefill attends over materialised keys (192) and values (128).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from pytest_rocm_attn.backends.cache import concat_and_cache_mla
from pytest_rocm_attn.backends.launch_config import (
    Shape,
    choose_segments,
    choose_tile,
    target_of,
)
from pytest_rocm_attn.errors import BackendInputError, BackendLimitError

if TYPE_CHECKING:
    from pytest_rocm_attn.backends.batch import Batch
    from pytest_rocm_attn.request import Request

RANK, ROPE, NOPE, VALUE = 512, 64, 128, 128  # facts/backends.md 4.1
SOURCE = "facts/backends.md 4.2"


class TritonMLA:
    """One MLA layer on TRITON_MLA.

    Args:
        request: what the layer needs; request.num_heads is 16 to 128.
        device: where it runs.
        scale: factor of the dot product.
        batch_invariant: never split keys.

    Raises:
        BackendLimitError: the backend does not do what the request asks.
    """

    name = "TRITON_MLA"

    def __init__(
        self,
        request: Request,
        device: torch.device,
        *,
        scale: float,
        batch_invariant: bool = False,
    ) -> None:
        refuse(request)
        if scale <= 0:
            raise BackendLimitError(f"TRITON_MLA takes a positive scale, got {scale}")
        self.request = request
        self.device = device
        self.scale = scale
        self.batch_invariant = batch_invariant
        self.dtype: torch.dtype = getattr(torch, request.dtype)
        self.target = target_of(device)
        element = self.dtype.itemsize
        decode = Shape(request.num_heads, RANK, ROPE, element, element, shared=True)
        self.decode_tile = choose_tile("latent", decode, self.target)
        self.prefill_tile = choose_tile(
            "prefill", Shape(128, VALUE, NOPE + ROPE - VALUE, element, element), self.target
        )

    def cache_shape(self, blocks: int) -> tuple[int, int, int]:
        """Return the shape of the latent cache: (blocks, block size, 576)."""
        return blocks, self.request.block_size or 16, RANK + ROPE

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
            query: [requests, heads, 576], last dimension dense: the absorbed query, then its rope part.
            cache: as `cache_shape` says, last dimension dense.
            batch: the step's metadata, every query length at most 1.
            out: [requests, heads, 512], last dimension dense.
            check: also check slots and block table, which reads the device.
        Returns: out.

        Raises:
            BackendInputError: shapes, dtypes or devices disagree; nothing is launched or written.
        """
        tokens, heads = batch.slot_mapping.shape[0], self.request.num_heads
        self._check("query", query, (tokens, heads, RANK + ROPE))
        self._check("out", out, (tokens, heads, RANK))
        self._check("cache", cache, self.cache_shape(cache.shape[0] if cache.ndim else 0))
        if batch.block_table.device != self.device:
            raise BackendInputError(
                f"TRITON_MLA: block_table is on {batch.block_table.device}, the layer is on"
                f" {self.device}"
            )
        if batch.max_seq_len > batch.block_table.shape[1] * cache.shape[1]:
            raise BackendInputError(
                f"TRITON_MLA: a request has {batch.max_seq_len} tokens, block_table has"
                f" {batch.block_table.shape[1]} blocks of {cache.shape[1]} for each"
                " (facts/backends.md 2.1)"
            )
        if batch.max_query_len > 1 or not batch.causal:
            raise BackendLimitError(
                f"TRITON_MLA decodes one token a request, causally; got {batch.max_query_len} tokens"
                f" ({SOURCE}: reorder threshold 1); use prefill"
            )
        if check:
            batch.check(cache.shape[0], cache.shape[1])
        if tokens == 0:
            return out
        from pytest_rocm_attn.backends.kernels.attention import launch_attention

        tile = self.decode_tile
        launch_attention(
            query,
            cache.unsqueeze(2),
            None,
            out,
            query_start_loc=batch.query_start_loc,
            seq_lens=batch.seq_lens,
            pages=batch.block_table,
            page_size=cache.shape[1],
            min_query_len=1,
            max_query_len=1,
            scale=self.scale,
            tile=tile,
            segments=1
            if self.batch_invariant
            else choose_segments(
                batch.seq_lens.shape[0] * -(-heads // tile.block_m),
                -(-batch.max_seq_len // tile.block_n),
                self.target.processors,
                tile.saturating,
            ),
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
        causal: bool = True,
        lse: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Attention over materialised keys and values of a ragged batch.

        Args:
            query: [query tokens, heads, 192], last dimension dense, as all others.
            key: [key tokens, heads, 192].
            value: [key tokens, heads, 128].
            out: [query tokens, heads, 128].
            query_start_loc, key_start_loc: [requests + 1] int32, prefix sums.
            max_query_len: the longest query.
            causal: bottom-right aligned; False for a chunk of cached context.
            lse: [heads, query tokens] float32, receives the natural log-sum-exp for merging.
        Returns: out.

        Raises:
            BackendInputError: shapes, dtypes or devices disagree; nothing is launched or written.
        """
        heads, tokens, keys = self.request.num_heads, query.shape[0], key.shape[0]
        self._check("query", query, (tokens, heads, NOPE + ROPE))
        self._check("key", key, (keys, heads, NOPE + ROPE))
        self._check("value", value, (keys, heads, VALUE))
        self._check("out", out, (tokens, heads, VALUE))
        if query_start_loc.shape != key_start_loc.shape:
            raise BackendInputError(
                f"TRITON_MLA: query_start_loc has shape {tuple(query_start_loc.shape)}, key_start_loc"
                f" {tuple(key_start_loc.shape)}"
            )
        for name, starts in (
            ("query_start_loc", query_start_loc),
            ("key_start_loc", key_start_loc),
        ):
            dense = starts.ndim == 1 and starts.numel() > 0 and starts.stride(0) == 1
            if starts.dtype != torch.int32 or not dense or starts.device != self.device:
                raise BackendInputError(
                    f"TRITON_MLA: {name} is {starts.dtype} {tuple(starts.shape)} on {starts.device},"
                    f" wanted dense int32 [requests + 1] on {self.device} (facts/backends.md 2.1)"
                )
        if lse is not None and (
            lse.shape != (heads, tokens)
            or lse.dtype != torch.float32
            or lse.device != self.device
            or lse.stride(1) != 1
        ):
            raise BackendInputError(
                f"TRITON_MLA: lse is {lse.dtype} {tuple(lse.shape)} on {lse.device}, wanted float32"
                f" {(heads, tokens)} on {self.device}, last dimension dense (facts/backends.md 2.1)"
            )
        if tokens == 0:
            return out
        from pytest_rocm_attn.backends.kernels.attention import launch_attention

        launch_attention(
            query,
            key,
            value,
            out,
            query_start_loc=query_start_loc,
            seq_lens=key_start_loc[1:] - key_start_loc[:-1],
            pages=key_start_loc,
            page_size=0,
            min_query_len=1,
            max_query_len=max_query_len,
            scale=self.scale,
            tile=self.prefill_tile,
            causal=causal,
            lse=lse,
        )
        return out

    def _check(self, name: str, tensor: torch.Tensor, wanted: tuple[int, ...]) -> None:
        if tuple(tensor.shape) != wanted or tensor.stride(-1) != 1:
            raise BackendInputError(
                f"TRITON_MLA: {name} has shape {tuple(tensor.shape)}, wanted {wanted} with a dense"
                " last dimension (facts/backends.md 4.1)"
            )
        if tensor.dtype != self.dtype:
            raise BackendInputError(
                f"TRITON_MLA: {name} is {tensor.dtype}, the layer's dtype is {self.dtype}"
            )
        if tensor.device != self.device:
            raise BackendInputError(
                f"TRITON_MLA: {name} is on {tensor.device}, the layer is on {self.device}"
            )


def refuse(request: Request) -> None:
    """Check a request against what TRITON_MLA does.

    Raises:
        BackendLimitError: it asks for more; the message names value, limit and source.
    """
    block_size = request.block_size or 16
    refusals = (
        (not request.use_mla or request.use_sparse, "anything but dense MLA"),
        (request.dtype == "float32", "dtype float32: it must be float16 or bfloat16"),
        (block_size % 16 != 0, f"block size {block_size}: it must be a multiple of 16"),
        (request.head_size != RANK + ROPE, f"head size {request.head_size}: it must be 576"),
        (not 16 <= request.num_heads <= 128, f"{request.num_heads} heads: it must be 16 to 128"),
        (
            request.kv_cache_dtype not in ("auto", request.dtype),
            f"{request.kv_cache_dtype!r} cache",
        ),
        (request.attn_type != "decoder", f"{request.attn_type} attention"),
        (request.alibi, "ALiBi"),
        (request.has_sink, "sinks"),
        (request.sliding_window is not None, f"a sliding window of {request.sliding_window}"),
        (request.logits_soft_cap is not None, f"a soft cap of {request.logits_soft_cap}"),
    )
    for refused, what in refusals:
        if refused:
            raise BackendLimitError(f"TRITON_MLA does not support {what} ({SOURCE})")
