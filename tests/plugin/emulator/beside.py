"""An instruction run by the emulator, and beside it AMD's pseudo-code, from the same random state.

All registers, the LDS, private memory and a piece of global memory are compared afterwards, so that what an
instruction must leave alone counts too. ``set_up`` makes the state, ``expected`` runs the pseudo-code.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from pytest_rocm_attn.emulator.assembly import read_assembly
from pytest_rocm_attn.emulator.build import step_of
from pytest_rocm_attn.emulator.machine import EXEC
from tests.plugin.emulator.expected import Expected
from tests.plugin.emulator.random_state import EVERY, REGISTERS, Bytes, Registers, machine_of

__all__ = ["Run", "formats", "machine_of"]


class Run(Expected):
    """One instruction on a random state, before and after."""

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
            mine = m.lds.values.content[wave * stride : (wave + 1) * stride]
            found += self.memory_differences("LDS", mine, one.content)
        found += self.memory_differences(
            "private memory", m.scratch.content, self.scratch.tobytes()
        )
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
