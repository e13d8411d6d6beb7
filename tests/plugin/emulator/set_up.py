"""An instruction, and a random state in which it points at memory of its own."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from pytest_rocm_attn.emulator.machine import Machine
from pytest_rocm_attn.emulator.rows import Places
from tests.plugin.emulator.random_state import GLOBAL_BYTES, edged, machine_of


@dataclass
class SetUp:
    """One instruction and a random state.

    Attributes:
        one: the instruction; a ``Described``.
        machine: the emulator's state, which ``emulate`` changes.
        content: global memory.
        gfx: target, if not the family's.
        known: what C's library says of the sources, instead of the pseudo-code.
    """

    one: Any
    registers: Any
    seed: int = 0
    waves: int = 2
    gfx: str = ""
    known: Callable[..., float] | None = None
    machine: Machine = field(init=False)
    content: Any = field(init=False)

    def __post_init__(self) -> None:
        gfx, self.lanes = self.registers.FAMILIES[self.one.family]
        self.machine, self.content = machine_of(self.gfx or gfx, self.lanes, self.waves, self.seed)
        # The last word of a raw buffer's resource, as LLVM makes it.
        self.raw_buffer = 0x27000 if gfx.startswith("gfx9") else 0x31004000
        self.random = np.random.default_rng(self.seed + 1)
        self.start = self.content.data_ptr()
        self.offset = 16
        self.code = re.sub(r"\bD\.", "D0.", re.sub(r"//[^\n]*", "", self.one.code))
        self.code = self.code.replace("WAVE_MODE.GPR_IDX_EN", "gpr_idx_en")  # no register
        self.text = self.one.text
        scalar = self.one.encoding in ("SOP1", "SOP2", "SOPC", "SOPK", "SMEM")
        for name, first in () if scalar else self.registers.VECTORS.items():
            bits = self.bits_of(name)
            shape = (self.waves, self.lanes, 16)
            self.machine.vector[first : first + 16] = np.moveaxis(
                edged(self.random, shape, bits), 2, 0
            )
        for name, first in self.registers.SCALARS.items():
            words = edged(self.random, (self.waves, 4), self.bits_of(name))
            self.machine.scalar[first : first + 4] = words.T
        if re.search(r"_(sin|cos)_f32", self.one.name):  # in turns; the guide multiplies in float32
            first = self.registers.VECTORS["src0"]
            turns = self.random.uniform(-1, 1, self.machine.vector[first].shape)
            self.machine.vector[first] = turns.astype(np.float32).view(np.uint32)
        self.address()
        self.before = (
            self.machine.vector.copy(),
            self.machine.scalar.copy(),
            self.machine.scc.copy(),
        )
        self.lds = self.machine.lds.values.content.copy()
        self.scratch = self.machine.scratch.content.copy()
        self.memory = self.content.numpy().copy()

    def bits_of(self, name: str) -> int:
        """Return the width of the numbers that an operand holds."""
        form = self.one.formats.get({"data": "data", "address": "addr"}.get(name, name), "")
        match = re.search(r"(?:_|[A-Z])(16|64)$", form)
        if match is None:
            return 64 if self.one.widths.get(name) == 64 and "PK" not in form else 32
        return int(match[1])

    # --- where memory instructions point ---

    @property
    def is_memory(self) -> bool:
        return self.one.encoding in ("GLOBAL", "FLAT", "SCRATCH", "DS", "MUBUF", "BUFFER", "SMEM")

    def address(self) -> None:
        """Make each lane point at bytes of its own, at any place that the access allows."""
        name, m = self.one.name, self.machine
        if not self.is_memory or "permute" in name or "swizzle" in name:
            return
        two = "2addr" in name or re.match(r"ds_(read|write)2", name)
        spacing = 16 if "st64" in name or "stride64" in name else 64
        rows = np.arange(self.lanes)[None, :] + np.zeros((self.waves, 1), np.int64)
        if self.one.encoding == "SMEM":
            rows = rows + np.arange(self.waves)[:, None]
        elif self.one.encoding not in ("DS", "SCRATCH"):
            rows = rows + np.arange(self.waves)[:, None] * self.lanes
        step = (
            1 if re.search(r"byte|[ui]8", name) else 2 if re.search(r"short|[bui]16", name) else 4
        )
        jitter = self.random.integers(0, 16 // step, rows.shape) * step if not two else 0
        place = (rows * spacing + jitter).astype(np.int64)
        if self.one.encoding == "SCRATCH":
            place = self.random.integers(0, 32 // step, rows.shape) * step
        self.place = place
        if self.one.encoding == "SMEM":
            self.place = self.place[:, 0]
            self.scalar_address(self.start + self.place)
            return
        self.text += " offset0:1 offset1:7" if two else f" offset:{self.offset}"
        first = self.registers.VECTORS["address"]
        based = re.search(r", s\[32:33\]", self.text) is not None
        if self.one.encoding in ("GLOBAL", "FLAT") and not based:
            place = place + self.start
            m.vector[first + 1] = place >> 32
        if based:
            self.scalar_address(np.full(self.waves, self.start))
        if self.one.encoding in ("MUBUF", "BUFFER"):
            self.scalar_address(np.full(self.waves, self.start))
            m.scalar[34], m.scalar[35], m.scalar[44] = GLOBAL_BYTES, self.raw_buffer, 64
        m.vector[first] = place & 0xFFFFFFFF
        if "cmp" in name:
            self.agree()

    def scalar_address(self, address: Any) -> None:
        self.machine.scalar[32], self.machine.scalar[33] = address & 0xFFFFFFFF, address >> 32
        if "buffer" in self.one.name and self.one.encoding == "SMEM":
            self.machine.scalar[34], self.machine.scalar[35] = GLOBAL_BYTES, self.raw_buffer

    def agree(self) -> None:
        """Let memory hold what a compare and swap expects, for every other lane."""
        words = self.one.widths["vdata" if "vdata" in self.one.widths else "data"] // 32
        first = self.registers.VECTORS["data"]
        if self.one.encoding != "DS":
            words //= 2
            first += words
        size = 4 * words
        for wave in range(self.waves):
            for lane in range(0, self.lanes, 2):
                bits = self.machine.vector[first : first + words, wave, lane].tobytes()
                at = self.effective(wave, lane)
                if self.one.encoding == "DS":
                    at += wave * self.machine.lds.stride
                    values = np.frombuffer(bits, np.uint32)
                    self.machine.lds.store(Places(np.array(at), size), list(values), None)
                else:
                    at -= self.start
                    self.content[at : at + size] = torch.frombuffer(
                        bytearray(bits), dtype=torch.uint8
                    )

    def effective(self, wave: int, lane: int) -> int:
        """Return the address that the instruction has, by the ISA guides' formula."""
        place = int(self.place[wave] if self.place.ndim == 1 else self.place[wave, lane])
        start = int(self.start)
        if self.one.encoding == "SMEM":
            return start + place + 8
        if self.one.encoding in ("MUBUF", "BUFFER"):
            return start + place + 64 + self.offset
        if self.one.encoding in ("GLOBAL", "FLAT"):
            return start + place + self.offset
        return place + self.offset
