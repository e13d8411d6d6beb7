"""Runs the tests of this folder in a process in which Triton interprets kernels on the CPU.

Triton reads TRITON_INTERPRET where a kernel is defined, its own library's kernels included, so a process
either interprets or compiles. The tests here are collected as all others are, and each is handed by its
node id to one further pytest process, started at the first of them, which sends the reports back. So
-k, --lf, random order and xdist work, and every test has its own outcome.

With TRITON_INTERPRET=1 in the environment they run in place, for a debugger.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pytest
from _pytest.runner import runtestprotocol

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = Path(__file__).parent
CHANNEL = "ROCM_ATTN_TEST_CHANNEL"  # the file descriptors that items and reports pass through
IN_PLACE = os.environ.get("TRITON_INTERPRET") == "1"
_INTERPRETER = pytest.StashKey["Interpreter"]()


class Interpreter:
    """The further pytest process."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.output = tempfile.TemporaryFile()  # noqa: SIM115  closed in close()
        ask_read, ask_write = os.pipe()
        tell_read, tell_write = os.pipe()
        environ = {name: v for name, v in os.environ.items() if not name.startswith("PYTEST_")}
        self.process = subprocess.Popen(
            # In its own order and with no marker expression: it runs what it is told to.
            [sys.executable, "-m", "pytest", "-p", "no:randomly", "-p", "no:xdist"]
            + ["-p", "no:cacheprovider", "-m", "", f"--rootdir={config.rootpath}", str(FOLDER)],
            cwd=config.rootpath,
            env=environ | {"TRITON_INTERPRET": "1", CHANNEL: f"{ask_read},{tell_write}"},
            pass_fds=(ask_read, tell_write),
            stdin=subprocess.DEVNULL,
            stdout=self.output,
            stderr=subprocess.STDOUT,
        )
        os.close(ask_read)
        os.close(tell_write)
        self.asking: IO[str] = open(ask_write, "w", encoding="utf-8")  # noqa: SIM115  likewise
        self.telling: IO[str] = open(tell_read, encoding="utf-8")  # noqa: SIM115  likewise

    def run(self, item: pytest.Item) -> Iterator[pytest.TestReport]:
        """Yield the reports of an item."""
        try:
            self.asking.write(item.nodeid + "\n")
            self.asking.flush()
            answer = self.telling.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            yield self._died(item)
            return
        for data in json.loads(answer):
            report = self.config.hook.pytest_report_from_serializable(config=self.config, data=data)
            yield report

    def _died(self, item: pytest.Item) -> pytest.TestReport:
        code = self.process.wait()
        self.output.seek(0)
        said = self.output.read().decode(errors="replace")[-3000:]
        text = f"the interpreting process ended with {code}; its last words:\n{said}"
        return pytest.TestReport(
            item.nodeid, item.location, {}, outcome="failed", longrepr=text, when="call"
        )

    def close(self) -> None:
        for pipe in (self.asking, self.telling):
            pipe.close()
        self.process.wait()
        self.output.close()


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small tensors: threads only wait for each other, the more so beside other test processes."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    if IN_PLACE or FOLDER not in item.path.parents:  # pytest calls this for every folder's items
        return None
    config = item.config
    interpreter = config.stash.get(_INTERPRETER, None)
    if interpreter is None or interpreter.process.poll() is not None:
        if interpreter is not None:
            interpreter.close()
        interpreter = config.stash[_INTERPRETER] = Interpreter(config)
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in interpreter.run(item):
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    # What the item before this one left set up for this folder's sake goes, unless the next needs it.
    item.session._setupstate.teardown_exact(nextitem)
    return True


def pytest_unconfigure(config: pytest.Config) -> None:
    interpreter = config.stash.get(_INTERPRETER, None)
    if interpreter is not None:
        interpreter.close()


def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """In the further process: run what is asked for, and tell what came of it."""
    channel = os.environ.get(CHANNEL)
    if channel is None:
        return None
    asked, telling = (int(number) for number in channel.split(","))
    items = {item.nodeid: item for item in session.items}
    with open(asked, encoding="utf-8") as questions, open(telling, "w", encoding="utf-8") as out:
        for line in questions:
            reports = runtestprotocol(items[line.rstrip("\n")], log=False)
            out.write(json.dumps([_plain(session.config, report) for report in reports]) + "\n")
            out.flush()
    return True


def _plain(config: pytest.Config, report: pytest.TestReport) -> dict[str, Any]:
    data: dict[str, Any] = config.hook.pytest_report_to_serializable(config=config, report=report)
    return data
