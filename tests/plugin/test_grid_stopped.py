"""The grid when it is stopped in the middle, shared out by xdist, or watched on a terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.usefixtures("without_torch")

SLICES = tuple(f"rocm-attn::grid::attention-types[{gfx}]" for gfx in ("gfx942", "gfx1201"))
MORE = tuple(f"rocm-attn::grid::attention-types[{gfx}]" for gfx in ("gfx950", "gfx1100"))
CELLS = 2688  # of each of these slices
# Notes each question in a file. SLOWLY is seconds, and no variable that its answers could depend on.
SELECTOR = """
import os, time

LOG = os.open(os.path.join(os.path.dirname(__file__), "asked"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)

class Fork:
    def select(self, request, environ, gpu):
        os.write(LOG, b".")
        time.sleep(float(os.environ.get("SLOWLY", 0)))
        if environ.get("VLLM_ROCM_USE_AITER") == "1" and gpu.gfx != "gfx1201":
            return "ROCM_AITER_FA"
        return environ.get("VLLM_ATTENTION_BACKEND") or "TRITON_ATTN"

    def refresh(self):
        return True

fork = Fork()
"""
# pytest, but for the SIGINT that a job in the background of a script, CI's too, inherits ignored.
HEARING = """
import signal, sys, pytest
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(pytest.main())
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "ours.py").write_text(SELECTOR)
    return tmp_path


OURS = ("--rocm-attn-selector=ours.py:fork", *SLICES)


def start(folder: Path, *options: str, slowly: float = 0.0, **how: Any) -> subprocess.Popen[str]:
    """Start the grid tier in a process group of its own, as a shell gives a command."""
    return subprocess.Popen(
        [
            *(sys.executable, "-c", HEARING, "-p", "no:randomly", "--rootdir=."),
            *("--rocm-attn-conformance", "--rocm-attn-tier=grid"),
            *("--rocm-attn-report=report.json", *options),
        ],
        cwd=folder,
        env=os.environ | {"SLOWLY": str(slowly), "COLUMNS": "160", "TERM": "xterm"},
        **({"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT} | how),
        text=True,
        start_new_session=True,
    )


def report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    for row in found["rows"]:
        row["seconds"] = 0.0
    return found


def differing(output: str) -> list[str]:
    """Return what the terminal says of the findings."""
    return re.findall(r"^(?:[\d,]+ of .*|(?:FAIL|ADVISORY) .*|  show .*)$", output, re.MULTILINE)


def test_xdist_shares_out_the_slices_and_finds_the_same(folder: Path) -> None:
    # The reference against a release: they differ, and no process imports torch.
    options = ("--rocm-attn-baseline=vllm-0.12.0", *SLICES)
    alone, _ = start(folder, *options).communicate(timeout=120)
    expected = report(folder)
    assert expected["totals"] == {"fail": len(SLICES)}
    shared, _ = start(folder, "-n", "2", *options).communicate(timeout=120)
    assert report(folder) == expected
    assert len(differing(alone)) >= 4
    assert differing(shared) == differing(alone)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param((), id="one process"),
        pytest.param(("-n", "2"), id="xdist", marks=pytest.mark.slow),
    ],
)
def test_ctrl_c_reports_what_there_is_and_the_next_run_goes_on_from_there(
    folder: Path, options: tuple[str, ...]
) -> None:
    # Two workers end their first slices at about the same time: there must be more.
    slices = (*SLICES, *MORE) if options else SLICES
    run = start(folder, "-v", *options, OURS[0], *slices, slowly=0.001)
    assert run.stdout is not None
    output = ""
    while "FAILED" not in output and (line := run.stdout.readline()):
        output += line
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does
    output += run.communicate(timeout=120)[0]
    assert run.returncode == pytest.ExitCode.INTERRUPTED, output
    assert "Traceback" not in output
    assert len(re.findall("note: grid: interrupted.*; run again to go on from ", output)) == 1
    done = report(folder)
    assert 0 < len(done["rows"]) < len(slices)
    assert len(done["rows"]) + len(done["not_run"]) == done["selected"] == len(slices)
    asked = (folder / "asked").stat().st_size

    again, _ = start(folder, *options, OURS[0], *slices).communicate(timeout=120)
    unanswered = [row["details"]["counts"]["unanswered"] for row in report(folder)["rows"]]
    assert unanswered == [0] * len(slices)
    remembered = re.search(r"note: grid: ([\d,]+) cells were answered by an earlier run", again)
    assert remembered is not None, again
    number = int(remembered[1].replace(",", ""))
    if not options:
        assert f"interrupted with {remembered[1]} cells answered" in output
    asked_again = (folder / "asked").stat().st_size - asked
    left = CELLS * len(slices) - number
    # Each platform is tried on a few samples first: each GPU with two states of aiter.
    assert left <= asked_again < left + 2 * len(slices) * 150
    # The run ended: what was kept of the selector under test is gone, the reference's answers stay.
    assert len(list((folder / ".pytest_cache/d/rocm-attn-grid").iterdir())) == 1
    if options:
        after, _ = start(folder, *options, OURS[0], *slices).communicate(timeout=120)
        assert "note: grid" not in after


@pytest.mark.slow
def test_a_killed_run_has_kept_most_of_what_it_had(folder: Path) -> None:
    run = start(folder, *OURS[:2], slowly=0.004)  # six seconds for a part
    asked = folder / "asked"
    while not asked.exists() or asked.stat().st_size < 1100:
        assert run.poll() is None
        time.sleep(0.05)
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate(timeout=120)
    again, _ = start(folder, *OURS[:2]).communicate(timeout=120)
    remembered = re.search(r"note: grid: ([\d,]+) cells were answered by an earlier run", again)
    assert remembered is not None, again
    assert int(remembered[1].replace(",", "")) >= 300


def test_progress_is_shown_on_a_terminal(folder: Path) -> None:
    ours, theirs = pty.openpty()
    # Slowly, so that it is shown several times on any machine.
    run = start(folder, *OURS[:2], slowly=0.002, stdout=theirs)
    os.close(theirs)
    output = ""
    try:
        while piece := os.read(ours, 65536):
            output += piece.decode(errors="replace")
    except OSError:
        pass  # Linux: the other end was closed
    os.close(ours)
    assert run.wait(timeout=120) == pytest.ExitCode.TESTS_FAILED, output  # as that selector must
    found = re.findall(r"([\d,]+) of [\d,]+ cells, \d+ of \d+ parts, [\d,]+ cells/s", output)
    numbers = [int(number.replace(",", "")) for number in found]
    assert numbers == sorted(numbers)
    assert numbers[-1] > numbers[0]
