"""In which order programs take their work, which rows and keys that is, and how they use shared caches."""

from __future__ import annotations

import triton
import triton.language as tl

from pytest_rocm_attn.backends.kernels.formats import compiled_for
from pytest_rocm_attn.triton_interpreter import repair

repair()


@triton.constexpr_function
def has_nontemporal_loads():
    """Return whether Triton's modifier `.cg` makes loads that do not displace what the caches hold."""
    return compiled_for()[0] == "hip"


@triton.constexpr_function
def xcds():
    """Return the number of dies, each with an L2 cache of its own, that take workgroups in turn."""
    return 8 if compiled_for()[1] in ("gfx942", "gfx950") else 1


@triton.jit
def place_of(program, programs, SHARERS: tl.constexpr, XCDS: tl.constexpr):
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
def work_at(place, kv_heads, head_blocks):
    """Return the KV head, the block of its query heads and the block of tokens at a place.

    Later blocks of a causal request see more keys: they come first, so that short ones end the run.
    """
    head_program = place % (kv_heads * head_blocks)
    block = (tl.num_programs(0) - 1 - place) // (kv_heads * head_blocks)
    return head_program // head_blocks, head_program % head_blocks, block


@triton.jit
def owner_of(block, query_start_loc_ptr, requests, block_q):
    """Return the request that owns a block of tokens, and the first of its tokens that is in it.

    Request i owns the blocks from query_start_loc[i] // block_q + i on.
    """
    low = 0
    high = requests
    while low < high:
        middle = (low + high) // 2
        if tl.load(query_start_loc_ptr + middle) // block_q + middle <= block:
            low = middle + 1
        else:
            high = middle
    request = low - 1
    owned = tl.load(query_start_loc_ptr + request) // block_q + request
    return request, (block - owned) * block_q


@triton.jit
def rows_of(row, first_token, query_len, kv_head, head_block, group, row_heads, block_q):
    """Return token and query head of some rows of a program, and whether they exist."""
    token = first_token + row // row_heads
    group_head = head_block * row_heads + row % row_heads
    valid = (row < block_q * row_heads) & (token < query_len) & (group_head < group)
    return token, kv_head * group + group_head, valid


@triton.jit
def keys_seen(first_token, last_token, context, seq_len, window, CAUSAL: tl.constexpr):
    """Return the first key that one of some tokens of a request sees, and the last + 1."""
    first_key = 0
    last_key = seq_len
    if CAUSAL:
        last_key = context + last_token + 1
    if window is not None:
        first_key = tl.maximum(context + first_token - window + 1, 0)
        if not CAUSAL:
            last_key = tl.minimum(last_key, context + last_token + window)
    return first_key, last_key


@triton.jit
def tiles_of_segment(first_key, last_key, segment, segments, block_n):
    """Return the first tile of one segment's share of some keys, and the last + 1."""
    lo = first_key // block_n
    hi = (last_key + block_n - 1) // block_n
    per_segment = tl.cdiv(hi - lo, segments)
    first = lo + segment * per_segment
    return first, tl.minimum(hi, first + per_segment)
