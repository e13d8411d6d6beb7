"""Waves that part and meet again keep their own registers, and their own undefined bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from pytest_rocm_attn.errors import EmulationFault, EmulatorError

Execute = Callable[..., Any]

# s2 is the workgroup. Workgroups 0 and 2 go to .even; v1 is where a lane of a workgroup stores.
PARTED = """
	s_load_dwordx2 s[4:5], s[0:1], 0x0
	s_lshl_b32 s6, s2, 6
	v_or_b32_e32 v1, s6, v0
	v_lshlrev_b32_e32 v1, 2, v1
	s_waitcnt lgkmcnt(0)
	s_bitcmp1_b32 s2, 0
	s_cbranch_scc0 .even
	v_mov_b32_e32 v2, s2
	{odd}
	s_branch .join
.even:
	{even}
.join:
	{after}
"""
STORE = "global_store_dword v1, v2, s[4:5]"


def parted(execute: Execute, *, odd: str = "", even: str = "", after: str = STORE) -> torch.Tensor:
    out = torch.full((4, 64), -1, dtype=torch.int32)
    execute(PARTED.format(odd=odd, even=even, after=after), tensors={"out": out}, grid=(4, 1, 1))
    return out


def test_waves_that_part_write_their_own_registers(execute: Execute) -> None:
    out = parted(execute, even="v_mov_b32_e32 v2, 40")
    assert out[:, 0].tolist() == out[:, 63].tolist() == [40, 1, 40, 3]


def test_what_some_waves_define_stays_undefined_in_the_others(execute: Execute) -> None:
    with pytest.raises(EmulationFault, match="uninitialised data of lane 0 reaches memory"):
        parted(execute)


def test_what_a_wave_leaves_undefined_of_a_register_does_not_spread_to_others(
    execute: Execute,
) -> None:
    # v3 is undefined everywhere: v2 becomes undefined in the even workgroups, which do not store.
    out = parted(execute, odd=STORE, even="v_mov_b32_e32 v2, v3", after="v_mov_b32_e32 v4, v2")
    assert out[:, 0].tolist() == [-1, 1, -1, 3]
    with pytest.raises(EmulationFault, match="uninitialised data"):
        parted(execute, odd=STORE, even="v_mov_b32_e32 v2, v3")


# v0 is the lane: of 64 lanes the first 40 are in the mask, or in the one of the two words that was not written over.
MASKED = """
	s_load_dwordx2 s[4:5], s[0:1], 0x0
	v_lshlrev_b32_e32 v1, 2, v0
	v_cmp_gt_u32_e64 s[8:9], 40, v0
	{change}
	v_cndmask_b32_e64 v2, 0, 1, s[8:9]
	s_waitcnt lgkmcnt(0)
	global_store_dword v1, v2, s[4:5]
"""


@pytest.mark.parametrize(
    ("change", "lanes"),
    [
        ("", range(40)),
        ("s_mov_b32 s9, 0", range(32)),
        ("s_mov_b64 s[8:9], 1", range(1)),
        ("v_cmp_gt_u32_e64 s[10:11], 1, v0", range(40)),
        ("v_cmp_eq_u32_e64 s[6:7], 1, v0\n\ts_mov_b64 s[8:9], s[6:7]", range(1, 2)),
    ],
)
def test_a_mask_is_what_its_registers_hold(execute: Execute, change: str, lanes: range) -> None:
    out = torch.full((64,), -1, dtype=torch.int32)
    execute(MASKED.format(change=change), tensors={"out": out})
    assert out.nonzero().flatten().tolist() == list(lanes)


@pytest.mark.parametrize("name", ["min_num", "max_num"])
def test_an_atomic_of_gfx12_takes_the_number_of_a_nan_and_a_number(
    execute: Execute, name: str
) -> None:
    memory = torch.full((1,), torch.nan)
    execute(
        f"""
	s_load_b64 s[4:5], s[0:1], 0x0
	v_mov_b32_e32 v1, 0
	v_mov_b32_e32 v2, 2.0
	s_wait_kmcnt 0x0
	global_atomic_{name}_f32 v1, v2, s[4:5]
""",
        "gfx1201",
        tensors={"memory": memory},
        threads=1,
    )
    assert memory.item() == 2.0


def test_waves_that_end_early_leave_the_others_as_they_were(execute: Execute) -> None:
    out = parted(execute, even="s_endpgm", after=f"v_add_u32_e32 v2, 5, v2\n\t{STORE}")
    assert out[:, 7].tolist() == [-1, 6, -1, 8]


# v10 to v13 hold 10 to 13; the workgroup's number moves a register. v2 is stored.
INDEXED = """
	s_load_dwordx2 s[4:5], s[0:1], 0x0
	s_lshl_b32 s6, s2, 6
	v_or_b32_e32 v1, s6, v0
	v_lshlrev_b32_e32 v1, 2, v1
	v_mov_b32_e32 v2, 2
	v_mov_b32_e32 v3, 3
	v_mov_b32_e32 v10, 10
	v_mov_b32_e32 v11, 11
	v_mov_b32_e32 v12, 12
	v_mov_b32_e32 v13, 13
	{moves}
	s_waitcnt lgkmcnt(0)
	global_store_dword v1, v2, s[4:5]
"""


@pytest.mark.parametrize(
    ("moves", "stored"),
    [
        ("s_set_gpr_idx_on s2, gpr_idx(SRC0)\nv_mov_b32_e32 v2, v10", [10, 11, 12, 13]),
        ("s_set_gpr_idx_on s2, gpr_idx(SRC1)\nv_sub_u32_e32 v2, v13, v10", [3, 2, 1, 0]),
        (
            "s_set_gpr_idx_on s2, gpr_idx(SRC0,SRC2)\nv_mad_u32_u24 v2, v10, v13, v10",
            [140, 154, 168, 182],
        ),
        ("s_set_gpr_idx_on s2, gpr_idx(DST)\nv_mov_b32_e32 v2, v10", [10, 2, 2, 2]),
        ("s_set_gpr_idx_on 1, 9\ns_set_gpr_idx_idx s2\nv_mov_b32_e32 v2, v10", [10, 2, 2, 2]),
        ("s_set_gpr_idx_on s2, 1\ns_set_gpr_idx_off\nv_mov_b32_e32 v2, v10", [10, 10, 10, 10]),
    ],
)
def test_m0_moves_the_operands_that_are_named(
    execute: Execute, moves: str, stored: list[int]
) -> None:
    """Workgroups in lockstep, each with a register of its own."""
    out = torch.full((4, 64), -1, dtype=torch.int32)
    body = INDEXED.format(moves=moves + "\ns_set_gpr_idx_off")
    execute(body, tensors={"out": out}, grid=(4, 1, 1))
    assert out[:, 0].tolist() == out[:, 63].tolist() == stored


@pytest.mark.parametrize(
    ("moves", "error", "words"),
    [
        ("s_set_gpr_idx_on s9, 1\nv_mov_b32_e32 v2, v10", EmulationFault, "number of a register"),
        ("s_set_gpr_idx_on 60, 1\nv_mov_b32_e32 v2, v10", EmulationFault, "beyond the kernel's"),
        ("s_set_gpr_idx_on s2, 1\nv_readfirstlane_b32 s3, v10", EmulatorError, "stands between"),
        ("s_set_gpr_idx_on s2, 1\n.here:\nv_mov_b32_e32 v2, v10", EmulatorError, "'.here' stands"),
    ],
)
def test_a_register_that_m0_moves_wrongly_is_reported(
    execute: Execute, moves: str, error: type[Exception], words: str
) -> None:
    body = INDEXED.format(moves=moves + "\ns_set_gpr_idx_off")
    with pytest.raises(error, match=words):
        execute(body, tensors={"out": torch.zeros(4, 64, dtype=torch.int32)}, grid=(4, 1, 1))


@pytest.mark.parametrize(
    "instruction",
    [
        "v_add_co_u32_dpp v2, vcc, v1, v3",
        "v_cndmask_b32_dpp v2, v1, v3, vcc",
        "v_dot2c_f32_f16_dpp v2, v1, v3",
        "v_dot4c_i32_i8_dpp v2, v1, v3",
        "v_pk_fmac_f16_dpp v2, v1, v3",
    ],
)
def test_lanes_that_no_handler_would_exchange_are_refused(
    execute: Execute, instruction: str
) -> None:
    with pytest.raises(EmulatorError, match=f"does not know.*{instruction.split()[0]}"):
        parted(execute, after=f"{instruction} quad_perm:[1,0,3,2] row_mask:0xf bank_mask:0xf")


# A function that adds s12 to v2, and the constant 5; workgroups 0 and 2 call it from another place, and return there.
CALLS = """
	s_load_dwordx2 s[4:5], s[0:1], 0x0
	s_lshl_b32 s6, s2, 6
	v_or_b32_e32 v1, s6, v0
	v_lshlrev_b32_e32 v1, 2, v1
	s_waitcnt lgkmcnt(0)
	s_getpc_b64 s[8:9]
	s_add_u32 s8, s8, adds@rel32@lo+4
	s_addc_u32 s9, s9, adds@rel32@hi+12
	s_bitcmp1_b32 s2, 0
	s_cbranch_scc0 .even
	v_mov_b32_e32 v2, 1
	s_swappc_b64 s[30:31], s[8:9]
	v_add_u32_e32 v2, 100, v2
	s_branch .join
.even:
	v_mov_b32_e32 v2, 2
	s_swappc_b64 s[30:31], s[8:9]
	v_add_u32_e32 v2, 200, v2
.join:
	global_store_dword v1, v2, s[4:5]
	s_endpgm
{pad}
adds:
	s_getpc_b64 s[10:11]
	s_add_u32 s10, s10, five@rel32@lo+4
	s_addc_u32 s11, s11, five@rel32@hi+12
	s_load_dword s12, s[10:11], 0x0
	s_waitcnt lgkmcnt(0)
	v_add_u32_e32 v2, s12, v2
	s_setpc_b64 s[30:31]
	.section .rodata
	.long 4
five:
	.long 5
	.text
"""


@pytest.mark.parametrize("pad", ["", "\ts_nop 0"])  # a program's distances are its own
def test_waves_that_call_a_function_return_to_where_each_called_it(
    execute: Execute, pad: str
) -> None:
    out = torch.full((4, 64), -1, dtype=torch.int32)
    execute(CALLS.format(pad=pad), tensors={"out": out}, grid=(4, 1, 1))
    assert [row.unique().tolist() for row in out] == [[207], [106], [207], [106]]


@pytest.mark.parametrize(
    "address",
    [
        "s_mov_b64 s[8:9], 64",
        *(f"s_getpc_b64 s[8:9]\n\ts_add_u32 s8, s8, {by}" for by in (4, 8000)),
    ],
)
def test_a_jump_to_no_instruction_is_a_fault(execute: Execute, address: str) -> None:
    with pytest.raises(EmulationFault, match="jumps to an address that has no instruction"):
        execute(f"\t{address}\n\ts_setpc_b64 s[8:9]")


@pytest.mark.parametrize(
    "lines", ["s_add_u32 s8, s8, {}", "s_getpc_b64 s[6:7]\n\ts_add_u32 s8, s8, {}"]
)
def test_a_distance_from_no_place_is_refused(execute: Execute, lines: str) -> None:
    with pytest.raises(EmulatorError, match="operand 'k@rel32@lo"):
        execute("\ts_mov_b64 s[8:9], 0\n\t" + lines.format("k@rel32@lo+4"))
