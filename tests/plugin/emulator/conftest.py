"""Kernels written in assembly by hand, with the directives that LLVM would give them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from pytest_rocm_attn.emulator.launch import Executed, launch
from pytest_rocm_attn.emulator.memory import Region

# s[0:1] holds the address of the arguments, s2 (gfx9, gfx11) or ttmp9 (gfx12) the workgroup.
_DIRECTIVES = {
    "group_segment_fixed_size": 0,
    "private_segment_fixed_size": 0,
    "user_sgpr_count": 2,
    "user_sgpr_kernarg_segment_ptr": 1,
    "system_sgpr_workgroup_id_x": 1,
    "next_free_vgpr": 64,
    "next_free_sgpr": 64,
}


def assembly(body: str, gfx: str, arguments: int = 0, **directives: int) -> str:
    """Return a whole file with one kernel, ``k``, whose arguments are pointers."""
    settings = _DIRECTIVES | {"kernarg_size": 8 * arguments} | directives
    described = "\n".join(f"\t\t.amdhsa_{name} {value}" for name, value in settings.items())
    entries = "".join(
        f"      - .offset: {8 * number}\n        .size: 8\n        .value_kind: global_buffer\n"
        for number in range(arguments)
    )
    return (
        f'\t.amdgcn_target "amdgcn-amd-amdhsa--{gfx}"\n\t.text\nk:\n'
        f'\t.file 1 "/src" "kernel.py"\n{body}\n\ts_endpgm\n\t.section .rodata\n'
        f"\t.amdhsa_kernel k\n{described}\n\t.end_amdhsa_kernel\n\t.amdgpu_metadata\n---\n"
        f"amdhsa.kernels:\n  - .agpr_count: 0\n    .args:\n{entries}    .symbol: k.kd\n"
        "\t.end_amdgpu_metadata\n"
    )


def region(name: str, tensor: torch.Tensor) -> Region:
    """Return a tensor as memory that a kernel may touch."""
    start = tensor.data_ptr()
    return Region(start, start + tensor.nbytes, name, tensor.element_size(), start)


def run_body(
    body: str,
    gfx: str = "gfx942",
    *,
    tensors: dict[str, torch.Tensor] | None = None,
    threads: int = 64,
    grid: tuple[int, int, int] = (1, 1, 1),
    lds: int = 0,
    private_segment_fixed_size: int = 0,
    **more: Any,
) -> Executed:
    """Run a kernel's body; each tensor is an argument, and memory that it may touch."""
    given = tensors or {}
    return launch(
        assembly(body, gfx, len(given), private_segment_fixed_size=private_segment_fixed_size),
        "k",
        grid,
        threads,
        [tensor.data_ptr().to_bytes(8, "little") for tensor in given.values()],
        [region(name, tensor) for name, tensor in given.items()],
        dynamic_lds=lds,
        **more,
    )


@pytest.fixture
def execute() -> Callable[..., Executed]:
    """The function that runs the body of a kernel; see ``run_body``."""
    return run_body


@pytest.fixture
def assembled() -> Callable[..., str]:
    """The function that writes the assembly of a kernel; see ``assembly``."""
    return assembly
