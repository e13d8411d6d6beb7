"""AMD's real aiter, from its wheel, imported under the mock. Slow: its import takes half a minute.

ROCM_ATTN_AITER_PYTHON is an interpreter with amd-aiter, its dependencies (pandas, einops, psutil,
pybind11, packaging), torch, triton and this distribution; default: this one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

pytestmark = pytest.mark.slow

PYTHON = os.environ.get("ROCM_ATTN_AITER_PYTHON", sys.executable)
PROBE = "from importlib.metadata import version; print(version('amd-aiter'))"
IMPORT = """
import json, os, sys
import torch, triton, pandas, setuptools
from pytest_rocm_attn.mock import mock_rocm

def is_aiters(path):
    # Below the last site-packages, since the interpreter's own folder may be called aiter too.
    inside = str(path).rpartition("site-packages")[2]
    return not {"aiter", "aiter_meta"}.isdisjoint(inside.split(os.sep))

def traces():
    modules = [n for n, m in sys.modules.items() if is_aiters(getattr(m, "__file__", ""))]
    return dict(os.environ), list(filter(is_aiters, sys.path)), modules, len(sys.meta_path)

before = traces()
report = {}
for turn in (1, 2):
    with mock_rocm(sys.argv[1], real_aiter=True):
        try:
            import aiter
        except Exception as error:  # the test judges what it was
            report["error"] = f"{type(error).__name__}: {error}"
            break
        from aiter.jit.utils.chip_info import get_cu_num, get_gfx
        from aiter.ops.triton.utils._triton import arch_info
        import aiter.ops.triton.unified_attention

        report[turn] = {
            "gfx": get_gfx(),
            "units": get_cu_num(),
            "triton": arch_info.get_arch(),
            "fp8": str(aiter.dtypes.fp8),
            "names": len([name for name in dir(aiter) if not name.startswith("_")]),
        }
report["clean"] = traces() == before
if "error" not in report:
    try:
        mock_rocm("gfx90a" if sys.argv[1] != "gfx90a" else "gfx942", real_aiter=True).enter()
    except Exception as error:  # the test judges what it was
        report["other"] = f"{type(error).__name__}: {error}"
print(json.dumps(report))
sys.stdout.flush()
os._exit(0)  # with torch 2.13, torch.library's exit hooks stumble over an operator of aiter 0.1.7
"""


@pytest.fixture(scope="module")
def python() -> str:
    done = subprocess.run([PYTHON, "-c", PROBE], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(
            f"{PYTHON} has no amd-aiter; pip install amd-aiter somewhere and name its python in"
            " ROCM_ATTN_AITER_PYTHON"
        )
    return PYTHON


def report(python: str, gfx: str) -> dict[str, Any]:
    done = subprocess.run(
        [python, "-c", IMPORT, gfx], capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize(
    ("gfx", "units", "fp8"),  # docs/reference/mock-surface.md#derived
    [
        ("gfx942", 304, "torch.float8_e4m3fnuz"),
        ("gfx950", 256, "torch.float8_e4m3fn"),
        ("gfx90a", 110, "torch.uint8"),
    ],
)
def test_the_whole_of_aiter_imports_and_detects_the_mocked_target(
    python: str, gfx: str, units: int, fp8: str
) -> None:
    found = report(python, gfx)
    assert "error" not in found, found["error"]
    first, second = found["1"], found["2"]
    assert first.pop("names") == second.pop("names") > 300
    assert first == {"gfx": gfx, "units": units, "triton": gfx, "fp8": fp8}
    assert second == first  # a second mock of the target gets what the first imported
    assert found["clean"]
    assert "MockError" in found["other"]
    assert "process of its own" in found["other"]


def test_a_target_that_aiter_does_not_know_gets_aiters_own_error(python: str) -> None:
    found = report(python, "gfx1201")
    if "error" not in found:
        pytest.skip("this release of aiter knows gfx1201")
    assert "gfx1201" in found["error"]
    assert "Supported architectures" in found["error"]
