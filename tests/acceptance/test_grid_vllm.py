"""The grid against unmodified vLLM releases (docs/grid.md). Slow; see test_real_vllm.py for where."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

RELEASES = Path(os.environ.get("ROCM_ATTN_VLLM_DIR", "/work/vllm"))
PYTHON = os.environ.get("ROCM_ATTN_PYTHON", sys.executable)


def run(release: str, tmp_path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the report's rows, and the conditions that the terminal ends with."""
    folder = RELEASES / release
    if not folder.is_dir():
        pytest.skip(f"vLLM {release} is not unpacked in {RELEASES}; see docs/real-vllm.md")
    report = tmp_path / "report.json"
    result = subprocess.run(
        [
            *(PYTHON, "-m", "pytest", "-q", "--tb=no", "--rocm-attn-conformance"),
            "--rocm-attn-tier=grid",
            "--rocm-attn-selector=vllm.platforms.rocm:RocmPlatform",
            f"--rocm-attn-report={report}",
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(folder)},
        check=False,
        timeout=2400,
        capture_output=True,
        text=True,
    )
    conditions = [line for line in result.stdout.splitlines() if re.match(r"\d+\. ", line)]
    return json.loads(report.read_text())["rows"], conditions


@pytest.mark.slow
def test_vllm_0_12_0_breaks_one_rule_and_differs_in_at_most_ten_conditions(tmp_path: Path) -> None:
    rows, conditions = run("0.12.0", tmp_path)
    counts = [row["details"]["counts"] for row in rows]
    assert sum(count["cells"] for count in counts) >= 1_000_000
    assert sum(count["unanswered"] + count["unanswerable"] for count in counts) == 0
    broken = {
        finding["rule"]
        for row in rows
        for finding in row["details"]["findings"]
        if finding["level"] == "required"
    }
    assert broken == {"triton-mla-needs-block-size-16"}
    assert 1 <= len(conditions) <= 10
    assert "TRITON_MLA with block_size 2, 8 or 15" in conditions[0]


@pytest.mark.slow
def test_vllm_0_11_2_lets_aiter_override_the_explicit_choice_before_all_else(
    tmp_path: Path,
) -> None:
    _, conditions = run("0.11.2", tmp_path)
    assert len(conditions) <= 10
    assert "VLLM_ROCM_USE_AITER=1" in conditions[0]
    assert "expected the explicit one" in conditions[0]
    assert "got ROCM_AITER_FA" in conditions[0]
