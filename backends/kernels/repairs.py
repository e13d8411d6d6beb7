"""Results by the definition, for numbers that are not finite: slow, and seldom needed.

A key that some rows of a program see and others do not has weight 0 in the product with the values, and
0 * NaN is NaN. What a program of the attention kernel notes as broken is computed again here, key by key: by a
launch of its own, or, if keys are split, by the launch that merges the segments. Few numbers are constants of these
kernels, and none of a tile's is: one compiled form serves many of the attention kernel.
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
from pytest_rocm_attn.backends.kernels.results import (
    merge_parts,
    normalised,
    owner_of_row,
    parts_of_row,
    places_of_result,
    store_merged,
    weight_of,
    write_result,
)
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


@triton.jit
def attend_by_key(
    query_ptrs,  # [ROWS], a row's first element
    position,  # [ROWS]
    head,  # [ROWS]
    valid,  # [ROWS]
    first_key,
    last_key,
    starts,  # whether these are a row's first keys, which the sink precedes
    result_column,  # [columns], of the value
    key_ptr,  # of the KV head
    value_ptr,
    page_ptr,  # of the request
    slopes_ptr,
    sinks_ptr,
    k_scale_ptr,
    v_scale_ptr,
    scale,
    soft_cap,
    window,
    key_strides,  # from page to page, and from key to key
    value_strides,
    head_size,
    page_size,
    split_x,
    TAIL: tl.constexpr,
    PAGED: tl.constexpr,
    CAUSAL: tl.constexpr,
    FP8: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Return the weighted sum of values [ROWS, columns], the sum of weights, the largest score and the sink of
    some rows: one key at a time, in float32, scales applied to each stored number."""
    stride_kb, stride_ks = key_strides
    stride_vb, stride_vs = value_strides
    k_scale = 1.0
    v_scale = 1.0
    if k_scale_ptr is not None:
        k_scale = tl.load(k_scale_ptr)
        v_scale = tl.load(v_scale_ptr)
    column = tl.arange(0, BLOCK_D)
    inside = column < head_size
    result_inside = result_column < head_size
    key_column = column // split_x * (page_size * split_x) + column % split_x
    value_column = result_column * tl.where(split_x < head_size, page_size, 1)
    tail = head_size + tl.arange(0, TAIL if TAIL > 0 else 16)
    slope = slope_of(slopes_ptr, head, valid)
    total, top, sink = start_of(sinks_ptr, head, valid & starts)
    query = tl.load(
        query_ptrs[:, None] + column[None, :], mask=valid[:, None] & inside[None, :], other=0.0
    )
    dtype = query.dtype
    query = query.to(tl.float32)
    acc = tl.zeros([query_ptrs.shape[0], result_column.shape[0]], tl.float32)
    for key in range(first_key, last_key):
        if PAGED:
            page = tl.load(page_ptr + key // page_size).to(tl.int64)
            key_row = page * stride_kb + (key % page_size) * stride_ks
            value_row = page * stride_vb + (key % page_size) * stride_vs
        else:
            key_row = (tl.load(page_ptr) + tl.cast(key, tl.int64)) * stride_ks
            value_row = (tl.load(page_ptr) + tl.cast(key, tl.int64)) * stride_vs
        k = tl.load(key_ptr + key_row + key_column, mask=inside, other=0)
        v = tl.load(value_ptr + value_row + value_column, mask=result_inside, other=0)
        if FP8 > 0:
            k = tl.where(inside, dequantise(k, dtype, FP8).to(tl.float32) * k_scale, 0.0)
            v = tl.where(result_inside, dequantise(v, dtype, FP8).to(tl.float32) * v_scale, 0.0)
        v = v.to(tl.float32)
        s = tl.sum(query * k.to(tl.float32)[None, :], 1)
        if TAIL > 0:
            query_tail = tl.load(
                query_ptrs[:, None] + tail[None, :], mask=valid[:, None], other=0.0
            )
            k_tail = tl.load(key_ptr + key_row + tail)
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
    return acc, total, top, sink


@triton.jit(
    do_not_specialize=[
        "requests",
        "min_query_len",
        "max_query_len",
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
    ROWS: tl.constexpr,  # of block_m, that are computed at a time
    BLOCK_D: tl.constexpr,
):
    """Compute and store the results of programs that are noted as broken."""
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
    if tl.load(broken_ptr + place) == 0:
        return
    seq_len = tl.load(seq_lens_ptr + request)
    context = seq_len - query_len
    last_token = tl.minimum(first_token + block_q, query_len) - 1
    first_key, last_key = keys_seen(first_token, last_token, context, seq_len, window, CAUSAL)
    # Queries and results are float32 here: a program takes the rows that it has in parts.
    rows = (last_token - first_token + 1) * row_heads
    for part in range(tl.cdiv(rows, ROWS)):
        token, head, valid = rows_of(
            part * ROWS + tl.arange(0, ROWS), first_token, query_len, kv_head, head_block, group,
            row_heads, block_q,
        )  # fmt: skip
        acc, total, top, sink = attend_by_key(
            query_ptr + (query_start + token).to(tl.int64) * stride_qt + head * stride_qh,
            context + token, head, valid, first_key, last_key, True, tl.arange(0, BLOCK_D),
            key_ptr + kv_head.to(tl.int64) * stride_kh, value_ptr + kv_head.to(tl.int64) * stride_vh,
            page_ptr + request.to(tl.int64) * stride_page, slopes_ptr, sinks_ptr, k_scale_ptr, v_scale_ptr,
            scale, soft_cap, window, (stride_kb, stride_ks), (stride_vb, stride_vs), head_size, page_size,
            split_x, TAIL, PAGED, CAUSAL, FP8, BLOCK_D,
        )  # fmt: skip
        result, lse = places_of_result(
            token, head, request, query_start, requests, max_query_len, 0, kv_heads * group, head_size,
            stride_ot, stride_oh, stride_lse, False,
        )  # fmt: skip
        write_result(
            acc, total, top, sink, 1.0, out_ptr + result[:, None], None if lse_ptr is None else lse_ptr + lse,
            valid, sinks_ptr is not None, head_size, False, BLOCK_D,
        )  # fmt: skip


@triton.jit(
    do_not_specialize=[
        "requests",
        "min_query_len",
        "max_query_len",
        "partial_rows",
        "stride_page",
        "segments",
        "group",
        "row_heads",
        "head_size",
        "page_size",
        "split_x",
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
def _repair_and_merge_kernel(
    # As those of _repair_kernel; partial_ptr and segments as those of _merge_segments_kernel.
    query_ptr,
    key_ptr,
    value_ptr,
    out_ptr,
    partial_ptr,
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
    segments,
    group,
    row_heads,
    head_size,
    page_size,
    split_x,  # at least a key's columns if its elements lie together
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
    BLOCK_C: tl.constexpr,  # columns of one program
    BLOCK_S: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Merge the segments as `_merge_segments_kernel` does, and compute again the parts that are noted as
    broken: those whose log-sum-exp is NaN."""
    request, token, head, query_start, query_len = owner_of_row(query_start_loc_ptr, max_query_len)
    if (query_len < min_query_len) | (query_len > max_query_len) | (token >= query_len):
        return
    column = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    part_ptr, lse_ptr = parts_of_row(
        partial_ptr, request, token, head, query_start, requests, max_query_len, partial_rows, segments,
        head_size,
    )  # fmt: skip
    segment = tl.arange(0, BLOCK_S)
    lse = tl.load(lse_ptr + segment, mask=segment < segments, other=float("-inf"))
    # Of a request's only token the attention kernel notes infinite scales alone.
    noting = query_len > 1
    if FP8 > 0:
        noting = tl.where(tl.abs(tl.load(k_scale_ptr)) == float("inf"), True, noting)
        noting = tl.where(tl.abs(tl.load(v_scale_ptr)) == float("inf"), True, noting)
    broken = (lse != lse) & noting  # noqa: PLR0124  (NaN)
    merged, total, top = merge_parts(
        part_ptr, tl.where(broken, float("-inf"), lse), column, head_size, BLOCK_S
    )  # fmt: skip
    if tl.max(broken.to(tl.int32), 0) > 0:
        seq_len = tl.load(seq_lens_ptr + request)
        context = seq_len - query_len
        block_q = block_m // row_heads
        first_token = token // block_q * block_q
        last_token = tl.minimum(first_token + block_q, query_len) - 1
        first_key, last_key = keys_seen(first_token, last_token, context, seq_len, window, CAUSAL)
        kv_head = (head // group).to(tl.int64)
        zero = tl.zeros([1], tl.int32)
        for number in range(segments):
            part_lse = tl.load(lse_ptr + number)
            if part_lse != part_lse:  # noqa: PLR0124
                lo, hi = tiles_of_segment(first_key, last_key, number, segments, block_n)
                part, part_total, part_top, sink = attend_by_key(
                    query_ptr + (query_start + token).to(tl.int64) * stride_qt + head * stride_qh + zero,
                    context + token + zero, head + zero, zero == 0, tl.maximum(lo * block_n, first_key),
                    tl.minimum(hi * block_n, last_key), number == 0, column,
                    key_ptr + kv_head * stride_kh, value_ptr + kv_head * stride_vh,
                    page_ptr + request.to(tl.int64) * stride_page, slopes_ptr, sinks_ptr, k_scale_ptr,
                    v_scale_ptr, scale, soft_cap, window, (stride_kb, stride_ks), (stride_vb, stride_vs),
                    head_size, page_size, split_x, TAIL, PAGED, CAUSAL, FP8, BLOCK_D,
                )  # fmt: skip
                part, repaired, _ = normalised(
                    part, part_total, part_top, sink, 1.0, sinks_ptr is not None
                )
                known = tl.sum(repaired, 0)
                higher = tl.maximum(top, known)
                weight = weight_of(known, higher)
                before = weight_of(top, higher)
                merged = merged * before + tl.sum(part, 0) * weight
                total = total * before + weight
                top = higher
    out_row = (query_start + token).to(tl.int64) * stride_ot + head * stride_oh
    store_merged(merged, total, out_ptr + out_row, column, head_size)
