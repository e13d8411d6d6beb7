"""The HIP source compiled by clang for each GPU, and what its kernels take there.

Evidence: launch (compiled, not run). Skipped where no clang on PATH knows the target.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_rocm_attn.backends.hip.matrix_layout import SHAPES
from pytest_rocm_attn.dry_launch.record import Kernel
from pytest_rocm_attn.errors import HipCompileError
from pytest_rocm_attn.gpu import Gpu
from pytest_rocm_attn.hip_compile import compile_hip, find_compiler

SOURCE = Path(__file__).parents[3] / "backends" / "hip" / "device_only.hip"
TARGETS = ("gfx90a", "gfx942", "gfx950", "gfx1100", "gfx1201")
INSTRUCTION = {"Mfma16": "v_mfma_f32_16x16x16", "Mfma32": "v_mfma_f32_16x16x32"}
ONE = "EACH(::rocm_attn::BF16,::rocm_attn::Cache::SAME,128,16)"


def compiled(gfx: str, defines: dict[str, str | int]) -> tuple[Kernel, ...]:
    try:
        find_compiler(gfx)
    except HipCompileError as error:
        pytest.skip(str(error).splitlines()[0])
    return compile_hip(SOURCE, gfx, defines=defines)


def check(kernels: tuple[Kernel, ...], gfx: str) -> None:
    shape = next(shape for shape in SHAPES if gfx in shape.targets)
    wanted = INSTRUCTION.get(shape.struct, "v_wmma_f32_16x16x16")
    for kernel in kernels:
        assert kernel.lds_bytes <= Gpu(gfx).lds_bytes
        assert (kernel.vgpr_spills, kernel.sgpr_spills, kernel.scratch_bytes) == (0, 0, 0)
        assert kernel.occupancy is None or kernel.occupancy >= 3
        if "matrix" in kernel.name:
            assert kernel.matrix_instructions
            assert all(name.startswith(wanted) for name in kernel.matrix_instructions)


@pytest.mark.parametrize("gfx", TARGETS)
def test_the_matrix_kernel_fits_and_multiplies_by_matrix_instructions(gfx: str) -> None:
    kernels = compiled(gfx, {"ROCM_ATTN_EACH(EACH)": ONE, "ROCM_ATTN_ONLY_MATRIX": 1})
    assert sum("matrix" in kernel.name for kernel in kernels) == 1
    check(kernels, gfx)


@pytest.mark.slow
@pytest.mark.parametrize("gfx", sorted({gfx for shape in SHAPES for gfx in shape.targets}))
def test_every_matrix_kernel_fits_every_target(gfx: str) -> None:
    kernels = compiled(gfx, {"ROCM_ATTN_ONLY_MATRIX": 1})
    assert sum("matrix" in kernel.name for kernel in kernels) == 24
    check(kernels, gfx)


@pytest.mark.slow
@pytest.mark.parametrize("gfx", [*TARGETS, "gfx906", "gfx1030"])
def test_the_plain_kernels_compile_anywhere_and_fit(gfx: str) -> None:
    kernels = compiled(gfx, {"ROCM_ATTN_ONLY_PLAIN": 1})
    assert sum("plain" in kernel.name for kernel in kernels) == 96
    assert all(kernel.lds_bytes <= Gpu(gfx).lds_bytes for kernel in kernels)


def test_a_gpu_without_matrix_kernel_gets_an_empty_one() -> None:
    """Such a kernel is never launched: rocm_attn.decode_refusal names the targets that have one."""
    kernels = compiled("gfx1030", {"ROCM_ATTN_EACH(EACH)": ONE, "ROCM_ATTN_ONLY_MATRIX": 1})
    (kernel,) = (kernel for kernel in kernels if "matrix" in kernel.name)
    assert not kernel.matrix_instructions
    assert kernel.lds_bytes == 0
