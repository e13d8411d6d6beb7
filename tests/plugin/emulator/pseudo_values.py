"""Numbers of AMD's pseudo-code: a Python number with a type, and the arithmetic of the language.

A type is ``u32``, ``i64``, ``f32``, ``bf16`` or ``b16``; a literal that names none is an ``int`` or a ``double``.
Arithmetic wraps in the wider type of its operands.
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

_FORMS = {16: "<e", 32: "<f", 64: "<d"}


@dataclass(frozen=True)
class Value:
    """A number of a type: kind "u", "i", "f", "bf" (bfloat16) or "b" (bits), and how wide."""

    number: Any
    kind: str
    width: int
    raw: int | None = None  # the bits that a float was read from: a NaN has many

    @property
    def bits(self) -> int:
        """The bits, as an unsigned number."""
        if self.raw is not None:
            return self.raw
        if self.kind == "f":
            with np.errstate(over="ignore"):
                packed = _float(self.number, self.width)
            return int.from_bytes(struct.pack(_FORMS[self.width], packed), "little")
        if self.kind == "bf":
            return _bfloat16(self.number)
        return int(self.number) & (1 << self.width) - 1

    def as_type(self, kind: str, width: int) -> Value:
        """Return the same bits, read as another type."""
        bits = self.bits & (1 << width) - 1
        if kind == "f":
            number = struct.unpack(_FORMS[width], bits.to_bytes(width // 8, "little"))[0]
            return Value(number, "f", width, bits)
        if kind == "bf":
            return Value(struct.unpack("<f", (bits << 16).to_bytes(4, "little"))[0], "bf", 16)
        if kind == "i" and bits >> width - 1:
            bits -= 1 << width
        return Value(bits, kind, width)

    def __bool__(self) -> bool:
        return bool(self.number)


def _float(number: float, width: int) -> float:
    if width == 64:
        return float(number)
    return float((np.float32 if width == 32 else np.float16)(number))


def _bfloat16(number: float) -> int:
    """Return the bits of the nearest bfloat16, of the even one of two."""
    with np.errstate(over="ignore"):
        bits = int.from_bytes(struct.pack("<f", _float(number, 32)), "little")
    if math.isnan(number):
        return bits >> 16 | 64
    return bits + 0x7FFF + (bits >> 16 & 1) >> 16


def made(number: Any, kind: str, width: int) -> Value:
    """Return a number converted to a type: rounded, or wrapped."""
    if kind == "bf":
        return Value(_bfloat16(float(number)), "b", 16).as_type("bf", 16)
    if kind == "f":
        return Value(_float(number, width), "f", width)
    bits = int(number) & (1 << width) - 1
    if kind == "i" and bits >> width - 1:
        bits -= 1 << width
    return Value(bits, kind, width)


TRUE, FALSE = Value(1, "u", 1), Value(0, "u", 1)


def slice_of(value: Value, high: int, low: int) -> Value:
    """Bits of a value; the other way round if the first is the lower."""
    if high >= low:
        return Value(value.bits >> low & (1 << high - low + 1) - 1, "u", high - low + 1)
    width = low - high + 1
    bits = sum((value.bits >> high + i & 1) << width - 1 - i for i in range(width))
    return Value(bits, "u", width)


def literal(word: str) -> Value:
    if "'" in word:
        width, _, digits = word.partition("'")
        if "." in digits:
            return made(float(digits), "f", int(width))
        if digits.startswith("0x"):
            return made(int(digits, 16), "u", int(width))
        return made(int(re.sub(r"[A-Z]", "", digits)), "u", int(width))
    if word.startswith("0x"):
        digits = re.sub(r"(ULL|LL|U|L)$", "", word)
        return made(int(digits, 16), "u" if "U" in word else "i", 64 if "LL" in word else 32)
    if "." in word or word.endswith("F"):
        return made(float(word.rstrip("F")), "f", 32 if word.endswith("F") else 64)
    digits = re.sub(r"[UL]+$", "", word)
    return made(int(digits), "u" if "U" in word else "i", 64 if "LL" in word else 32)


def converted(value: Value, kind: str, width: int) -> Value:
    if kind == "b":
        return Value(value.bits & (1 << width) - 1, "b", width)
    if (value.kind, value.width) == (kind, width):
        return value
    if value.raw is not None and width == 64 and math.isnan(value.number):  # with its payload
        mantissa = {16: 10, 32: 23}[value.width]
        sign, payload = value.raw >> value.width - 1, value.raw & (1 << mantissa) - 1
        bits = sign << 63 | 0x7FF << 52 | payload << 52 - mantissa
        return Value(math.nan, "f", 64, bits)
    if value.kind == "b" and kind == "bf":
        return value.as_type("bf", 16)
    if value.kind == "b" or (value.kind == "f") == (kind == "f"):
        return value.as_type(kind, width) if value.kind == "b" else made(value.number, kind, width)
    return made(value.number, kind, width)


def arithmetic(operator: str, a: Value, b: Value) -> Value:
    if operator in ("&&", "||"):
        holds = bool(a) and bool(b) if operator == "&&" else bool(a) or bool(b)
        return TRUE if holds else FALSE
    if operator in ("==", "!=", "<>", "<", ">", "<=", ">="):
        x, y = a.number, b.number
        holds = {"==": x == y, "!=": x != y, "<>": x < y or x > y, "<": x < y, ">": x > y,
                 "<=": x <= y, ">=": x >= y}[operator]  # fmt: skip
        return TRUE if holds else FALSE
    if operator == "<<":
        return made(a.bits << b.number if b.number < 128 else 0, a.kind, a.width)
    if operator == ">>":
        return made(a.number >> b.number, a.kind, a.width)
    width = max(a.width, b.width)
    if "bf" in (a.kind, b.kind) and "f" not in (a.kind, b.kind):
        x, y = a.number, b.number
        return made({"+": x + y, "-": x - y, "*": x * y}[operator], "bf", 16)
    if "f" in (a.kind, b.kind):
        kind = "f"
        width = max(one.width for one in (a, b) if one.kind == "f")
        if operator == "**":
            power = np.ldexp(np.float64(1), max(-3000, min(3000, int(b.number))))
            return Value(float(power), kind, 64)
    else:
        kind = "u" if "u" in (a.kind, b.kind) else a.kind if a.kind != "b" else b.kind
    x, y = (a.number, b.number) if kind != "b" else (a.bits, b.bits)
    if operator in ("&", "|", "^"):
        x, y = a.bits, b.bits
        return made({"&": x & y, "|": x | y, "^": x ^ y}[operator], kind, width)
    if operator in ("/", "%") and kind != "f":
        return made(x // y if operator == "/" else x % y, kind, width)
    if operator == "/":
        with np.errstate(all="ignore"):
            return made(float(np.float64(x) / np.float64(y)), kind, width)
    if kind == "f":
        numpy_type: Any = {16: np.float16, 32: np.float32, 64: np.float64}[width]
        with np.errstate(all="ignore"):
            x, y = numpy_type(x), numpy_type(y)
            return made(float({"+": x + y, "-": x - y, "*": x * y}[operator]), kind, width)
    return made({"+": x + y, "-": x - y, "*": x * y}[operator], kind, width)
