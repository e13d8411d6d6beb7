"""From a shape family to a problem whose tensors have no memory, of any size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from pytest_rocm_attn.dry_launch import storageless
from pytest_rocm_attn.problem import MlaDecode, MlaPrefill, PagedAttention

if TYPE_CHECKING:
    from pytest_rocm_attn.conformance.tiers.numerics.case import Case
    from pytest_rocm_attn.gpu import Gpu

DEFAULT_BLOCK_SIZE = 16
RANK, ROPE, NOPE, VALUE = 512, 64, 128, 128  # facts/backends.md 4.1


def storageless_problem(case: Case, gpu: Gpu) -> PagedAttention | MlaDecode | MlaPrefill:
    """Return what a backend is asked to launch for.

    Args:
        case: the shape family; its layout is dense here.
        gpu: whose fp8 flavour an fp8 cache has.
    """
    if case.kind == "attention":
        return _attention(case, gpu)
    return _mla_decode(case) if case.kind == "mla-decode" else _mla_prefill(case)


def _ints(*shape: int) -> Any:
    return storageless(shape, torch.int32)


def _table(case: Case) -> tuple[Any, int, int]:
    """Return the block table, how many blocks the cache has, and their size."""
    size = case.request.block_size or DEFAULT_BLOCK_SIZE
    counts = [-(-total // size) for _, total in case.lengths]
    return _ints(len(counts), max(counts)), sum(counts) + 1, size


def _attention(case: Case, gpu: Gpu) -> PagedAttention:
    request, requests = case.request, len(case.lengths)
    heads, kv_heads, head_size = request.num_heads, request.num_kv_heads, request.head_size
    dtype = getattr(torch, request.dtype)
    fp8 = request.kv_cache_dtype.startswith("fp8")
    stored = getattr(torch, gpu.fp8_dtype) if fp8 else dtype
    table, blocks, block_size = _table(case)
    cache = storageless([blocks, 2, block_size, kv_heads, head_size], stored)
    key_cache, value_cache = cache.unbind(1)
    query_lens = tuple(new for new, _ in case.lengths)
    return PagedAttention(
        request=request,
        query=storageless([case.tokens, heads, head_size], dtype),
        key_cache=key_cache,
        value_cache=value_cache,
        kv_cache=cache,
        out=storageless([case.tokens, heads, head_size], dtype),
        query_start_loc=_ints(requests + 1),
        seq_lens=_ints(requests),
        block_table=table,
        query_lens=query_lens,
        max_query_len=max(query_lens),
        max_seq_len=max(total for _, total in case.lengths),
        scale=head_size**-0.5,
        causal=case.causal,
        window=request.sliding_window,
        soft_cap=request.logits_soft_cap,
        alibi_slopes=storageless([heads], torch.float32) if request.alibi else None,
        sinks=storageless([heads], dtype) if request.has_sink else None,
        k_scale=storageless([], torch.float32),
        v_scale=storageless([], torch.float32),
    )


def _mla_decode(case: Case) -> MlaDecode:
    request, requests = case.request, len(case.lengths)
    dtype = getattr(torch, request.dtype)
    table, blocks, block_size = _table(case)
    return MlaDecode(
        request=request,
        query=storageless([requests, request.num_heads, RANK + ROPE], dtype),
        latent_cache=storageless([blocks, block_size, RANK + ROPE], dtype),
        out=storageless([requests, request.num_heads, RANK], dtype),
        seq_lens=_ints(requests),
        block_table=table,
        max_seq_len=max(total for _, total in case.lengths),
        scale=(NOPE + ROPE) ** -0.5,
    )


def _mla_prefill(case: Case) -> MlaPrefill:
    heads, tokens = case.request.num_heads, case.tokens
    keys = sum(total for _, total in case.lengths)
    dtype = getattr(torch, case.request.dtype)
    return MlaPrefill(
        request=case.request,
        query=storageless([tokens, heads, NOPE + ROPE], dtype),
        key=storageless([keys, heads, NOPE + ROPE], dtype),
        value=storageless([keys, heads, VALUE], dtype),
        out=storageless([tokens, heads, VALUE], dtype),
        lse=storageless([heads, tokens], torch.float32),
        query_start_loc=_ints(len(case.lengths) + 1),
        key_start_loc=_ints(len(case.lengths) + 1),
        max_query_len=max(new for new, _ in case.lengths),
        scale=(NOPE + ROPE) ** -0.5,
        causal=case.causal,
    )
