"""Progress: nothing of quick work, a text in place on a terminal, a line now and then in a file."""

from __future__ import annotations

import io
import itertools
import os
import pty
import threading
import time
from pathlib import Path
from typing import cast

import pytest
from _pytest._io import TerminalWriter

from pytest_rocm_attn.conformance.report import progress


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PATIENCE", 0.01)
    monkeypatch.setattr(progress, "REFRESH", 0.01)
    monkeypatch.setattr(progress, "FIRST", 0.01)
    monkeypatch.setattr(progress, "LONGEST", 0.01)


def step(called: list[int]) -> str:
    called.append(1)
    return f"step {len(called)}"


@pytest.mark.usefixtures("hurried")
def test_a_file_gets_lines(tmp_path: Path) -> None:
    called: list[int] = []
    with (tmp_path / "out").open("w") as file:
        shown = progress.on_own_line(file, lambda: step(called))
        end = time.monotonic() + 30
        while len(called) < 3 and time.monotonic() < end:
            time.sleep(0.01)
        shown.close()
        count = len(called)
    lines = (tmp_path / "out").read_text().splitlines()
    assert lines == [f"step {n}" for n in range(1, count + 1)]


@pytest.mark.usefixtures("hurried")
def test_a_terminal_gets_a_text_in_place_that_is_cleared_at_the_end() -> None:
    ours, theirs = pty.openpty()
    called: list[int] = []
    with os.fdopen(theirs, "w") as terminal:
        shown = progress.on_own_line(terminal, lambda: step(called))
        end = time.monotonic() + 30
        while len(called) < 2 and time.monotonic() < end:
            time.sleep(0.01)
        shown.close()
        output = ""
        while not output.endswith("\r\x1b[K"):  # a terminal gives what it has, in pieces
            output += os.read(ours, 65536).decode()
    os.close(ours)
    assert output.startswith("\rstep 1\x1b[K\rstep 2\x1b[K")
    assert output.endswith("\r\x1b[K")


def test_a_file_gets_few_lines_of_slow_work() -> None:
    times = itertools.takewhile(
        lambda at: at <= 600, itertools.accumulate(progress.pauses(in_place=False))
    )
    assert list(times) == [10, 30, 70, 150, 310, 470]


@pytest.mark.usefixtures("hurried")
def test_a_line_beside_pytest_begins_a_line_and_leaves_none_empty(tmp_path: Path) -> None:
    reached, allowed = threading.Semaphore(0), threading.Semaphore(0)

    def describe() -> str:
        reached.release()
        assert allowed.acquire(timeout=30)
        return "step"

    class Config:
        def get_terminal_writer(self) -> TerminalWriter:
            return writer

        def get_verbosity(self) -> int:
            return 0

    with (tmp_path / "out").open("w") as file:
        writer = TerminalWriter(file)
        writer.hasmarkup = False
        shown = progress.beside_pytest(cast("pytest.Config", Config()), describe)
        assert shown is not None
        for written in ("", "", "..", "", ".", ""):  # while the thread waits
            assert reached.acquire(timeout=30)
            writer.write(written, flush=True)
            allowed.release()
        assert reached.acquire(timeout=30)
        allowed.release(10_000)  # as often as it likes, until it is closed
        shown.close()
    lines = (tmp_path / "out").read_text().splitlines()
    assert lines[:9] == ["step", "step", "..", "step", "step", ".", "step", "step", "step"]


def test_quick_work_shows_nothing(tmp_path: Path) -> None:
    with (tmp_path / "out").open("w") as file:
        progress.on_own_line(file, lambda: "too soon").close()
    assert (tmp_path / "out").read_text() == ""


def test_a_stream_without_a_descriptor_gets_nothing() -> None:
    progress.on_own_line(io.StringIO(), lambda: "x").close()
