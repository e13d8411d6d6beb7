"""One launch of a kernel: its arguments, its registers at the start, its workgroups in batches.

Source: LLVM, "User Guide for AMDGPU Backend": "Initial Kernel Execution State", "Kernel Argument
Metadata"; on gfx12 the workgroup's place comes in trap registers.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pytest_rocm_attn.emulator.assembly import read_assembly
from pytest_rocm_attn.emulator.hostcalls import Host
from pytest_rocm_attn.emulator.lds import Lds
from pytest_rocm_attn.emulator.lds_memory import smallest_store
from pytest_rocm_attn.emulator.machine import (
    ACCUMULATION,
    EXEC,
    SCALAR_KEY,
    TTMP0,
    VECTORS,
    Array,
    Machine,
)
from pytest_rocm_attn.emulator.memory import Memory, Region
from pytest_rocm_attn.emulator.scheduler import Code, run
from pytest_rocm_attn.errors import EmulationFault, EmulatorError

if TYPE_CHECKING:
    from pytest_rocm_attn.emulator.assembly import Kernel, Program

TOGETHER = 32_768  # lanes that run in lockstep, as many as fit numpy's caches
KEPT = 50_000  # instructions of the programs that are kept; one made ready takes some 3 KB
LIMIT = 20_000_000  # instructions in lockstep that a batch of workgroups may run
# User SGPRs in their order: the directive, and how many registers it takes.
_USER_REGISTERS = (
    ("user_sgpr_private_segment_buffer", 4),
    ("user_sgpr_dispatch_ptr", 2),
    ("user_sgpr_queue_ptr", 2),
    ("user_sgpr_kernarg_segment_ptr", 2),
    ("user_sgpr_dispatch_id", 2),
    ("user_sgpr_flat_scratch_init", 2),
    ("user_sgpr_private_segment_size", 1),
)


@dataclass(frozen=True, slots=True)
class Executed:
    """What a launch ran.

    Attributes:
        instructions: instructions of one wave each.
        steps: instructions in lockstep.
        by_instruction: how often each of the program's was run by a wave.
    """

    instructions: int
    steps: int
    by_instruction: tuple[int, ...]


_kept: dict[str, Code] = {}  # by assembly; the one used last stands last


def code_of(assembly: str) -> Code:
    """Return a program made ready, from its assembly; the last few are kept."""
    code = _kept.pop(assembly, None)
    if code is None:
        program = read_assembly(assembly)
        code = Code(program, _lanes(program))
    _kept[assembly] = code
    left = sum(len(one.steps) for one in _kept.values())
    for text, other in list(_kept.items())[:-1]:
        if left > KEPT:
            left -= len(other.steps)
            del _kept[text]
    return code


def _lanes(program: Program) -> int:
    """Return how many lanes a wave has."""
    if program.gfx.startswith("gfx9"):
        return 64
    for kernel in program.kernels.values():
        if kernel.directives.get("wavefront_size32", 1) == 0:
            raise EmulatorError(
                f"{kernel.name} on {program.gfx} is compiled for waves of 64 lanes, which the emulator runs on gfx9 "
                "alone: compile it for waves of 32 (clang: -mno-wavefrontsize64)"
            )
    return 32


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Put off Python's collection of cycles: steps and arrays form none, and are many."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def launch(
    assembly: str,
    name: str,
    grid: tuple[int, int, int],
    threads: int,
    arguments: Sequence[bytes],
    regions: Sequence[Region],
    *,
    dynamic_lds: int = 0,
    seed: int | None = None,
    limit: int = LIMIT,
) -> Executed:
    """Run a kernel on this CPU.

    Args:
        assembly: LLVM's, of the whole program.
        name: the kernel.
        grid: workgroups along each axis.
        threads: work-items of a workgroup, along one axis.
        arguments: bytes of each explicit argument.
        regions: memory that it may touch.
        dynamic_lds: bytes of LDS besides the kernel's own.
        seed: as in ``scheduler.run``.
        limit: instructions that a batch of workgroups may run in lockstep.

    Raises:
        EmulationFault: the kernel did something wrong; names it and the line.
        EmulatorError: the emulator does not know an instruction, operand or argument of it.
    """
    __tracebackhide__ = True
    with np.errstate(all="ignore"), _no_collection():
        code = code_of(assembly)
        if name not in code.program.kernels:
            raise EmulatorError(f"the assembly has no kernel {name!r}")
        try:
            return _Launch(code, name, grid, threads, dynamic_lds, seed, limit).run(
                arguments, regions
            )
        except EmulationFault as fault:
            raise EmulationFault(f"{name} on {code.program.gfx}: {fault}") from None
        except EmulatorError as error:
            raise EmulatorError(f"{name} on {code.program.gfx}: {error}") from None


class _Launch:
    def __init__(
        self,
        code: Code,
        name: str,
        grid: tuple[int, int, int],
        threads: int,
        dynamic_lds: int,
        seed: int | None,
        limit: int,
    ) -> None:
        self.code, self.program = code, code.program
        self.kernel: Kernel = code.program.kernels[name]
        self.grid, self.threads, self.seed, self.limit = grid, threads, seed, limit
        directives = self.kernel.directives
        self.lds_bytes = directives.get("group_segment_fixed_size", 0) + dynamic_lds
        self.scratch = directives.get("private_segment_fixed_size", 0)
        self.vectors = _vectors(directives, self.program)
        if self.scratch and directives.get("user_sgpr_private_segment_buffer", 0) > 0:
            raise EmulatorError(
                "it keeps registers or local arrays in memory through a buffer resource, as CDNA2, RDNA2 and earlier"
                " GPUs do; the emulator knows scratch instructions only"
            )
        self.waves = -(-threads // code.lanes)  # of a workgroup
        self.batch = max(1, TOGETHER // (self.waves * code.lanes))  # workgroups in lockstep
        messages = any(one.kind == "hidden_hostcall_buffer" for one in self.kernel.arguments)
        self.host = Host(self.waves * self.batch) if messages else None

    def run(self, arguments: Sequence[bytes], regions: Sequence[Region]) -> Executed:
        segment = _aligned(self._segment(arguments))
        start = segment.ctypes.data
        own = [Region(start, start + len(segment), "the kernel's arguments", writable=False)]
        if size := len(self.program.data):
            base = ctypes.addressof(self.program.constants)
            own.append(Region(base, base + size, "the kernel's constants", writable=False))
        if self.host is not None:
            own.append(self.host.region)
        atomic = any("_atomic_" in name for name in self.code.names)
        memory = Memory([*regions, *own], judged=not atomic)
        before = list(self.code.counts)
        waves, batch, steps = self.waves, self.batch, 0
        total = self.grid[0] * self.grid[1] * self.grid[2]
        for first in range(0, total, batch):
            groups = np.arange(first, min(first + batch, total))
            steps += self._batch(groups, waves, memory, start)
        counts = tuple(now - then for now, then in zip(self.code.counts, before, strict=True))
        return Executed(sum(counts), steps, counts)

    def _segment(self, arguments: Sequence[bytes]) -> bytes:
        """Return the bytes of the argument segment, hidden arguments filled in."""
        segment = bytearray(self.kernel.directives.get("kernarg_size", 0))
        hidden = {f"hidden_block_count_{axis}": self.grid[i] for i, axis in enumerate("xyz")}
        hidden |= {"hidden_group_size_x": self.threads, "hidden_group_size_y": 1}
        hidden |= {"hidden_group_size_z": 1, "hidden_grid_dims": 3}
        hidden["hidden_hostcall_buffer"] = 0 if self.host is None else self.host.address
        given = iter(arguments)
        for argument in self.kernel.arguments:
            if argument.kind.startswith("hidden_"):
                value = int(hidden.get(argument.kind, 0)).to_bytes(argument.size, "little")
            else:  # Triton's scratch pointers come last, and nobody allocates them
                value = next(given, bytes(argument.size))
            if len(value) != argument.size:
                raise EmulatorError(
                    f"an argument of {len(value)} bytes, the kernel takes {argument.size}"
                )
            segment[argument.offset : argument.offset + argument.size] = value
        if (extra := len(list(given))) > 0:
            raise EmulatorError(f"{extra} arguments more than the kernel takes")
        return bytes(segment)

    def _batch(self, groups: Array, waves: int, memory: Memory, segment: int) -> int:
        lanes, count = self.code.lanes, len(groups)
        granule = smallest_store(self.code.names)
        machine = Machine(
            np.repeat(np.arange(count), waves),
            np.repeat(groups, waves),
            lanes,
            self.vectors,
            Lds(count, self.lds_bytes, waves, granule),
            memory,
            self.scratch,
            self.program.gfx,
        )
        machine.host = self.host
        register = self._user_registers(machine, segment)
        self._workgroup_registers(machine, groups, waves, register)
        wave = np.tile(np.arange(waves), count)
        items = wave[:, None] * lanes + np.arange(lanes)
        machine.vector[0] = items.astype(np.uint32)
        machine.define(0, None, everywhere=True)
        last = self.threads - wave * lanes  # a workgroup's last wave may not be full
        if (last < lanes).any():
            machine.set_mask(EXEC, slice(None), np.arange(lanes) < last[:, None])
        return run(self.code, machine, self.kernel.entry, limit=self.limit, seed=self.seed)

    def _user_registers(self, machine: Machine, segment: int) -> int:
        """Set the scalar registers that the launch fills; return the next one."""
        directives = self.kernel.directives
        register = 0
        for name, count in _USER_REGISTERS:
            if directives.get(name, 0) <= 0:
                continue
            value = segment if name == "user_sgpr_kernarg_segment_ptr" else 0
            for word in range(count):
                _set(machine, register + word, value >> 32 * word & 0xFFFFFFFF)
            register += count
        return directives.get("user_sgpr_count", register)

    def _workgroup_registers(
        self, machine: Machine, groups: Array, waves: int, register: int
    ) -> None:
        x, rest = groups % self.grid[0], groups // self.grid[0]
        y, z = rest % self.grid[1], rest // self.grid[1]
        if self.program.gfx.startswith("gfx12"):
            _set(machine, TTMP0 + 9, np.repeat(x, waves))
            _set(machine, TTMP0 + 7, np.repeat(y | z << 16, waves))
            _set(machine, TTMP0 + 8, np.tile(np.arange(waves), len(groups)) << 25)
            return
        for axis, value in zip("xyz", (x, y, z), strict=True):
            if self.kernel.directives.get(f"system_sgpr_workgroup_id_{axis}", 0) > 0:
                _set(machine, register, np.repeat(value, waves))
                register += 1


def _set(machine: Machine, register: int, value: object) -> None:
    machine.set_scalar(register, slice(None), value)
    machine.define(SCALAR_KEY + register, None, everywhere=True)


def _vectors(directives: dict[str, int], program: Program) -> int:
    """Return how many vector registers the machine needs; accumulation ones start at 256."""
    used = directives.get("next_free_vgpr", -1)
    offset = directives.get("accum_offset", -1)
    if used < 0:
        return VECTORS
    if program.gfx == "gfx908":  # both kinds have as many, apart from each other
        return ACCUMULATION + used
    return ACCUMULATION + used - offset if 0 <= offset < used else max(used, 1)


def _aligned(content: bytes) -> Array:
    """Return a copy at an address that is a multiple of 64."""
    room = np.zeros(len(content) + 64, np.uint8)
    skip = -room.ctypes.data % 64
    aligned = room[skip : skip + len(content)]
    aligned[:] = np.frombuffer(content, np.uint8)
    return aligned
