"""The loop of the attention kernel: tiles of keys, with an online softmax (docs/attention-mathematics.md).

`walk_tiles` takes the state of some rows over further tiles. A tile's keys lie in pages of the cache
(`look_up_pages`, `look_up_runs`), or in a row.
"""

from __future__ import annotations

import triton
import triton.language as tl

from pytest_rocm_attn.backends.kernels.formats import compiled_for, dequantise, round_weights
from pytest_rocm_attn.backends.kernels.scores import LOG2E, anchor_of, log2_score, unseen_as_never
from pytest_rocm_attn.triton_interpreter import repair

repair()
MOST_RUNS = tl.constexpr(4)  # of keys in one page, in a tile, that are looked up one by one


@triton.constexpr_function
def looks_up_by_run():
    """Return whether a tile's pages are looked up by `look_up_runs`. NVIDIA's tiles were timed without."""
    return compiled_for()[0] != "cuda"


@triton.jit
def look_up_pages(
    page_ptr, keys, first_key, last_key, PAGE_SIZE: tl.constexpr, WHOLE_PAGES: tl.constexpr
):
    """Look up the pages of the keys in [first_key, last_key); 0 for others.

    first_key is None if no key lies before it. WHOLE_PAGES: of each page that has such a key, for
    all its keys.
    """
    number = keys // PAGE_SIZE
    if WHOLE_PAGES:
        readable = number * PAGE_SIZE < last_key
        if first_key is not None:
            readable = readable & (number * PAGE_SIZE + PAGE_SIZE > first_key)
    else:
        readable = keys < last_key
        if first_key is not None:
            readable = (keys >= first_key) & readable
    return tl.load(page_ptr + number, mask=readable, other=0)


@triton.jit
def look_up_runs(page_ptr, first_key, lane, PAGE_SIZE: tl.constexpr, PAGE_RUN: tl.constexpr):
    """Look up the pages of a tile's keys, all of which exist, once for each run of keys in one page.

    A wave's loads of keys lie in one run each, as a rule: the compiler then takes the run's page for all
    lanes, and the loads need no vector of addresses of pages.
    """
    page = tl.load(page_ptr + first_key // PAGE_SIZE) + tl.zeros_like(lane)
    for run in tl.static_range(1, lane.shape[0] // PAGE_RUN):
        number = tl.load(page_ptr + (first_key + run * PAGE_RUN) // PAGE_SIZE)
        page = tl.where(lane >= run * PAGE_RUN, number, page)
    return page


@triton.jit
def load_rows(
    pointers,
    readable,  # [BLOCK_N], of use if MASKED
    inside,  # [1, BLOCK_D], of use unless WHOLE
    MASKED: tl.constexpr,
    WHOLE: tl.constexpr,
    CACHE: tl.constexpr,
):
    """Load the columns of some keys or values; 0 for what is not to be read."""
    if MASKED and WHOLE:
        rows = tl.load(pointers, mask=readable[:, None], other=0, cache_modifier=CACHE)
    elif MASKED:
        rows = tl.load(pointers, mask=readable[:, None] & inside, other=0, cache_modifier=CACHE)
    elif WHOLE:
        rows = tl.load(pointers, cache_modifier=CACHE)
    else:
        rows = tl.load(pointers, mask=inside, other=0, cache_modifier=CACHE)
    return rows


@triton.jit
def walk_tiles(
    state,  # of the softmax: the weighted sum of values [ROWS, BLOCK_D], the sum of weights and the
    # largest score [ROWS], float32, log2 domain
    query,  # [ROWS, BLOCK_D]
    query_tail,  # [ROWS, TAIL]
    key_ptr,
    value_ptr,
    page_ptr,
    tiles,  # the first, and the last + 1
    first_key,  # positions outside [first_key, last_key) are never read
    last_key,
    position,  # [ROWS] absolute query positions
    slope,  # [ROWS]
    scale,
    soft_cap,
    window,
    key_strides,  # from page to page, and from key to key
    value_strides,
    HAS_ALIBI: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    TAIL: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    SPLIT_X: tl.constexpr,  # split layout: elements of a key that lie together; 0: all of them
    CAUSAL: tl.constexpr,
    FP8: tl.constexpr,
    SHARED: tl.constexpr,
    MASKED: tl.constexpr,
    REPAIRED: tl.constexpr,  # a NaN that comes out is looked at again
    AHEAD: tl.constexpr,
    CACHE: tl.constexpr,  # modifier of the loads of keys and values
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Return the state after further tiles of keys (online softmax)."""
    acc, total, top = state
    lo, hi = tiles
    stride_kb, stride_ks = key_strides
    stride_vb, stride_vs = value_strides
    lane = tl.arange(0, BLOCK_N)
    column = tl.arange(0, BLOCK_D)
    key_column = column
    value_column = column
    # Keys of a tile that are surely of one page, from every multiple of it.
    PAGE_RUN: tl.constexpr = min(PAGE_SIZE & -PAGE_SIZE, BLOCK_N)
    if SPLIT_X > 0:
        key_column = column // SPLIT_X * (PAGE_SIZE * SPLIT_X) + column % SPLIT_X
        value_column = column * PAGE_SIZE
    tail_column = BLOCK_D + tl.arange(0, TAIL if TAIL > 0 else 16)
    dtype = query.dtype
    WHOLE: tl.constexpr = HEAD_SIZE == BLOCK_D
    # A tile lies in one page: its number is a scalar, and so is the place of the tile's first key.
    ONE_PAGE: tl.constexpr = PAGE_SIZE > 0 and PAGE_SIZE % BLOCK_N == 0
    BY_RUN: tl.constexpr = PAGE_SIZE > 0 and BLOCK_N <= MOST_RUNS * PAGE_RUN and looks_up_by_run()
    page = tl.zeros([BLOCK_N], tl.int32)
    if PAGE_SIZE > 0 and AHEAD and not ONE_PAGE:
        page = look_up_pages(
            page_ptr, lo * BLOCK_N + lane, first_key, last_key, PAGE_SIZE, SPLIT_X > 0
        )
    for tile in range(lo, hi):
        keys = tile * BLOCK_N + lane
        readable = (keys >= first_key) & (keys < last_key)
        tile_key_ptr = key_ptr
        tile_value_ptr = value_ptr
        if ONE_PAGE:
            first = tile * BLOCK_N
            block = tl.load(page_ptr + first // PAGE_SIZE).to(tl.int64)
            tile_key_ptr += block * stride_kb + (first % PAGE_SIZE) * stride_ks
            tile_value_ptr += block * stride_vb + (first % PAGE_SIZE) * stride_vs
            key_row = lane * stride_ks
            value_row = lane * stride_vs
        elif PAGE_SIZE > 0:
            if not AHEAD:
                if MASKED:
                    page = look_up_pages(
                        page_ptr, keys, first_key, last_key, PAGE_SIZE, SPLIT_X > 0
                    )
                elif BY_RUN:
                    page = look_up_runs(page_ptr, tile * BLOCK_N, lane, PAGE_SIZE, PAGE_RUN)
                else:
                    page = tl.load(page_ptr + keys // PAGE_SIZE)
            block = page.to(tl.int64)
            if SPLIT_X > 0:
                # The tokens of a page lie together: said, or each element is loaded by itself.
                # These hints let one key's page stand for all of them, read or not: see look_up_pages.
                block = tl.max_constancy(block, PAGE_RUN)
            key_row = block * stride_kb + (keys % PAGE_SIZE) * stride_ks
            value_row = block * stride_vb + (keys % PAGE_SIZE) * stride_vs
            if AHEAD:
                page = look_up_pages(
                    page_ptr, keys + BLOCK_N, None, last_key, PAGE_SIZE, SPLIT_X > 0
                )
        else:
            key_row = keys.to(tl.int64) * stride_ks
            value_row = keys.to(tl.int64) * stride_vs
        key_ptrs = tile_key_ptr + key_row[:, None] + key_column[None, :]
        value_ptrs = tile_value_ptr + value_row[:, None] + value_column[None, :]
        inside = (column < HEAD_SIZE)[None, :]
        k = load_rows(key_ptrs, readable, inside, MASKED, WHOLE, CACHE)
        if FP8 > 0:
            k = dequantise(k, dtype, FP8)
        s = tl.dot(query, tl.trans(k), input_precision="ieee")
        if TAIL > 0:
            tail_ptrs = tile_key_ptr + key_row[:, None] + tail_column[None, :]
            k_tail = load_rows(tail_ptrs, readable, inside, MASKED, True, CACHE)
            if FP8 > 0:
                k_tail = dequantise(k_tail, dtype, FP8)
            s = tl.dot(query_tail, tl.trans(k_tail), s, input_precision="ieee")
        if MASKED or HAS_ALIBI or soft_cap is not None:
            distance = position[:, None] - keys[None, :]
            s = log2_score(s, distance, slope[:, None], scale, soft_cap, HAS_ALIBI)
            if MASKED:
                s = unseen_as_never(
                    s, position[:, None], keys[None, :], readable[None, :], window, CAUSAL
                )
            higher = tl.maximum(top, tl.max(s, 1))
            if MASKED or not REPAIRED:
                anchor = anchor_of(higher)
            else:  # inf - inf is NaN, and will be repaired
                anchor = higher
            p = tl.exp2(s - anchor[:, None])
        else:  # as above, by one product a row and one fused multiply-add a score
            factor = scale * LOG2E
            higher = tl.maximum(top, tl.max(s, 1) * factor)
            anchor = higher
            if not REPAIRED:
                anchor = anchor_of(higher)
            p = tl.exp2(s * factor - anchor[:, None])
        decay = tl.exp2(top - anchor)
        total = total * decay + tl.sum(p, 1)
        acc = acc * decay[:, None]
        if SHARED:
            v = k
        else:
            # Masked, as unused slots may hold NaN, and 0 * NaN is NaN.
            v = load_rows(value_ptrs, readable, inside, MASKED, WHOLE, CACHE)
            if FP8 > 0:
                v = dequantise(v, dtype, FP8)
        acc = tl.dot(round_weights(p, dtype), v, acc, input_precision="ieee")
        top = higher
    return acc, total, top
