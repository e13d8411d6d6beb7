"""Results by the definition, for numbers that are not finite: slow, and seldom needed.

A key that some rows of a program see and others do not has weight 0 in the product with the values, and
0 * NaN is NaN. What a program notes as broken is computed again here, key by key.
"""

from __future__ import annotations

import triton
import triton.language as tl

from pytest_rocm_attn.backends.kernels.formats import dequantise
from pytest_rocm_attn.backends.kernels.results import write_result
from pytest_rocm_attn.backends.kernels.scores import anchor_of, log2_score, unseen_as_never
from pytest_rocm_attn.triton_interpreter import repair

repair()


@triton.jit
def sum_beyond_range(
    value_ptr,
    page_ptr,
    first_key,
    last_key,
    v_scale,
    stride_vb,
    stride_vs,
    HEAD_SIZE: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    SPLIT_X: tl.constexpr,
    FP8: tl.constexpr,
    DTYPE: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Return the sum of values, [BLOCK_D], under an infinite v_scale: as a factor of each stored value it
    makes infinities, and NaN of zeros and of both signs, which a factor of their weighted sum would not.
    All rows see the same keys."""
    column = tl.arange(0, BLOCK_D)
    inside = column < HEAD_SIZE
    value_column = column
    if SPLIT_X > 0:
        value_column = column * PAGE_SIZE
    total = tl.zeros([BLOCK_D], tl.float32)
    for key in range(first_key, last_key):
        block = tl.load(page_ptr + key // PAGE_SIZE).to(tl.int64)
        value_row = block * stride_vb + (key % PAGE_SIZE) * stride_vs
        v = tl.load(value_ptr + value_row + value_column, mask=inside, other=0)
        total += tl.where(inside, dequantise(v, DTYPE, FP8).to(tl.float32) * v_scale, 0.0)
    return total


@triton.jit
def key_by_key(
    total,  # [ROWS] fp32, the start, as the next
    top,  # [ROWS] fp32, log2 domain
    sink,
    query_ptrs,  # [ROWS, 1], the first column
    result_ptrs,
    lse_ptrs,
    valid,
    key_ptr,
    value_ptr,
    page_ptr,
    first_key,
    last_key,
    position,
    slope,
    scale,
    k_scale,
    v_scale,
    soft_cap,
    window,
    stride_kb,
    stride_ks,
    stride_vb,
    stride_vs,
    HAS_ALIBI: tl.constexpr,
    HAS_SINK: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    TAIL: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    SPLIT_X: tl.constexpr,
    CAUSAL: tl.constexpr,
    FP8: tl.constexpr,
    DTYPE: tl.constexpr,
    SPLIT: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Compute and store the program's result by the definition: one key at a time, in float32, scales
    applied to each stored number. Slow, and only for numbers that are not finite. Arguments: as `walk_tiles`
    and `write_result`."""
    column = tl.arange(0, BLOCK_D)
    inside = column < HEAD_SIZE
    key_column = column
    value_column = column
    if SPLIT_X > 0:
        key_column = column // SPLIT_X * (PAGE_SIZE * SPLIT_X) + column % SPLIT_X
        value_column = column * PAGE_SIZE
    # Loaded once more: kept from before, it would take registers in the loops over tiles.
    query = tl.load(
        query_ptrs + column[None, :], mask=valid[:, None] & inside[None, :], other=0.0
    ).to(tl.float32)
    acc = tl.zeros_like(query)
    for key in range(first_key, last_key):
        if PAGE_SIZE > 0:
            block = tl.load(page_ptr + key // PAGE_SIZE).to(tl.int64)
            key_row = block * stride_kb + (key % PAGE_SIZE) * stride_ks
            value_row = block * stride_vb + (key % PAGE_SIZE) * stride_vs
        else:
            key_row = tl.cast(key, tl.int64) * stride_ks
            value_row = tl.cast(key, tl.int64) * stride_vs
        k = tl.load(key_ptr + key_row + key_column, mask=inside, other=0)
        v = tl.load(value_ptr + value_row + value_column, mask=inside, other=0)
        if FP8 > 0:
            k = tl.where(inside, dequantise(k, DTYPE, FP8).to(tl.float32) * k_scale, 0.0)
            v = tl.where(inside, dequantise(v, DTYPE, FP8).to(tl.float32) * v_scale, 0.0)
        v = v.to(tl.float32)
        s = tl.sum(query * k.to(tl.float32)[None, :], 1)
        if TAIL > 0:
            tail = HEAD_SIZE + tl.arange(0, TAIL)
            query_tail = tl.load(query_ptrs + tail[None, :], mask=valid[:, None], other=0.0)
            k_tail = tl.load(key_ptr + key_row + tail)
            s += tl.sum(query_tail.to(tl.float32) * k_tail.to(tl.float32)[None, :], 1)
        distance = position - key
        s = log2_score(s, distance, slope, scale, soft_cap, HAS_ALIBI)
        s = unseen_as_never(s, position, key, valid, window, CAUSAL)
        higher = tl.maximum(top, s)
        anchor = anchor_of(higher)
        p = tl.exp2(s - anchor)
        decay = tl.exp2(top - anchor)
        total = total * decay + p
        seen = unseen_as_never(tl.zeros_like(s), position, key, valid, window, CAUSAL) == 0
        acc = acc * decay[:, None] + tl.where(seen[:, None], p[:, None] * v[None, :], 0.0)
        top = higher
    write_result(
        acc,
        total,
        top,
        sink,
        1.0,
        result_ptrs,
        lse_ptrs,
        valid,
        HAS_SINK,
        HEAD_SIZE,
        SPLIT,
        BLOCK_D,
    )
