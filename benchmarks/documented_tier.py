"""The documented tier against a real fork, as a ratio to one bare import of it under the mock.

    PYTHONPATH=vllm-0.12.0 python benchmarks/documented_tier.py

Exit status 1 if the ratio is above the budget, or if a process failed or left a cell without a judgement.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

from processes import run  # next to this script

BUDGET = 4.0
PAIRS = 3
BARE = (
    "import torch\n"
    "from pytest_rocm_attn.mock import mock_rocm\n"
    "mock_rocm('gfx942').enter()\n"
    "import vllm.platforms.rocm\n"
)
TIER = [
    *("-m", "pytest", "-q", "--rocm-attn-conformance", "--rocm-attn-report=report.json"),
    "--rocm-attn-selector=vllm.platforms.rocm:RocmPlatform",
]
RAN = (0, 1)  # 1: some rows fail, as vLLM's do


def seconds(folder: str, *arguments: str, statuses: tuple[int, ...] = (0,)) -> float:
    """Return how long a Python command takes; SystemExit if it ends with another status."""
    start = time.perf_counter()
    run([sys.executable, *arguments], folder, statuses=statuses)
    return time.perf_counter() - start


def judged(report: Path) -> int:
    """Return how many cells of a report were judged; SystemExit if there are none, or one was not."""
    rows = json.loads(report.read_text("utf-8"))["rows"]
    lost = [row["id"] for row in rows if row["verdict"] in ("error", "crash")]
    if not rows or lost:
        raise SystemExit(f"{len(lost)} of {len(rows)} cells have no judgement: {lost[:5]}")
    return len(rows)


def main() -> int:
    """Print both times and their ratio."""
    with tempfile.TemporaryDirectory() as folder:
        bare, tier = float("inf"), float("inf")
        for _ in range(PAIRS):  # in turn, so that a busy machine disturbs both alike
            bare = min(bare, seconds(folder, "-c", BARE))
            tier = min(tier, seconds(folder, *TIER, statuses=RAN))
        cells = judged(Path(folder, "report.json"))
    ratio = tier / bare
    print(
        f"bare import {bare:.2f} s, documented tier {tier:.2f} s ({cells} cells), ratio {ratio:.2f},"
        f" budget {BUDGET}"
    )
    return int(ratio > BUDGET)


if __name__ == "__main__":
    sys.exit(main())
