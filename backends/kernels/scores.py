"""Scores, in base 2, of keys that a row sees: scale, soft cap, ALiBi, causality, window and sink.

Semantics: docs/reference/backends.md#inputs; mathematics: docs/attention-mathematics.md.
"""

from __future__ import annotations

import triton
import triton.language as tl

from pytest_rocm_attn.triton_interpreter import repair

repair()
LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def log2_score(s, distance, slope, scale, soft_cap, HAS_ALIBI: tl.constexpr):
    """Return scores in base 2 from dot products; distance is the query's position less the key's."""
    if soft_cap is not None or HAS_ALIBI:
        if soft_cap is not None:  # soft_cap * tanh(s * scale / soft_cap)
            s = soft_cap - 2 * soft_cap / (1 + tl.exp2(s * (scale * 2 * LOG2E / soft_cap)))
        else:
            s = s * scale
        if HAS_ALIBI:
            s -= slope * distance.to(tl.float32)
        s = s * LOG2E
    else:
        s = s * (scale * LOG2E)
    return s


@triton.jit
def unseen_as_never(s, position, key, readable, window, CAUSAL: tl.constexpr):
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


@triton.jit
def anchor_of(top):
    """Return what to subtract from scores: their maximum, or 0 as inf - inf is NaN."""
    return tl.where(tl.abs(top) == float("inf"), 0.0, top)


@triton.jit
def slope_of(slopes_ptr, head, valid):
    """Return ALiBi's slopes of some rows' heads; 0 if there are none."""
    slope = tl.zeros(head.shape, tl.float32)
    if slopes_ptr is not None:
        slope = tl.load(slopes_ptr + head, mask=valid, other=0.0).to(tl.float32)
    return slope


@triton.jit
def start_of(sinks_ptr, head, valid):
    """Return the sum of weights and the largest score of some rows before their keys, and their sinks."""
    top = tl.full(head.shape, float("-inf"), tl.float32)
    total = tl.zeros(head.shape, tl.float32)
    sink = top
    if sinks_ptr is not None:
        sink = tl.load(sinks_ptr + head, mask=valid, other=float("-inf")).to(tl.float32)
        # An infinite one has no weight here, or all of it: see write_result.
        infinite = tl.abs(sink) == float("inf")
        top = tl.where(infinite, float("-inf"), sink * LOG2E)
        total = tl.where(infinite, 0.0, 1.0)
    return total, top, sink
