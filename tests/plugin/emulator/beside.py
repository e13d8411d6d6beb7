"""An instruction run by the emulator, and beside it AMD's pseudo-code, from the same random state.

All registers, the LDS, private memory and a piece of global memory are compared afterwards, so that what an
instruction must leave alone counts too.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from pytest_rocm_attn.emulator.assembly import read_assembly
from pytest_rocm_attn.emulator.build import step_of
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
    lds._bytes[...] = random.integers(0, 256, lds._bytes.shape)
    lds._shadow[...] = 0
    machine.scratch[...] = random.integers(0, 256, machine.scratch.shape)
    machine.scratch_shadow[...] = 0
    masks = random.integers(0, 2, (waves, lanes)).astype(bool)
    masks[1:2] = True
    machine.set_mask(EXEC, EVERY, masks)
    return machine, content


@dataclass
class Run:
    """One instruction on a random state, before and after.

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
        self.random = np.random.default_rng(self.seed + 1)
        self.start = self.content.data_ptr()
        self.offset = 16
        self.code = re.sub(r"\bD\.", "D0.", re.sub(r"//[^\n]*", "", self.one.code))
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
        self.lds = self.machine.lds._bytes.copy()
        self.scratch = self.machine.scratch.copy()
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
            m.scalar[34], m.scalar[35], m.scalar[44] = GLOBAL_BYTES, 0x27000, 64
        m.vector[first] = place & 0xFFFFFFFF
        if "cmp" in name:
            self.agree()

    def scalar_address(self, address: Any) -> None:
        self.machine.scalar[32], self.machine.scalar[33] = address & 0xFFFFFFFF, address >> 32
        if "buffer" in self.one.name and self.one.encoding == "SMEM":
            self.machine.scalar[34], self.machine.scalar[35] = GLOBAL_BYTES, 0x27000

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
                    self.machine.lds._bytes[at : at + size] = np.frombuffer(bits, np.uint8)
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

    # --- both sides ---

    def emulate(self) -> None:
        """Run the instruction on the emulator."""
        gfx = self.machine.gfx
        program = read_assembly(
            f'\t.amdgcn_target "amdgcn-amd-amdhsa--{gfx}"\n\t.text\n\t{self.text}\n'
        )
        step = step_of(program.instructions[0], program, self.lanes)
        with np.errstate(all="ignore"):
            step.run(self.machine, EVERY)

    def expect(self, pseudo: Any, functions: dict[str, Callable[..., Any]]) -> list[str]:
        """Run the pseudo-code, and return where the emulator's state is another one.

        Args:
            pseudo: the module ``pseudo_code``.
            functions: conversions whose format depends on the target.
        """
        vector, scalar, scc = (one.copy() for one in self.before)
        memory = Bytes(self.start, self.memory)
        width = {number: 32 for number in range(REGISTERS)}
        self.pseudo, self.functions = pseudo, functions
        lds: list[Bytes] = []
        whole = "laneId" not in self.code and "VGPR[" in self.code
        for wave in range(self.waves):
            stride = self.machine.lds.stride
            lds.append(Bytes(0, self.lds[wave * stride : (wave + 1) * stride]))
            registers = Registers(self.before[0][:, wave])
            if (
                self.one.encoding in ("SOP1", "SOP2", "SOPC", "SOPK", "SMEM")
                or whole
                or self.one.name.startswith("v_s_")
            ):
                self.once(wave, registers, memory, scalar, scc)
                vector[:, wave] = registers.after
            else:
                self.each_lane(wave, registers, memory, lds[-1], scalar, scc, width)
                vector[:, wave] = registers.after
        return self.differences(vector, scalar, scc, memory, lds, width)

    def value(self, bits: int, width: int) -> Any:
        return self.pseudo.Value(bits & (1 << width) - 1, "b", width)

    def words(self, array: Any, first: int, bits: int, *place: int) -> int:
        """Return registers from a first one on as one number."""
        count = max(1, -(-bits // 32))
        return (
            sum(int(array[(first + i, *place)]) << 32 * i for i in range(count)) & (1 << bits) - 1
        )

    def common(self, wave: int) -> dict[str, Any]:
        scalar = self.before[1]
        full = 64 if self.lanes == 64 else 32
        v = {
            "SCC": self.pseudo.TRUE if self.before[2][wave] else self.pseudo.FALSE,
            "VCC": self.value(self.words(scalar, VCC, full, wave), 64),
            "EXEC": self.value(self.words(scalar, EXEC, full, wave), 64),
            "M0": self.value(int(scalar[M0, wave]), 32),
            "WAVE64": self.pseudo.TRUE if self.lanes == 64 else self.pseudo.FALSE,
            "WAVE32": self.pseudo.FALSE if self.lanes == 64 else self.pseudo.TRUE,
            "SIMM16": self.value(0x1234, 16),
            "SIMM32": self.value(0x40490FDB, 32),
            "OFFSET": self.value(self.offset if "offset" in self.text else 0, 16),
            "OFFSET0": self.value(1, 8),
            "OFFSET1": self.value(7, 8),
            "OPSEL": self.value(0, 4),
            "OPSEL_HI": self.value(0, 3),
            "ROUND_MODE": self.value(0, 2),
            "ROUND_NEAREST_EVEN": self.value(0, 2),
            "ROUND_TOWARD_ZERO": self.value(3, 2),
            "UNDERFLOW_F32": self.pseudo.made(0.0, "f", 32),
            "OVERFLOW_F32": self.pseudo.made(math.inf, "f", 32),
            "UNDERFLOW_F64": self.pseudo.made(0.0, "f", 64),
            "OVERFLOW_F64": self.pseudo.made(math.inf, "f", 64),
            "SDWA_SRC0_SEL": self.value(0, 3),
            "INST": self.value(0, 32),
        }
        v["EXEC_LO"] = self.value(v["EXEC"].bits, 32)
        v |= {f"BYTE{i}": self.value(i, 3) for i in range(4)}
        v |= {f"WORD{i}": self.value(4 + i, 3) for i in range(2)}
        v |= dict.fromkeys(("SADDR", "SRSRC", "SOFFSET", "VADDR", "v_addr", "s_saddr", "vgpr_a",
                            "sgpr_o", "sgpr_base", "offset", "flat_scratch", "v_addr_off",
                            "s_saddr_off", "FLAT_SCRATCH", "SBASE"), self.value(0, 64))  # fmt: skip
        return v

    def width_of(self, name: str) -> int:
        """Return the bits of an operand; a mask of lanes has as many as there are lanes."""
        width: int = self.one.widths[name]
        mask = self.one.kinds[name].startswith("OPR_SREG") and width == 64
        return self.lanes if mask and self.one.encoding.startswith("VOP") else max(width, 32)

    def sources(self, wave: int, lane: int | None) -> dict[str, Any]:
        """Return S0, S1, S2 and D0 as they were."""
        found = {}
        for name, number in (("src0", 0), ("src1", 1), ("src2", 2)):
            if name in self.one.widths:
                found[f"S{number}"] = self.value(
                    self.operand(name, wave, lane), self.width_of(name)
                )
        if "vdst" in self.one.widths and lane is not None:
            bits = max(32, self.one.widths["vdst"])
            first = self.registers.VECTORS["vdst"]
            found["D0"] = self.value(self.words(self.before[0], first, bits, wave, lane), bits)
        return found

    def is_scalar(self, name: str) -> bool:
        return re.search(rf"\bs\[?{self.registers.SCALARS.get(name, 999)}\b", self.text) is not None

    def operand(self, name: str, wave: int, lane: int | None) -> int:
        bits = self.width_of(name)
        if self.is_scalar(name):
            return self.words(self.before[1], self.registers.SCALARS[name], bits, wave)
        return self.words(self.before[0], self.registers.VECTORS[name], bits, wave, lane or 0)

    def run_code(self, variables: dict[str, Any], stores: dict[str, Any]) -> dict[str, Any]:
        if self.known is not None:
            with np.errstate(over="ignore"):
                return variables | {"D0": self.by_library(variables)}
        code = re.sub(r"TTBL = \{[^}]*\}", f"TTBL = {self.registers.TABLE}U", self.code)
        return dict(self.pseudo.run(code, variables, self.functions, stores))

    def by_library(self, variables: dict[str, Any]) -> Any:
        """Return D0 by C's library."""
        assert self.known is not None
        fields = ("src0", "src1")[: 2 if "src1" in self.one.widths else 1]
        numbers = []
        for field_name in fields:
            form = re.search(r"_([FIU])(\d+)$", self.one.formats[field_name])
            assert form is not None
            kind, width = form[1].lower(), int(form[2])
            if "ldexp" in self.one.name and field_name == "src1":
                kind = "i"
            numbers.append(
                variables["S0" if field_name == "src0" else "S1"].as_type(kind, width).number
            )
        form = re.search(
            r"_([FI])(\d+)$", self.one.formats["vdst" if "vdst" in self.one.formats else "sdst"]
        )
        assert form is not None
        return self.pseudo.made(self.known(*numbers), form[1].lower(), int(form[2]))

    def once(self, wave: int, registers: Registers, memory: Bytes, scalar: Any, scc: Any) -> None:
        """Scalar instructions, and those whose pseudo-code goes over all lanes."""
        one, numbers = self.one, self.registers
        v = self.common(wave) | self.sources(wave, None)
        target, bits = numbers.SCALARS["sdst"], one.widths.get("sdst", one.widths.get("vdst", 32))
        if one.encoding == "SOPK":
            v["S0"], v["S1"] = self.value(self.words(scalar, target, 32, wave), 32), v["SIMM16"]
            if "cmpk" not in one.name:
                v["S0"] = v["S1"]
        v["D0"] = self.value(self.words(scalar, target, max(bits, 32), wave), max(bits, 32))
        names = numbers.VECTORS
        v |= {"SRC0": self.value(names["src0"], 32), "VDST": self.value(names["vdst"], 32)}
        v |= {"DATA0": self.value(names["data"], 32), "OFFSET": self.value(0, 16)}
        if one.encoding == "DS":
            v["ADDR"] = self.value(names["address"], 32)
        functions = dict(self.functions)
        if one.encoding == "SMEM":
            address = self.value(self.effective(wave, 0), 64)
            bits = one.widths["sdata"]
            v |= {"ADDR": address, "SDATA": self.value(0, bits)}
            functions |= dict.fromkeys(
                (
                    "CalcGlobalAddr",
                    "CalcBufferAddr",
                    "CalcScalarGlobalAddr",
                    "CalcScalarBufferAddr",
                ),
                lambda *_: address,
            )
        self.functions = functions
        after = self.run_code(v, {"VGPR": registers, "MEM": memory})
        name = "SDATA" if one.encoding == "SMEM" else "D0"
        if ("sdst" in one.widths or "sdata" in one.widths or self.is_scalar("sdst")) and (
            re.search(rf"\b{name}\b", self.code)
            and one.encoding != "SOPC"
            and "cmpk" not in one.name
        ):
            bits = max(bits, 32)
            result = after[name].bits & (1 << bits) - 1
            for i in range(bits // 32):
                scalar[target + i, wave] = result >> 32 * i & 0xFFFFFFFF
        scc[wave] = bool(after["SCC"])
        self.set_masks(wave, scalar, after)

    def set_masks(self, wave: int, scalar: Any, after: dict[str, Any]) -> None:
        for register, name in ((VCC, "VCC"), (EXEC, "EXEC")):
            for i in range(self.lanes // 32):
                scalar[register + i, wave] = after[name].bits >> 32 * i & 0xFFFFFFFF

    def each_lane(
        self, wave: int, registers: Registers, memory: Bytes, lds: Bytes, scalar: Any, scc: Any,
        width: dict[int, int],
    ) -> None:  # fmt: skip
        """Instructions whose pseudo-code says what one lane does."""
        one, numbers = self.one, self.registers
        common = self.common(wave)
        exec_before = common["EXEC"].bits
        carry_in = None
        if self.is_scalar("src2") and one.encoding in ("VOP3SD", "VOP3"):
            carry_in = self.operand("src2", wave, None)
        if carry_in is not None:
            common["VCC"] = self.value(carry_in, 64)
        masks = {"VCC": 0, "EXEC": 0, "D0": 0}
        for lane in range(self.lanes):
            if not exec_before >> lane & 1:
                continue
            v = common | self.sources(wave, lane) | {"laneId": self.value(lane, 32)}
            v |= {"SRC0": self.value(numbers.VECTORS["src0"], 32)}
            v |= {"VDST": self.value(numbers.VECTORS["vdst"], 32)}
            if one.encoding == "VOPC" or (one.encoding == "VOP3" and one.name.startswith("v_cmp")):
                v["D0"] = self.value(0, 64)
            stores = {"VGPR": registers, "MEM": lds if one.encoding == "DS" else memory}
            targets: dict[str, int] = {}
            if self.is_memory:
                targets = self.memory_variables(wave, lane, v)
                if one.encoding == "SCRATCH":
                    row = wave * self.lanes + lane
                    stride = self.machine.scratch_stride
                    own = Bytes(0, self.scratch[row * stride : (row + 1) * stride])
                    stores["MEM"] = own
            elif "vdst" in one.widths and not one.name.startswith("v_cmp"):
                targets = {"D0": numbers.VECTORS["vdst"]}
            after = self.run_code(v, stores)
            if one.encoding == "SCRATCH":
                self.scratch[row * stride : (row + 1) * stride] = np.frombuffer(
                    own.content, np.uint8
                )
            for name in masks:
                masks[name] |= (after[name].bits >> lane & 1) << lane if name in after else 0
            if "div_scale" in one.name:
                masks["VCC"] = masks["VCC"] & ~(1 << lane) | (after["VCC"].bits & 1) << lane
            if "D1" in after:
                masks["VCC"] = masks["VCC"] & ~(1 << lane) | (after["D1"].bits & 1) << lane
            for name, first in targets.items():
                if re.search(rf"\b{name}\b", self.code) is None or name not in after:
                    continue
                result = after[name]
                bits = min(
                    result.width, max(32, one.widths.get("vdst", one.widths.get("vdata", 32)))
                )
                for i in range(max(1, bits // 32)):
                    old = int(registers.after[first + i, lane])
                    keep = 0xFFFFFFFF if bits >= 32 else (1 << bits) - 1
                    width[first + i] = min(bits, 32)
                    new = result.bits >> 32 * i & keep
                    registers.after[first + i, lane] = old & ~keep & 0xFFFFFFFF | new
        self.lane_masks(wave, scalar, masks)

    def lane_masks(self, wave: int, scalar: Any, masks: dict[str, int]) -> None:
        """Set the masks of lanes that a vector instruction writes, one bit a lane."""
        one = self.one
        words = range(self.lanes // 32)
        code = self.code
        outputs: list[tuple[int, int]] = []
        if one.encoding == "VOPC" or (one.encoding == "VOP3" and one.name.startswith("v_cmp")):
            target = VCC if one.encoding == "VOPC" else self.registers.SCALARS["sdst"]
            if "cmpx" in one.name:
                outputs.append((EXEC, masks["EXEC"]))
            if "cmpx" not in one.name or one.family == "cdna":
                outputs.append((target, masks["D0"]))
        elif one.encoding == "VOP3SD":
            outputs.append((self.registers.SCALARS["sdst"], masks["VCC"]))
        elif re.search(r"\bVCC(\.u64\[laneId\])? =", code):
            outputs.append((VCC, masks["VCC"]))
        for register, bits in outputs:
            for i in words:
                scalar[register + i, wave] = bits >> 32 * i & 0xFFFFFFFF

    def memory_variables(self, wave: int, lane: int, v: dict[str, Any]) -> dict[str, int]:
        """Add what a memory instruction's pseudo-code names; return what it may write, with registers."""
        one, numbers = self.one, self.registers
        address = self.effective(wave, lane)
        named = "OFFSET" in self.code and "Calc" not in self.code
        base = address - self.offset if named else address
        v["ADDR"] = self.value(base, 64)
        if one.encoding == "DS":
            base = int(self.place[wave, lane])
            explicit = "OFFSET" in self.code
            v["ADDR"] = self.value(base if explicit else base + self.offset, 64)
            v["vgpr_a"] = self.value(base, 64)
            v["offset"] = self.value(self.offset, 16)
            if "CalcDsAddr(ADDR.b32, OFFSET0" in self.code:  # one offset of 16 bits, as two bytes
                v |= {"OFFSET0": self.value(self.offset, 8), "OFFSET1": self.value(0, 8)}

            def in_lds(start: Any, *offsets: Any) -> Any:
                return self.value(
                    start.bits + sum(part.bits << 8 * i for i, part in enumerate(offsets)), 64
                )

            self.functions = {**self.functions, "CalcDsAddr": in_lds}
        else:
            here = self.value(address, 64)
            names = ("CalcGlobalAddr", "CalcBufferAddr", "CalcFlatAddr", "CalcScratchAddr")
            self.functions = {**self.functions, **dict.fromkeys(names, lambda *_: here)}
        field_name = "vdata" if "vdata" in one.widths else "data"
        if field_name in one.widths:
            bits = max(32, one.widths[field_name])
            given = self.words(self.before[0], numbers.VECTORS["data"], bits, wave, lane)
            v |= dict.fromkeys(("DATA", "VDATA"), self.value(given, bits))
        if "data1" in one.widths:
            bits = max(32, one.widths["data1"])
            second = self.words(self.before[0], numbers.VECTORS["data1"], bits, wave, lane)
            v["DATA2"] = self.value(second, bits)
        target = numbers.VECTORS["data" if "vdata" in one.widths else "vdst"]
        if "store" in one.name or "write" in one.name:
            return {}
        if "atomic" in one.name and not self.text_returns():
            return {}
        if "vdst" not in one.widths and "vdata" not in one.widths:
            return {}
        bits = max(32, one.widths.get("vdst", one.widths.get("vdata", 32)))
        old = self.value(self.words(self.before[0], target, bits, wave, lane), bits)
        name = "VDATA" if "load" in one.name and one.encoding != "DS" else "RETURN_DATA"
        v[name] = old
        return {name: target}

    def text_returns(self) -> bool:
        return self.registers.RETURNS[self.one.family] in self.text

    # --- comparison ---

    def differences(
        self, vector: Any, scalar: Any, scc: Any, memory: Bytes, lds: list[Bytes],
        width: dict[int, int],
    ) -> list[str]:  # fmt: skip
        """Return what differs between the emulator's state and the expected one."""
        found = []
        m = self.machine
        keep = np.array(
            [0xFFFFFFFF if width[i] >= 32 else (1 << width[i]) - 1 for i in range(REGISTERS)]
        )
        wrong = (m.vector ^ vector) & keep[:, None, None].astype(np.uint32) != 0
        for register, wave, lane in np.argwhere(wrong):
            if not self.near(int(register), int(wave), int(lane), vector, int(keep[register])):
                found.append(
                    f"v{register} of lane {lane}: {int(m.vector[register, wave, lane]):#x}, expected"
                    f" {int(vector[register, wave, lane]):#x}, of {self.shown(int(wave), int(lane))}"
                )
        compared = EXEC + self.lanes // 32  # waves of 32 lanes have no upper half of EXEC
        for register, wave in np.argwhere(m.scalar[:compared] != scalar[:compared]):
            got, wanted = int(m.scalar[register, wave]), int(scalar[register, wave])
            if not self.alike(got, wanted, self.form("sdst")):
                sources = self.shown(int(wave), None)
                found.append(f"s{register}: {got:#x}, expected {wanted:#x}, of {sources}")
        found += [f"SCC of wave {w}: {m.scc[w]}, expected {scc[w]}, of {self.shown(int(w), None)}"
                  for w in np.flatnonzero(m.scc != scc)]  # fmt: skip
        if m.exec_is_full != bool(m.exec.all()):
            found.append("exec_is_full is wrong")
        found += self.memory_differences("global memory", self.content.numpy(), memory.content)
        for wave, one in enumerate(lds):
            stride = m.lds.stride
            mine = m.lds._bytes[wave * stride : (wave + 1) * stride]
            found += self.memory_differences("LDS", mine, one.content)
        found += self.memory_differences("private memory", m.scratch, self.scratch.tobytes())
        return found

    def memory_differences(self, what: str, got: Any, wanted: Any) -> list[str]:
        """Return the first byte that is another one; a NaN is a NaN in what float atomics write."""
        ours, theirs = np.asarray(got).ravel(), np.frombuffer(bytes(wanted), np.uint8)
        wrong = ours != theirs
        if wrong.any() and (match := re.search(r"_(f16|bf16|f32|f64)$", self.one.name)):
            kind = {"f16": "u2", "bf16": "u2", "f32": "u4", "f64": "u8"}[match[1]]
            pairs = zip(ours.view(kind).tolist(), theirs.view(kind).tolist(), strict=True)
            form = match[1]
            wrong = np.array([a != b and not _near(a, b, form, self) for a, b in pairs])
            ours, theirs = ours.view(kind), theirs.view(kind)
        if not wrong.any():
            return []
        place = int(np.flatnonzero(wrong)[0])
        return [f"{what} at {place}: {int(ours[place]):#x}, expected {int(theirs[place]):#x}"]

    def shown(self, wave: int, lane: int | None) -> str:
        return str({name: hex(value.bits) for name, value in self.sources(wave, lane).items()})

    def form(self, name: str) -> str:
        match = re.search(
            r"(?:NUM_|PK2_|PK4_)(F16|F32|F64|BF16|FP8|BF8)$", self.one.formats.get(name, "")
        )
        return match[1].lower() if match else ""

    def near(self, register: int, wave: int, lane: int, vector: Any, keep: int) -> bool:
        form = self.form("vdst")
        if form == "f64":
            first = self.registers.VECTORS["vdst"]
            low = first + (register - first) // 2 * 2
            pair = [int(one[low, wave, lane]) | int(one[low + 1, wave, lane]) << 32
                    for one in (self.machine.vector, vector)]  # fmt: skip
            return self.alike(pair[0], pair[1], form)
        both = (self.machine.vector, vector)
        got, wanted = (int(one[register, wave, lane]) & keep for one in both)
        return self.alike(got, wanted, form)

    def alike(self, got: int, wanted: int, form: str) -> bool:
        """Whether two results are the same: a NaN is a NaN; an elementary function may be an ulp off."""
        if got == wanted:
            return True
        if form in ("fp8", "bf8"):  # whichever NaN
            last = 126 if form == "fp8" else 124  # what is not a NaN
            pairs = [(got >> s & 255, wanted >> s & 255) for s in (0, 8, 16, 24)]
            return all(a == b or min(a & 127, b & 127) > last for a, b in pairs)
        if form in ("f16", "bf16"):
            halves = [((got >> s & 0xFFFF), (wanted >> s & 0xFFFF)) for s in (0, 16)]
            return all(a == b or _near(a, b, form, self) for a, b in halves)
        return form != "" and _near(got, wanted, form, self)


def _near(got: int, wanted: int, form: str, run: Run) -> bool:
    if form == "bf16":
        got, wanted, form = got << 16, wanted << 16, "f32"
    code, size = {"f16": ("<e", 2), "f32": ("<f", 4), "f64": ("<d", 8)}[form]
    x, y = (struct.unpack(code, bits.to_bytes(size, "little"))[0] for bits in (got, wanted))
    if math.isnan(x) and math.isnan(y):
        return True
    name = run.one.name
    if "rndne" in name and x == y == 0:  # the guide adds 0.5 and rounds down, which loses the sign
        return True
    if re.search(r"_(sin|cos)_", name):
        return bool(abs(x - y) < 1e-6)
    approximate = re.search(r"_(exp|log|rcp|rsq|sqrt)_", name) is not None
    return approximate and abs(got - wanted) <= 1 and x * y != 0


def formats(pseudo: Any, gfx: str) -> dict[str, Callable[..., Any]]:
    """Return the conversions of fp8 numbers that the pseudo-code names, by torch's formats.

    gfx942 has its own kinds, without a negative zero and infinities.
    """
    fnuz = gfx == "gfx942"
    types = {
        "fp8": torch.float8_e4m3fnuz if fnuz else torch.float8_e4m3fn,
        "bf8": torch.float8_e5m2fnuz if fnuz else torch.float8_e5m2,
    }
    wide = {"f32": ("f", 32), "f16": ("f", 16), "bf16": ("bf", 16)}

    def power(scale: Any | None) -> int:
        return 0 if scale is None else scale.bits - 127

    def from_byte(kind: str, to: str) -> Callable[..., Any]:
        def convert(value: Any, scale: Any | None = None) -> Any:
            byte = torch.tensor([value.bits], dtype=torch.uint8).view(types[kind])
            number = float(np.ldexp(np.float64(byte.to(torch.float64).item()), power(scale)))
            return pseudo.made(number, *wide[to])

        return convert

    def to_byte(kind: str) -> Callable[..., Any]:
        def convert(value: Any, scale: Any | None = None) -> Any:
            number = np.float32(np.ldexp(np.float64(value.number), -power(scale)))
            byte = torch.tensor([float(number)], dtype=torch.float32).to(types[kind])
            bits = int(byte.view(torch.uint8).item())
            if kind == "fp8" and not fnuz and abs(number) >= 464:  # where torch stops at 448
                bits = 0x7F | bits & 0x80
            return pseudo.Value(bits, "b", 8)

        return convert

    found: dict[str, Callable[..., Any]] = {}
    for kind in types:
        for name in wide:
            for suffix in ("", "_scale"):
                found[f"{kind}_to_{name}{suffix}"] = from_byte(kind, name)
                found[f"{name}_to_{kind}{suffix}"] = to_byte(kind)
    return found
