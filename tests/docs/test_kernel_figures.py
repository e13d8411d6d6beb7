"""The page of loop figures: made of its data, and the data is what the compiler makes of our kernels today."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import triton

ROOT = Path(__file__).parents[2]
ESTIMATED = ("clocks", "clocks_per_score", "clocks_per_key")  # by whichever llvm-mca is there
SAMPLE = [("decode", "gfx950")]  # tests/backends/test_launch_table.py compiles a prefill


@pytest.fixture(scope="module")
def tool(script: Callable[[str], Any]) -> Any:
    """The script that writes the page, as a module."""
    return script("tools/kernel_figures.py")


@pytest.fixture(scope="module")
def data(tool: Any) -> Any:
    return json.loads(tool.DATA.read_text("utf-8"))


def test_the_page_is_made_of_its_data(tool: Any, data: Any) -> None:
    assert tool.page(data) == tool.PAGE.read_text("utf-8")


def test_every_workload_has_our_figures_and_a_peers_on_every_target(tool: Any, data: Any) -> None:
    assert set(data) == set(tool.workloads())
    for name, targets in data.items():
        assert set(targets) == set(tool.TARGETS), name
        for gfx, backends in targets.items():
            assert len(backends) >= 2, (name, gfx)
            assert backends["ours"]["kernels"], (name, gfx, backends["ours"]["refusal"])


@pytest.mark.parametrize(
    ("workload", "gfx"),
    [
        pytest.param(
            name, gfx, marks=[] if (name, gfx) in SAMPLE else [pytest.mark.slow], id=f"{name}-{gfx}"
        )
        for name in ("prefill", "decode", "decode-fp8", "short", "mixed", "mla-16", "mla-128")
        for gfx in ("gfx90a", "gfx942", "gfx950", "gfx1100", "gfx1201")
    ],
)
def test_our_figures_are_those_of_a_fresh_compile(
    tool: Any, data: Any, workload: str, gfx: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Make the page again (tools/kernel_figures.py) if this fails: a kernel or its tile was changed."""
    if f"Triton {triton.__version__}" not in tool.PAGE.read_text("utf-8"):
        pytest.skip(f"the page is of another Triton than {triton.__version__}")
    monkeypatch.setenv("PATH", "")  # no llvm-mca: it takes seconds, and its estimates do not count
    work = tool.workloads()[workload]
    subject = tool.subjects(work, "", "")["ours"]
    fresh = tool.measure(subject, {workload: work}, gfx)[workload]
    assert counted(fresh) == counted(data[workload][gfx]["ours"])


def counted(entry: Any) -> list[dict[str, Any]]:
    """Return the figures of each kernel that no estimate enters."""
    return [
        {name: value for name, value in kernel["figures"].items() if name not in ESTIMATED}
        for kernel in entry["kernels"]
    ]


def test_the_ratio_divides_ours_by_the_least_of_the_peers(tool: Any) -> None:
    def entry(clocks: float, bytes_: float, vector: float) -> dict[str, Any]:
        figures = {"clocks_per_score": clocks, "bytes_per_key": bytes_, "vector_per_key": vector}
        return {"kernels": [{"figures": figures | {"rows": 16, "keys": 16}}], "refusal": ""}

    work = tool.workloads()
    ours = entry(100, 400, 10)
    backends = {"ours": ours, "slow": entry(500, 500, 20), "fast": entry(200, 800, 40)}
    assert tool._ratio(work["prefill"], backends) == "0.50"
    assert tool._ratio(work["decode"], backends) == "0.80 bytes, 0.50 vector"
    small = {"figures": {**entry(1, 1, 1)["kernels"][0]["figures"], "keys": 1}}
    both = {"kernels": [small, *ours["kernels"]], "refusal": ""}
    assert tool._ratio(work["mixed"], backends | {"ours": both}) == "0.50"  # of the larger tile
    assert tool._ratio(work["prefill"], {"ours": ours}) == "-"
    refused = {"kernels": [], "refusal": "wrong: spills"}
    assert tool._ratio(work["prefill"], {"ours": ours, "slow": refused}) == "-"
