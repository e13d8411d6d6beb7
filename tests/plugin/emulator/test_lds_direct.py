"""Loads from memory straight into LDS: where each lane's words go, and when they are there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from pytest_rocm_attn.errors import EmulationFault

Execute = Callable[..., Any]
LANES = 64
# s[2:3] points at x, s[4:5] at out; v0 is the lane, v1 four times that.
BEGIN = """
\ts_load_dwordx4 s[4:7], s[0:1], 0x0
\tv_lshlrev_b32_e32 v1, 2, v0
\ts_waitcnt lgkmcnt(0)
\ts_mov_b64 s[2:3], s[4:5]
\ts_mov_b64 s[4:5], s[6:7]
"""
# Each lane writes the word of LDS at v2 to its place of out.
END = """
\tds_read_b32 v3, v2
\ts_waitcnt lgkmcnt(0)
\tglobal_store_dword v1, v3, s[4:5]
"""
# The words at 256 of LDS, of whose lanes the odd ones are on. The rest of LDS is 7.
FILL = "\tv_mov_b32_e32 v4, 7\n\tv_add_u32_e32 v2, 0x100, v1\n\tds_write_b32 v2, v4\n"
ODD = "\ts_mov_b32 exec_lo, 0xaaaaaaaa\n\ts_mov_b32 exec_hi, 0xaaaaaaaa\n"
ALL = "\ts_mov_b64 exec, -1\n"
WAIT = "\ts_waitcnt vmcnt(0)\n"


def loaded(execute: Execute, body: str, x: torch.Tensor, gfx: str = "gfx942") -> list[int]:
    """Return what a body leaves in the 64 words of LDS from v2 on, which it sets."""
    out = torch.full((LANES,), -1, dtype=torch.int32)
    execute(BEGIN + body + END, gfx, tensors={"x": x, "out": out}, threads=LANES, lds=2048)
    found: list[int] = out.tolist()
    return found


def resource(bytes_of_x: int) -> str:
    """Return the code that makes s[8:11] a raw buffer over x."""
    return (
        "\ts_mov_b64 s[8:9], s[2:3]\n\ts_and_b32 s9, s9, 0xffff\n"
        f"\ts_mov_b32 s10, {bytes_of_x}\n\ts_mov_b32 s11, 0x27000\n"
    )


WORDS = torch.arange(1000, 1256, dtype=torch.int32)


@pytest.mark.parametrize(
    "load", ["global_load_lds_dword v1, s[2:3] offset:16", "global_load_lds_dword v[6:7], off"]
)
def test_each_lane_that_is_on_fills_its_own_word(execute: Execute, load: str) -> None:
    offset = 16 if "offset" in load else 0
    pointer = (
        "\tv_mov_b32_e32 v7, s3\n\tv_add_co_u32_e32 v6, vcc, s2, v1\n"
        "\tv_addc_co_u32_e32 v7, vcc, 0, v7, vcc\n"
    )
    place = f"\ts_movk_i32 m0, {0x100 - offset}\n"
    body = FILL + pointer + place + "\ts_waitcnt lgkmcnt(0)\n" + ODD + f"\t{load}\n" + ALL + WAIT
    expected = [1000 + lane + offset // 4 if lane % 2 else 7 for lane in range(LANES)]
    assert loaded(execute, body, WORDS) == expected


def test_a_lane_beyond_the_buffer_fills_its_word_with_zero(execute: Execute) -> None:
    body = (
        FILL + resource(4 * 40) + "\ts_movk_i32 m0, 0x100\n\ts_waitcnt lgkmcnt(0)\n"
        "\tbuffer_load_dword v1, s[8:11], 0 offen lds\n" + WAIT
    )
    expected = [1000 + lane if lane < 40 else 0 for lane in range(LANES)]
    assert loaded(execute, body, WORDS[:40].clone()) == expected


def test_the_scalar_offset_moves_the_source_alone(execute: Execute) -> None:
    body = (
        FILL
        + resource(1024)
        + "\ts_movk_i32 m0, 0x100\n\ts_movk_i32 s12, 0x40\n\ts_waitcnt lgkmcnt(0)\n"
        "\tbuffer_load_dword v1, s[8:11], s12 offen lds\n" + WAIT
    )
    assert loaded(execute, body, WORDS) == list(range(1016, 1016 + LANES))


def test_lanes_of_four_words_lie_sixteen_bytes_apart(execute: Execute) -> None:
    body = (
        "\tv_lshlrev_b32_e32 v4, 4, v0\n\ts_movk_i32 m0, 0x80\n"
        "\tglobal_load_lds_dwordx4 v4, s[2:3]\n" + WAIT + "\tv_add_u32_e32 v2, 0x280, v1\n"
    )
    found = loaded(execute, body, WORDS, "gfx950")
    assert found == list(range(1000 + (0x280 - 0x80) // 4, 1000 + (0x280 - 0x80) // 4 + LANES))


@pytest.mark.parametrize(("kind", "first"), [("ubyte", 200), ("sbyte", -56)])
def test_a_byte_fills_a_word(execute: Execute, kind: str, first: int) -> None:
    x = torch.arange(200, 200 + LANES).to(torch.uint8)
    body = f"{FILL}\ts_movk_i32 m0, 0x100\n\ts_waitcnt lgkmcnt(0)\n\tglobal_load_lds_{kind} v0, s[2:3]\n{WAIT}"
    expected = [first + lane if lane < 56 else lane - 56 for lane in range(LANES)]
    assert loaded(execute, body, x) == expected


def test_a_word_that_no_wait_covers_is_not_there_yet(execute: Execute) -> None:
    body = FILL + "\ts_movk_i32 m0, 0x100\n\t.loc 1 7 3\n\tglobal_load_lds_dword v1, s[2:3]\n"
    with pytest.raises(EmulationFault, match=r"before it has arrived: no wait covers.*kernel.py:7"):
        loaded(execute, body, WORDS)


# Wave 0 loads for wave 1.
SHARED = """
\ts_movk_i32 m0, 0x100
\tv_readfirstlane_b32 s12, v0
\ts_cmp_lg_u32 s12, 0
\ts_cbranch_scc1 .Lloaded
\tglobal_load_lds_dword v1, s[2:3]
.Lloaded:
"""


def test_another_wave_sees_a_word_after_the_wait_and_a_barrier(execute: Execute) -> None:
    out = torch.zeros(2 * LANES, dtype=torch.int32)
    tensors = {"x": WORDS, "out": out}
    theirs = "\tv_and_b32_e32 v2, 0xff, v1\n\tv_add_u32_e32 v2, 0x100, v2\n"
    right, late = WAIT + "\ts_barrier\n", "\ts_barrier\n" + WAIT
    execute(BEGIN + SHARED + right + theirs + END, tensors=tensors, threads=2 * LANES, lds=2048)
    assert out.tolist() == 2 * list(range(1000, 1000 + LANES))
    with pytest.raises(EmulationFault, match="race: wave 1 reads offset 256 of LDS, which wave 0"):
        execute(BEGIN + SHARED + late + theirs + END, tensors=tensors, threads=2 * LANES, lds=2048)


def test_words_beyond_lds_are_out_of_bounds(execute: Execute) -> None:
    body = "\ts_movk_i32 m0, 0x780\n\tglobal_load_lds_dword v1, s[2:3]\n" + WAIT
    with pytest.raises(
        EmulationFault, match=r"writes 4 bytes at offset 2048 of LDS, which has 2048"
    ):
        loaded(execute, body, WORDS)
