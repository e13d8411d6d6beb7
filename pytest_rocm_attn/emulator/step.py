"""What an instruction becomes: a function of the machine, with the registers that it touches."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from pytest_rocm_attn.emulator.machine import Array, Machine, Waves
from pytest_rocm_attn.emulator.operands import TYPES, Operand, Source, parse, source
from pytest_rocm_attn.errors import EmulatorError

if TYPE_CHECKING:
    from pytest_rocm_attn.emulator.assembly import Instruction, Program

Run = Callable[[Machine, Waves], None]
Shadows: TypeAlias = list[tuple[int, Array]]
Taint = Callable[[Machine, Waves], Shadows]


def _nothing(machine: Machine, waves: Waves) -> Shadows:
    return []


@dataclass(slots=True)
class Step:
    """An instruction made ready to run.

    Attributes:
        run: does it.
        reads, writes: keys of registers.
        taint: asked before ``run`` if a register that is read has undefined bits: the shadows of
            what is written, by key. Raises a fault where they would decide something.
        everywhere: what is written does not heed EXEC.
        control: "" or how it changes the flow: "branch", "always" (a branch), "barrier", "signal" and
            "wait" (a barrier in two parts), "end", "jump".
        decide: of a branch, the waves that take it; of a jump, the instruction that each goes to.
        overtakes: registers that a vector load fills and does not need before: another vector load of
            them may be under way, as such loads write their results in order.
        touched: reads and writes.
    """

    run: Run
    reads: tuple[int, ...] = ()
    writes: tuple[int, ...] = ()
    taint: Taint = _nothing
    everywhere: bool = False
    control: str = ""
    decide: Callable[[Machine, Waves], Array] | None = None
    overtakes: frozenset[int] = frozenset()
    touched: frozenset[int] = field(init=False)

    def __post_init__(self) -> None:
        self.touched = frozenset(self.reads) | frozenset(self.writes)


# 16-bit instructions of gfx9 that keep the upper half of their destination; the others clear it. Source: llvm-project,
# llvmorg-22.1.0, llvm/lib/Target/AMDGPU/GCNSubtarget.cpp (zeroesHigh16BitsOfDest).
KEEPING = frozenset({"v_fmac_f16", "v_fmamk_f16", "v_fmaak_f16"})


@dataclass(slots=True)
class Context:
    """What the meaning of an instruction depends on.

    Attributes:
        instruction: the instruction.
        name: its mnemonic as gfx9 calls it.
        program: what it belongs to.
        lanes: of a wave.
    """

    instruction: Instruction
    name: str
    program: Program
    lanes: int

    @property
    def gfx9(self) -> bool:
        """CDNA and GCN."""
        return self.program.gfx.startswith("gfx9")

    @property
    def keeps_half(self) -> bool:
        """Whether a 16-bit result leaves the upper half as it was; on gfx9, only some instructions do."""
        return not self.gfx9 or self.name in KEEPING

    @property
    def gfx12(self) -> bool:
        """RDNA4."""
        return self.program.gfx.startswith("gfx12")

    @property
    def fnuz(self) -> bool:
        """gfx942's own fp8 formats."""
        return self.program.gfx.startswith("gfx94")

    def operand(self, number: int) -> Operand:
        """Return an operand."""
        return parse(self.instruction.operands[number], self.program, self.instruction.index)

    def operands(self) -> list[Operand]:
        """Return all operands."""
        one = self.instruction
        return [parse(text, self.program, one.index) for text in one.operands]

    def source(self, number: int, kind: str) -> Source:
        """Return an operand as a source of a type."""
        return source(self.operand(number), kind)

    def modifier(self, name: str, default: Sequence[int]) -> Sequence[int]:
        """Return a list-valued modifier such as op_sel, padded by the default."""
        found: Sequence[int] | None = self.instruction.modifiers.get(name)
        return default if found is None else [*found, *default[len(found) :]]

    def refuse(self, *modifiers: str) -> None:
        """Raise an error if the instruction has a modifier that its handler does not know.

        Raises:
            EmulatorError: it has.
        """
        for name in modifiers:
            if self.instruction.modifiers.get(name):
                raise EmulatorError(f"modifier {name!r}")


_REGISTERS: dict[str, Callable[[Machine], Array]] = {
    "u32": operator.attrgetter("vector"),
    "i32": operator.attrgetter("integers"),
    "f32": operator.attrgetter("floats"),
}


class Destination:
    """Vector registers that a result of some type goes to.

    Args:
        operand: the first register.
        kind: the result's type.
        keeps: a 16-bit result leaves the other half as it is; else it clears the upper one.
        high: a 16-bit result goes to the upper half.
    """

    def __init__(
        self, operand: Operand, kind: str, *, keeps: bool = True, high: bool = False
    ) -> None:
        if operand.kind != "v":
            raise EmulatorError(f"destination {operand}")
        self.register, self.bits = operand.index, int(kind[1:])
        self.dtype = np.dtype(TYPES[kind])
        self.high = high or operand.high
        self.keeps = keeps or self.high
        self.keys = tuple(range(self.register, self.register + max(1, self.bits // 32)))
        # How the machine shows registers of this type, if each of them holds a result.
        self.registers = _REGISTERS.get(kind)

    def write(self, machine: Machine, waves: Waves, value: Array) -> None:
        """Write a result."""
        value = np.asarray(value)
        if value.dtype is not self.dtype:
            value = value.astype(self.dtype)
        if self.bits == 32:
            machine.write(self.register, waves, value.view(np.uint32))
        elif self.bits == 64:
            wide = value.view(np.uint64)
            machine.write(self.register, waves, (wide & np.uint64(0xFFFFFFFF)).astype(np.uint32))
            machine.write(self.register + 1, waves, (wide >> np.uint64(32)).astype(np.uint32))
        elif self.keeps:
            word = value.view(np.uint16).astype(np.uint32)
            machine.write_half(self.register, self.high, waves, word)
        else:
            machine.write(self.register, waves, value.view(np.uint16).astype(np.uint32))

    def shadows(self, machine: Machine, waves: Waves, shadow: Array) -> Shadows:
        """Return the shadows of the registers, given that of the result."""
        if self.bits == 64:
            wide = shadow.astype(np.uint64)
            low = (wide & np.uint64(0xFFFFFFFF)).astype(np.uint32)
            return [
                (self.register, low),
                (self.register + 1, (wide >> np.uint64(32)).astype(np.uint32)),
            ]
        if self.bits == 32:
            return [(self.register, shadow.astype(np.uint32))]
        word = shadow.astype(np.uint16).astype(np.uint32)
        if not self.keeps:
            return [(self.register, word)]
        old = machine.vector_shadow(self.register, waves)
        if self.high:
            return [(self.register, word << np.uint32(16) | old & np.uint32(0xFFFF))]
        return [(self.register, word | old & np.uint32(0xFFFF0000))]
