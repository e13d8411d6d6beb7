"""docs/launch-tables/hip-decode-clang-22.md: that it says what clang makes of the kernels today."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pytest_rocm_attn.backends.hip.matrix_layout import SHAPES
from pytest_rocm_attn.errors import HipCompileError
from pytest_rocm_attn.hip_compile import compiler_version, find_compiler

SAMPLE = (
    "EACH(::rocm_attn::F16,::rocm_attn::Cache::SAME,64,32)"
    " EACH(::rocm_attn::BF16,::rocm_attn::Cache::E4M3FN,128,16)"
)


@pytest.fixture(scope="module")
def tool(script: Callable[[str], Any]) -> Any:
    return script("tools/hip_table.py")


@pytest.mark.parametrize("gfx", ["gfx90a", "gfx942", "gfx950", "gfx1100", "gfx1201"])
def test_a_sample_compiles_to_what_the_table_says(tool: Any, gfx: str) -> None:
    try:
        version = compiler_version(find_compiler(gfx))
    except HipCompileError as error:
        pytest.skip(str(error).splitlines()[0])
    text = tool.PAGE.read_text(encoding="utf-8")
    if f"kernels, {version}\n" not in text:
        pytest.skip(f"the table is of {text.splitlines()[0].rpartition(', ')[2]}, not {version}")
    defines = {"ROCM_ATTN_EACH(EACH)": SAMPLE, "ROCM_ATTN_ONLY_MATRIX": 1}

    rows = list(tool.compiled_rows(gfx, defines))

    assert sum(row.kernel == "decode_by_matrix" for row in rows) == 2
    assert set(rows) <= set(tool.read_rows(text))


def test_the_table_has_every_matrix_kernel_of_every_target_without_a_spill(
    tool: Any,
) -> None:
    rows = tool.read_rows(tool.PAGE.read_text(encoding="utf-8"))
    for shape in SHAPES:
        for gfx in shape.targets:
            mine = [row for row in rows if (row.gfx, row.kernel) == (gfx, "decode_by_matrix")]
            shapes = {(row.dtype, row.cache, row.head, row.block) for row in mine}
            assert len(shapes) == len(mine) == 2 * 3 * 2 * 2
            assert all("mfma" in row.matrix or "wmma" in row.matrix for row in mine)
            assert {(row.vgpr_spills, row.sgpr_spills, row.scratch) for row in mine} == {(0, 0, 0)}


def test_the_summary_is_that_of_the_rows(tool: Any) -> None:
    text = tool.PAGE.read_text(encoding="utf-8")
    compiler = text.splitlines()[0].rpartition(", ")[2]
    assert tool.page(tool.read_rows(text), compiler) == text
