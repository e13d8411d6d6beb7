"""Which handler an instruction has. What none knows is refused, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pytest_rocm_attn.emulator import (
    atomics,
    compare,
    control,
    global_memory,
    lanes,
    lds_memory,
    matrix,
    packed,
    scalar,
    special,
    vector,
)
from pytest_rocm_attn.emulator.names import renamed
from pytest_rocm_attn.emulator.step import Context, Step
from pytest_rocm_attn.errors import EmulatorError

if TYPE_CHECKING:
    from pytest_rocm_attn.emulator.assembly import Instruction, Program

Build = Callable[[Context], Step | None]

_SCALAR: tuple[Build, ...] = (control.build, scalar.build, global_memory.build)
_VECTOR: tuple[Build, ...] = (
    vector.build,
    lanes.build,
    compare.build,
    special.build,
    packed.build,
    matrix.build,
    scalar.build,
)
_MEMORY: tuple[Build, ...] = (global_memory.build, atomics.build)
_LDS: tuple[Build, ...] = (lanes.build, lds_memory.build, atomics.build)


def step_of(instruction: Instruction, program: Program, lanes_of_wave: int) -> Step:
    """Return an instruction that is ready to run.

    Raises:
        EmulatorError: no handler knows the instruction, one of its operands or one of its modifiers.
    """
    name = renamed(instruction.name)
    context = Context(instruction, name, program, lanes_of_wave)
    if name.startswith("v_"):
        families = _VECTOR
    elif name.startswith("s_"):
        families = _SCALAR
    else:
        families = _LDS if name.startswith("ds_") else _MEMORY
    try:
        for build in families:
            step = build(context)
            if step is not None:
                return step
    except (EmulatorError, ValueError, IndexError, KeyError, StopIteration) as error:
        raise EmulatorError(
            f"the emulator cannot run {instruction} on {program.gfx}: {error}"
        ) from error
    raise EmulatorError(f"the emulator does not know {instruction} on {program.gfx}")
