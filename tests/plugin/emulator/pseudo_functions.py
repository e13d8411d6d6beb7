"""The functions that AMD's pseudo-code calls by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.plugin.emulator.pseudo_values import FALSE, TRUE, Value, made


def _to_integer(kind: str, width: int) -> Callable[[Value], Value]:
    low, high = (-(1 << width - 1), (1 << width - 1) - 1) if kind == "i" else (0, (1 << width) - 1)

    def convert(value: Value) -> Value:
        if math.isnan(value.number):
            return made(0, kind, width)
        if math.isinf(value.number):
            return made(high if value.number > 0 else low, kind, width)
        return made(min(max(math.trunc(value.number), low), high), kind, width)

    return convert


def _to_float(width: int) -> Callable[[Value], Value]:
    return lambda value: made(value.number, "f", width)


def _wider(kind: str) -> Callable[[Value], Value]:
    return lambda value: made(int(value.number), kind, 32)


def toward_zero(value: Value) -> Value:
    """Return the float16 that is not farther from zero than a number."""
    with np.errstate(over="ignore"):
        half = np.float16(value.number)
    if abs(float(half)) > abs(value.number):
        half = np.nextafter(half, np.float16(0))
    return made(float(half), "f", 16)


def _lowest_one(value: Value) -> Value:
    bits = value.bits
    return made((bits & -bits).bit_length() - 1, "i", 32)


def _fma(a: Value, b: Value, c: Value) -> Value:
    with np.errstate(all="ignore"):
        exact = np.longdouble(a.number) * np.longdouble(b.number) + np.longdouble(c.number)
        return made(float(exact), "f", a.width)


def _sign_extended(value: Value, width: Value) -> Value:
    if width.number == 0:
        return made(0, "i", value.width)
    bits = value.bits & (1 << width.number) - 1
    return made(bits - (1 << width.number) if bits >> width.number - 1 else bits, "i", value.width)


def extreme(least: bool, values: list[Value]) -> Value:
    """The least or the largest of some; a NaN does not count."""
    numbers = [one for one in values if not (one.kind == "f" and math.isnan(one.number))]
    if not numbers:
        return values[0]

    def order(one: Value) -> Any:
        return one.number, not (one.kind == "f" and one.bits >> one.width - 1)

    return min(numbers, key=order) if least else max(numbers, key=order)


def _is_quiet(value: Value) -> bool:
    mantissa = {16: 10, 32: 23, 64: 52}[value.width]
    return bool(value.bits >> mantissa - 1 & 1)


def _mantissa(value: Value) -> Value:
    return made(math.frexp(value.number)[0], "f", value.width)


def _exponent(value: Value) -> Value:
    """The biased exponent."""
    mantissa, bits = {16: (10, 5), 32: (23, 8), 64: (52, 11)}[value.width]
    return made(value.bits >> mantissa & (1 << bits) - 1, "i", 32)


def _scaled(value: Value, power: Value) -> Value:
    with np.errstate(all="ignore"):
        scaled = np.ldexp(np.float64(value.number), max(-3000, min(3000, power.number)))
    return made(float(scaled), "f", value.width)


def _rounded(how: Callable[[float], float]) -> Callable[[Value], Value]:
    def apply(value: Value) -> Value:
        if not math.isfinite(value.number):
            return value
        return made(math.copysign(how(value.number), value.number), "f", value.width)

    return apply


def _elementary(how: Callable[[Any], Any]) -> Callable[[Value], Value]:
    def apply(value: Value) -> Value:
        with np.errstate(all="ignore"):
            return made(float(how(np.float64(value.number))), "f", value.width)

    return apply


FUNCTIONS: dict[str, Callable[..., Value]] = {
    "f32_to_i32": _to_integer("i", 32), "f32_to_u32": _to_integer("u", 32),
    "f64_to_i32": _to_integer("i", 32), "f64_to_u32": _to_integer("u", 32),
    "f16_to_i16": _to_integer("i", 16), "f16_to_u16": _to_integer("u", 16),
    "i32_to_i16": _to_integer("i", 16), "u32_to_u16": _to_integer("u", 16),
    "v_cvt_i16_f32": _to_integer("i", 16), "v_cvt_u16_f32": _to_integer("u", 16),
    "i32_to_f32": _to_float(32), "u32_to_f32": _to_float(32), "f16_to_f32": _to_float(32),
    "f32_to_f16": _to_float(16), "i16_to_f16": _to_float(16), "u16_to_f16": _to_float(16),
    "f32_to_f64": _to_float(64), "f64_to_f32": _to_float(32), "i32_to_f64": _to_float(64),
    "i16_to_i32": _wider("i"), "i8_to_i32": _wider("i"), "i4_to_i32": _wider("i"),
    "u16_to_u32": _wider("u"), "u4_to_u32": _wider("u"),
    "u32_to_f64": _to_float(64), "u8_to_u32": lambda v: made(v.bits, "u", 32),
    "bf16_to_f32": _to_float(32), "f32_to_bf16": lambda v: made(v.number, "bf", 16),
    "s_ff1_i32_b32": _lowest_one, "s_ff1_i32_b64": _lowest_one,
    "fma": _fma,
    "isNAN": lambda v: TRUE if math.isnan(v.number) else FALSE,
    "isSignalNAN": lambda v: TRUE if math.isnan(v.number) and not _is_quiet(v) else FALSE,
    "isQuietNAN": lambda v: TRUE if math.isnan(v.number) and _is_quiet(v) else FALSE,
    "cvtToQuietNAN": lambda v: v,
    "abs": lambda v: made(abs(v.number), v.kind, v.width),
    "sign": lambda v: Value(v.bits >> v.width - 1, "u", 1),
    "floor": _rounded(math.floor), "ceil": _rounded(math.ceil), "trunc": _rounded(math.trunc),
    "sqrt": _elementary(np.sqrt), "log2": _elementary(np.log2),
    "pow": lambda a, b: _elementary(lambda x: np.float64(a.number) ** x)(b),
    "ldexp": _scaled, "mantissa": _mantissa, "exponent": _exponent,
    "sin": _elementary(np.sin), "cos": _elementary(np.cos),
    "fract": _elementary(lambda x: x - np.floor(x)),
    "isEven": lambda v: TRUE if v.number % 2 == 0 else FALSE,
    "signext": lambda v: v.as_type("i", v.width), "signext_from_bit": _sign_extended,
}  # fmt: skip
