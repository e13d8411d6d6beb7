"""What an instruction does to a state by AMD's pseudo-code: variables in, registers and masks out."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from pytest_rocm_attn.emulator.machine import EXEC, M0, VCC
from tests.plugin.emulator.random_state import Bytes, Registers
from tests.plugin.emulator.set_up import SetUp


class Expected(SetUp):
    """What the pseudo-code makes of the state."""

    pseudo: Any
    functions: dict[str, Callable[..., Any]]

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
            "SRC1": self.value(9, 32),  # of s_set_gpr_idx_on
            "OFFSET": self.value(self.offset if "offset" in self.text else 0, 16),
            "OFFSET0": self.value(1, 8),
            "OFFSET1": self.value(7, 8),
            "OPSEL": self.value(0, 4),
            "NEG": self.value(1 if "neg_lo:[1,0,0]" in self.text else 0, 3),
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
        scalar[M0, wave] = after["M0"].bits

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
                if "swap" in one.name:
                    targets["S0"] = numbers.VECTORS["src0"]
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
        if re.search("store|write", one.name) and "_rtn_" not in one.name:
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
