"""The programs that were launched last are kept ready, up to a number of instructions."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest

from pytest_rocm_attn.emulator import launch
from pytest_rocm_attn.errors import EmulatorError

Execute = Callable[..., Any]


def test_programs_are_kept_up_to_a_number_of_instructions(
    execute: Execute, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "_kept", {})
    monkeypatch.setattr(launch, "KEPT", 25)
    for number in (70, 71, 70, 72):  # 11 instructions each: 71 was used least recently
        execute(f"\tv_mov_b32_e32 v1, {number}\n" * 10)
    firsts = [code.program.instructions[0].text for code in launch._kept.values()]
    assert firsts == ["v_mov_b32_e32 v1, 70", "v_mov_b32_e32 v1, 72"]


def test_a_launch_leaves_the_collection_of_cycles_as_it_was(execute: Execute) -> None:
    assert gc.isenabled()
    execute("")
    assert gc.isenabled()
    gc.disable()
    try:
        execute("")
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_code_for_waves_of_64_is_refused_where_waves_have_32_lanes(
    assembled: Callable[..., str],
) -> None:
    with pytest.raises(EmulatorError, match="k on gfx1100 is compiled for waves of 64 lanes"):
        launch.code_of(assembled("", "gfx1100", wavefront_size32=0))
    assert launch.code_of(assembled("", "gfx1100", wavefront_size32=1)).lanes == 32


def test_accumulation_registers_of_gfx908_are_apart_from_the_others(execute: Execute) -> None:
    execute("\tv_accvgpr_write_b32 a63, v0\n\tv_accvgpr_read_b32 v63, a63\n", "gfx908")


def test_private_memory_by_a_buffer_resource_is_refused(assembled: Callable[..., str]) -> None:
    text = assembled(
        "\tbuffer_store_dword v0, off, s[0:3], 0 offset:4",
        "gfx1030",
        private_segment_fixed_size=16,
        user_sgpr_private_segment_buffer=1,
    )
    with pytest.raises(EmulatorError, match="k on gfx1030: it keeps registers or local arrays"):
        launch.launch(text, "k", (1, 1, 1), 32, [], [])
