"""Results by the definition, for numbers that are not finite: slow, and seldom needed.

A key that some rows of a program see and others do not has weight 0 in the product with the values, and
0 * NaN is NaN. What a program of the attention kernel notes as broken is computed again here, key by key. Few
numbers are constants of this kernel, and none of a tile's is: one compiled form serves many of the other.
"""

from __future__ import annotations

import triton
import triton.language as tl

from pytest_rocm_attn.backends.kernels.formats import dequantise
from pytest_rocm_attn.backends.kernels.order import (
    keys_seen,
    owner_of,
    rows_of,
    tiles_of_segment,
    work_at,
)
from pytest_rocm_attn.backends.kernels.results import places_of_result, write_result
from pytest_rocm_attn.backends.kernels.scores import (
    anchor_of,
    log2_score,
    slope_of,
    start_of,
    unseen_as_never,
)
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


@triton.jit(
    do_not_specialize=[
        "requests",
        "min_query_len",
        "max_query_len",
        "partial_rows",
        "stride_page",
        "stride_lse",
        "kv_heads",
        "group",
        "row_heads",
        "head_size",
        "page_size",
        "split_x",
        "one_block",
        "block_m",
        "block_n",
        "window",
        "stride_kb",
        "stride_ks",
        "stride_kh",
        "stride_vb",
        "stride_vs",
        "stride_vh",
    ]
)
def _repair_kernel(
    # Tensors and numbers as the attention kernel's, whose constants are numbers here.
    query_ptr,
    key_ptr,
    value_ptr,
    out_ptr,
    lse_ptr,
    partial_ptr,
    broken_ptr,
    page_ptr,
    query_start_loc_ptr,
    seq_lens_ptr,
    slopes_ptr,
    sinks_ptr,
    k_scale_ptr,
    v_scale_ptr,
    requests,
    min_query_len,
    max_query_len,
    partial_rows,
    stride_page,
    stride_lse,
    kv_heads,
    group,
    row_heads,
    head_size,
    page_size,
    split_x,  # at least a key's columns if its elements lie together
    one_block,  # 0 or 1
    block_m,
    block_n,
    scale,
    soft_cap,
    window,
    stride_qt,
    stride_qh,
    stride_kb,
    stride_ks,
    stride_kh,
    stride_vb,
    stride_vs,
    stride_vh,
    stride_ot,
    stride_oh,
    TAIL: tl.constexpr,
    PAGED: tl.constexpr,
    CAUSAL: tl.constexpr,
    FP8: tl.constexpr,
    SPLIT: tl.constexpr,
    ROWS: tl.constexpr,  # of block_m, that are computed at a time
    BLOCK_D: tl.constexpr,
):
    """Compute and store the results of programs that are noted as broken: one key at a time, in float32,
    scales applied to each stored number."""
    block_q = block_m // row_heads
    place = tl.program_id(0)
    kv_head, head_block, block = work_at(place, kv_heads, tl.cdiv(group, row_heads))
    request = block
    first_token = tl.zeros_like(block)
    if one_block == 0:
        request, first_token = owner_of(block, query_start_loc_ptr, requests, block_q)
    query_start = tl.load(query_start_loc_ptr + request)
    query_len = tl.load(query_start_loc_ptr + request + 1) - query_start
    if (query_len < min_query_len) | (query_len > max_query_len) | (first_token >= query_len):
        return  # nothing was noted
    if tl.load(broken_ptr + place * tl.num_programs(1) + tl.program_id(1)) == 0:
        return
    seq_len = tl.load(seq_lens_ptr + request)
    context = seq_len - query_len
    last_token = tl.minimum(first_token + block_q, query_len) - 1
    first_key, last_key = keys_seen(first_token, last_token, context, seq_len, window, CAUSAL)
    lo, hi = tiles_of_segment(first_key, last_key, block_n, SPLIT)
    first = tl.maximum(lo * block_n, first_key)
    last = tl.minimum(hi * block_n, last_key)
    k_scale = 1.0
    v_scale = 1.0
    if k_scale_ptr is not None:
        k_scale = tl.load(k_scale_ptr)
        v_scale = tl.load(v_scale_ptr)
    column = tl.arange(0, BLOCK_D)
    inside = column < head_size
    key_column = column // split_x * (page_size * split_x) + column % split_x
    value_column = column * tl.where(split_x < head_size, page_size, 1)
    tail = head_size + tl.arange(0, TAIL if TAIL > 0 else 16)
    key_base = key_ptr + kv_head.to(tl.int64) * stride_kh
    value_base = value_ptr + kv_head.to(tl.int64) * stride_vh
    table = page_ptr + request.to(tl.int64) * stride_page
    # Queries and results are float32 here: a program takes its rows in parts.
    for part in range(tl.cdiv(block_m, ROWS)):
        token, head, valid = rows_of(
            part * ROWS + tl.arange(0, ROWS), first_token, query_len, kv_head, head_block, group,
            row_heads, block_q,
        )  # fmt: skip
        position = context + token
        slope = slope_of(slopes_ptr, head, valid)
        total, top, sink = start_of(sinks_ptr, head, valid & (tl.program_id(1) == 0))
        query_ptrs = query_ptr + (query_start + token).to(tl.int64) * stride_qt + head * stride_qh
        query = tl.load(
            query_ptrs[:, None] + column[None, :], mask=valid[:, None] & inside[None, :], other=0.0
        )
        dtype = query.dtype
        query = query.to(tl.float32)
        acc = tl.zeros_like(query)
        for key in range(first, last):
            if PAGED:
                page = tl.load(table + key // page_size).to(tl.int64)
                key_row = page * stride_kb + (key % page_size) * stride_ks
                value_row = page * stride_vb + (key % page_size) * stride_vs
            else:
                key_row = (tl.load(table) + tl.cast(key, tl.int64)) * stride_ks
                value_row = (tl.load(table) + tl.cast(key, tl.int64)) * stride_vs
            k = tl.load(key_base + key_row + key_column, mask=inside, other=0)
            v = tl.load(value_base + value_row + value_column, mask=inside, other=0)
            if FP8 > 0:
                k = tl.where(inside, dequantise(k, dtype, FP8).to(tl.float32) * k_scale, 0.0)
                v = tl.where(inside, dequantise(v, dtype, FP8).to(tl.float32) * v_scale, 0.0)
            v = v.to(tl.float32)
            s = tl.sum(query * k.to(tl.float32)[None, :], 1)
            if TAIL > 0:
                query_tail = tl.load(
                    query_ptrs[:, None] + tail[None, :], mask=valid[:, None], other=0.0
                )
                k_tail = tl.load(key_base + key_row + tail)
                s += tl.sum(query_tail.to(tl.float32) * k_tail.to(tl.float32)[None, :], 1)
            s = log2_score(s, position - key, slope, scale, soft_cap, slopes_ptr is not None)
            s = unseen_as_never(s, position, key, valid, window, CAUSAL)
            higher = tl.maximum(top, s)
            anchor = anchor_of(higher)
            p = tl.exp2(s - anchor)
            decay = tl.exp2(top - anchor)
            total = total * decay + p
            seen = unseen_as_never(tl.zeros_like(s), position, key, valid, window, CAUSAL) == 0
            acc = acc * decay[:, None] + tl.where(seen[:, None], p[:, None] * v[None, :], 0.0)
            top = higher
        result, lse = places_of_result(
            token, head, request, query_start, requests, max_query_len, partial_rows, kv_heads * group,
            head_size, stride_ot, stride_oh, stride_lse, SPLIT,
        )  # fmt: skip
        lse_ptrs = None
        if SPLIT or lse_ptr is not None:
            lse_ptrs = (partial_ptr if SPLIT else lse_ptr) + lse
        write_result(
            acc, total, top, sink, 1.0, (partial_ptr if SPLIT else out_ptr) + result[:, None], lse_ptrs,
            valid, sinks_ptr is not None, head_size, SPLIT, BLOCK_D,
        )  # fmt: skip
