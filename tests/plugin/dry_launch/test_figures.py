"""Figures of a kernel's main loop by name, budgets and comparisons."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pytest_rocm_attn.dry_launch import Kernel, compare, figures
from pytest_rocm_attn.dry_launch.covered import covered
from pytest_rocm_attn.dry_launch.figures import FIGURES
from pytest_rocm_attn.dry_launch.loops import innermost_loops, whole_kernel
from pytest_rocm_attn.errors import MockArgumentError

ASSEMBLY = """\
\t.amdgcn_target "amdgcn-amd-amdhsa--gfx942"
\t.text
attention:
.LBB0_1:
\tv_mfma_f32_32x32x8_f16 a[0:15], v[0:1], v[2:3], a[0:15]
\tv_mfma_f32_32x32x8_f16 a[0:15], v[0:1], v[2:3], a[0:15]
\tv_exp_f32_e32 v4, v4
\tv_add_f32_e32 v5, v5, v6
\tds_write_b16 v12, v5
\tglobal_load_dwordx2 v[8:9], v[2:3], off
\ts_cbranch_scc1 .LBB0_1
\ts_endpgm
\t.section .rodata
\t.amdhsa_kernel attention
\t.end_amdhsa_kernel
"""


def kernel(**changes: Any) -> Kernel:
    """Return a kernel of four waves whose loop covers 64 rows and 32 keys."""
    made = Kernel(
        name="attention",
        gfx="gfx942",
        compiler="clang 22",
        lds_bytes=1024,
        lds_limit=65536,
        vgprs=128,
        agprs=16,
        sgprs=40,
        vgpr_spills=0,
        sgpr_spills=0,
        scratch_bytes=0,
        occupancy=4,
        matrix_instructions={"v_mfma_f32_32x32x8_f16": 2},
        code_bytes=256,
        wavefront=64,
        waves=4,
        loops=innermost_loops(ASSEMBLY, "attention"),
        rows=64,
        keys=32,
    )
    return replace(made, **changes)


def test_figures_of_an_iteration_count_all_waves_of_the_workgroup() -> None:
    found = figures(kernel())
    assert set(found) == set(FIGURES)
    assert (found["matrix"], found["vector"], found["narrow_lds"]) == (2, 2, 1)
    assert found["bytes"] == 8 * 64 * 4
    assert found["multiply_adds_per_score"] == 2 * 32 * 32 * 8 * 4 / (64 * 32)
    assert found["vector_per_score"] == 2 * 64 * 4 / (64 * 32)
    assert found["vector_per_key"] == 2 * 4 / 32
    assert found["vector_per_byte"] == 2 * 64 * 4 / (8 * 64 * 4)
    assert found["bytes_per_key"] == 64
    # Two instructions of 32 clocks on the matrix unit of one SIMD; four waves on four SIMDs.
    clocks = found["clocks"]
    assert clocks is not None
    assert clocks == pytest.approx(64)
    assert found["clocks_per_score"] == pytest.approx(1000 * clocks / (64 * 32))
    assert found["clocks_per_key"] == pytest.approx(1000 * clocks / 32)


def test_a_kernel_that_multiplies_outside_of_loops_has_the_figures_of_all_of_it() -> None:
    unrolled = ASSEMBLY.replace("\ts_cbranch_scc1 .LBB0_1\n", "")
    whole = whole_kernel(unrolled, "attention")
    found = figures(kernel(loops=(), whole=whole))
    assert (found["matrix"], found["vector"], found["instructions"]) == (2, 2, 7)
    looped = whole_kernel(ASSEMBLY, "attention")
    assert figures(kernel(whole=looped)) == figures(kernel())


def test_a_kernel_within_its_budgets_passes() -> None:
    kernel().assert_budget(vector=2, vector_per_score=0.25, narrow_lds=1, occupancy=4, rows=64)


def test_all_figures_over_their_budgets_are_named() -> None:
    with pytest.raises(AssertionError) as caught:
        kernel().assert_budget(vector_per_score=0.2, narrow_lds=0, matrix=2, occupancy=5)
    assert str(caught.value) == (
        "attention on gfx942 (clang 22): vector_per_score is 0.25 (vector lane operations per score), the"
        " budget is at most 0.2; narrow_lds is 1 (LDS instructions of 16 bits or fewer an iteration), the"
        " budget is at most 0; occupancy is 4 (waves per SIMD), the budget is at least 5"
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rows": None, "keys": None}, "rows and keys of an iteration are unknown"),
        ({"loops": ()}, "the kernel has no loop"),
        ({"loops": None}, "the compiler kept no assembly"),
    ],
)
def test_a_budget_of_what_is_not_known_fails_with_the_reason(
    changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(AssertionError, match=words):
        kernel(**changes).assert_budget(vector_per_score=10)


def test_a_budget_of_no_figure_is_an_error_that_names_the_nearest() -> None:
    with pytest.raises(MockArgumentError, match="called 'vectors_per_score'.*'vector_per_score'"):
        kernel().assert_budget(vectors_per_score=10)


def test_a_comparison_of_two_has_the_ratio_of_each_figure() -> None:
    other = kernel(name="peer", rows=32, vgprs=256)
    lines = compare({"ours": kernel(), "theirs": other}).splitlines()
    assert lines[0].split() == ["ours", "theirs", "ratio"]
    rows = {line.split()[0]: line.split()[1:] for line in lines[2:]}
    assert rows["vector_per_score"] == ["0.25", "0.5", "0.50"]
    assert rows["vgprs"] == ["128", "256", "0.50"]
    assert rows["scratch"] == ["0", "0", "-"]
    assert lines[-1].startswith("clocks are estimates: roofline of hardware.toml")


def test_a_comparison_of_three_has_a_column_for_each_and_no_ratio() -> None:
    (head, *_) = compare({name: kernel() for name in "abc"}).splitlines()
    assert head.split() == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("constexprs", "expected"),
    [
        ({"BLOCK_M": 128, "BLOCK_N": 64}, (128, 64)),
        ({"BLOCK_M": 16, "TILE_SIZE": 32, "BLOCK_SIZE": 16}, (16, 32)),
        ({"BLOCK_H": 16, "BLOCK_N": 32, "BLOCK_DV": 512}, (16, 32)),
        ({"num_queries_per_kv_padded": 16, "BLOCK_SIZE": 16}, (16, 16)),
        ({"BLOCK_M": 16, "BLOCK_N": None}, (None, None)),
        ({}, (None, None)),
    ],
)
def test_what_an_iteration_covers_is_read_off_the_tile(
    constexprs: dict[str, Any], expected: tuple[int | None, int | None]
) -> None:
    assert covered(constexprs) == expected
