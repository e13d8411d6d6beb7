"""The shipped numerics cases on the emulated HIP decode: each matrix instruction's kernels, and the plain."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

SUBJECTS = Path(__file__).with_name("emulated_backend.py")
NAMES = ("Mfma16", "Mfma32", "Wmma11", "Wmma12", "Plain")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ on PATH"),
]


@pytest.mark.parametrize("name", NAMES)
def test_every_case_that_the_hip_kernel_serves_is_right(
    pytester: pytest.Pytester, name: str
) -> None:
    pytester.runpytest_subprocess(
        *("--rocm-attn-conformance", "--rocm-attn-tier=numerics", "--rocm-attn-report=r.json"),
        f"--rocm-attn-backends={name}={SUBJECTS}:{name}",
        *("-k", "not drawn"),
    )
    report = json.loads((pytester.path / "r.json").read_text())
    rows = report["rows"]
    assert {row["evidence"] for row in rows} == {"source-emulated"}
    # As many as reach the kernel on an H100, less one of 131,072 tokens and one of large tiles.
    assert len(rows) > 25
    assert {row["id"]: row["verdict"] for row in rows if row["verdict"] != "pass"} == {}
    reasons = {entry["reason"] for entry in report["declined"]}
    assert any("HIP decode is not reached" in reason for reason in reasons)
