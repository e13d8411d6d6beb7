"""Number formats and roundings that numpy lacks, and integer operations on whole arrays.

Source: AMD's ISA guides, chapter "Instructions" (pseudo-code of each mnemonic); OCP "8-bit Floating
Point Specification" for e4m3fn and e5m2; the fnuz formats of MI300 as its guide describes them.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
u16, u32, u64 = np.uint16, np.uint32, np.uint64
i16, i32, i64 = np.int16, np.int32, np.int64
f16, f32, f64 = np.float16, np.float32, np.float64

FIVE_BITS = u32(31)


def fma32(a: Array, b: Array, c: Array) -> Array:
    """``a * b + c`` through float64, which rounds twice in rare cases."""
    return (a.astype(f64) * b + c).astype(f32)


def fma16(a: Array, b: Array, c: Array) -> Array:
    """``a * b + c`` in float16, through float64."""
    return (a.astype(f64) * b.astype(f64) + c.astype(f64)).astype(f16)


def fma64(a: Array, b: Array, c: Array) -> Array:
    """``a * b + c`` in float64, through long double."""
    return (a.astype(np.longdouble) * b + c).astype(f64)


def _number(result: Array, a: Array, b: Array) -> Array:
    """Replace a NaN by the number that the other one is: fmax and fmin pass on a signalling NaN."""
    nan = np.isnan(result)
    if np.count_nonzero(nan):
        result = np.where(nan, np.where(np.isnan(a), b, a), result)
    return result


def greater(a: Array, b: Array) -> Array:
    """The larger number; of a NaN and a number the number, of both zeros +0."""
    result = _number(np.fmax(a, b), a, b)
    zero = result == 0
    if np.count_nonzero(zero):
        both = (a == 0) & (b == 0) & ~(np.signbit(a) & np.signbit(b))
        result = np.where(both, np.abs(result), result)
    return result


def lesser(a: Array, b: Array) -> Array:
    """The smaller number; of a NaN and a number the number, of both zeros -0."""
    result = _number(np.fmin(a, b), a, b)
    zero = result == 0
    if np.count_nonzero(zero):
        signed = (np.signbit(a) & (a == 0)) | (np.signbit(b) & (b == 0))
        result = np.where(zero & signed, -np.abs(result), result)
    return result


def maximum(a: Array, b: Array) -> Array:
    """The larger number, or a NaN if one of them is; of both zeros +0 (IEEE 754-2019)."""
    return np.where(np.isnan(a) | np.isnan(b), a + b, greater(a, b))


def minimum(a: Array, b: Array) -> Array:
    """The smaller number, or a NaN if one of them is; of both zeros -0 (IEEE 754-2019)."""
    return np.where(np.isnan(a) | np.isnan(b), a + b, lesser(a, b))


def median(a: Array, b: Array, c: Array, low: Any, high: Any) -> Array:
    """The middle one of three."""
    middle: Array = high(low(a, b), low(high(a, b), c))
    return middle


def median_float(a: Array, b: Array, c: Array) -> Array:
    """The middle one of three numbers; the least of the others if one is a NaN."""
    some_nan = np.isnan(a) | np.isnan(b) | np.isnan(c)
    return np.where(some_nan, lesser(lesser(a, b), c), median(a, b, c, lesser, greater))


def turns(a: Array) -> Array:
    """Whole turns as radians, the whole ones left out."""
    wide = a.astype(f64)
    radians: Array = (wide - np.rint(wide)) * (2 * np.pi)
    return radians


def fraction(a: Array) -> Array:
    """The part above the largest whole number that is not greater: less than 1."""
    one = a.dtype.type
    return np.minimum(a - np.floor(a), np.nextafter(one(1), one(0)))


def exponent(a: Array) -> Array:
    """The power of two of frexp; 0 for what is not finite."""
    return np.where(np.isfinite(a), np.frexp(a)[1], 0).astype(i32)


def signed_24(x: Array) -> Array:
    """The lowest 24 bits, sign-extended."""
    moved: Array = (x << u32(8)).view(i32)
    return moved >> i32(8)


def unsigned_24(x: Array) -> Array:
    """The lowest 24 bits."""
    return x & u32(0xFFFFFF)


def multiply_high(a: Array, b: Array) -> Array:
    """The upper 32 bits of an unsigned product."""
    return (a.astype(u64) * b.astype(u64) >> u64(32)).astype(u32)


def multiply_high_signed(a: Array, b: Array) -> Array:
    """The upper 32 bits of a signed product."""
    return (a.astype(i64) * b.astype(i64) >> i64(32)).astype(i32)


def field(a: Array, place: Array, width: Array) -> Array:
    """An unsigned field of bits; nothing of width 0."""
    place, width = place & FIVE_BITS, width & FIVE_BITS
    bits: Array = (a >> place) & ((u32(1) << width) - u32(1))
    return bits


def signed_field(a: Array, place: Array, width: Array) -> Array:
    """Return the field of a's bits, sign-extended; 0 for width 0. Bits above bit 31 repeat the sign."""
    width = width & FIVE_BITS
    moved = (a.view(i32) >> (place & FIVE_BITS).view(i32)).view(u32)
    bits = moved & ((u32(1) << width) - u32(1))
    sign = u32(1) << (np.maximum(width, u32(1)) - u32(1))
    return np.where(width == 0, u32(0), (bits ^ sign) - sign)


def reversed_bits(x: Array) -> Array:
    """Bit 0 as bit 31 and so on."""
    for step, mask in ((1, 0x55555555), (2, 0x33333333), (4, 0x0F0F0F0F)):
        x = (x >> u32(step) & u32(mask)) | ((x & u32(mask)) << u32(step))
    return x.byteswap()


def _bytes_picked(a: Array, b: Array, picks: Sequence[int]) -> Array:
    """Return words of bytes of b (0 to 3) and a (4 to 7); neighbours that stay neighbours move together."""
    result: Array | None = None
    start = 0
    while start < 4:
        pick, end = picks[start], start + 1
        while end < 4 and picks[end] == picks[end - 1] + 1 and picks[end] != 4:
            end += 1
        mask = u32((1 << 8 * (end - start)) - 1)
        part = (a if pick > 3 else b) >> u32(8 * (pick % 4)) & mask
        part = part << u32(8 * start) if start else part
        result = part if result is None else result | part
        start = end
    assert result is not None
    return result


def permute_bytes(a: Array, b: Array, selector: Array) -> Array:
    """v_perm_b32: bytes of {a, b} by a selector each; 8 to 11 a sign, 12 zero, above that ones."""
    one = int(selector.flat[0])
    picks = list(one.to_bytes(4, "little"))
    if max(picks) <= 7 and (selector == one).all():  # one for all, mostly
        return _bytes_picked(a, b, picks)
    pool = a.astype(u64) << u64(32) | b
    result = np.zeros(np.broadcast_shapes(pool.shape, selector.shape), u32)
    for byte in range(4):
        pick = selector >> u32(8 * byte) & u32(0xFF)
        shift = np.where(
            pick <= 7, pick, np.where(pick <= 11, 2 * (pick & u32(3)) + u32(1), u32(0))
        )
        chosen = (pool >> (shift.astype(u64) * u64(8)) & u64(0xFF)).astype(u32)
        if (pick > 7).any():
            sign = np.where(chosen & u32(0x80), u32(0xFF), u32(0))
            constant = np.where(pick == 12, u32(0), u32(0xFF))
            chosen = np.where(pick <= 7, chosen, np.where(pick <= 11, sign, constant))
        result |= chosen << u32(8 * byte)
    return result


def align_bits(a: Array, b: Array, shift: Array) -> Array:
    """32 bits of {a, b} from a bit on."""
    return ((a.astype(u64) << u64(32) | b) >> (shift & FIVE_BITS).astype(u64)).astype(u32)


def leading_zeros(x: Array) -> Array:
    """Zeros before the first 1, counted from bit 31; -1 of none."""
    return np.where(
        x == 0,
        u32(0xFFFFFFFF),
        u32(31) - np.floor(np.log2(np.maximum(x, u32(1)).astype(f64))).astype(u32),
    )


def sign_length(x: Array) -> Array:
    """Bits from bit 31 on that are like it; -1 if all are."""
    return leading_zeros(x ^ (x.view(i32) >> i32(31)).view(u32))


def trailing_zeros(x: Array) -> Array:
    """Number of the lowest 1; -1 of none."""
    lowest = x & (~x + u32(1))
    return np.where(
        x == 0, u32(0xFFFFFFFF), np.log2(np.maximum(lowest, u32(1)).astype(f64)).astype(u32)
    )


def to_integer(dtype: Any) -> Any:
    """Return the conversion of floats to an integer type: truncated, saturated, NaN is 0."""
    limits = np.iinfo(dtype)

    def convert(x: Array) -> Array:
        clipped = np.clip(np.trunc(x.astype(f64)), limits.min, limits.max)
        return np.where(np.isnan(x), 0, clipped).astype(i64).astype(dtype)

    return convert


def half_toward_zero(x: Array) -> Array:
    """float32 as float16, rounded toward zero; infinity stays."""
    rounded = x.astype(f16)
    beyond = np.abs(rounded.astype(f32)) > np.abs(x)
    return np.where(beyond, np.nextafter(rounded, f16(0)), rounded)


def packed(low: Array, high: Array) -> Array:
    """Two values of 16 bits as one of 32."""
    return np.asarray(low).view(u16).astype(u32) | np.asarray(high).view(u16).astype(u32) << u32(16)


def bfloat16(x: Array) -> Array:
    """float32 as the bits of bfloat16, rounded to nearest even; a NaN stays one."""
    bits = np.ascontiguousarray(x).view(u32)
    rounded = (bits + u32(0x7FFF) + (bits >> u32(16) & u32(1))) >> u32(16)
    return np.where(np.isnan(x), bits >> u32(16) | u32(64), rounded).astype(u16)


def from_bfloat16(bits: Array) -> Array:
    """Bits of bfloat16 as float32."""
    return (bits.astype(u32) << u32(16)).view(f32)


@functools.cache
def fp8_values(exponent_bits: int, fnuz: bool) -> Array:
    """Return the float32 of each byte of an fp8 format.

    Args:
        exponent_bits: 4 for e4m3, 5 for e5m2.
        fnuz: gfx942's formats: one more in the bias, no -0, NaN is 0x80, no infinity.
    """
    mantissa_bits = 7 - exponent_bits
    bias = (1 << exponent_bits - 1) - (0 if fnuz else 1)
    code = np.arange(256)
    exponent, mantissa = (
        code >> mantissa_bits & (1 << exponent_bits) - 1,
        code & (1 << mantissa_bits) - 1,
    )
    scale = np.where(exponent == 0, 1, exponent) - bias - mantissa_bits
    whole = np.where(exponent == 0, 0, 1 << mantissa_bits) + mantissa
    values = np.ldexp(whole.astype(f32), scale) * np.where(code & 128, -1, 1)
    if fnuz:
        values[128] = np.nan
    elif exponent_bits == 4:
        values[[127, 255]] = np.nan
    else:
        values[[124, 252]] = np.inf, -np.inf
        values[[125, 126, 127, 253, 254, 255]] = np.nan
    numbers: Array = values.astype(f32)
    return numbers


def to_fp8(x: Array, exponent_bits: int, fnuz: bool) -> Array:
    """float32 as the byte of an fp8 format, to nearest even; what is beyond it becomes NaN or inf."""
    values = fp8_values(exponent_bits, fnuz)[:128].astype(f64)
    finite = int(np.flatnonzero(np.isfinite(values))[-1])
    steps = values[: finite + 1]
    size = np.abs(x.astype(f64))
    below = np.clip(np.searchsorted(steps, size, "right") - 1, 0, finite)
    above = np.minimum(below + 1, finite)
    to_below, to_above = size - steps[below], steps[above] - size
    up = (to_below > to_above) | ((to_below == to_above) & (below & 1 == 1))
    code = np.where(up, above, below)
    nan = 0x80 if fnuz else 0x7F
    over = nan if fnuz or exponent_bits == 4 else 0x7C
    limit = steps[finite] + (steps[finite] - steps[finite - 1]) / 2
    beyond = size >= limit
    code = np.where(beyond, over, code)
    signed = np.signbit(x) & ~(fnuz & ((code == 0) | (code == nan)))
    code = np.where(signed, code | 0x80, code)
    return np.where(np.isnan(x), nan, code).astype(u32)
