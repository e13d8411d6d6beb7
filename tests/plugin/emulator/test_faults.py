"""The emulator finds what a kernel does wrong, and names the instruction and the line of the source."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch

from pytest_rocm_attn.errors import EmulationFault, EmulatorError

Execute = Callable[..., Any]

# Loads the only argument's address into s[4:5] and makes v1 each lane's offset of four bytes.
BEGIN = """
	s_load_dwordx2 s[4:5], s[0:1], 0x0
	v_lshlrev_b32_e32 v1, 2, v0
	s_waitcnt lgkmcnt(0)
"""
STORE_V2 = "\n\tglobal_store_dword v1, v2, s[4:5]\n"


def out(count: int = 64) -> dict[str, torch.Tensor]:
    return {"out (int32)": torch.zeros(count, dtype=torch.int32)}


def test_a_kernel_runs_and_writes_the_tensor_that_it_was_given(execute: Execute) -> None:
    tensors = out()
    done = execute(f"{BEGIN}\tv_add_u32_e32 v2, 7, v0{STORE_V2}", tensors=tensors)
    assert next(iter(tensors.values())).tolist() == [lane + 7 for lane in range(64)]
    assert done.instructions == 6


def test_a_read_beyond_a_tensor_names_tensor_element_lane_and_line(execute: Execute) -> None:
    body = f"{BEGIN}\t.loc 1 12 3\n\tglobal_load_dword v2, v1, s[4:5] offset:4"
    with pytest.raises(EmulationFault) as fault:
        execute(body, tensors=out())
    assert (
        "reads 4 bytes at element 64 of out (int32); its storage ends with element 63 "
        "(out of bounds), lane 63" in str(fault.value)
    )
    assert "/src/kernel.py:12" in str(fault.value)


def test_a_store_before_a_tensor_is_out_of_bounds(execute: Execute) -> None:
    with pytest.raises(EmulationFault, match=r"writes 4 bytes at element -1 of out"):
        execute(
            f"{BEGIN}\tglobal_store_dword v1, v0, s[4:5] offset:-4",
            tensors=out(),
        )


def test_a_lane_that_is_switched_off_may_point_anywhere(execute: Execute) -> None:
    tensors = out(32)
    execute(
        f"{BEGIN}\tv_cmp_gt_u32_e32 vcc, 32, v0\n\ts_and_saveexec_b64 s[6:7], vcc"
        "\n\tglobal_store_dword v1, v0, s[4:5]",
        tensors=tensors,
    )
    assert next(iter(tensors.values())).tolist() == list(range(32))


def test_a_buffer_access_beyond_num_records_reads_zero_and_writes_nothing(execute: Execute) -> None:
    tensors = {"x": torch.arange(64, dtype=torch.int32), "y": torch.full((64,), -1)}
    tensors["y"] = tensors["y"].to(torch.int32)
    execute(
        """
	s_load_dwordx4 s[4:7], s[0:1], 0x0
	v_lshlrev_b32_e32 v1, 2, v0
	s_mov_b32 s10, 0x80
	s_mov_b32 s11, 0x27000
	s_waitcnt lgkmcnt(0)
	s_mov_b32 s8, s4
	s_mov_b32 s9, s5
	buffer_load_dword v2, v1, s[8:11], 0 offen
	s_waitcnt vmcnt(0)
	s_mov_b32 s8, s6
	s_mov_b32 s9, s7
	v_add_u32_e32 v2, 100, v2
	s_mov_b32 s10, 0xc0
	buffer_store_dword v2, v1, s[8:11], 0 offen
""",
        tensors=tensors,
    )
    expected = [100 + i for i in range(32)] + [100] * 16 + [-1] * 16
    assert tensors["y"].tolist() == expected


@pytest.mark.parametrize(
    ("second", "last", "words"),
    [
        pytest.param("s_mov_b32 s9, s5", "", "uninitialised data of lane 0 reaches", id="no-flags"),
        pytest.param("s_or_b32 s9, s5, 0x40000", "0x27000", "stride and swizzle 0x4", id="stride"),
        pytest.param("s_mov_b32 s9, s5", "0x827000", "last word 0x827000", id="thread-number"),
    ],
)
def test_a_buffer_resource_that_is_not_raw_is_a_fault(
    execute: Execute, second: str, last: str, words: str
) -> None:
    flags = f"s_mov_b32 s11, {last}" if last else "s_nop 0"
    with pytest.raises(EmulationFault, match=words):
        execute(
            f"{BEGIN}\ts_mov_b32 s8, s4\n\t{second}\n\ts_mov_b32 s10, 0x80\n\t{flags}\n"
            "\tbuffer_load_dword v2, v1, s[8:11], 0 offen\n",
            tensors=out(32),
        )


@pytest.mark.parametrize(
    ("use", "reaches"),
    [
        pytest.param(f"v_add_u32_e32 v2, 1, v9{STORE_V2}", "memory", id="a store"),
        pytest.param(
            "v_add_u32_e32 v3, v9, v1\n\tglobal_load_dword v2, v3, s[4:5]",
            "the address of a load",
            id="an address",
        ),
        pytest.param(
            "v_cmp_eq_u32_e32 vcc, 1, v9\n\ts_cbranch_vccz .LBB0_1\n.LBB0_1:",
            "a branch",
            id="a branch",
        ),
        pytest.param(
            "v_cmp_eq_u32_e32 vcc, 1, v9\n\ts_and_saveexec_b64 s[6:7], vcc", "EXEC", id="EXEC"
        ),
        pytest.param(
            f"ds_read_b32 v2, v1\n\ts_waitcnt lgkmcnt(0){STORE_V2}", "memory", id="fresh LDS"
        ),
    ],
)
def test_uninitialised_data_is_a_fault_where_it_decides(
    execute: Execute, use: str, reaches: str
) -> None:
    with pytest.raises(EmulationFault, match="uninitialised data.* reaches") as fault:
        execute(f"{BEGIN}\t{use}", tensors=out(), lds=256)
    assert reaches in str(fault.value)


@pytest.mark.parametrize(
    "compute",
    [
        pytest.param("v_and_b32_e32 v2, 0, v9", id="and with a defined 0"),
        pytest.param("v_or_b32_e32 v2, -1, v9", id="or with a defined 1"),
        pytest.param("v_lshlrev_b32_e32 v3, 16, v0\n\tv_and_b32_e32 v4, 0xffff, v9\n\t"
                     "v_or_b32_e32 v4, v3, v4\n\tv_lshrrev_b32_e32 v2, 16, v4", id="shifted out"),
        pytest.param("v_mov_b32_e32 v6, 1\n\tv_mad_u64_u32 v[2:3], vcc, v0, 2, v[6:7]",
                     id="the upper half of a sum"),
    ],
)  # fmt: skip
def test_undefined_bits_that_cannot_matter_are_no_fault(execute: Execute, compute: str) -> None:
    execute(f"{BEGIN}\t{compute}{STORE_V2}", tensors=out())


@pytest.mark.parametrize(
    ("gfx", "wait", "load"),
    [
        pytest.param("gfx942", "s_waitcnt vmcnt(1)", "global_load_dword", id="gfx942"),
        pytest.param("gfx1100", "s_waitcnt vmcnt(1)", "global_load_b32", id="gfx1100"),
        pytest.param("gfx1201", "s_wait_loadcnt 0x1", "global_load_b32", id="gfx1201"),
    ],
)
def test_a_register_that_no_wait_covers_is_a_fault(
    execute: Execute, gfx: str, wait: str, load: str
) -> None:
    old = gfx == "gfx942"
    scalar = "s_load_dwordx2" if old else "s_load_b64"
    first = "s_wait_kmcnt 0x0" if gfx == "gfx1201" else "s_waitcnt lgkmcnt(0)"
    use = "v_add_u32_e32" if old else "v_add_nc_u32_e32"
    body = (
        f"\t{scalar} s[4:5], s[0:1], 0x0\n\tv_lshlrev_b32_e32 v1, 2, v0\n\t{first}\n"
        f"\t{load} v2, v1, s[4:5]\n\t{load} v3, v1, s[4:5]\n\t{wait}\n"
        f"\t{use} v4, 1, v2\n"
    )
    execute(body, gfx, tensors=out())
    with pytest.raises(EmulationFault, match=r"v3 is used before it has arrived"):
        execute(f"{body}\t{use} v4, 1, v3", gfx, tensors=out())


def test_a_scalar_load_is_covered_by_a_wait_for_all_alone(execute: Execute) -> None:
    body = "\ts_load_dwordx2 s[4:5], s[0:1], 0x0\n\ts_load_dwordx2 s[6:7], s[0:1], 0x0\n"
    with pytest.raises(EmulationFault, match=r"s[45] is used before it has arrived"):
        execute(f"{body}\ts_waitcnt lgkmcnt(1)\n\ts_mov_b64 s[8:9], s[4:5]", tensors=out())


# Lane i of each wave writes its number to slot i + 64 * wave, and reads the other wave's slot.
EXCHANGE = f"""{BEGIN}
	v_xor_b32_e32 v3, 0x100, v1
	ds_write_b32 v1, v0
	{{wait}}
	{{barrier}}
	ds_read_b32 v2, v3
	s_waitcnt lgkmcnt(0)
{STORE_V2}"""


def exchange(execute: Execute, wait: str, barrier: str, seed: int | None = None) -> list[int]:
    tensors = out(128)
    body = EXCHANGE.format(wait=wait, barrier=barrier)
    execute(body, tensors=tensors, threads=128, lds=512, seed=seed)
    return next(iter(tensors.values())).tolist()


@pytest.mark.parametrize("seed", [None, 1, 2])
def test_waves_exchange_values_through_lds(execute: Execute, seed: int | None) -> None:
    expected = [lane ^ 64 for lane in range(128)]
    assert exchange(execute, "s_waitcnt lgkmcnt(0)", "s_barrier", seed) == expected


def test_a_missing_barrier_is_a_race(execute: Execute) -> None:
    with pytest.raises(EmulationFault, match=r"race: wave \d reads offset \d+ of LDS, which wave"):
        exchange(execute, "s_waitcnt lgkmcnt(0)", "s_nop 0")


def test_a_store_that_is_not_waited_for_before_the_barrier_is_a_race(execute: Execute) -> None:
    with pytest.raises(EmulationFault, match=r"race: wave \d reads offset"):
        exchange(execute, "s_nop 0", "s_barrier")


def test_waves_that_write_the_same_value_to_the_same_place_do_not_race(execute: Execute) -> None:
    execute("\tv_mov_b32_e32 v1, 0\n\tv_mov_b32_e32 v2, 5\n\tds_write_b32 v1, v2",
            threads=128, lds=64)  # fmt: skip


def test_waves_that_write_different_values_to_the_same_place_race(execute: Execute) -> None:
    with pytest.raises(EmulationFault, match="race: wave"):
        execute("\tv_mov_b32_e32 v1, 0\n\tds_write_b32 v1, v0", threads=128, lds=64)


def test_workgroups_that_write_different_values_to_one_element_race(execute: Execute) -> None:
    body = f"{BEGIN}\tv_mov_b32_e32 v2, s2{STORE_V2}"
    with pytest.raises(EmulationFault, match=r"race: workgroup \d touches element 0 of out"):
        execute(body, tensors=out(), grid=(2, 1, 1))


def test_an_lds_access_beyond_the_workgroups_memory_is_a_fault(execute: Execute) -> None:
    with pytest.raises(EmulationFault, match="offset 252 of LDS, which has 252 bytes"):
        execute("\tv_lshlrev_b32_e32 v1, 2, v0\n\tds_write_b32 v1, v0", lds=252)


def test_a_kernel_that_does_not_end_is_stopped_where_it_loops(execute: Execute) -> None:
    with pytest.raises(EmulationFault, match=r"did not end within 1000 instructions.*s_branch"):
        execute(".LBB0_1:\n\ts_branch .LBB0_1", limit=1000)


def test_a_barrier_that_some_waves_never_reach_is_a_fault(execute: Execute) -> None:
    body = (
        "\tv_readfirstlane_b32 s4, v0\n\ts_cmp_eq_u32 s4, 0\n\ts_cbranch_scc1 .LBB0_1\n"
        "\ts_barrier\n.LBB0_1:\n"
    )
    execute(body, threads=128)  # a wave that has ended is not waited for
    with pytest.raises(EmulationFault, match="did not end|never reach"):
        execute(f"{body}.LBB0_2:\n\ts_cbranch_scc1 .LBB0_2", threads=128, limit=500)


@pytest.mark.parametrize(
    ("instruction", "named"),
    [
        pytest.param("v_frobnicate_b32 v1, v2", "v_frobnicate_b32", id="a mnemonic"),
        pytest.param("v_add_u32_e32 v1, src_shared_base, v2", "src_shared_base", id="an operand"),
        pytest.param("buffer_load_dword v1, v2, s[4:7], 0 idxen", "idxen", id="a modifier"),
    ],
)
def test_what_is_not_known_is_refused_by_name(
    execute: Execute, instruction: str, named: str
) -> None:
    with pytest.raises(EmulatorError) as error:
        execute(f"\t{instruction}")
    assert named in str(error.value)
    assert str(error.value).startswith("k on gfx942: ")


def test_private_memory_keeps_bytes_and_words_of_each_lane(execute: Execute) -> None:
    """A word is stored, its second byte read back; a byte that nothing wrote is undefined."""
    body = f"""{BEGIN}
	v_mul_u32_u24_e32 v3, 0x101, v0
	scratch_store_dword off, v3, off offset:4
	scratch_load_ubyte v2, off, off offset:{{offset}}
	s_waitcnt vmcnt(0)
{STORE_V2}"""
    tensors = out()
    execute(body.format(offset=5), tensors=tensors, private_segment_fixed_size=16)
    assert next(iter(tensors.values())).tolist() == list(range(64))
    with pytest.raises(EmulationFault, match="uninitialised data"):
        execute(body.format(offset=8), tensors=out(), private_segment_fixed_size=16)
    with pytest.raises(EmulationFault, match="beyond the 4 bytes of private memory"):
        execute(body.format(offset=5), tensors=out(), private_segment_fixed_size=4)


def test_an_integer_sum_with_clamp_stops_at_the_limits_of_its_type(execute: Execute) -> None:
    tensors = out()
    execute(f"{BEGIN}\tv_sub_u32_e64 v2, v0, 40 clamp{STORE_V2}", tensors=tensors)
    (result,) = tensors.values()
    assert result.tolist() == [max(0, lane - 40) for lane in range(64)]


def test_a_wave_signals_a_barrier_of_two_parts_before_it_waits(execute: Execute) -> None:
    both = "\ts_barrier_signal -1\n\ts_barrier_wait -1\n"
    execute(both * 2, "gfx1201", threads=64)
    for body in ("\ts_barrier_wait -1", f"{both}\ts_barrier_wait -1"):
        with pytest.raises(EmulationFault, match="waits at a barrier that it has not signalled"):
            execute(body, "gfx1201", threads=64)


@pytest.mark.parametrize(
    ("gfx", "instruction", "upper"),
    [
        # gfx9: llvm-project, llvmorg-22.1.0, llvm/lib/Target/AMDGPU/GCNSubtarget.cpp, zeroesHigh16BitsOfDest
        ("gfx942", "v_add_f16_e32 v4, v1, v1", 0),
        ("gfx942", "v_fma_f16 v4, v1, v1, v1", 0),
        ("gfx942", "v_fmac_f16_e32 v4, v1, v1", 0x1234),
        ("gfx1100", "v_add_f16_e32 v4, v1, v1", 0x1234),
    ],
)
def test_a_16_bit_result_clears_or_keeps_the_upper_half(
    execute: Execute, gfx: str, instruction: str, upper: int
) -> None:
    out = torch.zeros(64, dtype=torch.int32)
    store = "global_store_dword" if gfx == "gfx942" else "global_store_b32"
    body = f"""
	s_load_{"dwordx2" if gfx == "gfx942" else "b64"} s[4:5], s[0:1], 0x0
	v_lshlrev_b32_e32 v3, 2, v0
	v_mov_b32_e32 v1, 0x3c00
	v_mov_b32_e32 v4, 0x12340000
	{instruction}
	s_waitcnt lgkmcnt(0)
	{store} v3, v4, s[4:5]
"""
    execute(body, gfx, tensors={"out": out}, threads=32)
    assert {int(word) >> 16 for word in out[:32]} == {upper}


@pytest.mark.parametrize(
    ("gfx", "between", "fault"),
    [
        ("gfx1100", "global_load_d16_b16 v2, v1, s[4:5] offset:4", False),
        ("gfx1100", "v_mov_b32_e32 v2, 0", True),
        ("gfx942", "global_load_dword v2, v1, s[4:5] offset:4", False),
        ("gfx942", "ds_read_b32 v2, v1", True),
        ("gfx942", "global_load_dword v3, v2, s[4:5]", True),
    ],
)
def test_vector_loads_of_one_register_need_no_wait_between_them(
    execute: Execute, gfx: str, between: str, fault: bool
) -> None:
    load = {
        "gfx1100": "global_load_d16_hi_b16 v2, v1, s[4:5]",
        "gfx942": "global_load_dword v2, v1, s[4:5]",
    }
    body = f"""
	s_load_{"dwordx2" if gfx == "gfx942" else "b64"} s[4:5], s[0:1], 0x0
	v_mov_b32_e32 v1, 0
	s_waitcnt lgkmcnt(0)
	{load[gfx]}
	{between}
	s_waitcnt vmcnt(0) lgkmcnt(0)
"""
    tensors = {"x": torch.arange(64, dtype=torch.int32)}
    with pytest.raises(EmulationFault, match="before it has arrived") if fault else nullcontext():
        execute(body, gfx, tensors=tensors, threads=32, lds=256)


@pytest.mark.parametrize("gfx", ["gfx942", "gfx1201"])
def test_hints_of_either_unit_do_nothing(execute: Execute, gfx: str) -> None:
    execute("\ts_nop 0\n\tv_nop\n", gfx=gfx)
