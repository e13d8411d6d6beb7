"""What a program stores: results, or parts of them that a second kernel merges.

If keys are split, a program stores for its segment the normalised sum of values and the log-sum-exp of
the scores, in base 2; `_merge_segments_kernel` weighs the segments by them (docs/attention-mathematics.md).
"""

from __future__ import annotations

import triton
import triton.language as tl

from pytest_rocm_attn.triton_interpreter import repair

repair()
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def first_partial_row(request, query_start, requests, max_query_len, partial_rows):
    """Return the row of a request's first token in the partial results: one for each token of the
    batch, where that is less than max_query_len for each request."""
    by_token = partial_rows < requests * max_query_len
    return tl.where(by_token, query_start, request * max_query_len)


@triton.jit
def places_of_result(
    token,  # [ROWS]
    head,  # [ROWS]
    request,
    query_start,
    requests,
    max_query_len,
    partial_rows,
    heads,
    head_size,
    stride_ot,
    stride_oh,
    stride_lse,
    SPLIT: tl.constexpr,
):
    """Return where the rows' first columns and their log-sum-exp go: in the output, or in the partial
    results of the program's segment."""
    if SPLIT:
        row_start = first_partial_row(request, query_start, requests, max_query_len, partial_rows)
        row = (row_start + token).to(tl.int64) * heads + head
        row = row * tl.num_programs(1) + tl.program_id(1)
        result = row * head_size
        lse = partial_rows.to(tl.int64) * heads * tl.num_programs(1) * head_size + row
    else:
        result = (query_start + token).to(tl.int64) * stride_ot + head * stride_oh
        lse = head.to(tl.int64) * stride_lse + query_start + token
    return result, lse


@triton.jit
def normalised(
    acc,  # [ROWS, columns] fp32
    total,  # [ROWS] fp32
    top,  # [ROWS] fp32, log2 domain
    sink,  # [ROWS] fp32
    v_scale,
    HAS_SINK: tl.constexpr,
):
    """Return the rows' results, their log-sum-exp in base 2, and which rows saw nothing."""
    if HAS_SINK:
        drained = sink == float("inf")  # it leaves no weight for the keys: 0, and NaN if 0 * inf is
        acc = tl.where(drained[:, None], acc * 0.0, acc)
        total = tl.where(drained, total * 0.0 + 1.0, total)
        top = tl.where(drained, sink, top)
    nothing = total == 0  # was seen: the answer is zero
    acc = acc * (1.0 / tl.where(nothing, 1.0, total))[:, None] * v_scale  # one division a row
    lse = tl.where(nothing, float("-inf"), top + tl.log2(tl.where(nothing, 1.0, total)))
    return acc, lse, nothing


@triton.jit
def write_result(
    acc,  # [ROWS, BLOCK_D] fp32
    total,  # [ROWS] fp32
    top,  # [ROWS] fp32, log2 domain
    sink,  # [ROWS] fp32
    v_scale,
    result_ptrs,  # [ROWS, 1], the first column
    lse_ptrs,  # [ROWS] fp32, log2 if SPLIT, else ln; or None
    valid,  # [ROWS]
    HAS_SINK: tl.constexpr,
    head_size,
    SPLIT: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Normalise and store."""
    acc, lse, nothing = normalised(acc, total, top, sink, v_scale, HAS_SINK)
    written = valid
    if SPLIT:
        written = valid & ~nothing
    column = tl.arange(0, BLOCK_D)
    tl.store(
        result_ptrs + column[None, :],
        acc.to(result_ptrs.dtype.element_ty),
        mask=written[:, None] & (column < head_size)[None, :],
    )
    if lse_ptrs is not None:
        if not SPLIT:
            lse = lse * LN2
        tl.store(lse_ptrs, lse, mask=valid)


@triton.jit
def weight_of(lse, top):
    """Return the weights of parts, relative to the largest log-sum-exp."""
    # A segment with an infinite sink or score outweighs all others: inf - inf would be NaN.
    weight = tl.where(lse == top, 1.0, tl.exp2(lse - top))
    return tl.where(lse == float("-inf"), 0.0, weight)


@triton.jit
def merge_parts(
    part_ptr,  # the first segment's part of one row
    lse,  # [BLOCK_S] log2; -inf: the part is unwritten
    column,  # [BLOCK_C]
    head_size,
    BLOCK_S: tl.constexpr,
):
    """Return the weighted sum of a row's parts, [BLOCK_C], the sum of the weights, and the largest
    log-sum-exp."""
    top = tl.max(lse, 0)
    weight = weight_of(lse, top)
    parts = tl.load(
        part_ptr + tl.arange(0, BLOCK_S)[:, None] * head_size + column[None, :],
        mask=(lse != float("-inf"))[:, None] & (column < head_size)[None, :],
        other=0.0,
    )
    return tl.sum(parts * weight[:, None], 0), tl.sum(weight, 0), top


@triton.jit
def owner_of_row(query_start_loc_ptr, max_query_len):
    """Return the row that a program of a merge owns: request, token and query head, the request's first
    token of the batch, and how many it has."""
    request = tl.program_id(0) // max_query_len
    token = tl.program_id(0) % max_query_len
    query_start = tl.load(query_start_loc_ptr + request)
    query_len = tl.load(query_start_loc_ptr + request + 1) - query_start
    return request, token, tl.program_id(1), query_start, query_len


@triton.jit
def parts_of_row(
    partial_ptr, request, token, head, query_start, requests, max_query_len, partial_rows, segments,
    head_size,
):  # fmt: skip
    """Return where a row's parts begin, and their log-sum-exps."""
    heads = tl.num_programs(1)
    row_start = first_partial_row(request, query_start, requests, max_query_len, partial_rows)
    row = ((row_start + token).to(tl.int64) * heads + head) * segments
    lse_ptr = partial_ptr + partial_rows.to(tl.int64) * heads * segments * head_size + row
    return partial_ptr + row * head_size, lse_ptr


@triton.jit
def store_merged(merged, total, out_ptr, column, head_size):
    """Store the columns of one row, given their weighted sum and the sum of the weights."""
    merged = merged / tl.where(total == 0, 1.0, total)
    tl.store(out_ptr + column, merged.to(out_ptr.dtype.element_ty), mask=column < head_size)


@triton.jit(
    do_not_specialize=["requests", "min_query_len", "max_query_len", "segments", "partial_rows"]
)
def _merge_segments_kernel(
    partial_ptr,  # [partial_rows, heads, segments, HEAD_SIZE] fp32; then their lse,
    # [partial_rows, heads, segments] fp32, log2; -inf: the part is unwritten
    out_ptr,  # [tokens, heads, HEAD_SIZE]
    query_start_loc_ptr,  # [requests + 1] int32
    requests,
    min_query_len,
    max_query_len,
    segments,
    partial_rows,
    stride_ot,
    stride_oh,
    HEAD_SIZE: tl.constexpr,
    BLOCK_C: tl.constexpr,  # columns of one program
    BLOCK_S: tl.constexpr,
):
    request, token, head, query_start, query_len = owner_of_row(query_start_loc_ptr, max_query_len)
    if (query_len < min_query_len) | (query_len > max_query_len) | (token >= query_len):
        return
    segment = tl.arange(0, BLOCK_S)
    column = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    part_ptr, lse_ptr = parts_of_row(
        partial_ptr, request, token, head, query_start, requests, max_query_len, partial_rows, segments,
        HEAD_SIZE,
    )  # fmt: skip
    lse = tl.load(lse_ptr + segment, mask=segment < segments, other=float("-inf"))
    merged, total, _ = merge_parts(part_ptr, lse, column, HEAD_SIZE, BLOCK_S)
    out_row = (query_start + token).to(tl.int64) * stride_ot + head * stride_oh
    store_merged(merged, total, out_ptr + out_row, column, HEAD_SIZE)
