"""Fields and counts of bits, as scalar instructions have them.

Source: AMD's ISA guides, "Scalar ALU Operations".
"""

from __future__ import annotations

import numpy as np

from pytest_rocm_attn.emulator import numbers as n
from pytest_rocm_attn.emulator.numbers import Array, u32, u64


def field(a: Array, where: Array) -> Array:
    """s_bfe of 32 or 64 bits: the place in the lowest bits, the width in bits 16 to 22; a's bits and more are all."""
    kind, bits = a.dtype.type, 8 * a.dtype.itemsize
    width = (where >> u32(16) & u32(127)).astype(a.dtype)
    moved = a >> (where & u32(bits - 1)).astype(a.dtype)
    return np.where(width >= bits, moved, moved & ((kind(1) << (width & kind(bits - 1))) - kind(1)))


def signed_field(a: Array, where: Array) -> Array:
    """As `field`, with the sign extended."""
    kind, bits = a.dtype.type, 8 * a.dtype.itemsize
    signed = np.dtype(f"i{a.dtype.itemsize}")
    width = (where >> u32(16) & u32(127)).astype(a.dtype)
    moved = (a.view(signed) >> (where & u32(bits - 1)).astype(signed)).view(a.dtype)
    sign = kind(1) << (np.maximum(width, kind(1)) - kind(1) & kind(bits - 1))
    part = (field(moved, where & u32(127 << 16)) ^ sign) - sign
    return np.where(width >= bits, moved, np.where(width == 0, kind(0), part))


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
