"""The grid against unmodified vLLM releases (docs/grid.md). Slow; see test_real_vllm.py for where.

One run of each release is looked at by several tests: its findings, what it cost, its reports.
"""

from __future__ import annotations

import functools
import html
import json
import os
import resource
import runpy
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_rocm_attn.conformance.promise.grid.design import standard

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Browser

ROOT = Path(__file__).parents[2]
PYTHON = os.environ.get("ROCM_ATTN_PYTHON", sys.executable)
CELLS = standard().cells

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class GridRun:
    """What a run of the grid left.

    Attributes:
        folder: has report.json, report.html and report.md.
        output: what the terminal showed.
        peak: bytes of all its processes together at most, pages that they share counted once.
        cpu: seconds of CPU of all its processes.
    """

    folder: Path
    output: str
    peak: int
    cpu: float

    @functools.cached_property
    def rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = json.loads((self.folder / "report.json").read_text())["rows"]
        return rows

    @property
    def conditions(self) -> list[str]:
        """The causes that every report starts from, in words."""
        (summary,) = json.loads((self.folder / "report.json").read_text())["summaries"]
        return [
            f"{one['where']}: expected {one['expected']}, got {one['got']}"
            for one in summary["conditions"]
        ]

    @property
    def causes(self) -> list[str]:
        """The sentences in which reports show the causes."""
        report = json.loads((self.folder / "report.json").read_text())
        return [cause["what"] for cause in report["causes"]]

    def count(self, name: str) -> int:
        """Return a count of cells over all slices."""
        return sum(row["details"]["counts"][name] for row in self.rows)

    def broken_rules(self) -> set[str]:
        """Return the rules that differ where that fails."""
        findings = [finding for row in self.rows for finding in row["details"]["findings"]]
        return {finding["rule"] for finding in findings if finding["level"] == "required"}


@pytest.fixture(scope="module")
def grid_run(
    vllm_release: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], GridRun]:
    """A function that runs the whole grid on a release, once in this module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")  # where its own modules lie
        memory_of = runpy.run_path(str(ROOT / "benchmarks" / "grid.py"))["proportional_memory"]

    @functools.cache
    def run(release: str) -> GridRun:
        source = vllm_release(release)
        folder = tmp_path_factory.mktemp(f"vllm-{release}")
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        process = subprocess.Popen(
            [
                *(PYTHON, "-m", "pytest", "-q", "--tb=no", "--rocm-attn-conformance"),
                "--rocm-attn-tier=grid",
                "--rocm-attn-selector=vllm.platforms.rocm:RocmPlatform",
                *(f"--rocm-attn-report=report.{suffix}" for suffix in ("json", "html", "md")),
            ],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(source)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        peak = 0
        ended = threading.Event()

        def watch() -> None:
            nonlocal peak
            while not ended.wait(0.5):
                peak = max(peak, memory_of(process.pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            output, _ = process.communicate(timeout=2400)
        finally:
            process.kill()
            ended.set()
            watcher.join()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        sys.stdout.write(f"vLLM {release}: {peak / 1e6:.0f} MB, {cpu:.0f} s of CPU\n{output}")
        return GridRun(folder, output, peak, cpu)

    return run


def test_vllm_0_12_0_breaks_one_rule_and_shows_at_most_ten_causes(
    grid_run: Callable[[str], GridRun],
) -> None:
    run = grid_run("0.12.0")
    assert run.count("cells") == CELLS
    assert run.count("unanswered") + run.count("unanswerable") == 0
    assert run.broken_rules() == {"triton-mla-needs-block-size-16"}
    assert 1 <= len(run.conditions) <= 10
    assert "block size 2, 8 or 15" in run.conditions[0]
    assert all(len(cause) < 600 for cause in run.causes)  # to be read by people


def test_vllm_0_11_2_lets_aiter_override_the_explicit_choice(
    grid_run: Callable[[str], GridRun],
) -> None:
    run = grid_run("0.11.2")
    assert run.count("cells") == CELLS
    assert run.count("unanswered") + run.count("unanswerable") == 0
    assert 1 <= len(run.conditions) <= 10
    overridden = [
        one
        for one in run.conditions
        if one.startswith("AITER=1 and ")
        and "expected the explicit one" in one
        and one.endswith("got ROCM_AITER_FA")
    ]
    assert overridden


@pytest.mark.parametrize("release", ["0.11.2", "0.12.0"])
def test_a_million_cells_fit_in_2_gb_and_in_five_minutes_of_two_cores(
    grid_run: Callable[[str], GridRun], release: str
) -> None:
    run = grid_run(release)
    assert 50e6 < run.peak < 2e9  # less than 50 MB would mean that nobody looked
    assert run.cpu < 2 * 300  # CPU time, which a busy machine does not stretch


@pytest.mark.parametrize("release", ["0.12.0", "0.22.1"])
def test_the_reports_of_a_whole_grid_are_small_and_say_the_same(
    grid_run: Callable[[str], GridRun], release: str
) -> None:
    run = grid_run(release)
    page = (run.folder / "report.html").read_bytes()
    markdown = (run.folder / "report.md").read_bytes()
    assert len(page) < 5_000_000
    assert len(markdown) < 1_048_576  # of a longer job summary GitHub shows nothing
    assert b"eft out" not in page  # all of it is there
    assert len(run.causes) >= len(run.conditions) > 0
    for cause in run.causes[: len(run.conditions)]:
        assert html.escape(cause) in page.decode().replace("<wbr>", "")
        assert cause in markdown.decode()


@pytest.mark.parametrize("release", ["0.12.0", "0.22.1"])
def test_the_page_of_a_whole_grid_opens_in_two_seconds(
    browser: Browser, grid_run: Callable[[str], GridRun], release: str
) -> None:
    run = grid_run(release)
    (run.folder / "blank.html").write_text("<!doctype html><title>blank</title>")
    seconds: dict[str, float] = {}
    for name in ("blank", "report"):
        page = browser.new_page()
        tries = []
        for _ in range(3):
            start = time.monotonic()
            page.goto(f"file://{run.folder}/{name}.html")
            if name == "report":
                page.wait_for_selector("html[data-ready]", state="attached")
                assert page.locator(".conditions > li").count() == len(run.conditions)
                assert page.locator("#matrix .cell").count() == len(run.rows)
            tries.append(time.monotonic() - start)
        seconds[name] = min(tries)
        page.close()
    size = (run.folder / "report.html").stat().st_size
    sys.stdout.write(f"vLLM {release}: a page of {size:,} bytes: {seconds}\n")
    assert seconds["report"] < 2 + seconds["blank"]


def test_xdist_finds_in_a_release_what_one_process_finds(
    vllm_release: Callable[[str], Path], tmp_path: Path
) -> None:
    source = vllm_release("0.12.0")
    families = ("attention-types", "masks-and-scores", "sinks", "mla", "sparse")
    found = []
    for options in ((), ("-n", "2")):
        subprocess.run(
            [
                *(PYTHON, "-m", "pytest", "-q", "--tb=no", "--rocm-attn-conformance"),
                *("--rocm-attn-tier=grid", "--rocm-attn-fresh", "--rocm-attn-report=report.json"),
                "--rocm-attn-selector=vllm.platforms.rocm:RocmPlatform",
                *options,
                *(
                    f"rocm-attn::grid::{f}[{gfx}]"
                    for f in families
                    for gfx in ("gfx942", "gfx1201")
                ),
            ],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(source)},
            check=False,
            timeout=1200,
            capture_output=True,
        )
        report = json.loads((tmp_path / "report.json").read_text())
        for row in report["rows"]:
            row["seconds"] = 0.0
        found.append(report)
    alone, shared = found
    assert len(alone["rows"]) == 10
    assert set(alone["totals"]) == {"advisory", "inherited-defect", "pass"}
    assert shared == alone
