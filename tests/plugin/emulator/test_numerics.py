"""The numerics tier on emulated machine code: a sample of the cases, and on request all of them."""

from __future__ import annotations

import contextlib
import ctypes.util
import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from pytest_rocm_attn.conformance.tiers.numerics.lane import Lane
from pytest_rocm_attn.errors import BackendUnderTestError
from pytest_rocm_attn.gpu import known_gpus

if TYPE_CHECKING:
    from pathlib import Path

TARGETS = ("gfx90a", "gfx942", "gfx950", "gfx1100", "gfx1201")
KERNELS = ("TRITON_ATTN", "TRITON_MLA", "TRITON_ATTN-batch-invariant", "TRITON_MLA-batch-invariant")


def report_of(pytester: pytest.Pytester, gfx: str, *selection: str) -> dict[str, Any]:
    """Run items of the numerics tier on an emulated target; return the report."""
    result = pytester.runpytest_subprocess(
        "--rocm-attn-conformance",
        "--rocm-attn-tier=numerics",
        f"--rocm-attn-emulate={gfx}",
        "--rocm-attn-report=out.json",
        *selection,
    )
    assert result.ret == 0, result.stdout.str()
    report: dict[str, Any] = json.loads((pytester.path / "out.json").read_text())
    return report


# What .ci/run runs of the cases, on each target: a window, sinks, an fp8 cache, and latent attention.
SHARE = (
    *("TRITON_ATTN::sliding-window-16", "TRITON_ATTN::sinks-float16"),
    *("TRITON_ATTN::fp8-cache-e4m3fnuz-float16", "TRITON_MLA::mla-decode-with-block-size-64"),
)


@pytest.mark.slow
@pytest.mark.parametrize("gfx", TARGETS)
def test_a_share_of_the_cases_is_right_on_each_target(pytester: pytest.Pytester, gfx: str) -> None:
    report = report_of(pytester, gfx, *(f"rocm-attn::numerics::{case}" for case in SHARE))
    assert {row["id"] for row in report["rows"]} == set(SHARE)
    for row in report["rows"]:
        assert (row["verdict"], row["evidence"]) == ("pass", "emulated")
        assert 0 < row["details"]["error_over_bound"] <= 1
    (device,) = report["host"]["devices"]
    assert (device["name"], device["arch"]) == (f"emulated {gfx}", gfx)


@pytest.mark.slow
def test_what_launches_no_kernel_is_not_called_emulated(pytester: pytest.Pytester) -> None:
    report = report_of(pytester, "gfx942", "rocm-attn::numerics::FLEX_ATTENTION::sliding-window-16")
    assert report["rows"] == []
    (declined,) = report["declined"]
    assert declined["reason"] == "it launched no Triton kernel: nothing was emulated"


@pytest.mark.slow
@pytest.mark.parametrize("how", ["emulate", "launch"])
def test_a_list_of_this_machines_gpus_does_not_hide_the_mocked_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """CI hides GPUs by an empty list."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    file = tmp_path / "server.py"
    file.write_text("import torch\nraise ImportError(f'{torch.cuda.device_count()} found')\n")
    lane = Lane(f"{file}:Backend", 60, how, "gfx942")
    with pytest.raises(BackendUnderTestError, match="1 found"):
        lane.start()


# Chooses a platform at its import as vLLM's plugins do: by NVIDIA's library, then by amdsmi.
CHOOSER = """
import contextlib, ctypes, torch
found = [torch.version.hip and "hip", torch.version.cuda and "cuda"]
with contextlib.suppress(OSError):
    found.append(ctypes.CDLL("libnvidia-ml.so.1") and "nvidia")
with contextlib.suppress(ImportError):
    import amdsmi
    amdsmi.amdsmi_init()
    found.append(f"{len(amdsmi.amdsmi_get_processor_handles())} by amdsmi")
raise ImportError(f"saw {[*filter(None, found[1:])]}, hip {bool(found[0])}")
"""


@pytest.mark.slow
def test_a_server_that_is_imported_under_it_finds_the_emulated_platform(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine with an NVIDIA GPU and torch for CUDA as well."""
    (tmp_path / "libnvidia-ml.so.1").symlink_to(_path_of(ctypes.util.find_library("c") or ""))
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path), prepend=os.pathsep)
    (tmp_path / "sitecustomize.py").write_text("import torch\ntorch.version.cuda = '13.0'\n")
    (tmp_path / "chooser.py").write_text(CHOOSER)
    for arguments, seen in (
        (("run",), r"saw \['cuda', 'nvidia'.*hip False"),
        (("emulate", "gfx942"), r"saw \['1 by amdsmi'\], hip True"),
    ):
        lane = Lane("chooser:backend", 60.0, *arguments, path=[str(tmp_path)])
        with contextlib.closing(lane), pytest.raises(BackendUnderTestError, match=seen):
            lane.start()


def _path_of(library: str) -> str:
    """Return the file of a library that this process has loaded."""
    with open("/proc/self/maps") as maps:
        return next(line.split()[-1] for line in maps if line.rstrip().endswith(library))


@pytest.mark.slow
@pytest.mark.parametrize("gfx", TARGETS)
def test_every_named_case_is_right_or_declined_on_each_target(
    pytester: pytest.Pytester, gfx: str
) -> None:
    assert gfx in known_gpus()
    nodes = [f"rocm-attn::numerics::{name}" for name in KERNELS]
    found = report_of(pytester, gfx, *nodes, "-k", "not drawn")["rows"]
    assert len(found) > 90
    assert {row["evidence"] for row in found} == {"emulated"}
