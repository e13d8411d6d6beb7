"""The attention kernel: one program for some rows and a segment of their keys.

A program owns BLOCK_M rows, (query token, query head) pairs that share one KV head. It finds its request
and the tiles that its rows see (`order.py`), walks them (`tiles.py`), and stores its result (`results.py`); what
it notes, another kernel computes again (`repairs.py`). Semantics: docs/reference/backends.md#inputs and #mla; mathematics: docs/attention-mathematics.md.
"""

from __future__ import annotations

import triton
import triton.language as tl

from pytest_rocm_attn.backends.kernels.order import (
    has_nontemporal_loads,
    keys_seen,
    owner_of,
    place_of,
    rows_of,
    tiles_of_segment,
    work_at,
    xcds,
)
from pytest_rocm_attn.backends.kernels.repairs import sum_beyond_range
from pytest_rocm_attn.backends.kernels.results import places_of_result, write_result
from pytest_rocm_attn.backends.kernels.scores import slope_of, start_of
from pytest_rocm_attn.backends.kernels.tiles import walk_tiles
from pytest_rocm_attn.triton_interpreter import repair

repair()


@triton.jit(
    do_not_specialize=[
        "requests",
        "min_query_len",
        "max_query_len",
        "partial_rows",
        "stride_page",
        "stride_lse",
        "window",
    ]
)
def _attention_kernel(
    query_ptr,  # [tokens, query heads, HEAD_SIZE + TAIL]
    key_ptr,  # [blocks, PAGE_SIZE, KV heads, HEAD_SIZE + TAIL] or [key tokens, KV heads, ...]
    value_ptr,  # likewise, HEAD_SIZE columns
    out_ptr,  # [tokens, query heads, HEAD_SIZE]
    lse_ptr,  # [query heads, tokens] fp32, ln; or None
    partial_ptr,  # [partial_rows, query heads, segments, HEAD_SIZE] fp32, normalised; then their lse,
    # [partial_rows, query heads, segments] fp32, log2; or None. Rows: see first_partial_row
    broken_ptr,  # [places] int32: whether that is to be repaired; or None
    page_ptr,  # [requests, blocks] int32 or [requests] int32
    query_start_loc_ptr,  # [requests + 1] int32
    seq_lens_ptr,  # [requests] int32
    slopes_ptr,  # [query heads] or None
    sinks_ptr,  # [query heads] or None
    k_scale_ptr,  # [] fp32 or None
    v_scale_ptr,  # [] fp32 or None
    requests,
    min_query_len,
    max_query_len,
    partial_rows,
    stride_page,
    stride_lse,
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
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,  # query heads per KV head
    ROW_HEADS: tl.constexpr,  # query heads in one program
    HEAD_SIZE: tl.constexpr,  # of the value, and of the first part of the key
    TAIL: tl.constexpr,  # further columns of query and key
    PAGE_SIZE: tl.constexpr,
    SPLIT_X: tl.constexpr,
    CAUSAL: tl.constexpr,
    FP8: tl.constexpr,
    SHARED: tl.constexpr,  # the value is the first part of the key
    ONE_BLOCK: tl.constexpr,  # no request has more rows than one program takes
    SPLIT: tl.constexpr,
    NOTES: tl.constexpr,  # rows of a program may differ in what they see: note what is broken
    LOOPS: tl.constexpr,  # walk the tiles that need no mask in a loop of their own
    AHEAD: tl.constexpr,  # look up a tile's pages one tile early
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    HEAD_BLOCKS: tl.constexpr = (GROUP + ROW_HEADS - 1) // ROW_HEADS
    BLOCK_Q: tl.constexpr = BLOCK_M // ROW_HEADS
    # One axis for all of them: the others end at 65,535 programs.
    place = place_of(tl.program_id(0), tl.num_programs(0), HEAD_BLOCKS, xcds())
    kv_head, head_block, block = work_at(place, KV_HEADS, HEAD_BLOCKS)
    # No other program reads the same keys: the caches are left to the rest.
    CACHE: tl.constexpr = (
        ".cg" if ONE_BLOCK and HEAD_BLOCKS == 1 and has_nontemporal_loads() else ""
    )
    if ONE_BLOCK:
        request = block
        first_token = 0
    else:
        request, first_token = owner_of(block, query_start_loc_ptr, requests, BLOCK_Q)
    query_start = tl.load(query_start_loc_ptr + request)
    query_len = tl.load(query_start_loc_ptr + request + 1) - query_start
    if (query_len < min_query_len) | (query_len > max_query_len) | (first_token >= query_len):
        return
    seq_len = tl.load(seq_lens_ptr + request)
    context = seq_len - query_len

    token, head, valid = rows_of(
        tl.arange(0, BLOCK_M),
        first_token,
        query_len,
        kv_head,
        head_block,
        GROUP,
        ROW_HEADS,
        BLOCK_Q,
    )
    position = context + token
    column = tl.arange(0, BLOCK_D)
    query_row = (query_start + token).to(tl.int64) * stride_qt + head * stride_qh
    query_ptrs = query_ptr + query_row[:, None]
    query = tl.load(
        query_ptrs + column[None, :],
        mask=valid[:, None] & (column < HEAD_SIZE)[None, :],
        other=0.0,
    )
    if TAIL > 0:
        query_tail = tl.load(
            query_ptrs + HEAD_SIZE + tl.arange(0, TAIL)[None, :],
            mask=valid[:, None],
            other=0.0,
        )
    else:
        query_tail = query

    last_token = tl.minimum(first_token + BLOCK_Q, query_len) - 1
    first_key, last_key = keys_seen(first_token, last_token, context, seq_len, window, CAUSAL)
    segment = tl.program_id(1)
    if SPLIT:
        lo, hi = tiles_of_segment(first_key, last_key, segment, tl.num_programs(1), BLOCK_N)
    else:
        lo = first_key // BLOCK_N
        hi = (last_key + BLOCK_N - 1) // BLOCK_N
    # Tiles [open_lo, open_hi) are seen in full by every row.
    open_lo = lo
    open_hi = last_key // BLOCK_N
    if CAUSAL:
        open_hi = (context + first_token + 1) // BLOCK_N
    if window is not None:
        open_lo = (tl.maximum(context + last_token - window + 1, 0) + BLOCK_N - 1) // BLOCK_N
        if not CAUSAL:
            open_hi = tl.minimum(open_hi, (context + first_token + window) // BLOCK_N)
    if not LOOPS:
        open_lo = lo
        open_hi = lo
    open_lo = tl.minimum(tl.maximum(open_lo, lo), hi)
    open_hi = tl.minimum(tl.maximum(open_hi, open_lo), hi)

    k_scale = 1.0
    v_scale = 1.0
    if k_scale_ptr is not None:
        k_scale = tl.load(k_scale_ptr)
        v_scale = tl.load(v_scale_ptr)
        # An infinite one makes zeros and both signs of a key's elements NaN.
        k_scale = tl.where(tl.abs(k_scale) == float("inf"), float("nan"), k_scale)
        # The largest product is to be the largest score: a negative factor goes to the query.
        query = tl.where(k_scale < 0, -query, query)
        query_tail = tl.where(k_scale < 0, -query_tail, query_tail)
        k_scale = tl.abs(k_scale)
    slope = slope_of(slopes_ptr, head, valid)
    total, top, sink = start_of(sinks_ptr, head, valid & (segment == 0))
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)

    key_base = key_ptr + kv_head.to(tl.int64) * stride_kh
    value_base = value_ptr + kv_head.to(tl.int64) * stride_vh
    table = page_ptr + request.to(tl.int64) * stride_page
    if PAGE_SIZE == 0:
        start = tl.load(table).to(tl.int64)
        key_base += start * stride_ks
        value_base += start * stride_vs
    # Up to three stretches of tiles: of the first and the last some rows do not see all keys.
    for phase in tl.static_range(3):
        if phase == 2 or (LOOPS and (phase == 1 or window is not None)):
            if phase == 0:
                start_tile = lo
                end_tile = open_lo
            elif phase == 1:
                start_tile = open_lo
                end_tile = open_hi
            else:
                start_tile = open_hi
                end_tile = hi
            acc, total, top = walk_tiles(
                state=(acc, total, top),
                query=query,
                query_tail=query_tail,
                key_ptr=key_base,
                value_ptr=value_base,
                page_ptr=table,
                tiles=(start_tile, end_tile),
                first_key=first_key,
                last_key=last_key,
                position=position,
                slope=slope,
                scale=scale * k_scale,
                soft_cap=soft_cap,
                window=window,
                key_strides=(stride_kb, stride_ks),
                value_strides=(stride_vb, stride_vs),
                HAS_ALIBI=slopes_ptr is not None,
                HEAD_SIZE=HEAD_SIZE,
                TAIL=TAIL,
                PAGE_SIZE=PAGE_SIZE,
                SPLIT_X=SPLIT_X,
                CAUSAL=CAUSAL,
                FP8=FP8,
                SHARED=SHARED,
                MASKED=phase != 1,
                REPAIRED=NOTES,
                AHEAD=AHEAD,
                CACHE=CACHE,
                BLOCK_N=BLOCK_N,
                BLOCK_D=BLOCK_D,
            )

    result, lse = places_of_result(
        token, head, request, query_start, requests, max_query_len, partial_rows, KV_HEADS * GROUP,
        HEAD_SIZE, stride_ot, stride_oh, stride_lse, SPLIT,
    )  # fmt: skip
    result_ptrs = (partial_ptr if SPLIT else out_ptr) + result[:, None]
    lse_ptrs = None
    if SPLIT or lse_ptr is not None:
        lse_ptrs = (partial_ptr if SPLIT else lse_ptr) + lse
    if NOTES:
        row_sum = tl.sum(acc, 1)  # infinities of both signs are repaired for nothing
        broken = row_sum != row_sum  # noqa: PLR0124  (NaN)
        # A request's only token is not: it takes either kernel, by the other requests.
        broken = broken & (query_len > 1)
        if FP8 > 0:  # of infinite scales, too, of which k_scale was made NaN
            finite = (k_scale == k_scale) & (tl.abs(v_scale) != float("inf"))  # noqa: PLR0124
            broken = tl.where(finite, broken, True)
        if SPLIT:  # the note is a log-sum-exp that is NaN
            total = tl.where(broken, float("nan"), total)
        else:
            tl.store(broken_ptr + place, tl.max(broken.to(tl.int32), 0))
    elif FP8 > 0:  # noqa: SIM102  (the outer test is resolved by the compiler)
        if tl.abs(v_scale) == float("inf"):
            values = sum_beyond_range(
                value_base, table, tl.maximum(lo * BLOCK_N, first_key),
                tl.minimum(hi * BLOCK_N, last_key), v_scale, stride_vb, stride_vs, HEAD_SIZE,
                PAGE_SIZE, SPLIT_X, FP8, query.dtype, BLOCK_D,
            )  # fmt: skip
            acc = (total * 0.0)[:, None] + values[None, :]
            v_scale = 1.0
    write_result(
        acc, total, top, sink, v_scale, result_ptrs, lse_ptrs, valid, sinks_ptr is not None,
        HEAD_SIZE, SPLIT, BLOCK_D,
    )  # fmt: skip
