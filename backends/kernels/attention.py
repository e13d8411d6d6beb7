"""Attention over a paged or contiguous KV cache: prefill, chunked prefill, decode, mixed, and MLA.

One kernel. A program owns BLOCK_M rows, (query token, query head) pairs that share one KV head, and a
segment of their keys; it walks the keys in tiles of BLOCK_N with an online softmax (Milakov &
Gimelshein 2018, arXiv:1805.02867; Dao 2023, arXiv:2307.08691). With several segments the partial
results are merged by a second kernel. Semantics: docs/reference/backends.md#inputs and #mla.

NaN and infinities mean what they do in IEEE arithmetic over the keys that a token sees. A key that some
rows of a program see and others do not has weight 0 in the product with the values, and 0 * NaN is NaN:
a program to which that may have happened leaves a note, and a further launch computes its rows once more,
key by key (`_key_by_key`). That launch is a kernel of its own, as its code would cost the other registers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from triton.language.target_info import current_target

from pytest_rocm_attn.backends.kernels.launcher import Launch, Launcher
from pytest_rocm_attn.backends.launch_config import padded
from pytest_rocm_attn.backends.launch_tiles import Tile
from pytest_rocm_attn.triton_interpreter import repair

repair()
LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
MERGE_ELEMENTS = 4096  # of all segments' partial results, in one program: 32 registers a lane
REPAIR_ELEMENTS = 1024  # of a program's results, in one warp of a repair: 16 or 32 registers a lane
NO_FP8, E4M3FN, E4M3FNUZ = 0, 7, 8  # how the cache is stored: the exponent bias names the flavour
FP8_BIAS = {torch.float8_e4m3fn: E4M3FN, torch.float8_e4m3fnuz: E4M3FNUZ}


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """The launches that compute the requests of some query lengths. Made by `plan_attention`.

    Args:
        attend: the attention kernel.
        repair: computes again what it noted; None if no two rows of a program see different keys.
        programs: of the attention kernel.
        merge: merges the segments; None when the keys are not split.
        partial_size: float32 elements of the segments' partial results.
    """

    attend: Launch
    repair: Launch | None
    programs: int
    merge: Launch | None
    partial_size: int

    def __call__(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor | None,
        out: torch.Tensor,
        *,
        query_start_loc: torch.Tensor,
        seq_lens: torch.Tensor,
        pages: torch.Tensor,
        lse: torch.Tensor | None = None,
        alibi_slopes: torch.Tensor | None = None,
        sinks: torch.Tensor | None = None,
        k_scale: torch.Tensor | None = None,
        v_scale: torch.Tensor | None = None,
    ) -> None:
        """Write `out` from tensors that lie as those did that the plan was made for.

        Args:
            query, key, value, out, pages: see `plan_attention`.
            query_start_loc: [requests + 1] int32.
            seq_lens: [requests] int32, keys of each request.
            lse: [query heads, tokens] float32, receives the natural log-sum-exp; only with 1 segment.
            alibi_slopes, sinks: [query heads], or None.
            k_scale, v_scale: float32 scalars, read on the device; only when fp8.
        """
        # Allocated at each call: the caching allocator keeps streams and graphs apart.
        broken = None
        if self.repair is not None:
            broken = torch.empty(self.programs, dtype=torch.int32, device=out.device)
        partial = (
            torch.empty(self.partial_size, dtype=torch.float32, device=out.device)
            if self.merge
            else None
        )
        tensors = (
            query, key, key if value is None else value, out, lse, partial, broken, pages,
            query_start_loc, seq_lens, alibi_slopes, sinks, k_scale, v_scale,
        )  # fmt: skip
        self.attend(*tensors)
        if self.repair is not None:
            self.repair(*tensors)
        if self.merge is not None:
            self.merge(partial, out, query_start_loc)


def plan_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor | None,
    out: torch.Tensor,
    *,
    requests: int,
    pages: torch.Tensor,
    page_size: int,
    min_query_len: int,
    max_query_len: int,
    scale: float,
    tile: Tile,
    segments: int = 1,
    causal: bool = True,
    window: int | None = None,
    soft_cap: float | None = None,
    fp8: int = NO_FP8,
    lse: torch.Tensor | None = None,
    tokens: int | None = None,
) -> AttentionPlan:
    """Prepare to compute the requests whose query length lies in [min_query_len, max_query_len].

    Nothing is checked here: the backends do that. Rows of other requests are left alone. The plan
    depends on how the tensors lie, not on what they hold.

    Args:
        query: [tokens, query heads, D], last dimension dense.
        key: paged [blocks, page size, KV heads, D], else [key tokens, KV heads, D]; last dimension
            dense; uint8 when fp8. Or paged in the split layout, [blocks, KV heads, D / x, page
            size, x], dense except the first two dimensions.
        value: likewise with Dv columns (split: [blocks, KV heads, Dv, page size]), or None: the
            first Dv columns of `key`.
        out: [tokens, query heads, Dv], dtype of the query, last dimension dense.
        requests: how many.
        pages: paged: block table [requests, blocks] int32; else [requests] int32, the first key
            row of each request.
        page_size: tokens per block; 0 when the keys are contiguous.
        scale: factor of the dot product, positive.
        tile: block sizes and compiler options.
        segments: parts that each request's keys are split into, for requests of one block of rows.
        window, soft_cap: None when absent.
        fp8: NO_FP8, E4M3FN or E4M3FNUZ.
        lse: [query heads, tokens] float32, or None when it is not wanted.
        tokens: rows of the query that belong to a request, from the start; all by default.
    """
    _, heads, key_size = query.shape
    value_size = out.shape[2]
    key_strides = key.stride()
    value_strides = key_strides if value is None else value.stride()
    kv_heads, x = key.shape[-2], 0
    if key.dim() == 5:
        kv_heads, x = key.shape[1], key.shape[4]
        key_strides = (key_strides[0], x, key_strides[1])
        value_strides = (value_strides[0], 1, value_strides[1])
    elif not page_size:
        key_strides, value_strides = (0, *key_strides), (0, *value_strides)
    query_strides, out_strides = query.stride(), out.stride()
    group = heads // kv_heads
    rows_heads = min(group, tile.block_m)
    block_q = tile.block_m // rows_heads
    one_block = max_query_len <= block_q
    tokens = query.shape[0] if tokens is None else tokens
    blocks = requests if one_block else tokens // block_q + requests
    block_d = padded(value_size)
    # A row for each token of the batch, or for as many of each request as this plan serves.
    partial_rows = min(tokens, requests * max_query_len)
    programs = kv_heads * -(-group // rows_heads) * blocks
    differ = min(max_query_len, block_q) > 1 and (causal or window is not None)

    # A repair holds queries and results in float32: it takes a program's rows in parts.
    parts = max(1, tile.block_m * block_d // REPAIR_ELEMENTS // tile.num_warps)

    def launch(*, repairs: bool) -> Launch:
        return _attention.prepare(
            (programs, segments, parts if repairs else 1),
            (
                requests,
                min_query_len,
                max_query_len,
                partial_rows,
                pages.stride(0),
                0 if lse is None else lse.stride(0),
            ),
            (
                float(scale),
                None if soft_cap is None else float(soft_cap),
                window,
                query_strides[0],
                query_strides[1],
                *key_strides[:3],
                *value_strides[:3],
                out_strides[0],
                out_strides[1],
            ),
            (
                kv_heads,
                group,
                rows_heads,
                value_size,
                key_size - value_size,
                page_size,
                x,
                causal,
                fp8,
                value is None,
                one_block,
                segments > 1,
                differ,
                repairs,
                tile.loops,
                tile.pages_ahead,
                tile.block_m,
                tile.block_m // parts if repairs else tile.block_m,
                tile.block_n,
                block_d,
            ),
            tile.num_warps,
            1 if repairs else tile.num_stages,
            tile.options,
        )

    attend, repair = launch(repairs=False), launch(repairs=True) if differ else None
    if segments == 1:
        return AttentionPlan(attend, repair, programs, None, 0)
    block_s = padded(segments)
    block_c = min(block_d, max(16, MERGE_ELEMENTS // block_s))
    merge = _merge.prepare(
        (requests * max_query_len, heads, block_d // block_c),
        (requests, min_query_len, max_query_len, segments, partial_rows),
        (heads, out_strides[0], out_strides[1]),
        (value_size, block_c, block_s),
        4,
        1,
    )
    partial_size = partial_rows * heads * segments * (value_size + 1)
    return AttentionPlan(attend, repair, programs * segments, merge, partial_size)


@triton.constexpr_function
def _compiled_for():
    """Return backend and architecture that a kernel is compiled for; nothing in the interpreter."""
    target = None if triton.knobs.runtime.interpret else current_target()
    return ("", "") if target is None else (target.backend, target.arch)


@triton.constexpr_function
def rounds_to_bfloat16():
    """Return whether the GPU rounds to bfloat16 by one instruction, or is not an AMD GPU."""
    backend, arch = _compiled_for()
    return backend != "hip" or arch in ("gfx950", "gfx1250")


@triton.jit
def _weights(p, DTYPE: tl.constexpr):
    """Round to nearest; p is 0 or more, or NaN.

    Without an instruction for it, the general conversion takes six for each number. Two are enough here:
    ties may go up, and what becomes of a NaN does not matter, as the sum of p is NaN as well.
    """
    if DTYPE == tl.bfloat16 and not rounds_to_bfloat16():
        bits = p.to(tl.uint32, bitcast=True) + 0x8000
        return (bits >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    return p.to(DTYPE)


@triton.jit
def _exact(y, DTYPE: tl.constexpr):
    """Convert float32 that DTYPE holds exactly, or NaN."""
    if DTYPE == tl.bfloat16:
        return (y.to(tl.uint32, bitcast=True) >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    return y.to(DTYPE)


@triton.constexpr_function
def decodes_e4m3(flavour):
    """Return whether the GPU has an instruction that decodes this flavour of e4m3."""
    backend, arch = _compiled_for()
    if backend == "cuda":
        return flavour == E4M3FN and arch >= 89
    return (
        arch
        in {E4M3FN: ("gfx950", "gfx1200", "gfx1201", "gfx1250"), E4M3FNUZ: ("gfx942",)}[flavour]
    )


@triton.constexpr_function
def needs_assembly_for_e4m3():
    """Return whether Triton (3.6.0) decodes e4m3 by hand there, although the GPU has an instruction."""
    return _compiled_for()[1] in ("gfx1200", "gfx1201")


@triton.jit
def _dequantise(x, DTYPE: tl.constexpr, FP8: tl.constexpr):
    """Decode e4m3 bytes, exactly: every value is a number of DTYPE as well.

    By the GPU's instruction if it has one for the flavour, else by placing the bits in a float16 and
    correcting the exponent.
    """
    if decodes_e4m3(FP8):
        if needs_assembly_for_e4m3():
            y = tl.inline_asm_elementwise(
                "v_cvt_f32_fp8 $0, $1", "=v,v", [x.to(tl.uint32)], tl.float32, is_pure=True, pack=1
            )
        elif FP8 == 7:
            y = x.to(tl.float8e4nv, bitcast=True).to(tl.float32)
        else:
            y = x.to(tl.float8e4b8, bitcast=True).to(tl.float32)
    else:
        # The bits in their places of a float32 are a number 2**-120 or 2**-119 as large, subnormal or not.
        bits = x.to(tl.int8, bitcast=True).to(tl.int32) << 20
        y = (bits.to(tl.uint32, bitcast=True) & 0x87F00000).to(tl.float32, bitcast=True)
        if FP8 == 7:  # e4m3fn: bias 7 against float32's 127; both all-ones codes are NaN
            y = tl.where((x & 0x7F) == 0x7F, float("nan"), y * (2.0**120))
        else:  # e4m3fnuz: bias 8; the only NaN is negative zero's code
            y = tl.where(x == 0x80, float("nan"), y * (2.0**119))
    return _exact(y, DTYPE)


@triton.jit
def _pages(page_ptr, keys, first_key, last_key, PAGE_SIZE: tl.constexpr, WHOLE_PAGES: tl.constexpr):
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
def _log2_score(s, distance, slope, scale, soft_cap, HAS_ALIBI: tl.constexpr):
    """Return scores in base 2 from dot products; distance is the query's position less the key's."""
    if soft_cap is not None or HAS_ALIBI:
        s = s * scale
        if soft_cap is not None:
            s = soft_cap * (2 * tl.sigmoid(2 * s / soft_cap) - 1)
        if HAS_ALIBI:
            s -= slope * distance.to(tl.float32)
        s = s * LOG2E
    else:
        s = s * (scale * LOG2E)
    return s


@triton.jit
def _unseen_as_never(s, position, key, readable, window, CAUSAL: tl.constexpr):
    """Return the scores with -inf for keys that a row does not see; readable is enough for rows that are
    not causal, and is implied for those that are: no such row of a request lies behind its last key."""
    if CAUSAL:
        seen = key <= position
        if window is not None:
            seen = seen & (key > position - window)
    else:
        seen = readable
        if window is not None:
            seen = seen & (tl.abs(position - key) < window)
    return tl.where(seen, s, float("-inf"))


@triton.constexpr_function
def has_nontemporal_loads():
    """Return whether Triton's modifier `.cg` makes loads that do not displace what the caches hold."""
    return _compiled_for()[0] == "hip"


@triton.constexpr_function
def xcds():
    """Return the number of dies, each with an L2 cache of its own, that take workgroups in turn."""
    return 8 if _compiled_for()[1] in ("gfx942", "gfx950") else 1


@triton.jit
def _place(program, programs, SHARERS: tl.constexpr, XCDS: tl.constexpr):
    """Return a program's place in the order of work, a permutation of the programs.

    SHARERS consecutive places read the same keys. Workgroups go to the XCDs in turn, so that those of
    consecutive numbers would read the keys once for each XCD: sharers get numbers that are XCDS apart.
    What does not fill a round of all XCDs keeps its number.
    """
    if SHARERS == 1 or XCDS == 1:
        place = program
    else:
        number = program // XCDS
        moved = (number // SHARERS * XCDS + program % XCDS) * SHARERS + number % SHARERS
        whole = programs // (SHARERS * XCDS) * (SHARERS * XCDS)
        place = tl.where(program < whole, moved, program)
    return place


@triton.jit
def _anchor(top):
    """Return what to subtract from scores: their maximum, or 0 as inf - inf is NaN."""
    return tl.where(tl.abs(top) == float("inf"), 0.0, top)


@triton.jit
def _tiles(
    acc,  # [ROWS, BLOCK_D] fp32
    total,  # [ROWS] fp32
    top,  # [ROWS] fp32, log2 domain
    query,  # [ROWS, BLOCK_D]
    query_tail,  # [ROWS, TAIL]
    key_ptr,
    value_ptr,
    page_ptr,
    lo,  # first tile
    hi,  # last tile + 1
    first_key,  # positions outside [first_key, last_key) are never read
    last_key,
    position,  # [ROWS] absolute query positions
    slope,  # [ROWS]
    scale,
    soft_cap,
    window,
    stride_kb,
    stride_ks,
    stride_vb,
    stride_vs,
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
    # A tile lies in one page: its number is a scalar, and so is the place of the tile's first key.
    ONE_PAGE: tl.constexpr = PAGE_SIZE > 0 and PAGE_SIZE % BLOCK_N == 0
    page = tl.zeros([BLOCK_N], tl.int32)
    if PAGE_SIZE > 0 and AHEAD and not ONE_PAGE:
        page = _pages(page_ptr, lo * BLOCK_N + lane, first_key, last_key, PAGE_SIZE, SPLIT_X > 0)
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
                    page = _pages(page_ptr, keys, first_key, last_key, PAGE_SIZE, SPLIT_X > 0)
                else:
                    page = tl.load(page_ptr + keys // PAGE_SIZE)
            block = page.to(tl.int64)
            if SPLIT_X > 0:
                # The tokens of a page lie together: said, or each element is loaded by itself.
                # These hints let one key's page stand for all of them, read or not: see _pages.
                block = tl.max_constancy(block, PAGE_RUN)
            key_row = block * stride_kb + (keys % PAGE_SIZE) * stride_ks
            value_row = block * stride_vb + (keys % PAGE_SIZE) * stride_vs
            if AHEAD:
                page = _pages(page_ptr, keys + BLOCK_N, None, last_key, PAGE_SIZE, SPLIT_X > 0)
        else:
            key_row = keys.to(tl.int64) * stride_ks
            value_row = keys.to(tl.int64) * stride_vs
        key_ptrs = tile_key_ptr + key_row[:, None] + key_column[None, :]
        value_ptrs = tile_value_ptr + value_row[:, None] + value_column[None, :]
        inside = (column < HEAD_SIZE)[None, :]
        if MASKED:
            if HEAD_SIZE == BLOCK_D:
                k = tl.load(key_ptrs, mask=readable[:, None], other=0, cache_modifier=CACHE)
            else:
                k = tl.load(
                    key_ptrs, mask=readable[:, None] & inside, other=0, cache_modifier=CACHE
                )
        elif HEAD_SIZE == BLOCK_D:
            k = tl.load(key_ptrs, cache_modifier=CACHE)
        else:
            k = tl.load(key_ptrs, mask=inside, other=0, cache_modifier=CACHE)
        if FP8 > 0:
            k = _dequantise(k, dtype, FP8)
        s = tl.dot(query, tl.trans(k), input_precision="ieee")
        if TAIL > 0:
            tail_ptrs = tile_key_ptr + key_row[:, None] + tail_column[None, :]
            if MASKED:
                k_tail = tl.load(tail_ptrs, mask=readable[:, None], other=0)
            else:
                k_tail = tl.load(tail_ptrs)
            if FP8 > 0:
                k_tail = _dequantise(k_tail, dtype, FP8)
            s = tl.dot(query_tail, tl.trans(k_tail), s, input_precision="ieee")
        if MASKED or HAS_ALIBI or soft_cap is not None:
            distance = position[:, None] - keys[None, :]
            s = _log2_score(s, distance, slope[:, None], scale, soft_cap, HAS_ALIBI)
            if MASKED:
                s = _unseen_as_never(
                    s, position[:, None], keys[None, :], readable[None, :], window, CAUSAL
                )
            higher = tl.maximum(top, tl.max(s, 1))
            if MASKED or not REPAIRED:
                anchor = _anchor(higher)
            else:  # inf - inf is NaN, and will be repaired
                anchor = higher
            p = tl.exp2(s - anchor[:, None])
        else:  # as above, by one product a row and one fused multiply-add a score
            factor = scale * LOG2E
            higher = tl.maximum(top, tl.max(s, 1) * factor)
            anchor = higher
            if not REPAIRED:
                anchor = _anchor(higher)
            p = tl.exp2(s * factor - anchor[:, None])
        decay = tl.exp2(top - anchor)
        total = total * decay + tl.sum(p, 1)
        acc = acc * decay[:, None]
        if SHARED:
            v = k
        else:
            if MASKED:  # unused slots may hold NaN, and 0 * NaN is NaN
                if HEAD_SIZE == BLOCK_D:
                    v = tl.load(value_ptrs, mask=readable[:, None], other=0, cache_modifier=CACHE)
                else:
                    v = tl.load(
                        value_ptrs, mask=readable[:, None] & inside, other=0, cache_modifier=CACHE
                    )
            elif HEAD_SIZE == BLOCK_D:
                v = tl.load(value_ptrs, cache_modifier=CACHE)
            else:
                v = tl.load(value_ptrs, mask=inside, other=0, cache_modifier=CACHE)
            if FP8 > 0:
                v = _dequantise(v, dtype, FP8)
        acc = tl.dot(_weights(p, dtype), v, acc, input_precision="ieee")
        top = higher
    return acc, total, top


@triton.jit
def _first_partial_row(request, query_start, requests, max_query_len, partial_rows):
    """Return the row of a request's first token in the partial results: one for each token of the
    batch, where that is less than max_query_len for each request."""
    by_token = partial_rows < requests * max_query_len
    return tl.where(by_token, query_start, request * max_query_len)


@triton.jit
def _write(
    acc,  # [ROWS, BLOCK_D] fp32
    total,  # [ROWS] fp32
    top,  # [ROWS] fp32, log2 domain
    sink,  # [ROWS] fp32
    v_scale,
    result_ptrs,  # [ROWS, 1], the first column
    lse_ptrs,  # [ROWS] fp32, log2 if SPLIT, else ln; or None
    valid,  # [ROWS]
    HAS_SINK: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    SPLIT: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Normalise and store."""
    if HAS_SINK:
        drained = sink == float("inf")  # it leaves no weight for the keys: 0, and NaN if 0 * inf is
        acc = tl.where(drained[:, None], acc * 0.0, acc)
        total = tl.where(drained, total * 0.0 + 1.0, total)
        top = tl.where(drained, sink, top)
    nothing = total == 0  # was seen: the answer is zero
    acc = acc / tl.where(nothing, 1.0, total)[:, None] * v_scale
    written = valid
    if SPLIT:
        written = valid & ~nothing
    column = tl.arange(0, BLOCK_D)
    tl.store(
        result_ptrs + column[None, :],
        acc.to(result_ptrs.dtype.element_ty),
        mask=written[:, None] & (column < HEAD_SIZE)[None, :],
    )
    if lse_ptrs is not None:
        lse = tl.where(nothing, float("-inf"), top + tl.log2(tl.where(nothing, 1.0, total)))
        if not SPLIT:
            lse = lse * LN2
        tl.store(lse_ptrs, lse, mask=valid)


@triton.jit
def _sum_beyond_range(
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
        total += tl.where(inside, _dequantise(v, DTYPE, FP8).to(tl.float32) * v_scale, 0.0)
    return total


@triton.jit
def _key_by_key(
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
    applied to each stored number. Slow, and only for numbers that are not finite. Arguments: as `_tiles`
    and `_write`."""
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
            k = tl.where(inside, _dequantise(k, DTYPE, FP8).to(tl.float32) * k_scale, 0.0)
            v = tl.where(inside, _dequantise(v, DTYPE, FP8).to(tl.float32) * v_scale, 0.0)
        v = v.to(tl.float32)
        s = tl.sum(query * k.to(tl.float32)[None, :], 1)
        if TAIL > 0:
            tail = HEAD_SIZE + tl.arange(0, TAIL)
            query_tail = tl.load(query_ptrs + tail[None, :], mask=valid[:, None], other=0.0)
            k_tail = tl.load(key_ptr + key_row + tail)
            s += tl.sum(query_tail.to(tl.float32) * k_tail.to(tl.float32)[None, :], 1)
        distance = position - key
        s = _log2_score(s, distance, slope, scale, soft_cap, HAS_ALIBI)
        s = _unseen_as_never(s, position, key, valid, window, CAUSAL)
        higher = tl.maximum(top, s)
        anchor = _anchor(higher)
        p = tl.exp2(s - anchor)
        decay = tl.exp2(top - anchor)
        total = total * decay + p
        seen = _unseen_as_never(tl.zeros_like(s), position, key, valid, window, CAUSAL) == 0
        acc = acc * decay[:, None] + tl.where(seen[:, None], p[:, None] * v[None, :], 0.0)
        top = higher
    _write(
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
    # [partial_rows, query heads, segments] fp32, log2; or None. Rows: see _first_partial_row
    broken_ptr,  # [programs] int32: whether one is to be repaired; or None
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
    NOTES: tl.constexpr,  # rows of a program may differ in what they see: note if one is broken
    REPAIRS: tl.constexpr,  # do nothing but compute again what is noted
    LOOPS: tl.constexpr,  # walk the tiles that need no mask in a loop of their own
    AHEAD: tl.constexpr,  # look up a tile's pages one tile early
    BLOCK_M: tl.constexpr,
    ROWS: tl.constexpr,  # of BLOCK_M, that a program computes itself
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    HEAD_BLOCKS: tl.constexpr = (GROUP + ROW_HEADS - 1) // ROW_HEADS
    BLOCK_Q: tl.constexpr = BLOCK_M // ROW_HEADS
    # One axis for all of them: the others end at 65,535 programs.
    place = _place(tl.program_id(0), tl.num_programs(0), HEAD_BLOCKS, xcds())
    head_program = place % (KV_HEADS * HEAD_BLOCKS)
    kv_head = head_program // HEAD_BLOCKS
    head_block = head_program % HEAD_BLOCKS
    # Later blocks of a causal request see more keys: start with them, so that short ones end the run.
    block = (tl.num_programs(0) - 1 - place) // (KV_HEADS * HEAD_BLOCKS)
    # No other program reads the same keys: the caches are left to the rest.
    CACHE: tl.constexpr = (
        ".cg" if ONE_BLOCK and HEAD_BLOCKS == 1 and has_nontemporal_loads() else ""
    )
    if ONE_BLOCK:
        request = block
        first_token = 0
    else:
        # Request i owns the blocks from query_start_loc[i] // BLOCK_Q + i on.
        low = 0
        high = requests
        while low < high:
            middle = (low + high) // 2
            if tl.load(query_start_loc_ptr + middle) // BLOCK_Q + middle <= block:
                low = middle + 1
            else:
                high = middle
        request = low - 1
        owned = tl.load(query_start_loc_ptr + request) // BLOCK_Q + request
        first_token = (block - owned) * BLOCK_Q
    query_start = tl.load(query_start_loc_ptr + request)
    query_len = tl.load(query_start_loc_ptr + request + 1) - query_start
    if (query_len < min_query_len) | (query_len > max_query_len) | (first_token >= query_len):
        return
    program = tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
    if REPAIRS:  # noqa: SIM102  (the outer test is resolved by the compiler)
        if tl.load(broken_ptr + program) == 0:
            return
    seq_len = tl.load(seq_lens_ptr + request)
    context = seq_len - query_len

    row = tl.program_id(2) * ROWS + tl.arange(0, ROWS)
    token = first_token + row // ROW_HEADS
    group_head = head_block * ROW_HEADS + row % ROW_HEADS
    valid = (row < BLOCK_Q * ROW_HEADS) & (token < query_len) & (group_head < GROUP)
    head = kv_head * GROUP + group_head
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
    first_key = 0
    last_key = seq_len
    if CAUSAL:
        last_key = context + last_token + 1
    if window is not None:
        first_key = tl.maximum(context + first_token - window + 1, 0)
        if not CAUSAL:
            last_key = tl.minimum(last_key, context + last_token + window)
    lo = first_key // BLOCK_N
    hi = (last_key + BLOCK_N - 1) // BLOCK_N
    segment = tl.program_id(1)
    if SPLIT:
        per_segment = tl.cdiv(hi - lo, tl.num_programs(1))
        hi = tl.minimum(hi, lo + (segment + 1) * per_segment)
        lo = lo + segment * per_segment
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
        if not REPAIRS:  # an infinite one makes zeros and both signs of a key's elements NaN
            k_scale = tl.where(tl.abs(k_scale) == float("inf"), float("nan"), k_scale)
            # The largest product is to be the largest score: a negative factor goes to the query.
            query = tl.where(k_scale < 0, -query, query)
            query_tail = tl.where(k_scale < 0, -query_tail, query_tail)
            k_scale = tl.abs(k_scale)
    slope = tl.zeros([ROWS], tl.float32)
    if slopes_ptr is not None:
        slope = tl.load(slopes_ptr + head, mask=valid, other=0.0).to(tl.float32)
    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    sink = top
    if sinks_ptr is not None:
        sink = tl.load(sinks_ptr + head, mask=valid & (segment == 0), other=float("-inf"))
        sink = sink.to(tl.float32)
        # An infinite one has no weight here, or all of it: see below.
        infinite = tl.abs(sink) == float("inf")
        top = tl.where(infinite, float("-inf"), sink * LOG2E)
        total = tl.where(infinite, 0.0, 1.0)
    acc = tl.zeros([ROWS, BLOCK_D], tl.float32)

    key_base = key_ptr + kv_head.to(tl.int64) * stride_kh
    value_base = value_ptr + kv_head.to(tl.int64) * stride_vh
    table = page_ptr + request.to(tl.int64) * stride_page
    if PAGE_SIZE == 0:
        start = tl.load(table).to(tl.int64)
        key_base += start * stride_ks
        value_base += start * stride_vs
    if LOOPS and window is not None and not REPAIRS:
        acc, total, top = _tiles(
            acc, total, top, query, query_tail, key_base, value_base, table, lo, open_lo,
            first_key, last_key, position, slope, scale * k_scale, soft_cap, window, stride_kb, stride_ks,
            stride_vb, stride_vs, slopes_ptr is not None, HEAD_SIZE, TAIL, PAGE_SIZE, SPLIT_X, CAUSAL, FP8,
            SHARED, True, NOTES, AHEAD, CACHE, BLOCK_N, BLOCK_D,
        )  # fmt: skip
    if LOOPS and not REPAIRS:
        acc, total, top = _tiles(
            acc, total, top, query, query_tail, key_base, value_base, table, open_lo, open_hi,
            first_key, last_key, position, slope, scale * k_scale, soft_cap, window, stride_kb, stride_ks,
            stride_vb, stride_vs, slopes_ptr is not None, HEAD_SIZE, TAIL, PAGE_SIZE, SPLIT_X, CAUSAL, FP8,
            SHARED, False, NOTES, AHEAD, CACHE, BLOCK_N, BLOCK_D,
        )  # fmt: skip
    if not REPAIRS:
        acc, total, top = _tiles(
            acc, total, top, query, query_tail, key_base, value_base, table, open_hi, hi,
            first_key, last_key, position, slope, scale * k_scale, soft_cap, window, stride_kb, stride_ks,
            stride_vb, stride_vs, slopes_ptr is not None, HEAD_SIZE, TAIL, PAGE_SIZE, SPLIT_X, CAUSAL, FP8,
            SHARED, True, NOTES, AHEAD, CACHE, BLOCK_N, BLOCK_D,
        )  # fmt: skip

    if SPLIT:
        row_start = _first_partial_row(request, query_start, requests, max_query_len, partial_rows)
        result_row = (row_start + token).to(tl.int64) * (KV_HEADS * GROUP) + head
        result_row = result_row * tl.num_programs(1) + segment
        lse_start = partial_rows.to(tl.int64) * (KV_HEADS * GROUP) * tl.num_programs(1) * HEAD_SIZE
        lse_ptrs = partial_ptr + lse_start + result_row
        result_ptrs = partial_ptr + result_row[:, None] * HEAD_SIZE
    else:
        result_row = (query_start + token).to(tl.int64) * stride_ot + head * stride_oh
        result_ptrs = out_ptr + result_row[:, None]
        lse_ptrs = None
        if lse_ptr is not None:
            lse_ptrs = lse_ptr + head.to(tl.int64) * stride_lse + query_start + token
    if REPAIRS:
        _key_by_key(
            total, top, sink, query_ptrs, result_ptrs, lse_ptrs, valid, key_base,
            value_base, table, tl.maximum(lo * BLOCK_N, first_key),
            tl.minimum(hi * BLOCK_N, last_key), position, slope, scale, k_scale, v_scale, soft_cap,
            window, stride_kb, stride_ks, stride_vb, stride_vs, slopes_ptr is not None,
            sinks_ptr is not None, HEAD_SIZE, TAIL, PAGE_SIZE, SPLIT_X, CAUSAL, FP8, query.dtype, SPLIT,
            BLOCK_D,
        )  # fmt: skip
    else:
        if NOTES:
            row_sum = tl.sum(acc, 1)  # infinities of both signs are repaired for nothing
            broken = tl.max(tl.where(row_sum == row_sum, 0, 1), 0)  # noqa: PLR0124  (NaN)
            # A request's only token is not: it takes either kernel, by the other requests.
            broken = tl.where(query_len > 1, broken, 0)
            if FP8 > 0:  # of infinite scales, too, of which k_scale was made NaN
                finite = (k_scale == k_scale) & (tl.abs(v_scale) != float("inf"))  # noqa: PLR0124
                broken = tl.where(finite, broken, 1)
            tl.store(broken_ptr + program, broken)
        elif FP8 > 0:  # noqa: SIM102  (the outer test is resolved by the compiler)
            if tl.abs(v_scale) == float("inf"):
                values = _sum_beyond_range(
                    value_base, table, tl.maximum(lo * BLOCK_N, first_key),
                    tl.minimum(hi * BLOCK_N, last_key), v_scale, stride_vb, stride_vs, HEAD_SIZE,
                    PAGE_SIZE, SPLIT_X, FP8, query.dtype, BLOCK_D,
                )  # fmt: skip
                acc = (total * 0.0)[:, None] + values[None, :]
                v_scale = 1.0
        _write(
            acc, total, top, sink, v_scale, result_ptrs, lse_ptrs, valid, sinks_ptr is not None,
            HEAD_SIZE, SPLIT, BLOCK_D,
        )  # fmt: skip


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
    heads,
    stride_ot,
    stride_oh,
    HEAD_SIZE: tl.constexpr,
    BLOCK_C: tl.constexpr,  # columns of one program
    BLOCK_S: tl.constexpr,
):
    request = tl.program_id(0) // max_query_len
    token = tl.program_id(0) % max_query_len
    head = tl.program_id(1)
    query_start = tl.load(query_start_loc_ptr + request)
    query_len = tl.load(query_start_loc_ptr + request + 1) - query_start
    if (query_len < min_query_len) | (query_len > max_query_len) | (token >= query_len):
        return
    segment = tl.arange(0, BLOCK_S)
    column = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    row_start = _first_partial_row(request, query_start, requests, max_query_len, partial_rows)
    row = ((row_start + token).to(tl.int64) * heads + head) * segments
    lse_ptr = partial_ptr + partial_rows.to(tl.int64) * heads * segments * HEAD_SIZE
    lse = tl.load(lse_ptr + row + segment, mask=segment < segments, other=float("-inf"))
    top = tl.max(lse, 0)
    # A segment with an infinite sink or score outweighs all others: inf - inf would be NaN.
    weight = tl.where(lse == top, 1.0, tl.exp2(lse - top))
    weight = tl.where(lse == float("-inf"), 0.0, weight)
    total = tl.sum(weight, 0)
    parts = tl.load(
        partial_ptr + (row + segment)[:, None] * HEAD_SIZE + column[None, :],
        mask=(lse != float("-inf"))[:, None] & (column < HEAD_SIZE)[None, :],
        other=0.0,
    )
    merged = tl.sum(parts * weight[:, None], 0) / tl.where(total == 0, 1.0, total)
    out_row = (query_start + token).to(tl.int64) * stride_ot + head * stride_oh
    tl.store(
        out_ptr + out_row + column, merged.to(out_ptr.dtype.element_ty), mask=column < HEAD_SIZE
    )


_attention = Launcher(_attention_kernel)
_merge = Launcher(_merge_segments_kernel)
