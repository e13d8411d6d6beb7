"""Which bits of a result are undefined, given the undefined bits of its sources.

A rule takes the sources' values and shadows, and gives the result's shadow. Without a rule any
undefined bit of a lane makes its whole result undefined. Rules are there for what compilers rely
on: bits that are masked off, shifted out, or never carried into.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
Rule: TypeAlias = Callable[[Sequence[Array], Sequence[Array]], Array]


def anything(values: Sequence[Array], shadows: Sequence[Array]) -> Array:
    """Return ones wherever a source has an undefined bit."""
    bad: Array = shadows[0] != 0
    for shadow in shadows[1:]:
        bad = bad | (shadow != 0)
    return np.where(bad, np.uint64(0xFFFFFFFFFFFFFFFF), np.uint64(0))


def each_bit(values: Sequence[Array], shadows: Sequence[Array]) -> Array:
    """Bitwise operations in which no bit can decide: xor, not, moves."""
    result = shadows[0]
    for shadow in shadows[1:]:
        result = result | shadow
    return result


def both(values: Sequence[Array], shadows: Sequence[Array]) -> Array:
    """``a & b``: a defined 0 decides."""
    (a, b), (p, q) = values, shadows
    return (p | q) & (a | p) & (b | q)


def either(values: Sequence[Array], shadows: Sequence[Array]) -> Array:
    """``a | b``: a defined 1 decides."""
    (a, b), (p, q) = values, shadows
    return (p | q) & (~a | p) & (~b | q)


def carried(values: Sequence[Array], shadows: Sequence[Array]) -> Array:
    """Sums and products: a result's bit depends on the bits up to it."""
    low = each_bit(values, shadows)
    upward: Array = low | (~low + low.dtype.type(1))
    return upward


def shifted_left(values: Sequence[Array], shadows: Sequence[Array]) -> Array:
    """``b << a``, operands reversed as in v_lshlrev."""
    return _shifted(values[0], shadows, lambda bits, by: bits << by)


def shifted_right(values: Sequence[Array], shadows: Sequence[Array]) -> Array:
    """``b >> a``, operands reversed, zeros or the sign shifted in."""
    return _shifted(values[0], shadows, lambda bits, by: bits >> by)


def _shifted(
    distance: Array, shadows: Sequence[Array], shift: Callable[[Array, Array], Array]
) -> Array:
    bits = shadows[1].dtype.type(8 * shadows[1].dtype.itemsize - 1)
    moved = shift(shadows[1], distance.astype(shadows[1].dtype) & bits)
    return np.where(shadows[0] != 0, ~moved.dtype.type(0), moved)


def swapped(rule: Rule) -> Rule:
    """Return a rule for the same operation with its first two sources the other way round."""

    def reversed_rule(values: Sequence[Array], shadows: Sequence[Array]) -> Array:
        return rule((values[1], values[0]), (shadows[1], shadows[0]))

    return reversed_rule


def then(first: Rule, second: Rule, compute: Callable[..., Array]) -> Rule:
    """Return the rule of ``second(first(a, b), c)``, where compute gives first's value."""

    def rule(values: Sequence[Array], shadows: Sequence[Array]) -> Array:
        a, b, c = values
        p, q, r = shadows
        return second((compute(a, b), c), (first((a, b), (p, q)), r))

    return rule


def selected(values: Sequence[Array], shadows: Sequence[Array]) -> Array:
    """``(a & b) | (~a & c)``, v_bfi."""
    a = values[0]
    p, q, r = shadows
    return np.where(p != 0, ~p.dtype.type(0), (a & q) | (~a & r))


def low_24(values: Sequence[Array], shadows: Sequence[Array]) -> Array:
    """Products of the lowest 24 bits."""
    low = [shadow & np.uint32(0xFFFFFF) for shadow in shadows[:2]]
    product = carried(values[:2], low)
    return product if len(shadows) < 3 else carried((), (product, shadows[2]))


def byte_of(number: int) -> Rule:
    """Return the rule of an operation that reads one byte."""

    def rule(values: Sequence[Array], shadows: Sequence[Array]) -> Array:
        return anything((), [shadows[0] >> np.uint32(8 * number) & np.uint32(0xFF)])

    return rule


def field_of(values: Sequence[Array], shadows: Sequence[Array]) -> Array:
    """v_bfe: a field of the first source, its place and width by the others."""
    place, width = values[1] & np.uint32(31), values[2] & np.uint32(31)
    inside = (shadows[0] >> place) & ((np.uint32(1) << width) - np.uint32(1))
    decided = (inside | shadows[1] | shadows[2]) != 0
    return np.where(decided, np.uint32(0xFFFFFFFF), np.uint32(0))


def permuted(values: Sequence[Array], shadows: Sequence[Array]) -> Array:
    """v_perm: each byte is one of eight, or a constant."""
    a, b, selector = shadows[0], shadows[1], values[2]
    pool = a.astype(np.uint64) << np.uint64(32) | b
    result = np.zeros(np.broadcast_shapes(pool.shape, selector.shape), np.uint32)
    for byte in range(4):
        pick = selector >> np.uint32(8 * byte) & np.uint32(0xFF)
        bits = pool >> (np.minimum(pick, np.uint32(7)).astype(np.uint64) * np.uint64(8))
        chosen = np.where(pick <= 7, (bits & np.uint64(0xFF)).astype(np.uint32), np.uint32(0))
        result |= chosen << np.uint32(8 * byte)
    return np.where(shadows[2] != 0, np.uint32(0xFFFFFFFF), result)


def aligned(values: Sequence[Array], shadows: Sequence[Array]) -> Array:
    """v_alignbit: 32 bits out of 64, from a bit on."""
    joined = shadows[0].astype(np.uint64) << np.uint64(32) | shadows[1]
    moved = (joined >> (values[2] & np.uint32(31)).astype(np.uint64)).astype(np.uint32)
    return np.where(shadows[2] != 0, np.uint32(0xFFFFFFFF), moved)
