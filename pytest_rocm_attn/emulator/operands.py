"""Operands of instructions: texts of the assembly, and the functions that fetch their values.

A source gives ``[waves, lanes]``, or less where that broadcasts to it, in the type that the
instruction reads, with the shadow of its undefined bits.
"""

from __future__ import annotations

import functools
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_rocm_attn.emulator.assembly import CODE_BASE, CODE_STEP
from pytest_rocm_attn.emulator.machine import (
    ACCUMULATION,
    EXEC,
    M0,
    NULL,
    SCALAR_KEY,
    SCC_KEY,
    TTMP0,
    VCC,
    Array,
    Machine,
    Waves,
)
from pytest_rocm_attn.errors import EmulatorError

if TYPE_CHECKING:
    from pytest_rocm_attn.emulator.assembly import Program

Fetch = Callable[[Machine, Waves], Array]

TYPES: dict[str, Any] = {
    "u32": np.uint32,
    "i32": np.int32,
    "f32": np.float32,
    "u16": np.uint16,
    "i16": np.int16,
    "f16": np.float16,
    "u64": np.uint64,
    "i64": np.int64,
    "f64": np.float64,
}
_NAMED = {
    "vcc": (VCC, 2),
    "vcc_lo": (VCC, 1),
    "vcc_hi": (VCC + 1, 1),
    "exec": (EXEC, 2),
    "exec_lo": (EXEC, 1),
    "exec_hi": (EXEC + 1, 1),
    "m0": (M0, 1),
    "null": (NULL, 1),
    "flat_scratch_lo": (102, 1),
    "flat_scratch_hi": (103, 1),
    "flat_scratch": (102, 2),
}
# Inline constants of each width; 0.15915494 is 1 / (2 pi), as each width spells it.
_INLINE = (0.5, -0.5, 1.0, -1.0, 2.0, -2.0, 4.0, -4.0)
_INVERSE_2PI = {16: 0x3118, 32: 0x3E22F983, 64: 0x3FC45F306DC9C882}


@dataclass(frozen=True, slots=True)
class Operand:
    """One operand.

    Attributes:
        kind: "v" (vector register), "s" (scalar), "scc", "constant", "float" (an inline constant,
            whose bits depend on the type) or "off".
        index: number of the first register, or the bits of a constant.
        count: registers.
        high: the upper half of a 16-bit operand (``v1.h``).
        half: it names a half at all (``v1.l``).
        negative, absolute: float modifiers. sext: SDWA's.
        number: value of a "float".
    """

    kind: str
    index: int
    count: int = 1
    high: bool = False
    half: bool = False
    negative: bool = False
    absolute: bool = False
    sext: bool = False
    number: float = 0.0

    @property
    def keys(self) -> tuple[int, ...]:
        """Keys of its registers."""
        if self.kind == "v":
            return tuple(range(self.index, self.index + self.count))
        if self.kind == "s":
            registers = range(self.index, self.index + self.count)
            return tuple(SCALAR_KEY + one for one in registers if one != NULL)
        return (SCC_KEY,) if self.kind == "scc" else ()

    def widened(self, count: int) -> Operand:
        """Return it as count registers, whatever was printed (``vcc`` for a pair)."""
        return replace(self, count=count) if self.kind in "vs" else self


def parse(text: str, program: Program | None = None, index: int = 0) -> Operand:
    """Return an operand of its text.

    Args:
        program: gives values to expressions of labels, which long jumps, calls and constant data use.
        index: of the instruction.

    Raises:
        EmulatorError: it is of no known kind.
    """
    found = _fixed(text) or _expression(text, program, index)
    if found is None:
        raise EmulatorError(f"operand {text!r}")
    return found


@functools.lru_cache(maxsize=16_384)
def _fixed(text: str) -> Operand | None:
    """Return an operand that means the same in every program, with its modifiers, or None."""
    negative = absolute = sext = False
    if text.startswith("neg("):
        negative, text = True, text[4:-1]
    if text.startswith("sext("):
        sext, text = True, text[5:-1]
    if text.startswith("-") and not re.match(r"-[\d.]", text):
        negative, text = True, text[1:]
    if text.startswith("|"):
        absolute, text = True, text[1:-1]
    if text.startswith("abs("):
        absolute, text = True, text[4:-1]
    found = _plain(text)
    if found is None or not (negative or absolute or sext):
        return found
    return replace(found, negative=negative, absolute=absolute, sext=sext)


def _plain(text: str) -> Operand | None:
    if match := re.fullmatch(r"([vas])(\d+)(\.[lh])?", text):
        return _register(match[1], int(match[2]), 1, match[3] or "")
    if match := re.fullmatch(r"([vas])\[(\d+):(\d+)\]", text):
        return _register(match[1], int(match[2]), int(match[3]) - int(match[2]) + 1, "")
    if match := re.fullmatch(r"ttmp(\d+)", text):
        return Operand("s", TTMP0 + int(match[1]))
    if text in _NAMED:
        return Operand("s", *_NAMED[text])
    if text in ("scc", "src_scc"):
        return Operand("scc", 0)
    if text == "off":
        return Operand("off", 0)
    if re.fullmatch(r"-?\d+\.\d+(e[-+]?\d+)?", text):
        return Operand("float", 0, number=float(text))
    if match := re.fullmatch(r"lit(?:64)?\((0x[0-9a-fA-F]+|\d+)\)", text):
        return Operand("constant", int(match[1], 0))
    if re.fullmatch(r"-?(0x[0-9a-fA-F]+|\d+)", text):
        return Operand("constant", int(text, 0) & 0xFFFFFFFFFFFFFFFF)
    return None


def _register(kind: str, index: int, count: int, half: str) -> Operand:
    if kind == "s":
        return Operand("s", index, count)
    index += ACCUMULATION if kind == "a" else 0
    return Operand("v", index, count, high=half == ".h", half=bool(half))


def _expression(text: str, program: Program | None, index: int) -> Operand | None:
    """Return a half of a distance: ``(.LBB0_3-.Lpost_getpc0)&4294967295`` or ``>>32`` of a long jump, or
    ``f@rel32@lo+4`` or ``hi`` from the last s_getpc_b64. The number there makes up for where the literal stands.
    """
    if program is None:
        return None
    if match := re.fullmatch(r"\(([.\w]+)-([.\w]+)\)(&4294967295|>>32)", text):
        there, here, high = program.address(match[1]), program.address(match[2]), match[3] == ">>32"
    elif match := re.fullmatch(r"([.\w$]+)@rel32@(lo|hi)\+\d+", text):
        there, here, high = program.address(match[1]), _counted(program, index), match[2] == "hi"
    else:
        return None
    if there is None or here is None:
        return None
    return Operand("constant", (there - here >> 32 * high) & 0xFFFFFFFF)


def _counted(program: Program, index: int) -> int | None:
    """Return what the s_getpc_b64 before an instruction gave, or None if the instruction does not add to it."""
    for one in reversed(program.instructions[:index]):
        if one.name == "s_getpc_b64":
            added, given = parse(program.instructions[index].operands[1]), parse(one.operands[0])
            adds = set(added.keys) <= set(given.keys)
            return CODE_BASE + CODE_STEP * (one.index + 1) if adds else None
    return None


def float_bits(number: float, bits: int) -> int:
    """Return the bits of an inline constant in a float type."""
    if number not in _INLINE and number != 0.0:
        return _INVERSE_2PI[bits]
    form = {16: "<e", 32: "<f", 64: "<d"}[bits]
    return int.from_bytes(struct.pack(form, number), "little")


@dataclass(frozen=True, slots=True)
class Source:
    """How to fetch an operand's value and the shadow of its undefined bits.

    Attributes:
        fetch: the value.
        shadow: its undefined bits, as unsigned integers of the value's width.
        keys: the registers that it reads.
    """

    fetch: Fetch
    shadow: Fetch
    keys: tuple[int, ...]


@functools.lru_cache(maxsize=16_384)
def source(operand: Operand, kind: str) -> Source:
    """Return the source of a vector instruction's operand, read as a type.

    The programs that run share them, as building them takes longer than running most instructions.

    Raises:
        EmulatorError: the operand is not a value.
    """
    bits = int(kind[1:])
    if operand.kind == "constant" or operand.kind == "float":
        base = _constant(operand, bits)
    elif bits == 64:
        base = _wide(operand.widened(2))
    else:
        base = _word(operand)
        if bits == 16:
            base = half(base, operand.high)
    if kind == "u" + str(bits) and not (operand.negative or operand.absolute):
        return base
    return _typed(base, operand, TYPES[kind], kind.startswith("f"))


def half(base: Source, high: bool) -> Source:
    """Return 16 bits of a source of 32."""
    shift = np.uint32(16 if high else 0)

    def pick(fetch: Fetch) -> Fetch:
        if high:
            return lambda m, w: (fetch(m, w) >> shift).astype(np.uint16)
        return lambda m, w: fetch(m, w).astype(np.uint16)

    return Source(pick(base.fetch), pick(base.shadow), base.keys)


def _constant(operand: Operand, bits: int) -> Source:
    value = float_bits(operand.number, bits) if operand.kind == "float" else operand.index
    unsigned = {16: np.uint16, 32: np.uint32, 64: np.uint64}[bits]
    array = np.array([[value & (1 << bits) - 1]], unsigned)
    clean = np.zeros((1, 1), unsigned)
    return Source(lambda m, w: array, lambda m, w: clean, ())


def _word(operand: Operand) -> Source:
    register = operand.index
    if operand.kind == "v":
        return Source(
            lambda m, w: m.vector[register],
            lambda m, w: m.vector_shadow(register, w),
            operand.widened(1).keys,
        )
    if operand.kind == "s":
        return Source(
            lambda m, w: m.scalar[register][:, None],
            lambda m, w: m.scalar_shadow(register, w)[:, None],
            operand.widened(1).keys,
        )
    if operand.kind == "scc":
        return Source(
            lambda m, w: m.scc[w].astype(np.uint32)[:, None],
            lambda m, w: m.scc_shadow(w)[:, None],
            operand.keys,
        )
    raise EmulatorError(f"operand {operand}")


def _wide(operand: Operand) -> Source:
    low = _word(replace(operand, count=1))
    high = _word(replace(operand, index=operand.index + 1, count=1))

    def joined(lower: Fetch, upper: Fetch) -> Fetch:
        def fetch(m: Machine, w: Waves) -> Array:
            wide: Array = upper(m, w).astype(np.uint64) << np.uint64(32)
            return wide | lower(m, w)

        return fetch

    return Source(
        joined(low.fetch, high.fetch), joined(low.shadow, high.shadow), low.keys + high.keys
    )


def _typed(base: Source, operand: Operand, dtype: Any, is_float: bool) -> Source:
    fetch, register = base.fetch, operand.index
    if not (operand.negative or operand.absolute):
        if operand.kind == "v" and dtype is np.float32:
            return Source(lambda m, w: m.floats[register], base.shadow, base.keys)
        return Source(lambda m, w: fetch(m, w).view(dtype), base.shadow, base.keys)
    if not is_float:
        raise EmulatorError(f"a sign modifier on an integer operand {operand}")

    def typed(m: Machine, w: Waves) -> Array:
        value: Array = fetch(m, w).view(dtype)
        if operand.absolute:
            value = np.abs(value)
        return -value if operand.negative else value

    return Source(typed, base.shadow, base.keys)


@functools.lru_cache(maxsize=16_384)
def scalar_source(operand: Operand, kind: str) -> Source:
    """Return the source of a scalar instruction's operand: [waves], or [1]."""
    inner = source(operand, kind)
    if operand.kind == "s" and kind == "u32":
        register = operand.index
        return Source(
            lambda m, w: m.scalar[register], lambda m, w: m.scalar_shadow(register, w), inner.keys
        )
    return Source(
        lambda m, w: inner.fetch(m, w)[:, 0],
        lambda m, w: inner.shadow(m, w)[:, 0],
        inner.keys,
    )
