"""Loop figures of small assemblies that were counted by hand."""

from __future__ import annotations

import textwrap
from typing import Any

import pytest

from pytest_rocm_attn.dry_launch.loops import (
    Loop,
    innermost_loops,
    main_loop,
    multiply_adds,
    whole_kernel,
)
from pytest_rocm_attn.errors import CodeObjectError


def assembly(body: str, gfx: str = "gfx942") -> str:
    """Return a program of one kernel, "kernel", with a body."""
    return (
        f'\t.amdgcn_target "amdgcn-amd-amdhsa--{gfx}"\n\t.text\nkernel:\n'
        + textwrap.dedent(body)
        + "\n.Lfunc_end0:\n\t.section .rodata\n\t.amdhsa_kernel kernel\n\t.end_amdhsa_kernel\n"
    )


def loops(body: str, gfx: str = "gfx942") -> tuple[Loop, ...]:
    return innermost_loops(assembly(body, gfx), "kernel")


def counts(loop: Loop) -> dict[str, Any]:
    """Return a loop's figures that are not zero or empty, without its label, place and length."""
    identity = ("label", "place", "depth", "instructions", "shortest")
    return {name: value for name, value in loop.as_json().items() if value and name not in identity}


def test_each_instruction_of_a_loop_is_counted_in_its_class() -> None:
    (loop,) = loops("""
        s_mov_b32 s0, 0
    .LBB0_1:
        s_load_dword s1, s[2:3], 0x0
        global_load_dwordx4 v[0:3], v[4:5], off
        buffer_load_ushort v6, v7, s[4:7], 0 offen
        ds_read_b128 v[8:11], v12
        ds_read_u16_d16_hi v13, v12
        ds_read2st64_b64 v[8:11], v12 offset1:1
        ds_write_b16 v12, v13
        ds_bpermute_b32 v14, v12, v13
        s_waitcnt vmcnt(0) lgkmcnt(0)
        s_barrier
        v_mfma_f32_32x32x8_bf16 a[0:15], v[0:1], v[2:3], a[0:15]
        v_exp_f32_e32 v15, v15
        v_pk_mul_f32 v[0:1], v[2:3], v[2:3]
        v_cndmask_b32_e64 v0, v1, v2, vcc
        s_nop 1
        global_store_dwordx2 v[4:5], v[0:1], off
        scratch_store_dword off, v0, s32
        s_add_i32 s0, s0, 64
        s_cmp_lt_i32 s0, s1
        s_cbranch_scc1 .LBB0_1
        s_endpgm
    """)
    assert loop.label == ".LBB0_1"
    assert loop.instructions == loop.shortest == 20
    assert counts(loop) == {
        "matrix": {"v_mfma_f32_32x32x8_bf16": 1},
        "multiply_adds": 32 * 32 * 8,
        "vector": 3,
        "vector_instructions": 3,
        "transcendental": 1,
        "scalar": 2,
        "branches": 1,
        "scalar_loads": 1,
        "lds_reads": {"16": 1, "128": 2},
        "lds_writes": {"16": 1},
        "lds_exchanges": 1,
        "loads": 2,
        "load_bytes": 16 + 2,
        "stores": 1,
        "store_bytes": 8,
        "scratch": 1,
        "barriers": 1,
        "waits": 1,
        "other": 1,
    }
    assert loop.lds == 5
    assert loop.narrow_lds == 2
    assert loop.lds_bytes == 2 + 16 + 16 + 2 + 4


def test_rdna4s_names_are_counted_in_the_same_classes() -> None:
    (loop,) = loops(
        """
    .LBB0_1:
        s_load_b128 s[4:7], s[2:3], 0x0
        global_load_b64 v[0:1], v[4:5], off
        buffer_load_u8 v6, v7, s[4:7], null offen
        ds_load_2addr_b32 v[8:9], v12 offset1:1
        ds_store_b8 v12, v13
        s_wait_loadcnt_dscnt 0x0
        s_wait_kmcnt 0x0
        s_barrier_signal -1
        s_barrier_wait -1
        v_wmma_f32_16x16x16_bf16 v[16:23], v[24:27], v[28:31], v[16:23]
        v_dual_mul_f32 v0, v1, v2 :: v_dual_add_f32 v3, v4, v5
        s_delay_alu instid0(VALU_DEP_1)
        v_add_nc_u32_e32 v0, 1, v0
        s_wait_alu 0xfffe
        s_cbranch_vccnz .LBB0_1
        s_endpgm
        """,
        "gfx1201",
    )
    assert counts(loop) == {
        "matrix": {"v_wmma_f32_16x16x16_bf16": 1},
        "multiply_adds": 16 * 16 * 16,
        "vector": 3,
        "vector_instructions": 2,
        "branches": 1,
        "scalar_loads": 1,
        "lds_reads": {"64": 1},
        "lds_writes": {"8": 1},
        "loads": 2,
        "load_bytes": 8 + 1,
        "barriers": 1,
        "waits": 2,
        "other": 3,
    }


def test_an_iteration_is_the_longest_way_and_the_shortest_is_counted_too() -> None:
    (loop,) = loops("""
    .LBB0_1:
        v_add_u32_e32 v0, 1, v0
        s_and_saveexec_b64 s[0:1], vcc
        s_cbranch_execz .LBB0_3
        global_load_dword v1, v[2:3], off
        global_load_dword v2, v[2:3], off
    .LBB0_3:
        s_or_b64 exec, exec, s[0:1]
        s_cbranch_scc1 .LBB0_1
        s_endpgm
    """)
    assert (loop.instructions, loop.shortest) == (7, 5)
    assert loop.loads == 2


def test_of_two_branches_an_iteration_takes_one() -> None:
    (loop,) = loops("""
    .LBB0_1:
        s_cbranch_scc0 .LBB0_3
        v_exp_f32_e32 v0, v0
        v_exp_f32_e32 v1, v1
        s_branch .LBB0_4
    .LBB0_3:
        v_add_u32_e32 v0, 1, v0
    .LBB0_4:
        s_cbranch_vccnz .LBB0_1
        s_endpgm
    """)
    assert (loop.vector, loop.transcendental) == (2, 2)
    assert (loop.instructions, loop.shortest) == (5, 3)


def test_a_loop_with_several_latches_is_one_loop() -> None:
    (loop,) = loops("""
    .LBB0_1:
        v_add_u32_e32 v0, 1, v0
        s_cbranch_scc1 .LBB0_1
        v_exp_f32_e32 v0, v0
        s_cbranch_vccnz .LBB0_1
        v_log_f32_e32 v0, v0
        s_endpgm
    """)
    assert (loop.instructions, loop.shortest) == (4, 2)
    assert loop.vector == 2


def test_of_nested_loops_the_innermost_are_reported_with_their_depth() -> None:
    found = loops("""
    .LBB0_1:
        v_log_f32_e32 v0, v0
    .LBB0_2:
        v_add_u32_e32 v0, 1, v0
        s_cbranch_scc1 .LBB0_2
        v_log_f32_e32 v0, v0
    .LBB0_3:
        v_exp_f32_e32 v0, v0
        s_cbranch_scc1 .LBB0_3
        s_cbranch_vccnz .LBB0_1
    .LBB0_4:
        v_rcp_f32_e32 v0, v0
        s_cbranch_scc1 .LBB0_4
        s_endpgm
    """)
    assert [(loop.label, loop.depth) for loop in found] == [
        (".LBB0_2", 2),
        (".LBB0_3", 2),
        (".LBB0_4", 1),
    ]
    assert [loop.transcendental for loop in found] == [0, 1, 1]
    assert [loop.instructions for loop in found] == [2, 2, 2]


def test_a_label_in_the_middle_of_a_loop_and_a_branch_forward_make_no_loop() -> None:
    assert (
        loops("""
        s_cbranch_scc1 .LBB0_2
    .LBB0_1:
        v_add_u32_e32 v0, 1, v0
    .LBB0_2:
        s_endpgm
    """)
        == ()
    )


def test_a_loop_that_its_latch_precedes_in_the_code_is_found() -> None:
    """As compilers lay a loop out whose condition is tested first."""
    (loop,) = loops("""
        s_branch .LBB0_2
    .LBB0_1:
        v_add_u32_e32 v0, 1, v0
        s_branch .LBB0_2
    .LBB0_3:
        s_endpgm
    .LBB0_2:
        s_cmp_lt_i32 s0, s1
        s_cbranch_scc1 .LBB0_1
        s_branch .LBB0_3
    """)
    assert loop.label == ".LBB0_2"
    assert (loop.instructions, loop.vector, loop.branches) == (4, 1, 2)


def test_a_latch_beyond_the_reach_of_a_branch_is_found() -> None:
    """LLVM relaxes it to a jump over s_getpc and the distance to the label."""
    (loop,) = loops("""
    .LBB0_1:
        v_add_u32_e32 v0, 1, v0
        s_cbranch_scc0 .LBB0_2
        s_getpc_b64 s[4:5]
    .Lpost_getpc0:
        s_add_u32 s4, s4, (.LBB0_1-.Lpost_getpc0)&4294967295
        s_addc_u32 s5, s5, (.LBB0_1-.Lpost_getpc0)>>32
        s_setpc_b64 s[4:5]
    .LBB0_2:
        s_endpgm
    """)
    assert (loop.label, loop.instructions) == (".LBB0_1", 6)


def test_a_loop_that_the_compiler_unrolled_counts_all_of_its_copies() -> None:
    once = "v_mfma_f32_16x16x16_f16 a[0:3], v[0:1], v[2:3], a[0:3]\n        v_exp_f32_e32 v0, v0\n"
    (loop,) = loops(f"""
    .LBB0_1:
        {once}
        {once}
        s_cbranch_scc1 .LBB0_1
        s_endpgm
    """)
    assert (loop.matrix_instructions, loop.vector) == (2, 2)
    assert loop.multiply_adds == 2 * 16**3


def test_a_cycle_with_two_entries_is_reported_once() -> None:
    """Such a graph has no natural loop; the block that is entered first stands for its header."""
    (loop,) = loops("""
        s_cbranch_scc0 .LBB0_2
    .LBB0_1:
        v_add_u32_e32 v0, 1, v0
    .LBB0_2:
        v_exp_f32_e32 v0, v0
        s_cbranch_scc1 .LBB0_1
        s_endpgm
    """)
    assert loop.label == ".LBB0_1"
    assert loop.vector == 2


def test_another_kernel_of_the_program_is_left_out() -> None:
    two = assembly("    s_endpgm\n") + (
        "\t.text\nother:\n.LBB1_1:\n\tv_exp_f32 v0, v0\n\ts_cbranch_scc1 .LBB1_1\n\ts_endpgm\n"
        "\t.section .rodata\n\t.amdhsa_kernel other\n\t.end_amdhsa_kernel\n"
    )
    assert innermost_loops(two, "kernel") == ()
    assert [loop.transcendental for loop in innermost_loops(two, "other")] == [1]


def test_a_kernel_that_is_not_there_is_an_error() -> None:
    with pytest.raises(CodeObjectError, match="no kernel 'decode'"):
        innermost_loops(assembly("    s_endpgm\n"), "decode")


def test_a_branch_to_nowhere_is_an_error() -> None:
    with pytest.raises(CodeObjectError, match=r"'\.LBB0_7', which the assembly does not define"):
        loops("    s_branch .LBB0_7\n")


def test_the_main_loop_multiplies_most_and_of_equals_is_the_one_without_masks() -> None:
    found = loops("""
    .LBB0_1:
        v_mfma_f32_16x16x16_f16 a[0:3], v[0:1], v[2:3], a[0:3]
        v_cndmask_b32_e64 v0, v1, v2, vcc
        s_cbranch_scc1 .LBB0_1
    .LBB0_2:
        v_mfma_f32_16x16x16_f16 a[0:3], v[0:1], v[2:3], a[0:3]
        s_cbranch_scc1 .LBB0_2
    .LBB0_3:
        global_load_dwordx4 v[0:3], v[4:5], off
        s_cbranch_scc1 .LBB0_3
        s_endpgm
    """)
    main = main_loop(found)
    assert main is not None
    assert main.label == ".LBB0_2"
    assert main_loop(()) is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # CDNA2's ISA guide, "Matrix Instructions": rows x columns x depth x blocks.
        ("v_mfma_f32_32x32x8f16", 32 * 32 * 8),
        ("v_mfma_f32_32x32x4f16", 32 * 32 * 4 * 2),
        ("v_mfma_f32_16x16x4f16", 16 * 16 * 4 * 4),
        ("v_mfma_f32_4x4x4f16", 4 * 4 * 4 * 16),
        ("v_mfma_f32_32x32x8bf16_1k", 32 * 32 * 8),
        ("v_mfma_f32_32x32x4bf16_1k", 32 * 32 * 4 * 2),
        ("v_mfma_f32_32x32x4bf16", 32 * 32 * 4),
        ("v_mfma_f32_16x16x16bf16_1k", 16**3),
        ("v_mfma_f32_32x32x2f32", 32 * 32 * 2),
        ("v_mfma_f32_32x32x1f32", 32 * 32 * 2),
        ("v_mfma_f64_16x16x4f64", 16 * 16 * 4),
        ("v_mfma_f64_4x4x4f64", 4 * 4 * 4 * 4),
        ("v_mfma_i32_32x32x8i8", 32 * 32 * 8),
        # CDNA3's and CDNA4's: blocks in the name.
        ("v_mfma_f32_32x32x4_2b_f16", 32 * 32 * 4 * 2),
        ("v_mfma_f32_32x32x16_fp8_fp8", 32 * 32 * 16),
        ("v_mfma_f32_16x16x32_bf16", 16 * 16 * 32),
        ("v_mfma_f32_32x32x16_f16", 32 * 32 * 16),
        ("v_mfma_scale_f32_16x16x128_f8f6f4", 16 * 16 * 128),
        ("v_smfmac_f32_16x16x32_f16", 16 * 16 * 16),
        # RDNA's.
        ("v_wmma_f32_16x16x16_f16", 16**3),
        ("v_wmma_i32_16x16x32_iu4", 16 * 16 * 32),
        ("v_swmmac_f32_16x16x32_bf16", 16 * 16 * 16),
    ],
)
def test_a_matrix_instruction_has_the_multiply_adds_of_its_shape(name: str, expected: int) -> None:
    assert multiply_adds(name) == expected


def test_a_whole_kernel_runs_each_loop_once_on_its_longest_way() -> None:
    whole = whole_kernel(
        assembly("""
        s_cbranch_scc1 .LBB0_4
    .LBB0_1:
        v_log_f32_e32 v0, v0
    .LBB0_2:
        v_add_u32_e32 v0, 1, v0
        s_cbranch_scc1 .LBB0_2
        s_cbranch_vccnz .LBB0_1
        v_mfma_f32_16x16x16_f16 a[0:3], v[0:1], v[2:3], a[0:3]
        s_endpgm
    .LBB0_4:
        s_endpgm
    """),
        "kernel",
    )
    assert (whole.label, whole.depth) == ("kernel", 0)
    assert (whole.instructions, whole.shortest) == (7, 2)
    assert (whole.matrix_instructions, whole.vector, whole.transcendental) == (1, 2, 1)
