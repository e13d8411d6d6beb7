"""What the numerics tier asks a backend to compute, in the terms that vLLM-style servers share.

Tensors lie on the device under test. T tokens in the batch, B requests, Hq query and Hkv KV heads, D
head size. Whatever a backend must not read is NaN, and whatever it must not write is compared
afterwards. docs/reference/backends.md#inputs and #mla are the source of shapes and meanings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from pytest_rocm_attn.request import Request


@dataclass(frozen=True, slots=True)
class PagedAttention:
    """Prefill, chunked prefill, decode or a mix of them over a paged cache that holds all tokens.

    Attributes:
        request: what the layer needs; the features below repeat it as values.
        query: [T, Hq, D], last dimension dense.
        key_cache: [blocks, block size, Hkv, D], last dimension dense; an fp8 dtype for an fp8 cache.
        value_cache: likewise.
        kv_cache: [blocks, 2, block size, Hkv, D], of which both caches are views.
        out: [T, Hq, D], to be written.
        query_start_loc: [B + 1] int32, prefix sums of the query lengths.
        seq_lens: [B] int32, new tokens included.
        block_table: [B, blocks per request] int32, last dimension dense; padded with block 0.
        query_lens: the query lengths, on the host.
        max_query_len: the longest query.
        max_seq_len: the longest request.
        scale: factor of the dot product.
        causal: bottom-right aligned; False: every token sees the whole request.
        window: newest keys that a token sees, itself included; None: all.
        soft_cap: c of c * tanh(score / c), or None.
        alibi_slopes: [Hq] float32, or None.
        sinks: [Hq] in the model's dtype, logits, or None.
        k_scale: float32 scalar: a stored key stands for itself times k_scale; 1 unless fp8.
        v_scale: likewise.
    """

    request: Request
    query: torch.Tensor
    key_cache: torch.Tensor
    value_cache: torch.Tensor
    kv_cache: torch.Tensor
    out: torch.Tensor
    query_start_loc: torch.Tensor
    seq_lens: torch.Tensor
    block_table: torch.Tensor
    query_lens: tuple[int, ...]
    max_query_len: int
    max_seq_len: int
    scale: float
    causal: bool
    window: int | None
    soft_cap: float | None
    alibi_slopes: torch.Tensor | None
    sinks: torch.Tensor | None
    k_scale: torch.Tensor
    v_scale: torch.Tensor


@dataclass(frozen=True, slots=True)
class MlaDecode:
    """Absorbed MLA decode, one token per request.

    Attributes:
        request: what the layer needs.
        query: [B, Hq, 576], the key projection absorbed, then the rope part.
        latent_cache: [blocks, block size, 576]; the first 512 columns are the value as well.
        out: [B, Hq, 512], to be written.
        seq_lens: [B] int32.
        block_table: [B, blocks per request] int32, padded with block 0.
        max_seq_len: the longest request.
        scale: factor of the dot product.
    """

    request: Request
    query: torch.Tensor
    latent_cache: torch.Tensor
    out: torch.Tensor
    seq_lens: torch.Tensor
    block_table: torch.Tensor
    max_seq_len: int
    scale: float


@dataclass(frozen=True, slots=True)
class MlaPrefill:
    """MLA prefill over materialised keys and values, with the log-sum-exp for merging.

    Attributes:
        request: what the layer needs.
        query: [T, Hq, 192].
        key: [key tokens, Hq, 192].
        value: [key tokens, Hq, 128].
        out: [T, Hq, 128], to be written.
        lse: [Hq, T] float32, natural logarithm, to be written.
        query_start_loc: [B + 1] int32, prefix sums.
        key_start_loc: [B + 1] int32, prefix sums.
        max_query_len: the longest query.
        scale: factor of the dot product.
        causal: bottom-right aligned; False for a chunk of cached context.
    """

    request: Request
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    out: torch.Tensor
    lse: torch.Tensor
    query_start_loc: torch.Tensor
    key_start_loc: torch.Tensor
    max_query_len: int
    scale: float
    causal: bool
