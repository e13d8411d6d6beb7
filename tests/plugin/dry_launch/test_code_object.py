"""The figures read from code objects, against those that LLVM prints beside its assembly."""

# Kernels are written in Triton's language, whose decorators and values have no types.
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, misc"

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import triton
import triton.language as tl

from pytest_rocm_attn.dry_launch.code_object import (
    count_matrix_instructions,
    function_body,
    read_code_object,
)
from pytest_rocm_attn.dry_launch.occupancy import waves_per_simd
from pytest_rocm_attn.errors import CodeObjectError
from pytest_rocm_attn.gpu import Gpu


@triton.jit
def square(x_ptr, y_ptr, SIZE: tl.constexpr):
    """y = x @ x, both [SIZE, SIZE]."""
    rows = tl.arange(0, SIZE)
    offsets = rows[:, None] * SIZE + rows[None, :]
    x = tl.load(x_ptr + offsets)
    tl.store(y_ptr + offsets, tl.dot(x, x))


@triton.jit
def normalise(x_ptr, y_ptr, SIZE: tl.constexpr):
    """y = x / sum(x); keeps SIZE values live at once."""
    offsets = tl.arange(0, SIZE)
    x = tl.load(x_ptr + offsets)
    tl.store(y_ptr + offsets, x / tl.sum(x))


def compiled(kernel: Any, gpu: Gpu, dtype: str, size: int, **options: int) -> Any:
    source = triton.compiler.ASTSource(
        kernel,
        {"x_ptr": f"*{dtype}", "y_ptr": "*fp32", "SIZE": "constexpr"},
        constexprs={"SIZE": size},
        attrs={(0,): [["tt.divisibility", 16]], (1,): [["tt.divisibility", 16]]},
    )
    target = triton.backends.compiler.GPUTarget("hip", gpu.gfx, gpu.wavefront)
    return triton.compile(source, target=target, options=options)


def comment(assembly: str, name: str) -> int:
    """Return a figure of LLVM's summary after the kernel, such as "; NumVgprs: 97"."""
    found = re.findall(rf"^; {name}[:=] *(\d+)", assembly.replace(" = ", ": "), re.MULTILINE)
    assert found, f"LLVM prints no {name}"
    return int(found[0])


@pytest.mark.parametrize("gfx", ["gfx90a", "gfx942", "gfx950", "gfx1100", "gfx1201"])
def test_figures_equal_those_that_llvm_prints(gfx: str) -> None:
    gpu = Gpu(gfx)
    artefact = compiled(square, gpu, "fp16", 32, num_warps=4)
    assembly = artefact.asm["amdgcn"]

    (kernel,) = read_code_object(artefact.asm["hsaco"])

    assert kernel.name == "square"
    accumulating = gfx in ("gfx90a", "gfx942", "gfx950")
    assert kernel.vgprs == comment(assembly, "TotalNumVgprs" if accumulating else "NumVgprs")
    assert kernel.agprs == (comment(assembly, "NumAgprs") if accumulating else 0)
    assert kernel.sgprs == comment(assembly, "TotalNumSgprs")
    assert kernel.scratch_bytes == comment(assembly, "ScratchSize") == 0
    assert kernel.code_bytes == comment(assembly, "codeLenInByte")
    assert kernel.lds_bytes == comment(assembly, "LDSByteSize")  # Triton's own LDS is dynamic
    assert kernel.wavefront == gpu.wavefront
    assert kernel.max_workgroup == 4 * gpu.wavefront
    assert waves_per_simd(gpu, kernel, kernel.lds_bytes) == comment(assembly, "Occupancy")


def test_spills_come_with_scratch_that_llvm_prints_too() -> None:
    # 128 values a lane in the 96 VGPRs that 16 waves per SIMD leave: 1536 / 16
    gpu = Gpu("gfx1100")
    artefact = compiled(normalise, gpu, "fp32", 4096, num_warps=1, waves_per_eu=16)

    (kernel,) = read_code_object(artefact.asm["hsaco"])

    assert kernel.vgpr_spills > 0
    assert kernel.vgprs <= 96
    assert kernel.scratch_bytes == comment(artefact.asm["amdgcn"], "ScratchSize") > 0
    assert waves_per_simd(gpu, kernel, 0) == comment(artefact.asm["amdgcn"], "Occupancy") == 16


@pytest.mark.parametrize(("gfx", "family"), [("gfx942", "v_mfma_"), ("gfx1100", "v_wmma_")])
def test_matrix_instructions_are_counted_by_mnemonic(gfx: str, family: str) -> None:
    assembly = compiled(square, Gpu(gfx), "fp16", 32, num_warps=4).asm["amdgcn"]

    counts = count_matrix_instructions(assembly)

    assert counts and all(name.startswith(family) for name in counts)
    assert sum(counts.values()) == assembly.count(family)


def test_only_instructions_are_counted() -> None:
    assembly = """\
kernel:                                 ; v_mfma_f32_32x32x8_f16 in a comment
	v_mfma_f32_32x32x8_f16 a[0:15], v[64:65], v[66:67], a[0:15]
	v_mfma_f32_32x32x8_f16 a[0:15], v[64:65], v[68:69], a[0:15]
	v_smfmac_f32_16x16x32_f16 v[0:3], v[4:5], v[6:9], v10
	v_swmmac_f32_16x16x32_f16 v[0:7], v[8:11], v[12:19], v20
	v_fma_f32 v0, v1, v2, v3
	.asciz	"v_wmma_f32_16x16x16_f16"
"""
    assert count_matrix_instructions(assembly) == {
        "v_mfma_f32_32x32x8_f16": 2,
        "v_smfmac_f32_16x16x32_f16": 1,
        "v_swmmac_f32_16x16x32_f16": 1,
    }


def test_a_function_body_ends_where_the_next_begins() -> None:
    assembly = "one:\n\tv_a\n.Lfunc_end0:\n; info\ntwo:\n\tv_b\n.Lfunc_end1:\n"
    assert function_body(assembly, "two") == "two:\n\tv_b\n.Lfunc_end1:"
    with pytest.raises(CodeObjectError, match="no function 'three'"):
        function_body(assembly, "three")


def test_other_files_are_refused() -> None:
    with pytest.raises(CodeObjectError, match="not an AMDGPU code object"):
        read_code_object(b"BC\xc0\xde")
    with pytest.raises(CodeObjectError, match="no AMDGPU metadata note"):
        read_code_object(Path("/proc/self/exe").read_bytes())
