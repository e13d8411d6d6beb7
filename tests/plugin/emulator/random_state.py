"""Waves with a random state, half of whose numbers are edges, and their memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from pytest_rocm_attn.emulator.lds import Lds
from pytest_rocm_attn.emulator.machine import EXEC, M0, VCC, Machine
from pytest_rocm_attn.emulator.memory import Memory, Region

EVERY = slice(None)
LDS_BYTES, SCRATCH_BYTES, GLOBAL_BYTES = 8192, 64, 1 << 14
REGISTERS = 96  # vector registers of a wave
EDGES = {
    16: [0, 1, 0x8000, 0x7FFF, 0xFFFF, 0x3C00, 0xBC00, 0x7C00, 0xFC00, 0x7E00, 0x03FF, 0x0400, 17],
    32: [0, 1, 0x80000000, 0x7FFFFFFF, 0xFFFFFFFF, 31, 32, 33, 0x3F800000, 0xBF800000, 0x7F800000,
         0xFF800000, 0x7FC00000, 0x007FFFFF, 0x00800000, 0x4F000000, 0xCF000000, 0x0000FF00],
    64: [0, 1, 1 << 63, (1 << 63) - 1, (1 << 64) - 1, 63, 0x3FF0000000000000, 0x7FF0000000000000,
         0x7FF8000000000000, 0xBFE0000000000000, 1 << 32, 0x000FFFFFFFFFFFFF],
}  # fmt: skip


class Bytes:
    """Memory as the pseudo-code sees it: bytes from an address on."""

    def __init__(self, start: int, content: Any) -> None:
        self.start, self.content = start, bytearray(content.tobytes())

    def read(self, place: tuple[int, ...], bits: int) -> int:
        at = place[0] - self.start
        assert 0 <= at and at + bits // 8 <= len(self.content)
        return int.from_bytes(self.content[at : at + bits // 8], "little")

    def write(self, place: tuple[int, ...], value: int, bits: int) -> None:
        at = place[0] - self.start
        assert 0 <= at and at + bits // 8 <= len(self.content)
        self.content[at : at + bits // 8] = (value & (1 << bits) - 1).to_bytes(bits // 8, "little")


class Registers:
    """The vector registers of one wave: read as they were before, written beside them."""

    def __init__(self, vector: Any) -> None:
        self.before, self.after = vector, vector.copy()

    def read(self, place: tuple[int, ...], bits: int) -> int:
        lane, register = place
        return int(self.before[register, lane]) & (1 << bits) - 1

    def write(self, place: tuple[int, ...], value: int, bits: int) -> None:
        lane, register = place
        keep = ~((1 << bits) - 1) & 0xFFFFFFFF
        self.after[register, lane] = (
            int(self.after[register, lane]) & keep | value & (1 << bits) - 1
        )


def edged(random: Any, shape: tuple[int, ...], bits: int) -> Any:
    """Return words [.., registers] of 32 bits, half of the numbers of a width in them edges."""
    words = random.integers(0, 1 << 32, shape, dtype=np.uint64).astype(np.uint32)
    numbers = words.view(f"u{bits // 8}")
    picks = np.array(EDGES[bits], np.uint64).astype(numbers.dtype)
    chosen = picks[random.integers(0, len(picks), numbers.shape)]
    edges = np.where(random.integers(0, 2, numbers.shape), chosen, numbers)
    return np.ascontiguousarray(edges).view(np.uint32)


def machine_of(gfx: str, lanes: int, waves: int, seed: int) -> tuple[Machine, Any]:
    """Return waves of one workgroup each with a random state, all defined, and their memory."""
    random = np.random.default_rng(seed)
    content = torch.from_numpy(random.integers(0, 256, GLOBAL_BYTES, dtype=np.uint8))
    start = content.data_ptr()
    region = Region(start, start + GLOBAL_BYTES, "content", 1, start)
    numbers = np.arange(waves)
    lds = Lds(waves, LDS_BYTES, 1, 1)
    machine = Machine(
        numbers, numbers, lanes, REGISTERS, lds, Memory([region], judged=False), SCRATCH_BYTES, gfx
    )
    machine.undefined.clear()
    machine.vector[...] = random.integers(0, 1 << 32, machine.vector.shape, dtype=np.uint64)
    machine.scalar[: VCC + 2] = random.integers(0, 1 << 32, (VCC + 2, waves), dtype=np.uint64)
    machine.scalar[EXEC + 1] = 0  # stays so where waves have 32 lanes
    machine.scalar[M0] = random.integers(0, 1 << 32, waves, dtype=np.uint64)
    machine.scc[...] = random.integers(0, 2, waves).astype(bool)
    for memory in (lds.values, machine.scratch):
        memory.content[...] = random.integers(0, 256, memory.content.shape)
    words = lds.values.content.view(np.uint32)
    words[::2] = random.choice(np.array(EDGES[32], np.uint32), len(words[::2]))
    for shadow in (lds.shadow, machine.scratch_shadow):
        shadow.content[...] = 0
    masks = random.integers(0, 2, (waves, lanes)).astype(bool)
    masks[1:2] = True
    machine.set_mask(EXEC, EVERY, masks)
    return machine, content
