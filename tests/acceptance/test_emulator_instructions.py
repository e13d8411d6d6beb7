"""No instruction of the launch tier's kernels is unknown to the emulator: ours, vLLM's and aiter's. Slow.

Each kernel is compiled at every shape of the launch tier. ROCM_ATTN_VLLM_DIR and ROCM_ATTN_AITER_DIR are as in
test_vllm_numerics.py and test_aiter_numerics.py; ROCM_ATTN_PYTHON has what vLLM imports.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_rocm_attn.emulator.assembly import read_assembly
from pytest_rocm_attn.emulator.build import step_of
from pytest_rocm_attn.errors import EmulatorError

pytestmark = pytest.mark.slow

TARGETS = ("gfx90a", "gfx942", "gfx950", "gfx1100", "gfx1201")
VLLM = Path(os.environ.get("ROCM_ATTN_VLLM_DIR", "/work/vllm")) / "0.33.0"
AITER = Path(os.environ.get("ROCM_ATTN_AITER_DIR", "/work/aiter-only"))
PYTHON = os.environ.get("ROCM_ATTN_PYTHON", sys.executable)
ADAPTERS = "pytest_rocm_attn.conformance.adapters"
KERNELS = f"{ADAPTERS}.vllm_kernels"
# What to run: (folder for PYTHONPATH, --rocm-attn-backends); neither for our own kernels.
PEERS = {
    "ours": (None, ""),
    "vLLM's unified attention": (VLLM, f"P={ADAPTERS}.vllm_unified:UnifiedAttention"),
    "vLLM's prefill and decode": (VLLM, f"P={KERNELS}:RocmAttn"),
    "vLLM's MLA": (VLLM, f"P={KERNELS}:TritonMla"),
    "aiter's unified attention": (AITER, f"P={ADAPTERS}.aiter_unified:UnifiedAttention"),
}


def unknown(folder: Path) -> tuple[int, set[str], set[str]]:
    """Return how many kernels a folder of Triton's cache has, their mnemonics, and what the emulator says of
    those that it refuses."""
    names: set[str] = set()
    refused: set[str] = set()
    files = list(folder.rglob("*.amdgcn"))
    for file in files:
        program = read_assembly(file.read_text())
        directives = next(iter(program.kernels.values())).directives
        lanes = 32 if directives.get("wavefront_size32") == 1 else 64
        for instruction in program.instructions:
            names.add(instruction.name)
            try:
                step_of(instruction, program, lanes)
            except EmulatorError as error:
                refused.add(str(error))
    return len(files), names, refused


@pytest.mark.parametrize("gfx", TARGETS)
@pytest.mark.parametrize("peer", list(PEERS))
def test_no_instruction_of_a_kernel_is_unknown(
    peer: str, gfx: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    folder, backends = PEERS[peer]
    if folder is not None and not folder.is_dir():
        pytest.skip(f"no {folder}; set ROCM_ATTN_VLLM_DIR or ROCM_ATTN_AITER_DIR")
    command = [PYTHON, "-m", "pytest", "-p", "no:cacheprovider", "--rocm-attn-conformance",
               "--rocm-attn-tier=launch", f"--rocm-attn-gpu={gfx}"]  # fmt: skip
    if backends:
        command.append(f"--rocm-attn-backends={backends}")
    path = os.environ.get("PYTHONPATH", "")
    paths = [str(folder)] if folder is not None else []
    # aiter 0.1.7 would not be imported on gfx1201; Triton compiles for the target all the same
    archs = {"GPU_ARCHS": "gfx942"} if folder == AITER else {}
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={
            **os.environ,
            **archs,
            "PYTHONPATH": os.pathsep.join([*paths, *filter(None, [path])]),
            "TRITON_CACHE_DIR": str(tmp_path / "cache"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    kernels, names, refused = unknown(tmp_path / "cache")
    record_property("kernels", kernels)
    record_property("mnemonics", len(names))
    assert len(names) > 60, done.stdout[-2000:]
    assert not refused, "\n".join(sorted(refused))
