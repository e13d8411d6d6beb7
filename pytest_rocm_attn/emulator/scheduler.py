"""Waves in lockstep: those that stand at the same instruction run it together.

The group at the lowest address goes first, so that waves that parted meet again. Between barriers
the waves of a workgroup may also be run one after the other, in an order that a seed draws.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_rocm_attn.emulator.build import step_of
from pytest_rocm_attn.emulator.names import renamed
from pytest_rocm_attn.errors import EmulationFault, EmulatorError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pytest_rocm_attn.emulator.assembly import Program
    from pytest_rocm_attn.emulator.machine import Machine, Waves
    from pytest_rocm_attn.emulator.step import Step

RUNS, WAITS, ENDED = 0, 1, 2


class Code:
    """A program's instructions, made ready as they are first reached.

    Attributes:
        counts: how often a wave has executed each instruction.
        names: mnemonics, as gfx9 calls them.
    """

    def __init__(self, program: Program, lanes: int) -> None:
        self.program, self.lanes = program, lanes
        self.names = {renamed(name) for name in {one.name for one in program.instructions}}
        self.steps: list[Step | None] = [None] * len(program.instructions)
        self.counts = [0] * len(program.instructions)
        # The places at which waves that took other ways may join: every label that is jumped to.
        self.joins = {
            program.labels[instruction.operands[0]]
            for instruction in program.instructions
            if instruction.name.startswith(("s_branch", "s_cbranch"))
            and instruction.operands[0] in program.labels
        }

    def step(self, index: int) -> Step:
        """Return an instruction's step.

        Raises:
            EmulatorError: the emulator does not know it, or the code has run past its end.
        """
        found = self.steps[index]
        if found is None:
            if index >= len(self.program.instructions):
                raise EmulatorError("the code has run past its last instruction")
            instruction = self.program.instructions[index]
            found = self.steps[index] = step_of(instruction, self.program, self.lanes)
        return found

    def target(self, index: int) -> int:
        """Return where a branch goes."""
        instruction = self.program.instructions[index]
        label = instruction.operands[0]
        if label not in self.program.labels:
            raise EmulatorError(f"the emulator cannot find where {instruction} goes")
        return self.program.labels[label]


def run(code: Code, machine: Machine, entry: int, *, limit: int, seed: int | None = None) -> int:
    """Run a machine's waves from an instruction until all have ended.

    Returns: how many instructions were run in lockstep.

    Args:
        limit: instructions that the machine may run in lockstep.
        seed: run the waves of a workgroup one after the other between barriers, in an order that
            it draws; None runs them together.

    Raises:
        EmulationFault: the kernel did something wrong, or does not end.
        EmulatorError: an instruction is not known.
    """
    running = _Run(code, machine, entry, limit, seed)
    running.all()
    return limit - running.left


class _Run:
    def __init__(
        self, code: Code, machine: Machine, entry: int, limit: int, seed: int | None
    ) -> None:
        self.code, self.machine, self.left, self.limit = code, machine, limit, limit
        self.place = np.full(machine.count, entry, np.intp)
        self.state = np.zeros(machine.count, np.int8)
        self.workgroup = machine.workgroup
        self.signalled = np.zeros(machine.count, bool)
        self.within = np.arange(machine.count) % machine.lds.waves
        self.order = None if seed is None else random.Random(seed)

    def all(self) -> None:
        """Run until every wave has ended."""
        while True:
            live = self.state == RUNS
            if not live.any():
                if not (self.state == WAITS).any():
                    return
                raise EmulationFault(
                    "waves of a workgroup wait at a barrier that others never reach"
                )
            self._phase(live)

    def _phase(self, live: NDArray[np.bool_]) -> None:
        """Run what can run until the next barrier, whole or wave by wave."""
        if self.order is None:
            self._group(live)
            return
        waves = list(range(self.machine.lds.waves))
        self.order.shuffle(waves)
        for wave in waves:
            while (chosen := (self.state == RUNS) & (self.within == wave)).any():
                self._group(chosen)

    def _group(self, live: NDArray[np.bool_]) -> None:
        """Run the waves at the lowest address until they part, join others, or stop."""
        index = int(self.place[live].min())
        rows = np.flatnonzero(live & (self.place == index))
        alone = len(rows) == np.count_nonzero(live)
        code, machine = self.code, self.machine
        machine.focus(rows)
        waves, size = slice(None), len(rows)
        steps, instructions, counts = code.steps, code.program.instructions, code.counts
        waits, undefined, late = machine.waits, machine.undefined.keys(), machine.late
        while True:
            step = steps[index] or code.step(index)
            machine.here = instructions[index]
            counts[index] += size
            self.left -= 1
            if self.left < 0:
                self._loops()
            if not step.control:
                touched = step.touched
                if undefined.isdisjoint(touched) and touched.isdisjoint(waits.awaited):
                    step.run(machine, waves)
                    if late:
                        machine.define_late()
                else:
                    execute(step, machine, waves)
                index += 1
            else:
                following = self._control(step, index, rows)
                if following is None:
                    return
                index = following
                if not alone:
                    self.place[rows] = index
                    return
            if not alone and index in code.joins:
                self.place[rows] = index
                return

    def _control(self, step: Step, index: int, rows: NDArray[np.intp]) -> int | None:
        """Carry out a change of flow; return the next instruction, or None if the waves part."""
        machine, waves = self.machine, slice(None)
        if step.touched and not step.touched.isdisjoint(machine.waits.awaited):
            _check_arrived(step, machine, waves)
        if step.reads and not machine.undefined.keys().isdisjoint(step.reads):
            step.taint(machine, waves)
        if step.control == "end":
            self.state[rows] = ENDED
            self._release()
            return None
        if step.control == "signal":
            self.signalled[rows] = True
            return index + 1
        if step.control in ("barrier", "wait"):
            if step.control == "wait" and not self.signalled[rows].all():
                raise machine.fault("a wave waits at a barrier that it has not signalled")
            self.signalled[rows] = False
            self.place[rows] = index + 1
            self.state[rows] = WAITS
            self._release()
            return None
        if step.control == "always":
            return self.code.target(index)
        assert step.decide is not None
        decided = step.decide(machine, waves)
        if step.control == "jump":
            if not ((decided >= 0) & (decided < len(self.code.steps))).all():
                raise machine.fault("jumps to an address that has no instruction")
            self.code.joins.update(decided.tolist())
            if (decided == decided[0]).all():
                return int(decided[0])
            self.place[rows] = decided
            return None
        if decided.all():
            return self.code.target(index)
        if not decided.any():
            return index + 1
        self.place[rows] = np.where(decided, self.code.target(index), index + 1)
        return None

    def _release(self) -> None:
        """Let the workgroups go on of which every wave waits or has ended."""
        waiting = self.state == WAITS
        if not waiting.any():
            return
        group = self.workgroup
        running = np.bincount(group, self.state == RUNS)
        free = (running == 0)[group] & waiting
        if free.any():
            self.state[free] = RUNS
            self.machine.lds.barrier(self.machine, np.unique(group[free]))

    def _loops(self) -> None:
        instructions = self.code.program.instructions
        counts = self.code.counts
        busiest = max(range(len(counts)), key=counts.__getitem__)
        raise EmulationFault(
            f"the kernel did not end within {self.limit} instructions; it was last at"
            f" {self.machine.here}, and most often at {instructions[busiest]}"
        )


def execute(step: Step, machine: Machine, waves: Waves) -> None:
    """Run a step on the waves in focus, with the checks of what it touches."""
    if not step.touched.isdisjoint(machine.waits.awaited):
        _check_arrived(step, machine, waves)
    shadows: list[tuple[int, Any]] = []
    if not machine.undefined.keys().isdisjoint(step.reads):
        shadows = step.taint(machine, waves)
    step.run(machine, waves)
    left = dict(shadows)
    for key in step.writes:
        machine.define(key, left.get(key), everywhere=step.everywhere)
    if machine.late:
        machine.define_late()


def _check_arrived(step: Step, machine: Machine, waves: Waves) -> None:
    """Raise a fault if a register is touched before its load has arrived."""
    found = machine.waits.unfinished(step.touched, waves, step.overtakes)
    if found is not None:
        key, load = found
        name = _register(key)
        raise machine.fault(
            f"{name} is used before it has arrived: no wait covers its load, {load}; used"
        )


def _register(key: int) -> str:
    from pytest_rocm_attn.emulator.machine import ACCUMULATION, SCALAR_KEY

    if key >= SCALAR_KEY:
        return f"s{key - SCALAR_KEY}"
    return f"a{key - ACCUMULATION}" if key >= ACCUMULATION else f"v{key}"
