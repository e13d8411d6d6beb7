"""Released attention kernels, dry-launched by their own host code; and every Triton we support.

Nothing here is copied into this repository: vLLM's files are read from ROCM_ATTN_VLLM_TREE (default
/work/vllm/0.12.0), aiter from the installed wheel; ROCM_ATTN_PYTHON names the interpreter that has
their dependencies (default: the one that runs the tests). What is missing skips with a reason.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_rocm_attn.gpu import Gpu

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
GENERATE = ROOT / "docs" / "launch-tables" / "generate.py"
TREE = Path(os.environ.get("ROCM_ATTN_VLLM_TREE", "/work/vllm/0.12.0"))
PYTHON = os.environ.get("ROCM_ATTN_PYTHON", sys.executable)
TRITONS = ["3.6.0", "3.7.1", "3.8.0", "3.9.0"]


def dry_launched(suite: str, gfx: str, *options: str) -> dict[str, Any]:
    """Return what a process for one target recorded; skip when the package is not there."""
    environ = {**os.environ, "TRITON_DEFAULT_FP_FUSION": "1"}
    done = subprocess.run(
        [PYTHON, str(GENERATE), suite, "--one", gfx, *options],
        capture_output=True,
        text=True,
        check=False,
        env=environ,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    assert lines, done.stderr
    found: dict[str, Any] = json.loads(lines[-1])
    if found.get("died", "").startswith(("ModuleNotFoundError", "MockError")):
        pytest.skip(f"{PYTHON} cannot import {suite}: {found['died']}; set ROCM_ATTN_PYTHON")
    return found


def launches_of(workload: dict[str, Any], gfx: str, kernels: list[str]) -> None:
    """Check one workload: these kernels, on this target, all fitting."""
    assert workload["error"] is None
    assert workload["rejected"] == []
    assert [launch["name"] for launch in workload["launches"]] == kernels
    for launch in workload["launches"]:
        assert launch["gfx"] == gfx and launch["fits"]
        assert launch["lds_limit"] == Gpu(gfx).lds_bytes
    family = "v_mfma_" if Gpu(gfx).is_gfx9 else "v_wmma_"
    matrix = workload["launches"][0]["matrix_instructions"]
    assert matrix and all(name.startswith(family) for name in matrix)


@pytest.mark.parametrize("gfx", ["gfx90a", "gfx942", "gfx950", "gfx1100", "gfx1151", "gfx1201"])
def test_vllms_unified_attention_and_mla_decode(gfx: str) -> None:
    if not TREE.is_dir():
        pytest.skip(f"no vLLM at {TREE}; set ROCM_ATTN_VLLM_TREE to an unpacked vLLM 0.12.0")

    workloads = dry_launched("vllm", gfx, "--tree", str(TREE))["workloads"]

    for name, workload in workloads.items():
        if "prefill" in name:
            launches_of(workload, gfx, ["kernel_unified_attention_2d"])
        elif "unified" in name:
            launches_of(workload, gfx, ["kernel_unified_attention_3d", "reduce_segments"])
        else:
            launches_of(workload, gfx, ["_fwd_grouped_kernel_stage1", "_fwd_kernel_stage2"])
    assert len(workloads) == 5


@pytest.mark.parametrize("gfx", ["gfx942", "gfx950"])
def test_aiters_unified_attention(gfx: str) -> None:
    workloads = dry_launched("aiter", gfx)["workloads"]
    for name, workload in workloads.items():
        if "prefill" in name:
            launches_of(workload, gfx, ["kernel_unified_attention_2d"])
        else:
            launches_of(workload, gfx, ["kernel_unified_attention_3d", "reduce_segments"])
    assert len(workloads) == 4


def test_aiters_own_error_for_a_target_it_does_not_know_arrives_as_it_is() -> None:
    found = dry_launched("aiter", "gfx1201")
    assert "Unknown GPU architecture: gfx1201" in found["died"]


@pytest.mark.parametrize("version", TRITONS)
@pytest.mark.parametrize(
    "folders",
    [
        pytest.param(("plugin/dry_launch", "plugin/emulator"), id="compiled"),
        pytest.param(("backends/interpreted",), id="interpreted"),
    ],
)
def test_every_supported_triton_passes_the_tests_of_what_uses_it(
    version: str, folders: tuple[str, ...], tmp_path: Path
) -> None:
    folder = tmp_path / "triton"
    installer = ["uv", "pip"] if shutil.which("uv") else [sys.executable, "-m", "pip"]
    installed = subprocess.run(
        [*installer, "install", "-q", "--no-deps", "--target", str(folder), f"triton=={version}"],
        capture_output=True,
        text=True,
        check=False,
    )
    if installed.returncode:
        pytest.skip(f"cannot install Triton {version}: {installed.stderr.strip()}")
    tests = [str(ROOT / "tests" / name) for name in folders]
    environ = {
        **os.environ,
        "PYTHONPATH": str(folder),  # before the installed Triton
        "TRITON_DEFAULT_FP_FUSION": "1",  # 3.9.0 warns if it is not set
    }

    asked = subprocess.run(
        [sys.executable, "-c", "import triton; print(triton.__version__)"],
        capture_output=True,
        text=True,
        check=True,
        env=environ,
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests],
        capture_output=True,
        text=True,
        check=False,
        env=environ,
        cwd=ROOT,
    )

    assert asked.stdout.strip() == version
    assert done.returncode == 0, done.stdout[-5000:]
    assert " passed" in done.stdout
