"""The HIP source compiled by clang for each GPU, and what its kernels take there.

Evidence: launch (compiled, not run). Skipped where no clang on PATH knows the target.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_rocm_attn.backends.hip.matrix_layout import SHAPES
from pytest_rocm_attn.dry_launch.occupancy import waves_per_simd
from pytest_rocm_attn.errors import HipCompileError
from pytest_rocm_attn.gpu import Gpu, known_gpus
from pytest_rocm_attn.hip_compile import Compiled, compile_code_object, find_compiler

SOURCE = Path(__file__).parents[3] / "backends" / "hip" / "device_only.hip"
TARGETS = ("gfx90a", "gfx942", "gfx950", "gfx1100", "gfx1201")
INSTRUCTION = {"Mfma16": "v_mfma_f32_16x16x16", "Mfma32": "v_mfma_f32_16x16x32"}
LEAST_LDS = 65536  # bytes a workgroup, on every target that the matrix kernels are for
WORKGROUPS = (64, 128, 256)  # work-items: `combine` has one a dim
ONE = "EACH(::rocm_attn::BF16,::rocm_attn::Cache::SAME,128,16)"


def compiled(gfx: str, defines: dict[str, str | int]) -> Compiled:
    try:
        find_compiler(gfx)
    except HipCompileError as error:
        pytest.skip(str(error).splitlines()[0])
    return compile_code_object(SOURCE, gfx, defines=defines)


def check(found: Compiled, gfx: str) -> None:
    """Hold every kernel to its bounds; a target that hardware.toml lacks has no known occupancy."""
    shape = next(shape for shape in SHAPES if gfx in shape.targets)
    wanted = INSTRUCTION.get(shape.struct, "v_wmma_f32_16x16x16")
    for kernel in found.kernels:
        assert kernel.lds_bytes <= LEAST_LDS
        assert (kernel.vgpr_spills, kernel.sgpr_spills, kernel.scratch_bytes) == (0, 0, 0)
        assert kernel.max_workgroup in WORKGROUPS
        if gfx in known_gpus():
            waves = waves_per_simd(Gpu(gfx), kernel, kernel.lds_bytes)
            assert waves is not None and waves >= 3
        if "matrix" in kernel.name:
            instructions = found.matrix_instructions(kernel.name)
            assert instructions
            assert all(name.startswith(wanted) for name in instructions)


@pytest.mark.parametrize("gfx", TARGETS)
def test_the_matrix_kernel_fits_and_multiplies_by_matrix_instructions(gfx: str) -> None:
    found = compiled(gfx, {"ROCM_ATTN_EACH(EACH)": ONE, "ROCM_ATTN_ONLY_MATRIX": 1})
    assert sum("matrix" in kernel.name for kernel in found.kernels) == 1
    check(found, gfx)


@pytest.mark.slow
@pytest.mark.parametrize("gfx", sorted({gfx for shape in SHAPES for gfx in shape.targets}))
def test_every_matrix_kernel_fits_every_target(gfx: str) -> None:
    found = compiled(gfx, {"ROCM_ATTN_ONLY_MATRIX": 1})
    assert sum("matrix" in kernel.name for kernel in found.kernels) == 24
    check(found, gfx)


@pytest.mark.slow
@pytest.mark.parametrize("gfx", [*TARGETS, "gfx906", "gfx1030"])
def test_the_plain_kernels_compile_anywhere_and_fit(gfx: str) -> None:
    found = compiled(gfx, {"ROCM_ATTN_ONLY_PLAIN": 1})
    plain = [kernel for kernel in found.kernels if "plain" in kernel.name]
    assert len(plain) == 96
    assert all(kernel.lds_bytes <= Gpu(gfx).lds_bytes for kernel in plain)
    assert all(kernel.vgpr_spills == 0 for kernel in plain)


def test_a_gpu_without_matrix_kernel_gets_an_empty_one() -> None:
    """Such a kernel is never launched: rocm_attn.decode_refusal names the targets that have one."""
    found = compiled("gfx1030", {"ROCM_ATTN_EACH(EACH)": ONE, "ROCM_ATTN_ONLY_MATRIX": 1})
    (kernel,) = (kernel for kernel in found.kernels if "matrix" in kernel.name)
    assert not found.matrix_instructions(kernel.name)
    assert kernel.lds_bytes == 0
