"""Ctrl-C in the middle of a run: what was answered is reported, and nothing keeps running."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("without_torch")

QUICK = 6
ROW = """
[[case]]
id = "row-{number}"
source = "s"
level = "required"
platform = {{ gfx = "gfx942" }}
env = {{ VLLM_ATTENTION_BACKEND = "{backend}" }}
expect = {{ backend = "{backend}" }}
"""
SELECTOR = """
import time

def select(environ):
    if environ["VLLM_ATTENTION_BACKEND"] == "FLEX_ATTENTION":
        time.sleep(600)
    return environ["VLLM_ATTENTION_BACKEND"]
"""
# pytest, but for the SIGINT that a job in the background of a script, CI's too, inherits ignored.
HEARING = """
import signal, sys, pytest
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(pytest.main())
"""


@pytest.mark.parametrize(
    "options",
    [
        pytest.param([], id="one process"),
        pytest.param(["-n", "2"], id="xdist", marks=pytest.mark.slow),
    ],
)
def test_ctrl_c_reports_the_rows_done_so_far(
    tmp_path: Path, processes_left: Callable[[], list[str]], options: list[str]
) -> None:
    head = 'id = "slow"\ntitle = "t"\nsource = "this test"\n'
    backends = ["TRITON_ATTN"] * QUICK + ["FLEX_ATTENTION"] * 4
    rows = [ROW.format(number=n, backend=backend) for n, backend in enumerate(backends)]
    (tmp_path / "contract.toml").write_text(head + "".join(rows))
    (tmp_path / "selector.py").write_text(SELECTOR)
    run = subprocess.Popen(
        [
            *(sys.executable, "-c", HEARING, "-v", "-p", "no:randomly", "-p", "no:cacheprovider"),
            *("--rocm-attn-conformance", "--rocm-attn-contract=contract.toml"),
            *("--rocm-attn-selector=selector.py:select", "--rocm-attn-timeout=300"),
            *("--rocm-attn-report=report.json", *options),
        ],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # a process group of its own, as a shell gives a command
    )
    assert run.stdout is not None
    output, passed = "", 0
    while passed < QUICK and (line := run.stdout.readline()):
        output += line
        passed += "PASSED" in line
    assert passed == QUICK, output
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does
    output += run.communicate(timeout=120)[0]

    assert run.returncode == pytest.ExitCode.INTERRUPTED
    assert f"{len(rows)} items: {QUICK} pass, {len(rows) - QUICK} not run" in output
    assert "Traceback" not in output
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["totals"] == {"pass": QUICK}
    assert report["selected"] == len(rows)
    assert not processes_left()
