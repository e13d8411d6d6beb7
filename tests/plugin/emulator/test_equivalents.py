"""Which changes of machine code tools/emulator_equivalents.py calls changes without effect, and which it does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_rocm_attn.emulator.assembly import read_assembly
from pytest_rocm_attn.emulator.scheduler import Code

TOOL = Path(__file__).parents[3] / "tools" / "emulator_equivalents.py"
pytestmark = pytest.mark.skipif(not TOOL.is_file(), reason="tools/ is not in the sdist")


@pytest.fixture(scope="module")
def without_effect(script: Callable[[str], Any]) -> Callable[[Code, int, str], str]:
    found: Callable[[Code, int, str], str] = script("tools/emulator_equivalents.py").without_effect
    return found


def program(text: str) -> tuple[Code, int]:
    """Return a program, and the number of the instruction whose line starts with '>'."""
    lines = [line.strip() for line in text.split(";")]
    body = "\n".join(f"\t{line.lstrip('> ')}" if line[-1] != ":" else line for line in lines)
    target = '\t.amdgcn_target "amdgcn-amd-amdhsa--gfx942"\n'
    code = Code(read_assembly(f"{target}{body}\n\ts_endpgm\n"), 64)
    instructions = [line for line in lines if line[-1] != ":"]
    return code, next(i for i, line in enumerate(instructions) if line[0] == ">")


STORE = "global_store_dword v0, v1, s[4:5]"
WITHOUT = {
    "overwritten": f"> v_mov_b32_e32 v1, 0; v_mov_b32_e32 v1, 7; {STORE}",
    "overwritten on both ways": f"> s_mov_b32 s9, 0; s_cbranch_scc1 .L; s_mov_b32 s9, 1; .L:; s_mov_b32 s9, 2; v_mov_b32_e32 v1, s9; {STORE}",
    "read by nothing": f"> v_mov_b32_e32 v2, 0; {STORE}",
    "plus zero": f"> v_add_u32_e32 v1, 0, v1; {STORE}",
    "skips vector code": f"> s_cbranch_execz .L; v_mov_b32_e32 v1, 7; {STORE}; .L:",
    "waited for before": f"s_waitcnt vmcnt(0) lgkmcnt(1); v_mov_b32_e32 v2, 1; > s_waitcnt vmcnt(1); {STORE}",
    "high half of an address": "> s_and_b32 s5, s5, 0xffff; buffer_load_dword v1, v0, s[4:7], 0 offen",
}
WITH = {
    "read": f"> v_mov_b32_e32 v1, 0; {STORE}",
    "read in a loop": f".L:; {STORE}; > v_mov_b32_e32 v1, 0; s_cbranch_scc1 .L",
    "overwritten in some lanes": f"> v_mov_b32_e32 v1, 0; s_and_saveexec_b64 s[6:7], vcc; v_mov_b32_e32 v1, 7; s_mov_b64 exec, s[6:7]; {STORE}",
    "overwritten on one way": f"> s_mov_b32 s9, 0; s_cbranch_scc1 .L; s_mov_b32 s9, 1; .L:; v_mov_b32_e32 v1, s9; {STORE}",
    "plus zero into another": f"> v_add_u32_e32 v1, 0, v2; {STORE}",
    "zero minus": f"> v_sub_u32_e32 v1, 0, v1; {STORE}",
    "plus zero with SCC": "> s_add_i32 s9, s9, 0; s_cbranch_scc1 .L; .L:",
    "skips scalar code": f"> s_cbranch_execz .L; s_mov_b32 s9, 1; .L:; v_mov_b32_e32 v1, s9; {STORE}",
    "a load between the waits": f"s_waitcnt vmcnt(0); global_load_dword v1, v0, s[4:5]; > s_waitcnt vmcnt(0); {STORE}",
    "waited for less": f"s_waitcnt vmcnt(2); > s_waitcnt vmcnt(1); {STORE}",
    "low half of an address": "> s_and_b32 s4, s4, 0xffff; buffer_load_dword v1, v0, s[4:7], 0 offen",
    "a number": f"> s_and_b32 s5, s5, 0xffff; v_mov_b32_e32 v1, s5; {STORE}",
}


@pytest.mark.parametrize("text", WITHOUT.values(), ids=WITHOUT)
def test_a_change_without_effect_by_the_text_alone(
    text: str, without_effect: Callable[[Code, int, str], str]
) -> None:
    assert without_effect(*program(text), "dropped")


@pytest.mark.parametrize("text", WITH.values(), ids=WITH)
def test_a_change_that_may_have_an_effect(
    text: str, without_effect: Callable[[Code, int, str], str]
) -> None:
    assert not without_effect(*program(text), "dropped")


def test_another_constant_has_an_effect_where_a_dropped_one_has_none(
    without_effect: Callable[[Code, int, str], str],
) -> None:
    assert not without_effect(*program(WITHOUT["plus zero"]), "altered")
    assert without_effect(*program(WITHOUT["overwritten"]), "altered")
