"""From a shape family to a problem whose tensors have no memory, and the sizes and views of a server's.

Triton compiles for what it sees of the arguments, so sizes, addresses and strides decide which kernel
is judged. docs/launch-tier.md lists what it sees and what a server gives.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from pytest_rocm_attn.conformance.tiers.numerics.build import (
    DEFAULT_BLOCK_SIZE,
    NOPE,
    RANK,
    ROPE,
    VALUE,
    assemble,
)
from pytest_rocm_attn.dry_launch import storageless
from pytest_rocm_attn.mock.devices import Device

if TYPE_CHECKING:
    from pytest_rocm_attn.conformance.tiers.numerics.build import Problem
    from pytest_rocm_attn.conformance.tiers.numerics.case import Case
    from pytest_rocm_attn.gpu import Gpu

LAYERS = 3  # of a strided cache, in which a block holds all layers
# The share of the memory that a server takes (vLLM 0.12.0, gpu_memory_utilization), and what of it
# weights and activations take.
UTILISATION, WEIGHTS = 0.9, 0.5


def cache_bytes(gpu: Gpu) -> int:
    """Return the bytes of a server's KV cache, in one allocation, on the target's first product."""
    return int(Device(gpu).total_memory * UTILISATION * (1 - WEIGHTS))


def storageless_problem(case: Case, gpu: Gpu) -> Problem:
    """Return what a backend is asked to launch for.

    Args:
        case: the shape family.
        gpu: whose fp8 flavour an fp8 cache has, and whose memory the cache of a server fills.
    """
    make = {"attention": _attention, "mla-decode": _mla_decode, "mla-prefill": _mla_prefill}
    return assemble(case, case.lengths, make[case.kind](case, gpu))


def _view(case: Case, shape: list[int], margin: list[int], dtype: torch.dtype) -> Any:
    """Return a tensor of a shape; in a strided layout, the first part of a buffer wider by the margin."""
    if case.layout != "strided":
        return storageless(shape, dtype)
    buffer = storageless([size + more for size, more in zip(shape, margin, strict=True)], dtype)
    return buffer[tuple(slice(0, size) for size in shape)]


def _ints(case: Case, *shape: int) -> Any:
    """Return int32 metadata; in a strided layout, what follows the first row of a wider buffer.

    Backends that split a batch pass ``seq_lens[num_decodes:]`` and the like, whose address is a
    multiple of 4 and not of 16.
    """
    if case.layout != "strided":
        return storageless(shape, torch.int32)
    first, *rest = shape
    buffer = storageless([first + 1, *(size + 5 for size in rest)], torch.int32)
    return buffer[(slice(1, None), *(slice(0, size) for size in rest))]


def _table(case: Case, gpu: Gpu, token_bytes: int) -> tuple[Any, int, int]:
    """Return the block table, how many blocks the cache has, and their size.

    Args:
        token_bytes: what one token takes in the cache's one allocation.
    """
    size = case.request.block_size or DEFAULT_BLOCK_SIZE
    counts = [-(-total // size) for _, total in case.lengths]
    needed = sum(counts) + 1
    blocks = needed if case.cache == "small" else cache_bytes(gpu) // (size * token_bytes)
    if blocks < needed:
        raise ValueError(f"{case.id} needs {needed} blocks, and {gpu.gfx} has room for {blocks}")
    return _ints(case, len(counts), max(counts)), blocks, size


def _attention(case: Case, gpu: Gpu) -> dict[str, Any]:
    request, requests = case.request, len(case.lengths)
    heads, kv_heads, head_size = request.num_heads, request.num_kv_heads, request.head_size
    dtype = getattr(torch, request.dtype)
    fp8 = request.kv_cache_dtype.startswith("fp8")
    stored = getattr(torch, gpu.fp8_dtype) if fp8 else dtype
    token_bytes = _layers(case) * 2 * kv_heads * head_size * stored.itemsize
    table, blocks, block_size = _table(case, gpu, token_bytes)
    return {
        "query": _view(case, [case.tokens, heads, head_size], [3, 2 * kv_heads, 0], dtype),
        "kv_cache": _cache(case, [blocks, 2, block_size, kv_heads, head_size], stored),
        "out": _view(case, [case.tokens, heads, head_size], [2, 0, 0], dtype),
        "query_start_loc": _ints(case, requests + 1),
        "seq_lens": _ints(case, requests),
        "block_table": table,
        "alibi_slopes": storageless([heads], torch.float32) if request.alibi else None,
        "sinks": storageless([heads], dtype) if request.has_sink else None,
        "k_scale": storageless([], torch.float32),
        "v_scale": storageless([], torch.float32),
    }


def _layers(case: Case) -> int:
    return LAYERS if case.layout == "strided" else 1


def _cache(case: Case, shape: list[int], dtype: torch.dtype) -> Any:
    """Return a cache of [blocks, 2, block size, KV heads, D] in the family's layout."""
    blocks, pair, size, heads, head_size = shape
    if case.layout == "heads-first":
        return storageless([blocks, pair, heads, size, head_size], dtype).transpose(2, 3)
    if case.layout == "strided":
        return storageless([blocks, LAYERS, *shape[1:]], dtype)[:, 1]
    return storageless(shape, dtype)


def _mla_decode(case: Case, gpu: Gpu) -> dict[str, Any]:
    requests, heads, layers = len(case.lengths), case.request.num_heads, _layers(case)
    dtype = getattr(torch, case.request.dtype)
    table, blocks, block_size = _table(case, gpu, layers * (RANK + ROPE) * dtype.itemsize)
    latent = storageless([blocks, layers, block_size, RANK + ROPE], dtype)[:, layers - 1]
    return {
        "query": _view(case, [requests, heads, RANK + ROPE], [3, 0, 0], dtype),
        "latent_cache": latent,
        "out": _view(case, [requests, heads, RANK], [2, 0, 0], dtype),
        "seq_lens": _ints(case, requests),
        "block_table": table,
    }


def _mla_prefill(case: Case, gpu: Gpu) -> dict[str, Any]:
    heads, tokens = case.request.num_heads, case.tokens
    keys = sum(total for _, total in case.lengths)
    dtype = getattr(torch, case.request.dtype)
    return {
        "query": storageless([tokens, heads, NOPE + ROPE], dtype),
        "key": storageless([keys, heads, NOPE + ROPE], dtype),
        "value": storageless([keys, heads, NOPE + VALUE], dtype)[..., NOPE:],
        "out": storageless([tokens, heads, VALUE], dtype),
        "lse": storageless([heads, tokens], torch.float32),
        "query_start_loc": _ints(case, len(case.lengths) + 1),
        "key_start_loc": _ints(case, len(case.lengths) + 1),
    }
