"""Fields and counts of bits, as scalar instructions have them.

Source: AMD's ISA guides, "Scalar ALU Operations".
"""

from __future__ import annotations

import numpy as np

from pytest_rocm_attn.emulator import numbers as n
from pytest_rocm_attn.emulator.numbers import FIVE_BITS, Array, i32, i64, u32, u64


def _place(field: Array) -> Array:
    return field & FIVE_BITS


def field(a: Array, where: Array) -> Array:
    """s_bfe: the place in bits 0 to 4, the width in bits 16 to 22; 32 and more are all bits."""
    width = where >> u32(16) & u32(127)
    return np.where(width >= 32, a >> _place(where), n.field(a, _place(where), width))


def signed_field(a: Array, where: Array) -> Array:
    """As `field`, with the sign extended."""
    width = where >> u32(16) & u32(127)
    moved = (a.view(i32) >> _place(where).view(i32)).view(u32)
    return np.where(width >= 32, moved, n.signed_field(a, _place(where), width))


def wide_field(a: Array, where: Array) -> Array:
    """s_bfe of 64 bits: the place in bits 0 to 5, the width in bits 16 to 22; 64 and more are all bits."""
    width = (where >> u32(16) & u32(127)).astype(u64)
    moved = a >> (where & u32(63)).astype(u64)
    return np.where(width >= 64, moved, moved & ((u64(1) << (width & u64(63))) - u64(1)))


def wide_signed_field(a: Array, where: Array) -> Array:
    """As `wide_field`, with the sign extended."""
    width = (where >> u32(16) & u32(127)).astype(u64)
    moved = (a.view(i64) >> (where & u32(63)).astype(i64)).view(u64)
    sign = u64(1) << (np.maximum(width, u64(1)) - u64(1) & u64(63))
    bits = (wide_field(moved, where & u32(127 << 16)) ^ sign) - sign
    return np.where(width >= 64, moved, np.where(width == 0, u64(0), bits))


def _words(a: Array) -> tuple[Array, Array]:
    return (a & u64(0xFFFFFFFF)).astype(u32), (a >> u64(32)).astype(u32)


def wide_reversed(a: Array) -> Array:
    low, high = map(n.reversed_bits, _words(a))
    return low.astype(u64) << u64(32) | high


def wide_trailing_zeros(a: Array) -> Array:
    """Number of the lowest 1; -1 of none."""
    low, high = _words(a)
    above = np.where(high == 0, u32(0xFFFFFFFF), n.trailing_zeros(high) + u32(32))
    return np.where(low == 0, above, n.trailing_zeros(low))


def wide_leading_zeros(a: Array) -> Array:
    """Zeros before the first 1, counted from bit 63; -1 of none."""
    low, high = _words(a)
    below = np.where(low == 0, u32(0xFFFFFFFF), n.leading_zeros(low) + u32(32))
    return np.where(high == 0, below, n.leading_zeros(high))


def twice_each(a: Array) -> Array:
    """Each bit two times."""
    wide = a.astype(u64)
    for by, mask in ((16, 0x0000FFFF0000FFFF), (8, 0x00FF00FF00FF00FF), (4, 0x0F0F0F0F0F0F0F0F),
                     (2, 0x3333333333333333), (1, 0x5555555555555555)):  # fmt: skip
        wide = (wide | wide << u64(by)) & u64(mask)
    return wide * u64(3)


def _fours(a: Array) -> Array:
    """The lowest bit of each four: whether one of them is set."""
    one = a.dtype.type
    return (a | a >> one(1) | a >> one(2) | a >> one(3)) & one(0x1111111111111111 & int(~one(0)))


def whole_fours(a: Array) -> Array:
    """All bits of each four of which one is set."""
    return _fours(a) * a.dtype.type(15)


def gathered(a: Array) -> Array:
    """One bit for each four, side by side: whether one of them is set."""
    one, result, some = a.dtype.type, a & a.dtype.type(0), _fours(a)
    for i in range(2 * a.dtype.itemsize):
        result = result | some >> one(3 * i) & one(1 << i)
    return result
