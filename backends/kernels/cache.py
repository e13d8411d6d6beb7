"""Scatter new keys and values into a paged KV cache, quantising to fp8 on the way.

Definition in torch: backends/cache.py. A negative slot means "do not write"
(docs/reference/backends.md#inputs).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from pytest_rocm_attn.backends.kernels.launcher import Launch, Launcher
from pytest_rocm_attn.backends.launch_config import padded
from pytest_rocm_attn.triton_interpreter import repair

repair()
BLOCK = 1024


def plan_reshape_and_cache(
    key: torch.Tensor,
    value: torch.Tensor,
    tokens: int,
    *,
    block_size: int,
    key_strides: tuple[int, ...],
    value_strides: tuple[int, ...],
    group: int,
    fp8: int = 0,
) -> Launch:
    """Prepare to write rows of key and value to their slots. Nothing is checked here.

    Args:
        key: [tokens or more, KV heads, D], last dimension dense.
        value: likewise, the same D.
        tokens: how many rows are written; at least 1.
        block_size: slots per block.
        key_strides, value_strides: of block, head, slot // group, slot % group, dim // group and
            dim % group in elements; 0 for the halves that a layout does not split.
        group: elements per 16 bytes (x in docs/reference/backends.md#rocm-attn).
        fp8: 0, or the exponent bias of the stored flavour: 7 is e4m3fn, 8 is e4m3fnuz.
    Returns: a launch of (key, value, key cache, value cache, slot_mapping, k_scale, v_scale), of
        tensors that lie as these do. The caches are in any layout, uint8 when fp8; slot_mapping is
        [tokens] int64; the scales are float32 scalars, read on the device, or None when not fp8.
    """
    _, heads, size = key.shape
    return _reshape_and_cache.prepare(
        (tokens, -(-heads * size // BLOCK), 2),
        (),
        (*key.stride()[:2], *value.stride()[:2]),
        (
            key_strides,
            value_strides,
            heads,
            size,
            block_size,
            group,
            fp8,
            min(BLOCK, padded(heads * size)),
        ),
        4,
        1,
    )


def plan_concat_and_cache_mla(
    kv_c: torch.Tensor, k_pe: torch.Tensor, cache: torch.Tensor, tokens: int, *, fp8: int = 0
) -> Launch:
    """Prepare to write [kv_c | k_pe] rows to their slots of the latent cache. Nothing is checked here.

    Args:
        kv_c: [tokens or more, latent rank], last dimension dense.
        k_pe: [tokens or more, rope size], last dimension dense.
        cache: [blocks, block size, latent rank + rope size], last dimension dense; uint8 when fp8.
        tokens, fp8: see `plan_reshape_and_cache`.
    Returns: a launch of (kv_c, k_pe, cache, slot_mapping, scale), of tensors that lie as these do.
    """
    rank = kv_c.shape[1]
    width = rank + k_pe.shape[1]
    return _concat_and_cache_mla.prepare(
        (tokens, 1, 1),
        (),
        (kv_c.stride(0), k_pe.stride(0), cache.stride(0), cache.stride(1)),
        (cache.shape[1], rank, width, fp8, padded(width)),
        4,
        1,
    )


@triton.jit
def _quantise(x, FP8: tl.constexpr):
    """Encode float32 as e4m3 bytes: saturating, to nearest even. By hand, as formats.dequantise decodes them."""
    LARGEST: tl.constexpr = 448.0 if FP8 == 7 else 240.0
    size = tl.minimum(tl.abs(x), LARGEST)
    bits = size.to(tl.uint32, bitcast=True)
    rounded = bits + 0x7FFFF + ((bits >> 20) & 1)  # keep 3 of 23 mantissa bits
    normal = (rounded >> 20) - ((127 - FP8) << 3)
    # Below the smallest normal the step is constant: adding 2**23 rounds to whole steps.
    STEPS: tl.constexpr = 512.0 if FP8 == 7 else 1024.0
    subnormal = (size * STEPS + 8388608.0).to(tl.uint32, bitcast=True) & 0xF
    code = tl.where(size < 8.0 / STEPS, subnormal, normal)
    negative = (x.to(tl.uint32, bitcast=True) >> 31) > 0
    if FP8 == 8:  # e4m3fnuz has no negative zero: that code is its NaN
        negative = negative & (code > 0)
    code = tl.where(negative, code | 0x80, code)
    number = x == x  # noqa: PLR0124  (false for NaN; tl has no isnan that both targets compile)
    return tl.where(number, code, 0x7F if FP8 == 7 else 0x80).to(tl.uint8)


@triton.jit
def _reshape_and_cache_kernel(
    key_ptr,  # [tokens, heads, HEAD_SIZE]
    value_ptr,  # [tokens, heads, HEAD_SIZE]
    key_cache_ptr,
    value_cache_ptr,
    slot_ptr,  # [tokens] int64
    k_scale_ptr,  # [] fp32 or None
    v_scale_ptr,  # [] fp32 or None
    stride_kt,
    stride_kh,
    stride_vt,
    stride_vh,
    KEY_STRIDES: tl.constexpr,
    VALUE_STRIDES: tl.constexpr,
    HEADS: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    GROUP: tl.constexpr,
    FP8: tl.constexpr,
    BLOCK: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slot_ptr + token)
    if slot < 0:
        return
    element = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = element < HEADS * HEAD_SIZE
    if tl.program_id(2) == 0:
        _write(
            key_ptr + token * stride_kt, key_cache_ptr, k_scale_ptr, slot, element, inside,
            stride_kh, KEY_STRIDES, HEAD_SIZE, BLOCK_SIZE, GROUP, FP8,
        )  # fmt: skip
    else:
        _write(
            value_ptr + token * stride_vt, value_cache_ptr, v_scale_ptr, slot, element, inside,
            stride_vh, VALUE_STRIDES, HEAD_SIZE, BLOCK_SIZE, GROUP, FP8,
        )  # fmt: skip


@triton.jit
def _write(
    row_ptr,
    cache_ptr,
    scale_ptr,
    slot,
    element,
    inside,
    stride_head,
    STRIDES: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    GROUP: tl.constexpr,
    FP8: tl.constexpr,
):
    head = element // HEAD_SIZE
    dim = element % HEAD_SIZE
    x = tl.load(row_ptr + head * stride_head + dim, mask=inside, other=0.0)
    block = slot // BLOCK_SIZE
    offset = slot % BLOCK_SIZE
    target = (
        block * STRIDES[0]
        + head * STRIDES[1]
        + offset // GROUP * STRIDES[2]
        + offset % GROUP * STRIDES[3]
        + dim // GROUP * STRIDES[4]
        + dim % GROUP * STRIDES[5]
    )
    if FP8 > 0:
        x = _quantise(tl.div_rn(x.to(tl.float32), tl.load(scale_ptr)), FP8)
    tl.store(cache_ptr + target, x.to(cache_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _concat_and_cache_mla_kernel(
    kv_c_ptr,  # [tokens, RANK]
    k_pe_ptr,  # [tokens, WIDTH - RANK]
    cache_ptr,  # [blocks, BLOCK_SIZE, WIDTH]
    slot_ptr,  # [tokens] int64
    scale_ptr,  # [] fp32 or None
    stride_ct,
    stride_pt,
    stride_block,
    stride_slot,
    BLOCK_SIZE: tl.constexpr,
    RANK: tl.constexpr,
    WIDTH: tl.constexpr,
    FP8: tl.constexpr,
    BLOCK: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slot_ptr + token)
    if slot < 0:
        return
    column = tl.arange(0, BLOCK)
    latent = tl.load(kv_c_ptr + token * stride_ct + column, mask=column < RANK, other=0.0)
    rope = tl.load(
        k_pe_ptr + token * stride_pt + column - RANK,
        mask=(column >= RANK) & (column < WIDTH),
        other=0.0,
    )
    x = tl.where(column < RANK, latent, rope)
    if FP8 > 0:
        x = _quantise(tl.div_rn(x.to(tl.float32), tl.load(scale_ptr)), FP8)
    row = slot // BLOCK_SIZE * stride_block + slot % BLOCK_SIZE * stride_slot
    tl.store(cache_ptr + row + column, x.to(cache_ptr.dtype.element_ty), mask=column < WIDTH)


_reshape_and_cache = Launcher(_reshape_and_cache_kernel)
_concat_and_cache_mla = Launcher(_concat_and_cache_mla_kernel)
