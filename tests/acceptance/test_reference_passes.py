"""The embedded reference under every tier at once: not one shortfall, and no tier left out."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from pytest_rocm_attn.conformance.tiers import TIERS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

# It names backends and has none to build, and says so.
NOT_FOR_IT = "capabilities"
CHEAP = ("documented", "invariants", "grid", "capabilities")


def run(folder: Path, tiers: Sequence[str], *options: str) -> tuple[dict[str, Any], str]:
    """Run these tiers; return the report, and what the terminal showed."""
    words = ["-m", "pytest", "--rocm-attn-conformance", f"--rocm-attn-tier={','.join(tiers)}"]
    words += ["--rocm-attn-report=report.json", *options]
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == pytest.ExitCode.OK, done.stdout[-5000:] + done.stderr
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return report, done.stdout


def check(report: dict[str, Any], output: str, tiers: Sequence[str]) -> None:
    assert set(report["totals"]) == {"pass"}
    assert report["totals"]["pass"] + len(report["declined"]) == report["selected"]
    ran = Counter(row["tier"] for row in report["rows"])
    assert set(ran) == {*tiers} - {NOT_FOR_IT}
    assert min(ran.values()) >= 9
    assert f"tier {NOT_FOR_IT} does not apply: the selector is a pure function" in output
    (grid,) = report["summaries"]
    assert grid["conditions"] == []


@pytest.mark.slow
def test_the_reference_passes_every_tier_of_selection_on_one_gpu(tmp_path: Path) -> None:
    options = ("--rocm-attn-gpu=gfx942", "--rocm-attn-examples=10", "--rocm-attn-strict")
    report, output = run(tmp_path, CHEAP, *options)
    check(report, output, CHEAP)
    assert {row["gpu"]["gfx"] for row in report["rows"] if row["gpu"]} == {"gfx942"}


@pytest.mark.slow
def test_the_reference_passes_every_tier_at_once(tmp_path: Path) -> None:
    tiers = tuple(TIERS)
    assert set(tiers) >= {*CHEAP, "numerics", "launch"}
    report, output = run(tmp_path, tiers, "--rocm-attn-strict")
    check(report, output, tiers)
    (summary,) = report["summaries"]
    assert summary["told"][0].startswith("1,392,008 of 1,392,008 cells answered")
