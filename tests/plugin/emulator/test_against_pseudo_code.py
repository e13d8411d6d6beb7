"""Every handler against a source that is not ours, on random bits and edges; and the count of those that have one.

The sources: AMD's own pseudo-code, which tinygrad's wheel carries (a test-only dependency; without it these tests
are skipped); C's library, where the pseudo-code is known to be imprecise; published layouts of matrices
(test_matrix.py); compiled programs whose results IEEE 754 or C give (test_compiled_programs.py).
"""

from __future__ import annotations

import functools
import importlib.util
import math
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from pytest_rocm_attn.emulator.alu import ALU
from pytest_rocm_attn.emulator.assembly import read_assembly
from pytest_rocm_attn.emulator.build import step_of
from pytest_rocm_attn.emulator.control import IDLE
from pytest_rocm_attn.emulator.global_memory import CACHE_CONTROL
from pytest_rocm_attn.emulator.machine import EXEC, VCC
from pytest_rocm_attn.emulator.names import renamed
from pytest_rocm_attn.emulator.scalar import SALU
from pytest_rocm_attn.errors import EmulatorError

if importlib.util.find_spec("tinygrad") is None:
    pytest.skip("needs tinygrad, for AMD's pseudo-code", allow_module_level=True)


def beside_this(name: str) -> ModuleType:
    """Import a module of this folder, which is not a package, under the name by which others import it."""
    spec = importlib.util.spec_from_file_location(
        f"tests.plugin.emulator.{name}", Path(__file__).with_name(f"{name}.py")
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


# What pseudo_code and beside import, in their order.
for first in (
    "pseudo_values",
    "pseudo_functions",
    "pseudo_expressions",
    "random_state",
    "set_up",
    "expected",
):
    beside_this(first)
instructions, pseudo_code, beside = map(beside_this, ("instructions", "pseudo_code", "beside"))


def _nearest_even(x: float) -> float:
    return math.copysign(round(x), x) if math.isfinite(x) else x


def _part(x: float, bits: int = 24) -> float:
    return min(x - float(np.floor(x)), 1 - 2.0**-bits) if math.isfinite(x) else math.nan


def _power(x: float) -> float:
    return math.frexp(x)[1] if math.isfinite(x) else 0


def _scaled(x: float, power: float) -> float:
    try:
        return math.ldexp(x, int(power))
    except OverflowError:
        return math.copysign(math.inf, x)


def _of_turns(function: Callable[[float], float]) -> Callable[[float], float]:
    return lambda x: function(2 * math.pi * (x - round(x))) if math.isfinite(x) else math.nan


# Where the pseudo-code is known to be at odds with the hardware or with itself: what C's library says.
LIBRARY: dict[str, Callable[..., float]] = {
    # 2.0 ** S1 overflows in the pseudo-code
    **dict.fromkeys(("v_ldexp_f32", "v_ldexp_f16", "v_ldexp_f64"), _scaled),
    # adding 0.5 rounds, and loses the sign of a zero
    **dict.fromkeys(
        ("v_rndne_f32", "v_rndne_f16", "v_rndne_f64", "s_rndne_f32", "s_rndne_f16"), _nearest_even
    ),
    # it takes the exponent field, which denormals do not have
    **dict.fromkeys(("v_frexp_exp_i32_f32", "v_frexp_exp_i16_f16", "v_frexp_exp_i32_f64"), _power),
    # it rounds 2 pi and the product to float16
    "v_sin_f16": _of_turns(math.sin),
    "v_cos_f16": _of_turns(math.cos),
    # OpenCL's fract, for which LLVM emits it: less than 1
    "v_fract_f32": _part,
    "v_fract_f16": functools.partial(_part, bits=11),
    "v_fract_f64": functools.partial(_part, bits=53),
}
# Parts of the sequence for a division. By the pseudo-code, quotients near the ends of the range would be wrong:
# v_div_fmas scales by 2 ** 32, v_div_scale lets a large divisor overflow, v_div_fixup keeps a NaN.
DIVISION = frozenset(
    f"v_div_{step}_{kind}" for step in ("scale", "fmas", "fixup") for kind in ("f32", "f64")
)
# What changes the program counter or nothing that a program can see.
BRANCHES = ("s_branch", "s_cbranch_")
JUMPS = frozenset({"s_getpc_b64", "s_setpc_b64", "s_swappc_b64"})
MATRIX = re.compile(r"v_(mfma|wmma)_")
WITHOUT = frozenset(
    [
        "ds_swizzle_b32",  # its pseudo-code is a table in words; Triton's reductions use it
        "ds_read_b64_tr_b16",  # Triton's products on gfx950 use both
        "ds_read_b64_tr_b8",
        "v_accvgpr_mov_b32",
        "v_accvgpr_read_b32",
        "v_accvgpr_write_b32",
        "v_mac_f32",  # gfx90a's; AMD's description is of gfx950
        "v_mad_f32",
        "s_trap",  # a fault, of which there is a test
        "s_barrier_signal",
        "s_barrier_wait",
    ]
)


@functools.cache
def handled(family: str) -> list[tuple[Any, str]]:
    """Return each instruction of a family that a handler knows, with gfx9's name."""
    gfx, lanes = instructions.FAMILIES[family]
    found = []
    for one in instructions.described(family):
        head = f'\t.amdgcn_target "amdgcn-amd-amdhsa--{gfx}"\n\t.text\n\t'
        program = read_assembly(head + one.text + "\n")
        try:
            step_of(program.instructions[0], program, lanes)
        except EmulatorError:
            continue
        found.append((one, renamed(one.name)))
    return found


def is_effect_free(name: str) -> bool:
    return name in IDLE or name in CACHE_CONTROL


def is_wait(name: str) -> bool:
    return name.startswith(("s_waitcnt", "s_wait_"))


def compared(family: str) -> Iterator[tuple[Any, str]]:
    """Yield what ``Run`` can compare: each mnemonic once, memory instructions in each of their forms."""
    seen = set()
    for one, name in handled(family):
        apart = is_effect_free(name) or is_wait(name) or name in WITHOUT | DIVISION | JUMPS
        if apart or one.encoding == "SOPP" or MATRIX.match(name):
            continue
        memory = one.encoding in ("GLOBAL", "FLAT", "MUBUF", "BUFFER")
        key = (one.text if memory else one.name, one.encoding == "VOPC")
        if key not in seen:
            seen.add(key)
            yield one, name


def differences(one: Any, name: str, seed: int, gfx: str = "") -> list[str]:
    """Return what differs between the emulator and the source."""
    scalar = one.encoding in ("SOP1", "SOP2", "SOPC", "SOPK", "SMEM")
    run = beside.Run(
        one, instructions, seed=seed, waves=24 if scalar else 1, gfx=gfx, known=LIBRARY.get(name)
    )
    run.emulate()
    wrong = run.expect(pseudo_code, beside.formats(pseudo_code, run.machine.gfx))
    return [f"{run.text} ({run.machine.gfx}): {words}" for words in wrong[:2]]


def all_differences(family: str, part: int, parts: int) -> tuple[list[str], set[str]]:
    wrong, tried = [], set()
    for number, (one, name) in enumerate(compared(family)):
        if number % parts != part:
            continue
        wrong += differences(one, name, number)
        if re.search(r"_(fp8|bf8)", name) and family == "cdna" and "scalef32" not in name:
            wrong += differences(one, name, number, "gfx942")  # which has formats of its own
        tried.add(name)
    return wrong, tried


@pytest.mark.parametrize("family", list(instructions.FAMILIES))
def test_a_sample_of_the_handlers_does_what_its_source_says(family: str) -> None:
    wrong, tried = all_differences(family, 3, 12)
    assert not wrong, "\n".join(wrong)
    assert len(tried) > 40


@pytest.mark.slow
@pytest.mark.parametrize("family", list(instructions.FAMILIES))
def test_every_handler_does_what_its_source_says(family: str) -> None:
    wrong, tried = all_differences(family, 0, 1)
    assert not wrong, "\n".join(wrong)
    assert len(tried) > 700


def test_nearly_all_handlers_have_a_source_that_is_not_ours() -> None:
    """A new handler that AMD's description does not know, or without a source, fails here."""
    names = {name for family in instructions.FAMILIES for _, name in handled(family)}
    names |= ALU.keys() | SALU.keys()
    names = {name for name in names if not is_effect_free(name)}
    coded = {name for family in instructions.FAMILIES for one, name in compared(family) if one.code}
    branches = {name for name in names if name.startswith(BRANCHES)}
    matrices = {name for name in names if MATRIX.match(name)}
    sourced = coded | branches | matrices | set(LIBRARY) | DIVISION | JUMPS
    without = {name for name in names - sourced if not is_wait(name)}
    assert without == WITHOUT
    assert len(sourced & names) / len(names) > 0.97
    assert len(names) > 950


@pytest.mark.parametrize("family", list(instructions.FAMILIES))
def test_a_branch_goes_where_its_pseudo_code_says(family: str) -> None:
    gfx, lanes = instructions.FAMILIES[family]
    tried = 0
    for one, name in handled(family):
        if not name.startswith(BRANCHES):
            continue
        machine, _ = beside.machine_of(gfx, lanes, 8, tried)
        machine.set_mask(
            VCC, slice(None), np.arange(8)[:, None] % 2 + np.zeros((1, lanes), int) > 0
        )
        machine.set_mask(
            EXEC, slice(None), np.arange(8)[:, None] % 3 + np.zeros((1, lanes), int) > 0
        )
        program = read_assembly(
            f'\t.amdgcn_target "amdgcn-amd-amdhsa--{gfx}"\n\t.text\n\t{one.text}\n'
        )
        step = step_of(program.instructions[0], program, lanes)
        for wave in range(8):
            value = pseudo_code.Value
            after = pseudo_code.run(one.code, {
                "PC": value(4096, "i", 64), "SIMM16": value(3, "b", 16),
                "SCC": value(int(machine.scc[wave]), "u", 1),
                "VCCZ": value(int(wave % 2 == 0), "u", 1), "EXECZ": value(int(wave % 3 == 0), "u", 1),
            })  # fmt: skip
            taken = after["PC"].number != 4100
            got = step.control == "always"
            if step.decide is not None:
                got = bool(step.decide(machine, slice(wave, wave + 1))[0])
            assert got == taken, (name, wave)
        tried += 1
    assert tried == 7


@pytest.mark.parametrize("family", list(instructions.FAMILIES))
def test_a_jump_goes_where_its_pseudo_code_says(family: str) -> None:
    gfx, lanes = instructions.FAMILIES[family]
    value = pseudo_code.Value
    tried = set()
    for one, name in handled(family):
        if name not in JUMPS:
            continue
        machine, _ = beside.machine_of(gfx, lanes, 3, 1)
        mnemonic = one.text.split()[0]
        operands = "s[4:5]" if name == "s_setpc_b64" else "s[8:9]"
        operands += ", s[4:5]" if name == "s_swappc_b64" else ""
        program = read_assembly(
            f'\t.amdgcn_target "amdgcn-amd-amdhsa--{gfx}"\n\t.text\n\ts_nop 0\n\t{mnemonic} {operands}\n'
            "next:\n\ts_nop 0\n\ts_nop 0\nthere:\n\ts_endpgm\n"
        )
        there, following = program.address("there"), program.address("next")
        assert there is not None
        assert following is not None
        machine.set_scalar64(4, slice(None), np.array([there]).view(np.uint64))
        after = pseudo_code.run(one.code, {  # of an instruction of 4 bytes
            "PC": value(following - 4, "i", 64), "S0": value(there, "i", 64), "D0": value(0, "i", 64),
        })  # fmt: skip
        step = step_of(program.instructions[1], program, lanes)
        step.run(machine, slice(None))
        if step.decide is not None:
            places = step.decide(machine, slice(None))
            assert after["PC"].number == there
            assert places.tolist() == [program.labels["there"]] * 3
        if name != "s_setpc_b64":
            result = machine.scalar64(8, slice(None)).view(np.int64)
            assert result.tolist() == [after["D0"].number] * 3
        tried.add(name)
    assert tried == JUMPS


@pytest.mark.parametrize("family", list(instructions.FAMILIES))
def test_a_hint_changes_nothing(family: str) -> None:
    gfx, lanes = instructions.FAMILIES[family]
    machine, content = beside.machine_of(gfx, lanes, 2, 5)
    before = [one.copy() for one in (machine.vector, machine.scalar, machine.scc, machine.exec)]
    memory = content.clone()
    tried = set()
    for one, name in handled(family):
        if is_effect_free(name):
            program = read_assembly(
                f'\t.amdgcn_target "amdgcn-amd-amdhsa--{gfx}"\n\t.text\n\t{one.text}\n'
            )
            step_of(program.instructions[0], program, lanes).run(machine, slice(None))
            tried.add(name)
    after = (machine.vector, machine.scalar, machine.scc, machine.exec)
    assert all((a == b).all() for a, b in zip(before, after, strict=True))
    assert (content == memory).all()
    assert len(tried) > 8
