"""A selector that misbehaves in every row: each row is judged for itself, and the run ends."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("without_torch")

SELECTOR = """
import os, sys, time

def select(request):
    match WHAT[request.head_size // 16]:
        case "CRASH": import no_such_module
        case "EXIT": sys.exit(3)
        case "LEAVE": os._exit(5)
        case "KILL": os.kill(os.getpid(), 9)
        case "HANG": time.sleep(600)
        case "FORK": os.fork()
        case "FORK_AND_LOOP":
            if os.fork() == 0: time.sleep(600)
        case "FORK_AND_KILL":
            if os.fork() == 0: time.sleep(600)
            os.kill(os.getpid(), 9)
        case "PRINT":
            print("out" * 350_000)
            print("err" * 350_000, file=sys.stderr)
        case "ASK": input("which? ")
        case "READ": sys.stdin.read()
        case "SLOW": time.sleep(0.2)
        case "WRITE": os.environ["LEFT_BEHIND"] = "1"
        case "NONE": return None
        case "WRONG": return "ROCM_ATTN"
    return "TRITON_ATTN"
"""
# What the selector does in each row, in order; the row's verdict; words that say how it came to it.
ROWS = [
    (
        "CRASH",
        "crash",
        (
            "got crash: ModuleNotFoundError: No module named 'no_such_module'; install the package that has"
            " no_such_module (selector imports it): `pip install no_such_module`"
        ),
    ),
    ("EXIT", "crash", "got crash: SystemExit: 3"),
    ("LEAVE", "crash", "got the process exited with status 5"),
    ("KILL", "crash", "got the process was killed by SIGKILL (9)"),
    ("HANG", "crash", "got no answer within 4 s"),
    ("FORK", "pass", ""),
    ("FORK_AND_LOOP", "pass", ""),
    ("FORK_AND_KILL", "crash", "got the process was killed by SIGKILL (9)"),
    ("PRINT", "pass", ""),
    ("ASK", "crash", "got crash: EOFError: EOF when reading a line"),
    ("READ", "pass", ""),
    ("SLOW", "pass", ""),
    ("NONE", "fail", "got an answer that names no backend: None"),
    ("WRONG", "fail", "got ROCM_ATTN"),
    ("WRITE", "pass", ""),
    ("WELL_BEHAVED", "pass", ""),
]
ROW = """
[[case]]
id = "{id}"
source = "s"
level = "required"
platform = {{ gfx = "gfx942" }}
request = {{ head_size = {head_size} }}
expect = {{ backend = "TRITON_ATTN" }}
"""


@pytest.mark.parametrize(
    "options",
    [
        pytest.param([], id="one process"),
        pytest.param(["-n", "2"], marks=pytest.mark.slow, id="xdist"),
    ],
)
def test_every_row_of_an_unruly_selector_gets_its_own_verdict(
    tmp_path: Path, processes_left: Callable[[], list[str]], options: list[str]
) -> None:
    head = 'id = "unruly"\ntitle = "t"\nsource = "this test"\n'
    rows = [
        ROW.format(id=what.lower().replace("_", "-"), head_size=16 * number)
        for number, (what, _, _) in enumerate(ROWS, 1)
    ]
    (tmp_path / "contract.toml").write_text(head + "".join(rows))
    (tmp_path / "selector.py").write_text(
        f"WHAT = {[None, *(what for what, _, _ in ROWS)]}\n{SELECTOR}"
    )
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir=."),
            *("--rocm-attn-conformance", "--rocm-attn-contract=contract.toml"),
            *("--rocm-attn-selector=selector.py:select", "--rocm-attn-timeout=4"),
            *("--rocm-attn-report=report.json", *options),
        ],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
        timeout=200,
    )
    output = done.stdout + done.stderr
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, output
    report = json.loads((tmp_path / "report.json").read_text())
    told = {row["request"]["head_size"] // 16: row for row in report["rows"]}
    assert [(what, told[n]["verdict"]) for n, (what, _, _) in enumerate(ROWS, 1)] == [
        (what, verdict) for what, verdict, _ in ROWS
    ]
    for number, (_, _, words) in enumerate(ROWS, 1):
        message = told[number]["message"]
        assert message == (f"expected TRITON_ATTN, {words}" if words else "")
    assert f"{len(ROWS)} items: " in output
    assert "INTERNALERROR" not in output
    assert "LEFT_BEHIND" in output  # what it writes to the environment is reported
    assert not processes_left()
