"""The target of an assembly, as releases of LLVM print it."""

from __future__ import annotations

import pytest

from pytest_rocm_attn.emulator.assembly import read_assembly
from pytest_rocm_attn.errors import EmulatorError


@pytest.mark.parametrize(
    ("target", "processor"),
    [
        ("amdgcn-amd-amdhsa--gfx942", "gfx942"),
        ("amdgcn-amd-amdhsa--gfx942:sramecc+:xnack-", "gfx942"),
        ("amdgcn-amd-amdhsa-unknown-gfx1201", "gfx1201"),
        ("amdgpu9.42-amd-amdhsa-unknown-gfx942", "gfx942"),  # Triton 3.9.0
        ("amdgpu12.01-amd-amdhsa-unknown-gfx1201", "gfx1201"),
        ("amdgcn-amd-amdhsa--gfx9-4-generic:xnack-", "gfx9-4-generic"),
    ],
)
def test_the_processor_of_a_target(target: str, processor: str) -> None:
    assert read_assembly(f'\t.amdgcn_target "{target}"\n').gfx == processor


@pytest.mark.parametrize(
    "target", ["amdgcn-amd-amdhsa--gfx803", "amdgcn-amd-amdhsa--gfx1350", "gfx", "amdgcn-amd", ""]
)
def test_an_unknown_target_is_refused(target: str) -> None:
    with pytest.raises(EmulatorError, match=r"gfx9\*, gfx10\*, gfx11\*, gfx12\*") as caught:
        read_assembly(f'\t.amdgcn_target "{target}"\n')
    assert repr(target) in str(caught.value)


def test_assembly_without_a_target_is_refused() -> None:
    with pytest.raises(EmulatorError, match=r"no \.amdgcn_target"):
        read_assembly("\ts_endpgm\n")
