"""Reported defects of attention kernels that do not fit a GPU: the launch tier catches each. Slow.

The fit-* cases of docs/reference/known-regressions.md as of 2026-11-24. Where a release that has
the defect is at hand it is run as it is; else the defect is put into a release that lacks it, by
forcing the launch options or the tile that the report blames. Each is run without the defect too,
and passes.

ROCM_ATTN_VLLM_DIR (default /work/vllm) holds a folder per vLLM release. ROCM_ATTN_AITER_PYTHON is an
interpreter with amd-aiter 0.1.7, as in test_real_aiter_on_mock.py.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

AITER_PYTHON = os.environ.get("ROCM_ATTN_AITER_PYTHON", sys.executable)
DETECTION = Path(__file__).parents[2] / "docs" / "detection.md"
LDS = 65536  # bytes a workgroup: gfx942 and all of RDNA (hardware.toml)

# A backend whose unified attention launches its kernel with FORCED over what the host code chose.
SUBJECT = """
import sys
from pytest_rocm_attn.conformance.adapters import {adapter}

FORCED = {forced}

class Forced:
    def __init__(self, kernel):
        self.kernel = kernel
    def __getitem__(self, grid):
        launch = self.kernel[grid]
        return lambda *args, **options: launch(*args, **{{**options, **FORCED}})

class Subject({adapter}.UnifiedAttention):
    def __init__(self):
        super().__init__()
        module = sys.modules[self.function.__module__]
        for name in {kernels}:
            setattr(module, name, Forced(getattr(module, name)))
"""
# A backend whose host code does not take what its class claims.
ASSERTS = """
from pytest_rocm_attn.conformance.adapters import vllm_unified

class Subject(vllm_unified.UnifiedAttention):
    def attend(self, problem):
        assert str(problem.key_cache.dtype) != "torch.float16", "the cache must be bf16 or fp8"
        super().attend(problem)
"""


def forced(adapter: str, kernel: str, **options: int) -> str:
    """Return a file with Subject, whose kernel gets these options and constants."""
    return SUBJECT.format(adapter=adapter, kernels=(kernel,), forced=options)


@dataclass(frozen=True, kw_only=True)
class Defect:
    """One reported defect.

    Args:
        case: its name in docs/reference/known-regressions.md.
        bad, good: the backend with the defect and without.
        item: the shape family that shows it.
        gpus: the targets that it is shown on.
        words: what the tier says, as a regular expression.
        release: the vLLM release; "" for amd-aiter.
    """

    case: str
    bad: str
    good: str
    item: str
    gpus: tuple[str, ...]
    words: str
    release: str = ""


AITER = "pytest_rocm_attn.conformance.adapters.aiter_unified:UnifiedAttention"
UNIFIED = "pytest_rocm_attn.conformance.adapters.vllm_unified:UnifiedAttention"
TOO_MUCH_LDS = rf"does not fit {{gpu}}: OutOfResources: .*Required: (\d+), Hardware limit: {LDS}"
DEFECTS = (
    Defect(
        case="fit-unified-3d-lds",
        bad=forced("aiter_unified", "kernel_unified_attention_3d", num_stages=2),
        good=AITER,
        item="decode-in-large-blocks",
        gpus=("gfx1101", "gfx1151", "gfx1201"),
        words=TOO_MUCH_LDS,
    ),
    Defect(
        case="fit-unified-tile-not-pow2",
        bad=AITER,  # 0.1.7 has the defect
        good=forced("aiter_unified", "kernel_unified_attention_3d", TILE_SIZE=64),
        item="decode-in-blocks-of-hybrid-models-block-size-544",
        gpus=("gfx942",),
        words=r"kernel_unified_attention_3d does not compile for {gpu}: CompilationError",
    ),
    Defect(
        case="fit-unified-fp16-assert",
        bad=ASSERTS,
        good=UNIFIED,
        item="decode-over-a-cache-of-the-models-dtype-float16",
        gpus=("gfx942",),
        words=r"raised AssertionError: the cache must be bf16 or fp8",
        release="0.22.1",
    ),
    Defect(
        # The report's two buffers of keys and values: of this kernel, Triton makes them of four stages.
        case="fit-gfx11-131584",
        bad=forced("vllm_unified", "kernel_unified_attention", num_stages=4, TILE_SIZE=64),
        good=UNIFIED,
        item="decode-in-large-blocks",
        gpus=("gfx1151",),
        words=TOO_MUCH_LDS,
        release="0.22.1",
    ),
    Defect(
        case="fit-gfx11-head-512-2d",
        bad=forced("vllm_unified", "kernel_unified_attention", BLOCK_M=128, BLOCK_Q=16),
        good=UNIFIED,
        item="prefill-of-the-largest-heads",
        gpus=("gfx1151",),
        words=TOO_MUCH_LDS,
        release="0.22.1",
    ),
)


@pytest.fixture(scope="module")
def aiter_python() -> str:
    probe = "from importlib.metadata import version; print(version('amd-aiter'))"
    done = subprocess.run([AITER_PYTHON, "-c", probe], capture_output=True, text=True, check=False)
    if not done.stdout.startswith("0.1.7"):
        pytest.skip(
            f"{AITER_PYTHON} has no amd-aiter 0.1.7; pip install it somewhere and name its python in"
            " ROCM_ATTN_AITER_PYTHON"
        )
    return AITER_PYTHON


def launched(
    defect: Defect, backend: str, gpu: str, folder: Path, python: str, release: Path | None
) -> tuple[int, str]:
    """Run the family on a backend; return pytest's exit status and what it printed."""
    spec = backend
    if "\n" in backend:
        (folder / "subject.py").write_text(backend, encoding="utf-8")
        spec = "subject.py:Subject"
    env = dict(os.environ)
    if release:
        env["PYTHONPATH"] = str(release)
    else:
        env["GPU_ARCHS"] = "gfx942"  # aiter 0.1.7 knows no RDNA and would not import; Triton does
    command = [
        *(python, "-m", "pytest", "-p", "no:cacheprovider"),
        *("--rocm-attn-conformance", "--rocm-attn-tier=launch", f"--rocm-attn-gpu={gpu}"),
        f"--rocm-attn-backends=SUBJECT={spec}",
        "--rocm-attn-timeout=30",
        f"rocm-attn::launch::SUBJECT::{defect.item}[{gpu}]",
    ]
    done = subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=900
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("defect", "gpu"),
    [
        pytest.param(defect, gpu, id=f"{defect.case}-{gpu}")
        for defect in DEFECTS
        for gpu in defect.gpus
    ],
)
def test_the_defect_falls_short_and_its_absence_does_not(
    defect: Defect,
    gpu: str,
    vllm_release: Callable[[str], Path],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    if defect.release:
        python, release = sys.executable, vllm_release(defect.release)
    else:
        python, release = request.getfixturevalue("aiter_python"), None

    status, said = launched(defect, defect.bad, gpu, tmp_path, python, release)
    assert status == 1, said
    words = re.search(f"SUBJECT for {gpu}, {defect.item}: .*" + defect.words.format(gpu=gpu), said)
    assert words, said
    if defect.words is TOO_MUCH_LDS:
        assert int(words[1]) > LDS

    status, said = launched(defect, defect.good, gpu, tmp_path, python, release)
    assert status == 0 and re.search(r"^1 item: 1 pass \(", said, re.MULTILINE), said


def test_the_page_on_detection_has_these_cases_as_the_launch_tiers() -> None:
    text = DETECTION.read_text("utf-8")
    rows = re.findall(r"^\| (fit-\S+) \| elsewhere \| the launch tier, `(\S+)`", text, re.MULTILINE)
    assert dict(rows) == {defect.case: defect.item for defect in DEFECTS}
