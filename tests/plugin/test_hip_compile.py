"""HIP sources compiled for targets that are not there, with whatever clang is on PATH."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from pytest_rocm_attn import compile_watch
from pytest_rocm_attn.errors import CompileTimeoutError, HipCompileError, UnknownGpuError
from pytest_rocm_attn.gpu import Gpu
from pytest_rocm_attn.hip_compile import compile_hip, compiler_version, find_compiler

TARGETS = ["gfx90a", "gfx942", "gfx950", "gfx1100", "gfx1201"]

SCALE = """
#include <hip/hip_runtime.h>
#ifndef ITEMS
#define ITEMS 1024
#endif
extern "C" __global__ __launch_bounds__(256) void scale(float* y, const float* x, float factor) {
  __shared__ float tile[ITEMS];
  tile[threadIdx.x] = x[blockIdx.x * blockDim.x + threadIdx.x];
  __syncthreads();
  y[blockIdx.x * blockDim.x + threadIdx.x] = factor * tile[threadIdx.x ^ 1];
}
extern "C" __global__ void clear(float* y) { y[blockIdx.x * gridDim.x] = 0; }
"""

MATRIX = """
#include <hip/hip_runtime.h>
typedef float float4v __attribute__((ext_vector_type(4)));
typedef float float8v __attribute__((ext_vector_type(8)));
typedef _Float16 half4v __attribute__((ext_vector_type(4)));
typedef _Float16 half16v __attribute__((ext_vector_type(16)));
#if defined(__gfx1100__)
extern "C" __global__ void multiply(float8v* c, const half16v* a) {
  c[0] = __builtin_amdgcn_wmma_f32_16x16x16_f16_w32(a[0], a[1], c[0]);
  c[1] = __builtin_amdgcn_wmma_f32_16x16x16_f16_w32(a[2], a[3], c[1]);
}
#else
extern "C" __global__ void multiply(float4v* c, const half4v* a) {
  c[0] = __builtin_amdgcn_mfma_f32_16x16x16f16(a[0], a[1], c[0], 0, 0, 0);
  c[1] = __builtin_amdgcn_mfma_f32_16x16x16f16(a[2], a[3], c[1], 0, 0, 0);
}
#endif
extern "C" __global__ void idle(int* y) { *y = 1; }
"""

# Each work-item keeps 64 values alive in 24 registers.
CROWDED = """
#include <hip/hip_runtime.h>
extern "C" __global__ __attribute__((amdgpu_num_vgpr(24))) __launch_bounds__(64)
void crowded(float* y, const float* x) {
  float kept[64], sum = 0;
  for (int i = 0; i < 64; ++i) sum += kept[i] = x[i * 64 + threadIdx.x];
  __syncthreads();
  for (int i = 0; i < 64; ++i) y[i * 64 + threadIdx.x] = kept[i] / sum;
}
"""


def needs_clang(gfx: str) -> None:
    try:
        find_compiler(gfx)
    except HipCompileError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("gfx", TARGETS)
def test_every_kernel_of_a_source_has_a_record(gfx: str) -> None:
    needs_clang(gfx)
    kernels = {kernel.name: kernel for kernel in compile_hip(SCALE, gfx)}

    assert set(kernels) == {"scale", "clear"}
    scale = kernels["scale"]
    assert (scale.gfx, scale.lds_bytes, scale.lds_limit) == (gfx, 4096, Gpu(gfx).lds_bytes)
    assert scale.compiler.startswith("clang ")
    assert 0 < scale.vgprs < 32 and scale.sgprs > 0 and scale.code_bytes > 0
    assert scale.spills == scale.scratch_bytes == 0
    assert scale.occupancy == Gpu(gfx).fact("max_waves_per_simd")
    assert kernels["clear"].lds_bytes == 0
    scale.assert_fits(spills=0)


BOUNDED = """
#include <hip/hip_runtime.h>
extern "C" __global__ BOUNDS void bounded(float* y) {
  __shared__ float tile[10240];  // one workgroup to a CU of 64 KiB
  for (int i = threadIdx.x; i < 10240; i += 64) tile[i] = y[i];
  __syncthreads();
  y[threadIdx.x] = tile[threadIdx.x ^ 1];
}
"""


@pytest.mark.parametrize(
    ("bounds", "waves"),
    [("", 4), ("__launch_bounds__(256)", 1), ("__launch_bounds__(512, 2)", 2)],
    ids=["none", "workgroup", "workgroup-and-waves"],
)
def test_launch_bounds_are_the_largest_workgroup(bounds: str, waves: int) -> None:
    """A workgroup of 1024 work-items is 16 waves, on the 4 SIMDs of a CU."""
    needs_clang("gfx942")
    (kernel,) = compile_hip(BOUNDED, "gfx942", defines={"BOUNDS": bounds})
    assert kernel.occupancy == waves


def test_defines_reach_the_source() -> None:
    needs_clang("gfx942")
    sizes = {kernel.lds_bytes for kernel in compile_hip(SCALE, "gfx942", defines={"ITEMS": 4096})}
    assert sizes == {0, 16384}


def test_options_reach_the_compiler() -> None:
    needs_clang("gfx942")
    (kernel,) = compile_hip(CROWDED, "gfx942", options=["-DUNUSED", "-O1", "-mllvm", "-stats=0"])
    assert kernel.name == "crowded"


@pytest.mark.parametrize("gfx", ["gfx942", "gfx1201"])
def test_spills_are_counted(gfx: str) -> None:
    needs_clang(gfx)
    (kernel,) = compile_hip(CROWDED, gfx)
    assert kernel.vgprs <= 48  # of a unified file the attribute counts half
    assert kernel.vgpr_spills > 0 and kernel.scratch_bytes > 0
    with pytest.raises(AssertionError, match=rf"crowded on {gfx} \(clang .*spills is \d+, the"):
        kernel.assert_fits(spills=0)


@pytest.mark.parametrize(
    ("gfx", "instruction"),
    [("gfx942", "v_mfma_f32_16x16x16_f16"), ("gfx1100", "v_wmma_f32_16x16x16_f16")],
)
def test_matrix_instructions_belong_to_their_kernel(gfx: str, instruction: str) -> None:
    needs_clang(gfx)
    kernels = {kernel.name: kernel for kernel in compile_hip(MATRIX, gfx)}
    assert kernels["multiply"].matrix_instructions == {instruction: 2}
    assert kernels["idle"].matrix_instructions == {}


def test_lds_over_the_limit_is_refused_in_the_compilers_words_and_fits_a_larger_gpu() -> None:
    needs_clang("gfx942")
    needs_clang("gfx950")
    with pytest.raises(HipCompileError, match=r"local memory \(81920\) exceeds limit \(65536\)"):
        compile_hip(SCALE, "gfx942", defines={"ITEMS": 20480})
    assert compile_hip(SCALE, "gfx950", defines={"ITEMS": 20480})[0].lds_bytes == 81920


def test_a_file_is_compiled_where_it_lies(tmp_path: Path) -> None:
    needs_clang("gfx942")
    (tmp_path / "kernels.h").write_text(SCALE)
    source = tmp_path / "kernels.hip"
    source.write_text('#include "kernels.h"\n')
    assert len(compile_hip(source, "gfx942")) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kernels.h", "kernels.hip"]


def test_an_error_in_the_source_is_shown_with_its_line() -> None:
    needs_clang("gfx942")
    with pytest.raises(
        HipCompileError, match=r"refuses the source, kernel\.hip for gfx942:\n.*kernel\.hip:1:"
    ):
        compile_hip("no code", "gfx942")


def test_a_rocm_tree_that_is_none_is_refused_in_the_compilers_words(tmp_path: Path) -> None:
    needs_clang("gfx942")
    with pytest.raises(HipCompileError, match="ROCm"):
        compile_hip(SCALE, "gfx942", rocm=tmp_path)


def test_a_source_without_kernels_has_no_record() -> None:
    needs_clang("gfx942")
    assert compile_hip("", "gfx942") == ()


def test_an_unknown_target_is_refused_before_any_compiler_is_asked() -> None:
    with pytest.raises(UnknownGpuError, match="gfx9999"):
        compile_hip(SCALE, "gfx9999")


def script(path: Path, body: str) -> Path:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_a_compiler_is_believed_only_when_it_compiles_for_the_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(tmp_path / "clang-7", "echo error: unsupported HIP gpu architecture: gfx942 >&2; exit 1")
    script(tmp_path / "clang", "exit 0")
    (tmp_path / "clang-6").write_text("not executable")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HipCompileError, match="no compiler on PATH compiles HIP for gfx942") as it:
        find_compiler("gfx942")
    assert f"{tmp_path}/clang-7: error: unsupported HIP gpu architecture: gfx942" in str(it.value)
    assert f"{tmp_path}/clang: it compiles, but not for that target" in str(it.value)


def test_the_newest_that_knows_the_target_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    knows = 'while [ "$1" != -o ]; do shift; done; echo "amdhsa.target: x--gfx942" > "$2"'
    for name in ("clang-9", "clang-21", "clang-100", "hipcc"):
        script(tmp_path / name, "exit 1" if name == "clang-100" else knows)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/usr/bin")
    monkeypatch.setattr("shutil.which", lambda name, path: str(tmp_path / name))
    assert find_compiler("gfx942") == str(tmp_path / "clang-21")
    script(tmp_path / "amdclang++", knows)
    assert find_compiler("gfx942") == str(tmp_path / "amdclang++")


def test_a_compiler_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(HipCompileError, match="no-clang cannot be run: .*No such file"):
        compile_hip(SCALE, "gfx942", compiler=tmp_path / "no-clang")


def test_a_compiler_that_takes_too_long_is_named_while_it_runs_and_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(compile_watch, "SLOW", 0.1)
    monkeypatch.setattr(compile_watch, "say", said.append)
    source = tmp_path / "attention.hip"
    source.write_text(SCALE)
    clang = script(tmp_path / "clang", "exec sleep 20")
    words = f"attention.hip for gfx942 by {clang} takes longer than the limit of 0.5 s"
    with pytest.raises(CompileTimeoutError, match=words):
        compile_hip(source, "gfx942", compiler=clang, timeout=0.5)
    assert said[0].startswith("rocm-attn: still compiling attention.hip for gfx942, for ")
    forget = compile_watch.set_limit(0.4)
    with pytest.raises(CompileTimeoutError, match="the limit of 0.4 s"):
        compile_hip(source, "gfx942", compiler=clang)
    forget()


def test_a_compiler_without_a_version_goes_by_its_name(tmp_path: Path) -> None:
    assert compiler_version(str(script(tmp_path / "clang", "echo hello"))) == "clang"
