"""Vector registers whose numbers M0 adds to: gfx9's s_set_gpr_idx_on, until s_set_gpr_idx_off.

Source: AMD's ISA guides for Vega and CDNA, "S_SET_GPR_IDX_ON" and "VGPR Indexing". The assembly is
read so that an instruction between the two has the modifier ``gpr_idx``: which operands are moved.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from pytest_rocm_attn.emulator.assembly import moved
from pytest_rocm_attn.emulator.machine import M0, SCALAR_KEY, Machine, Waves
from pytest_rocm_attn.emulator.operands import scalar_source
from pytest_rocm_attn.emulator.step import Context, Shadows, Step
from pytest_rocm_attn.errors import EmulatorError

if TYPE_CHECKING:
    from pytest_rocm_attn.emulator.assembly import Instruction

_M0 = SCALAR_KEY + M0
_BITS = (8, 1, 2, 4)  # of the modifier, for the result and the sources
_REGISTER = re.compile(r"(?<![\w.])v(\d+)\b(?!\[)")
_REGISTERS = re.compile(r"(?<![\w.])v\[(\d+):(\d+)\]")
# One result, whose sources follow it; no carry, no lane and no other encoding: compilers emit moves.
_SIMPLE = re.compile(
    r"v_(?!cmp|readlane|writelane|readfirstlane|div_scale|mad_[iu]64|swap|\w+_co_)\w+"
)


def build(context: Context) -> Step | None:
    """Return the step of s_set_gpr_idx_on or s_set_gpr_idx_idx, or None."""
    if context.name not in ("s_set_gpr_idx_on", "s_set_gpr_idx_idx"):
        return None
    source = scalar_source(context.operand(0), "u32")
    kept, added = np.uint32(0xFFFFFF00), np.uint32(0)
    if context.name.endswith("on"):
        kept, added = np.uint32(0xFFFF0F00), np.uint32(moved(context.instruction) << 12)

    def run(m: Machine, w: Waves) -> None:
        low = source.fetch(m, w) & np.uint32(0xFF)
        m.set_scalar(M0, w, m.scalar[M0, w] & kept | low | added)

    def taint(m: Machine, w: Waves) -> Shadows:
        low = source.shadow(m, w) & np.uint32(0xFF)
        return [(_M0, m.scalar_shadow(M0, w) & kept | low)]

    return Step(run, (*source.keys, _M0), (_M0,), taint)


def indexed(instruction: Instruction, step_of: Callable[[Instruction], Step]) -> Step:
    """Return the step of an instruction whose registers M0 moves.

    Args:
        instruction: has the modifier ``gpr_idx``.
        step_of: returns an instruction's step.

    Raises:
        EmulatorError: compilers do not index it.
    """
    from pytest_rocm_attn.emulator.scheduler import execute  # it imports this

    bits = instruction.modifiers["gpr_idx"]
    if not _SIMPLE.fullmatch(instruction.name) or instruction.encoding in (
        "dpp",
        "sdwa",
        "e64_dpp",
    ):
        raise EmulatorError("it stands between s_set_gpr_idx_on and s_set_gpr_idx_off")
    modifiers = {key: value for key, value in instruction.modifiers.items() if key != "gpr_idx"}
    steps: dict[int, Step] = {}

    def at(index: int) -> Step:
        if index not in steps:
            operands = [
                _shifted(text, index if bits & bit else 0)
                for text, bit in zip(instruction.operands, _BITS, strict=False)
            ]
            steps[index] = step_of(replace(instruction, operands=operands, modifiers=modifiers))
        return steps[index]

    at(0)  # so that what the emulator lacks is refused before anything runs

    def run(m: Machine, w: Waves) -> None:
        index, rows = m.scalar[M0, w] & np.uint32(0xFF), m.rows
        try:
            for one in np.unique(index):
                m.focus(rows[index == one])
                step = at(int(one))
                if any(key >= len(m.vector) for key in step.touched if key < SCALAR_KEY):
                    raise m.fault(f"M0 moves a register by {one}, beyond the kernel's registers")
                execute(step, m, slice(None))
        finally:
            m.focus(rows)

    def taint(m: Machine, w: Waves) -> Shadows:
        m.demand("the number of a register", m.scalar_shadow(M0, w) & np.uint32(0xFF))
        return []

    return Step(run, (_M0,), (), taint)


def _shifted(text: str, by: int) -> str:
    text = _REGISTER.sub(lambda one: f"v{int(one[1]) + by}", text)
    return _REGISTERS.sub(lambda one: f"v[{int(one[1]) + by}:{int(one[2]) + by}]", text)
