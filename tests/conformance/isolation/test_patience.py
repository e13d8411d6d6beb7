"""The limit of an answer: what a busy machine costs does not count, and a hang still ends."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_rocm_attn import Gpu, Request, Selected, TimedOut
from pytest_rocm_attn.conformance.isolation import Question, patience
from pytest_rocm_attn.conformance.isolation.patience import WALL, Activity, Patience

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_rocm_attn.conformance.isolation import Pool

    MakePool = Callable[..., Pool]

LIMIT = 10.0


def seconds_until_over(
    monkeypatch: pytest.MonkeyPatch, activity_at: Callable[[float], Activity | None]
) -> int:
    """Return how many seconds pass on the clock, look by look, until a limit of ten is over."""
    clock = itertools.count()
    now = 0.0

    def tick() -> float:
        nonlocal now
        now = float(next(clock))
        return now

    monkeypatch.setattr(patience, "_now", tick)
    monkeypatch.setattr(patience, "activity", lambda pid: activity_at(now))
    waiting = Patience(1, LIMIT)
    while not waiting.is_over():
        assert now < 1000
    return int(now)


@pytest.mark.parametrize(
    ("activity_at", "expected"),
    [
        pytest.param(lambda now: Activity(now, asleep=False), LIMIT, id="computes"),
        pytest.param(lambda now: Activity(8 * now, asleep=False), LIMIT, id="on 8 processors"),
        pytest.param(lambda now: Activity(0.0, asleep=True), LIMIT, id="sleeps"),
        pytest.param(lambda now: Activity(now / 4, asleep=False), 4 * LIMIT, id="a quarter"),
        pytest.param(
            lambda now: Activity(now / 4, asleep=True), 4 * LIMIT, id="slept at each look"
        ),
        pytest.param(lambda now: Activity(0.0, asleep=False), WALL * LIMIT, id="gets no processor"),
        pytest.param(lambda now: None, LIMIT, id="cannot be looked at"),
    ],
)
def test_what_counts_is_the_time_that_a_process_computes_or_sleeps(
    monkeypatch: pytest.MonkeyPatch,
    activity_at: Callable[[float], Activity | None],
    expected: float,
) -> None:
    assert seconds_until_over(monkeypatch, activity_at) == expected


SELECTOR = """
import os, signal, subprocess, threading, time

def select(environ):
    match environ["VLLM_ATTENTION_BACKEND"]:
        case "stopped":
            # Longer than the limit, as a machine that gives its processors to others would.
            subprocess.Popen(["sh", "-c", f"sleep 3; kill -CONT {os.getpid()}"])
            os.kill(os.getpid(), signal.SIGSTOP)
        case "spins":
            while True: pass
        case "spins in a child":
            subprocess.run(["sh", "-c", "while :; do :; done"])
        case "sleeps": time.sleep(600)
        case "waits for a lock":
            lock = threading.Lock()
            lock.acquire()
            lock.acquire()
        case "reads": os.read(os.pipe()[0], 1)
    return "TRITON_ATTN"
"""


def test_a_process_that_is_stopped_is_waited_for_and_one_that_hangs_is_not(
    make_pool: MakePool, processes_left: Callable[[], list[str]]
) -> None:
    hangs = ("spins", "spins in a child", "sleeps", "waits for a lock", "reads")
    pool = make_pool(SELECTOR, timeout=1.0)
    questions = [
        Question.of(Gpu("gfx942"), {"VLLM_ATTENTION_BACKEND": what}, Request())
        for what in ("stopped", *hangs, "nothing")
    ]
    outcomes = [future.result(timeout=300).outcome for future in pool.submit(questions)]
    answer = Selected("TRITON_ATTN")
    assert outcomes == [answer, *[TimedOut(1.0)] * len(hangs), answer]
    pool.close()
    assert not processes_left()


def test_a_process_that_ends_while_it_is_looked_at_does_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def glob(self: Path, pattern: str) -> None:
        raise FileNotFoundError(f"{self}/{pattern}")

    monkeypatch.setattr(Path, "glob", glob)
    assert patience.activity(os.getpid()) is None
