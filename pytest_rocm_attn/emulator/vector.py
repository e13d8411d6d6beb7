"""Vector arithmetic as instructions: operands, op_sel, SDWA, dual issue and output modifiers.

Source: AMD's ISA guides, "Vector ALU Operations": "Operands", "SDWA", "VOPD".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_rocm_attn.emulator.alu import ALU, Alu, same, saturating
from pytest_rocm_attn.emulator.machine import SCALAR_KEY, VCC, Array, Machine, Waves
from pytest_rocm_attn.emulator.names import renamed
from pytest_rocm_attn.emulator.operands import Fetch, Operand, Source, half, source
from pytest_rocm_attn.emulator.step import Context, Destination, Run, Shadows, Step
from pytest_rocm_attn.errors import EmulatorError

if TYPE_CHECKING:
    from collections.abc import Sequence

Into = Callable[[Machine, Waves, Array], Array]
SDWA_SELECTS = {
    **{f"BYTE_{i}": (8, 8 * i) for i in range(4)},
    "WORD_0": (16, 0),
    "WORD_1": (16, 16),
}


@dataclass(slots=True)
class Operation:
    """A result for a destination, not yet written: dual issue reads all before it writes any.

    Attributes:
        value, shadow: the result and its undefined bits.
        destination: where it goes.
        keys: registers that it reads.
        into: computes the result into an array; None: value must be written.
    """

    value: Fetch
    shadow: Fetch
    destination: Destination
    keys: tuple[int, ...]
    into: Into | None = None

    def step(self) -> Step:
        """Return the instruction that writes it."""
        to, shadow = self.destination, self.shadow

        def taint(m: Machine, w: Waves) -> Shadows:
            return to.shadows(m, w, shadow(m, w))

        reads = self.keys + (to.keys if to.bits == 16 and to.keeps else ())
        return Step(self._run(), reads, to.keys, taint)

    def _run(self) -> Run:
        """Return what writes the result; most results are of 32 bits, for which this is short."""
        to, value, into = self.destination, self.value, self.into
        registers, number = to.registers, to.register
        if registers is None:
            write = to.write
            return lambda m, w: write(m, w, value(m, w))
        if into is None:

            def run(m: Machine, w: Waves) -> None:
                result = value(m, w)
                if m.exec_is_full:
                    registers(m)[number] = result
                else:
                    np.copyto(registers(m)[number], result, "unsafe", m.exec)

            return run

        def compute(m: Machine, w: Waves) -> None:
            if m.exec_is_full:
                into(m, w, registers(m)[number])
            else:
                np.copyto(registers(m)[number], value(m, w), where=m.exec)

        return compute


def build(context: Context) -> Step | None:
    """Return an arithmetic instruction's step, or None if it is not one of alu.py's."""
    if "::" in context.instruction.operands:
        return _dual(context)
    encoding = context.instruction.encoding
    if encoding.endswith("dpp"):  # dpp.py
        return None
    operation = _operation(context, sdwa=encoding == "sdwa")
    return None if operation is None else operation.step()


def _operation(context: Context, *, sdwa: bool = False) -> Operation | None:
    alu = ALU.get(context.name)
    if alu is None:
        return None
    finish = None
    if context.instruction.modifiers.get("clamp") and (saturates := saturating(context.name)):
        alu = saturates
    else:
        finish = output_modifiers(context, alu.result)
    sources = sources_of(context, alu, sdwa=sdwa)
    value, shadow = combined(alu, sources, finish)
    if sdwa:
        return _sdwa_result(context, alu, value, shadow, sources)
    selects = context.modifier("op_sel", [0] * (len(alu.sources) + 1))
    high = alu.result[1:] == "16" and bool(selects[len(sources) - alu.accumulates])
    to = Destination(context.operand(0), alu.result, keeps=context.keeps_half, high=high)
    into = _into(alu.compute, sources) if finish is None else None
    return Operation(value, shadow, to, keys_of(sources), into)


def _into(compute: Callable[..., Array], sources: Sequence[Source]) -> Into | None:
    """Return what computes a result into an array, if numpy has a function for it."""
    if compute is same:
        compute = np.positive
    if not isinstance(compute, np.ufunc):
        return None
    if len(sources) == 1:
        (only,) = (one.fetch for one in sources)
        return lambda m, w, out: compute(only(m, w), out=out)
    first, second = (one.fetch for one in sources)
    return lambda m, w, out: compute(first(m, w), second(m, w), out=out)


def sources_of(context: Context, alu: Alu, *, sdwa: bool = False) -> list[Source]:
    """Return an instruction's sources, in the types that it reads."""
    operands = context.operands()[1:]
    if alu.accumulates:
        operands.append(context.operand(0))
    if len(operands) != len(alu.sources):
        raise EmulatorError(f"{len(operands)} operands, expected {len(alu.sources)}")
    selects = context.modifier("op_sel", [0] * 4)
    found = []
    for number, (operand, kind) in enumerate(zip(operands, alu.sources, strict=True)):
        if sdwa and number < 2:
            how = context.instruction.modifiers.get(f"src{number}_sel", "DWORD")
            found.append(sdwa_source(operand, kind, how))
        elif kind.endswith("16") and selects[number]:
            found.append(source(replace(operand, high=True), kind))
        else:
            found.append(source(operand, kind))
    return found


def combined(
    alu: Alu, sources: Sequence[Source], finish: Callable[[Array], Array] | None = None
) -> tuple[Fetch, Fetch]:
    """Return the value and the shadow that an operation makes of its sources."""
    compute, rule = alu.compute, alu.rule
    fetches = [one.fetch for one in sources]

    def value(m: Machine, w: Waves) -> Array:
        result = compute(*[fetch(m, w) for fetch in fetches])
        return result if finish is None else finish(result)

    def shadow(m: Machine, w: Waves) -> Array:
        values = [fetch(m, w) for fetch in fetches]
        unsigned = [one.view(f"u{one.dtype.itemsize}") for one in values]
        return rule(unsigned, [one.shadow(m, w) for one in sources])

    if finish is not None:
        return value, shadow
    if len(fetches) == 1:  # most instructions: no list, no loop
        (only,) = fetches
        return lambda m, w: compute(only(m, w)), shadow
    if len(fetches) == 2:
        first, second = fetches
        return lambda m, w: compute(first(m, w), second(m, w)), shadow
    return value, shadow


def keys_of(sources: Sequence[Source]) -> tuple[int, ...]:
    """Return the registers that sources read."""
    return tuple(key for one in sources for key in one.keys)


def output_modifiers(context: Context, kind: str) -> Callable[[Array], Array] | None:
    """Return what clamp and the output multiplier do to a float result, or None.

    Raises:
        EmulatorError: the result is an integer, which would saturate.
    """
    modifiers = context.instruction.modifiers
    if not modifiers:
        return None
    clamp = bool(modifiers.get("clamp"))
    factor = float(modifiers.get("mul", 1)) / float(modifiers.get("div", 1))
    if not clamp and factor == 1:
        return None
    if not kind.startswith("f"):
        raise EmulatorError("modifier 'clamp' on an integer result")

    def finish(value: Array) -> Array:
        value = value * value.dtype.type(factor)
        if clamp:
            value = np.where(np.isnan(value), value.dtype.type(0), np.clip(value, 0, 1))
        return value

    return finish


# --- SDWA: bytes and halves of gfx9's sources and results ---


def sdwa_source(operand: Operand, kind: str, how: str) -> Source:
    """Return a selected byte or half of an operand, in the type that the instruction reads."""
    plain = replace(operand, sext=False, negative=False, absolute=False)
    word = source(plain, "u32")
    if how != "DWORD":
        bits, shift = SDWA_SELECTS[how]
        word = Source(
            _field(word.fetch, bits, shift, operand.sext),
            _field(word.shadow, bits, shift, False),
            word.keys,
        )
    if kind.endswith("16"):
        word = half(word, False)
    dtype: Any = {"f": np.dtype(f"f{int(kind[1:]) // 8}"), "i": np.dtype(f"i{int(kind[1:]) // 8}")}
    if kind[0] == "u":
        return word
    fetch = word.fetch

    def typed(m: Machine, w: Waves) -> Array:
        value = fetch(m, w).view(dtype[kind[0]])
        value = np.abs(value) if operand.absolute else value
        return -value if operand.negative else value

    return Source(typed, word.shadow, word.keys)


def _field(fetch: Fetch, bits: int, shift: int, sext: bool) -> Fetch:
    mask, sign = np.uint32((1 << bits) - 1), np.uint32(1 << bits - 1)

    def selected(m: Machine, w: Waves) -> Array:
        value = fetch(m, w) >> np.uint32(shift) & mask
        return (value ^ sign) - sign if sext else value

    return selected


def _sdwa_result(
    context: Context, alu: Alu, value: Fetch, shadow: Fetch, sources: Sequence[Source]
) -> Operation:
    modifiers = context.instruction.modifiers
    how, unused = modifiers.get("dst_sel", "DWORD"), modifiers.get("dst_unused", "UNUSED_PAD")
    operand, width = context.operand(0), int(alu.result[1:])
    to = Destination(operand, "u32")
    unsigned = np.dtype(f"u{width // 8}")
    if unused == "UNUSED_SEXT":
        raise EmulatorError("modifier 'dst_unused:UNUSED_SEXT'")

    def placed(fetch: Fetch, old: Fetch) -> Fetch:
        def word(m: Machine, w: Waves) -> Array:
            bits = np.asarray(fetch(m, w))
            bits = bits.view(unsigned) if bits.dtype.itemsize == unsigned.itemsize else bits
            bits = bits.astype(np.uint32)
            if how == "DWORD":
                return bits
            size, shift = SDWA_SELECTS[how]
            mask = np.uint32((1 << size) - 1 << shift)
            bits = bits << np.uint32(shift) & mask
            return bits | old(m, w) & ~mask if unused == "UNUSED_PRESERVE" else bits

        return word

    before = source(replace(operand, count=1), "u32")
    keys = keys_of(sources) + before.keys
    return Operation(placed(value, before.fetch), placed(shadow, before.shadow), to, keys)


# --- VOPD: two operations at once ---


def _dual(context: Context) -> Step:
    cut = context.instruction.operands.index("::")
    words = context.instruction.operands
    halves = ((context.instruction.name, words[:cut]), (words[cut + 1], words[cut + 2 :]))
    operations = [_part(context, name, texts) for name, texts in halves]

    def run(m: Machine, w: Waves) -> None:
        values = [np.array(one.value(m, w)) for one in operations]
        for one, value in zip(operations, values, strict=True):
            one.destination.write(m, w, value)

    def taint(m: Machine, w: Waves) -> Shadows:
        return [
            pair for one in operations for pair in one.destination.shadows(m, w, one.shadow(m, w))
        ]

    reads = tuple(key for one in operations for key in one.keys)
    writes = tuple(key for one in operations for key in one.destination.keys)
    return Step(run, reads, writes, taint)


def _part(context: Context, name: str, texts: list[str]) -> Operation:
    name = name.removeprefix("v_dual_").removesuffix("_e32")
    name = renamed(name if name.startswith("v_") else f"v_{name}")
    part = replace(context.instruction, name=name, operands=texts, encoding="", modifiers={})
    inner = replace(context, instruction=part, name=name)
    if name == "v_cndmask_b32":
        return conditional(inner)
    operation = _operation(inner)
    if operation is None:
        raise EmulatorError(f"{name} in a dual instruction")
    return operation


def conditional(context: Context) -> Operation:
    """Return v_cndmask: the second source where a mask has a bit, else the first."""
    bits = 16 if context.name.endswith("b16") else 32
    operands = context.operands()
    mask = operands[3].index if len(operands) > 3 else VCC
    width = context.lanes // 32
    sdwa = context.instruction.encoding == "sdwa"
    sources = []
    for number, operand in enumerate(operands[1:3]):
        signed = operand.negative or operand.absolute
        kind = f"f{bits}" if signed else f"u{bits}"
        if sdwa:
            how = context.instruction.modifiers.get(f"src{number}_sel", "DWORD")
            sources.append(sdwa_source(operand, kind, how))
        else:
            sources.append(source(operand, kind))
    otherwise, chosen = sources
    unsigned = np.dtype(f"u{bits // 8}")
    no, yes = (one.fetch for one in sources)
    plain = not any(one.negative or one.absolute for one in operands[1:3])

    def value(m: Machine, w: Waves) -> Array:
        if plain:
            return np.where(m.mask(mask, w), yes(m, w), no(m, w))
        return np.where(m.mask(mask, w), yes(m, w).view(unsigned), no(m, w).view(unsigned))

    def shadow(m: Machine, w: Waves) -> Array:
        picked = np.where(m.mask(mask, w), chosen.shadow(m, w), otherwise.shadow(m, w))
        return np.where(m.mask_shadow(mask, w), ~unsigned.type(0), picked)

    keys = keys_of(sources) + tuple(SCALAR_KEY + mask + word for word in range(width))
    if sdwa:
        alu = Alu(lambda a: a, (), "u32")
        wide = [Source(value, shadow, keys)]
        return _sdwa_result(context, alu, value, shadow, wide)
    to = Destination(operands[0], f"u{bits}", keeps=context.keeps_half)
    return Operation(value, shadow, to, keys)
