"""Loads and stores of LDS.

Source: AMD's ISA guides, "Local Data Share" and "LDS Instructions".
"""

from __future__ import annotations

import re

import numpy as np

from pytest_rocm_attn.emulator.machine import Array, Machine, Waves
from pytest_rocm_attn.emulator.numbers import u32
from pytest_rocm_attn.emulator.operands import Operand
from pytest_rocm_attn.emulator.rows import Places
from pytest_rocm_attn.emulator.step import Context, Shadows, Step
from pytest_rocm_attn.emulator.waits import LDS
from pytest_rocm_attn.errors import EmulatorError

NAME = re.compile(
    r"ds_(read|write)(2)?(st64)?_(b8|b16|b32|b64|b96|b128|u8|i8|u16|i16)(_d16)?(_hi)?"
)
_DEFINED = np.zeros((), np.uint32)
_TRANSPOSED = re.compile(r"ds_read_b64_tr_b(16|8)")


def build(context: Context) -> Step | None:
    """Return the step of one of these instructions, or None."""
    if match := _TRANSPOSED.fullmatch(context.name):
        return _transposed(context, int(match[1]))
    match = NAME.fullmatch(context.name)
    if match is None:
        return None
    what, two, far, kind, d16, high = match.groups()
    size = int(kind[1:]) // 8
    modifiers = context.instruction.modifiers
    if two:
        step = size * (64 if far else 1)
        offsets = [int(modifiers.get(name, 0)) * step for name in ("offset0", "offset1")]
    else:
        offsets = [int(modifiers.get("offset", 0))]
    operands = context.operands()
    if what == "read":
        return _read(operands[0], operands[1], offsets, size, kind, bool(d16), bool(high))
    return _write(operands[0], operands[1:], offsets, size, bool(high))


def smallest_store(names: set[str]) -> int:
    """Return the bytes of the smallest LDS store among mnemonics, 4 at most."""
    sizes = [4]
    for name in names:
        match = NAME.fullmatch(name)
        if match is not None and match[1] == "write":
            sizes.append(int(match[4][1:]) // 8)
    return min(sizes)


def _places(
    m: Machine, w: Waves, at: Array, size: int, verb: str
) -> tuple[Places, Array, tuple[int, int]]:
    active = m.exec
    reach = m.lds.check(m, at, size, active, verb)
    if not m.exec_is_full:
        at = np.where(active, at, 0)
    return Places(at + m.lds.base(m, w), size), active, reach


def _pointed(m: Machine, address: int, offset: int) -> Array:
    """Return the offsets in LDS that a register and an instruction point at."""
    at: Array = m.vector[address].astype(np.int64) + offset
    return at


def write_words(
    m: Machine,
    w: Waves,
    at: Array,
    size: int,
    values: list[Array],
    shadows: list[Array] | None,
    sequence: Array,
    kind: str = LDS,
) -> None:
    """Write words of each lane to LDS.

    Args:
        at: offsets in LDS, [waves, lanes].
        shadows: their undefined bits; None: there are none.
        sequence: the number of the operation in each wave; kind: what counts it, LDS or LOAD.
    """
    places, active, reach = _places(m, w, at, size, "writes")
    m.lds.note_store(m, places, values, active, sequence, reach, kind)
    if m.exec_is_full:
        m.lds.store(places, values, shadows)
    else:
        left = None if shadows is None else [one[active] for one in shadows]
        m.lds.store(places.chosen(active), [one[active] for one in values], left)
    m.lds.check_stored(m, places, values, active)


def _read(
    target: Operand,
    address: Operand,
    offsets: list[int],
    size: int,
    kind: str,
    half: bool,
    high: bool,
) -> Step:
    register, words = target.index, max(1, size // 4)
    keys = tuple(range(register, register + words * len(offsets)))

    def run(m: Machine, w: Waves) -> None:
        pointed = [_pointed(m, address.index, offset) for offset in offsets]
        read = [_places(m, w, at, size, "reads") for at in pointed]
        number = register
        for at, active, reach in read:
            m.lds.note_load(m, at, active, reach)
            values, shadows = m.lds.load(at)
            if kind[0] == "i":
                shift = np.int32(32 - 8 * size)
                values = [(values[0].view(np.int32) << shift >> shift).view(np.uint32)]
                if shadows is not None:
                    shadows = [np.where(shadows[0] != 0, u32(0xFFFFFFFF), u32(0))]
            if half:
                m.write_half(number, high, w, values[0] & u32(0xFFFF))
                _leave_half(m, number, w, _DEFINED if shadows is None else shadows[0], high)
                number += 1
                continue
            for value in values:
                m.write(number, w, value)
                number += 1
            for key, shadow in enumerate(shadows or (), number - words):
                m.late.append((key, shadow))
        m.waits.issue(LDS, keys, w, m.here)

    def taint(m: Machine, w: Waves) -> Shadows:
        m.demand("the address of an LDS load", m.vector_shadow(address.index, w), m.exec[w])
        return []

    return Step(run, (address.index, *(keys if half else ())), keys, taint)


def _leave_half(m: Machine, register: int, w: Waves, shadow: Array, high: bool) -> None:
    old = m.vector_shadow(register, w)
    if high:
        whole = shadow << u32(16) | old & u32(0xFFFF)
    else:
        whole = shadow & u32(0xFFFF) | old & u32(0xFFFF0000)
    if whole.any():
        m.late.append((register, whole))


def _write(
    address: Operand, data: list[Operand], offsets: list[int], size: int, high: bool
) -> Step:
    words = max(1, size // 4)
    shift = u32(16 if high else 0)
    keys = tuple(key for one in data for key in range(one.index, one.index + words))

    def run(m: Machine, w: Waves) -> None:
        sequence = m.waits.issue(LDS, (), w, m.here)
        for one, offset in zip(data, offsets, strict=True):
            registers = range(one.index, one.index + words)
            values = [m.vector[key] >> shift if high else m.vector[key] for key in registers]
            shadows: list[Array] | None = None
            if not m.undefined.keys().isdisjoint(registers):
                shadows = [m.vector_shadow(key, w) >> shift for key in registers]
            at = _pointed(m, address.index, offset)
            write_words(m, w, at, size, values, shadows, sequence)

    def taint(m: Machine, w: Waves) -> Shadows:
        m.demand("the address of an LDS store", m.vector_shadow(address.index, w), m.exec[w])
        return []

    return Step(run, (address.index, *keys), (), taint)


def _transposed(context: Context, bits: int) -> Step:
    """gfx950's ds_read_b64_tr: 16 lanes read a block together, each gets a column of it."""
    if bits not in (8, 16):
        raise EmulatorError(f"a transposed LDS load of {bits} bits")
    target, address = context.operand(0).index, context.operand(1).index
    offset = int(context.instruction.modifiers.get("offset", 0))
    lane, keys, mask = np.arange(64), (target, target + 1), u32((1 << bits) - 1)
    in_word, in_lane = 32 // bits, 64 // bits  # rows of the block are of 16 items
    from_lane = [
        lane // 16 * 16 + 16 // in_lane * row + lane % 16 // in_lane for row in range(in_lane)
    ]

    def exchanged(words: list[Array]) -> list[Array]:
        items = np.stack(
            [words[i // in_word] >> u32(bits * (i % in_word)) & mask for i in range(in_lane)],
            axis=2,
        )
        found = [np.zeros_like(words[0]) for _ in keys]
        for row, held in enumerate(from_lane):
            picked = items[:, held, lane % in_lane]
            found[row // in_word] |= picked << u32(bits * (row % in_word))
        return found

    def run(m: Machine, w: Waves) -> None:
        at, active, reach = _places(m, w, _pointed(m, address, offset), 8, "reads")
        m.lds.note_load(m, at, active, reach)
        values, shadows = m.lds.load(at)
        for key, value in zip(keys, exchanged(values), strict=True):
            m.write(key, w, value)
        if shadows is not None:
            m.late += zip(keys, exchanged(shadows), strict=True)
        m.waits.issue(LDS, keys, w, m.here)

    def taint(m: Machine, w: Waves) -> Shadows:
        m.demand("the address of an LDS load", m.vector_shadow(address, w), m.exec[w])
        return []

    return Step(run, (address,), keys, taint)
