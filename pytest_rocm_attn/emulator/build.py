"""Which handler an instruction has. What none knows is refused, by name."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

from pytest_rocm_attn.emulator import (
    atomics,
    compare,
    control,
    dots,
    dpp,
    global_memory,
    indexed,
    lanes,
    lds_direct,
    lds_memory,
    matrix,
    packed,
    scalar,
    special,
    vector,
)
from pytest_rocm_attn.emulator.control import PLACED
from pytest_rocm_attn.emulator.names import renamed
from pytest_rocm_attn.emulator.step import Context, Step
from pytest_rocm_attn.errors import EmulatorError

if TYPE_CHECKING:
    from pytest_rocm_attn.emulator.assembly import Instruction, Program

Build = Callable[[Context], Step | None]

_SCALAR: tuple[Build, ...] = (control.build, scalar.build, global_memory.build, indexed.build)
_VECTOR: tuple[Build, ...] = (
    dpp.build,
    vector.build,
    lanes.build,
    compare.build,
    special.build,
    packed.build,
    dots.build,
    matrix.build,
    scalar.build,
    control.build,  # v_nop
)
_MEMORY: tuple[Build, ...] = (lds_direct.build, global_memory.build, atomics.build)
_LDS: tuple[Build, ...] = (lanes.build, lds_memory.build, atomics.build)
# Which of these knew a vector instruction, by name and encoding. What scalar ones mean may depend on operands.
_knows: dict[tuple[str, str], Build] = {}
SHARED = 40_000  # steps that are kept for programs to come; one takes some 3 KB

# By text, target and lanes; the newest stands last. A plain dict would look for its oldest item ever longer.
_shared: OrderedDict[tuple[str, str, int], Step] = OrderedDict()


def step_of(instruction: Instruction, program: Program, lanes_of_wave: int) -> Step:
    """Return an instruction that is ready to run; programs of one target share those of one text.

    Raises:
        EmulatorError: no handler knows the instruction, one of its operands or one of its modifiers.
    """
    if "gpr_idx" in instruction.modifiers:  # it differs from what its text says
        return _step_of(instruction, program, lanes_of_wave)
    key = (instruction.text, program.gfx, lanes_of_wave)
    found = _shared.get(key)
    if found is None:
        found = _step_of(instruction, program, lanes_of_wave)
        # Others depend on their place in the program, or on its labels.
        placed = "(." in instruction.text or "@" in instruction.text
        if not placed and instruction.name not in PLACED:
            _shared[key] = found
            if len(_shared) > SHARED:
                _shared.popitem(last=False)
    return found


def _step_of(instruction: Instruction, program: Program, lanes_of_wave: int) -> Step:
    name = renamed(instruction.name)
    context = Context(instruction, name, program, lanes_of_wave)
    kind = name, instruction.encoding
    families: tuple[Build, ...]
    if name.startswith("v_"):
        families = (_knows[kind],) if kind in _knows else _VECTOR
        if instruction.encoding.endswith("dpp"):  # others would not heed which lanes it reads
            families = (dpp.build,)
    elif name.startswith("s_"):
        families = _SCALAR
    else:
        families = _LDS if name.startswith("ds_") else _MEMORY
    try:
        if "gpr_idx" in instruction.modifiers:
            return indexed.indexed(instruction, lambda one: _step_of(one, program, lanes_of_wave))
        for build in families:
            step = build(context)
            if step is not None:
                if families is _VECTOR:
                    _knows[kind] = build
                return step
    except (EmulatorError, ValueError, IndexError, KeyError, StopIteration) as error:
        raise EmulatorError(
            f"the emulator cannot run {instruction} on {program.gfx}: {error}"
        ) from error
    raise EmulatorError(f"the emulator does not know {instruction} on {program.gfx}")
