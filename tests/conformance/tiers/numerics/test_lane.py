"""The processes that backends run in: few at a time, and none for a backend that cannot be started."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import pytest

from pytest_rocm_attn.conformance.tiers.numerics import lane as lane_module
from pytest_rocm_attn.conformance.tiers.numerics.case import shipped
from pytest_rocm_attn.conformance.tiers.numerics.lane import WORKER, Lanes
from pytest_rocm_attn.errors import BackendUnderTestError

if TYPE_CHECKING:
    from pathlib import Path

CASE = shipped()[0]
# What a worker says, without what it imports. The backend's name is where it writes its number to.
QUICK_WORKER = """
import json, os, sys
with open(sys.argv[1], "w") as file:
    file.write(str(os.getpid()))
print(json.dumps({"evidence": "none"}), flush=True)
for line in sys.stdin:
    print(json.dumps({"kind": "declined", "words": "no"}), flush=True)
"""
# It says what backend it is at, and answers with its number.
TURNING_WORKER = """
import json, os, sys
def say(**message):
    print(json.dumps(message), flush=True)
say(evidence=sys.argv[1])
for line in sys.stdin:
    name = json.loads(line).get("backend")
    if name is None:
        say(kind="declined", words=str(os.getpid()))
    elif name.endswith("Bad"):
        say(error="no such name")
    else:
        say(evidence=name)
"""


def is_running(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def test_the_least_recently_used_processes_are_ended_and_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a_quick_worker.py").write_text(QUICK_WORKER)
    monkeypatch.syspath_prepend(str(tmp_path))
    with contextlib.closing(Lanes(60.0, most=2, worker="a_quick_worker")) as lanes:

        def ask(number: int) -> int:
            file = tmp_path / f"backend{number}"
            assert lanes.of(str(file)).ask(CASE).kind == "declined"
            return int(file.read_text())

        pids = [ask(number) for number in (0, 1)]
        assert ask(0) == pids[0]  # used again, so that the second is the oldest
        pids.append(ask(2))
        assert [is_running(pid) for pid in pids] == [True, False, True]
        pids.append(ask(1))
        assert pids[3] != pids[1]
    assert not any(map(is_running, pids))


@pytest.mark.parametrize(
    ("source", "answer", "words"),
    [
        ("os._exit(3)", "died", "exited with status 3"),
        ("time.sleep(600)", "timeout", "no answer within 5 s"),
        ("print('{', flush=True)", "crash", ""),
    ],
    ids=["dies", "hangs", "says nonsense"],
)
def test_a_deviation_pins_whether_a_backend_died_or_hung(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, answer: str, words: str
) -> None:
    head, loop, _ = QUICK_WORKER.partition("for line in sys.stdin:\n")
    (tmp_path / "a_bad_worker.py").write_text(f"import time{head}{loop}    {source}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with contextlib.closing(Lanes(5.0, most=1, worker="a_bad_worker")) as lanes:
        finding = lanes.of(str(tmp_path / "pid")).ask(CASE)
    assert finding.kind == "crashed"
    assert finding.got.answer == answer
    assert words in finding.words


def test_emulated_backends_of_one_module_take_turns_in_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a_turning_worker.py").write_text(TURNING_WORKER)
    monkeypatch.syspath_prepend(str(tmp_path))
    with contextlib.closing(Lanes(60.0, worker="a_turning_worker")) as lanes:

        def process_of(spec: str, *what: str) -> str:
            lane = lanes.of(spec, *what)
            words = lane.ask(CASE).words
            assert lane.evidence == spec
            return words

        emulate = ("emulate", "gfx942")
        first = process_of("mine:A", *emulate)
        assert process_of("mine:B", *emulate) == first
        assert process_of("mine:A", *emulate) == first
        others = {
            process_of("mine:A", "emulate", "gfx90a"),
            process_of("yours:A", *emulate),
            process_of("mine:A", "run"),
            process_of("mine:B", "run"),
        }
        assert len(others - {first}) == 4
        now = process_of("mine:A", *emulate)
        with pytest.raises(
            BackendUnderTestError, match="mine:Bad cannot be imported: no such name"
        ):
            lanes.of("mine:Bad", *emulate).ask(CASE)
        assert process_of("mine:A", *emulate) != now


@pytest.mark.parametrize(
    ("source", "words"),
    [
        pytest.param("raise KeyError('x')", "KeyError: 'x'", id="raises", marks=pytest.mark.slow),
        pytest.param("raise SystemExit(3)", "SystemExit: 3", id="exits"),
        pytest.param(
            "import os; print('no librocm', flush=True); os._exit(3)",
            "exited with status 3; *librocm",
            id="dies",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_backend_that_cannot_be_imported_is_tried_once_and_reported_each_time(
    tmp_path: Path, source: str, words: str
) -> None:
    (tmp_path / "mine.py").write_text(
        f"open({str(tmp_path / 'tried')!r}, 'a').write('x')\n{source}"
    )
    reported_each_time(tmp_path, f"{tmp_path}/mine.py:Mine", WORKER, words)


def test_a_backend_whose_import_hangs_is_waited_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without torch, which is imported before the backend, so that the limit can be short.
    hangs = f"import time\nopen({str(tmp_path / 'tried')!r}, 'a').write('x')\ntime.sleep(600)"
    (tmp_path / "a_worker_that_hangs.py").write_text(hangs)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(lane_module, "START_LIMIT", 2.0)
    reported_each_time(tmp_path, "mine:Mine", "a_worker_that_hangs", "no answer within 2 s")


def reported_each_time(folder: Path, spec: str, worker: str, words: str) -> None:
    tried = folder / "tried"
    messages = []
    with contextlib.closing(Lanes(60.0, most=1, worker=worker)) as lanes:
        for _ in range(3):
            with pytest.raises(BackendUnderTestError) as caught:
                lanes.of(spec).ask(CASE)
            messages.append(str(caught.value))
            lanes.of("another:Backend")  # makes room for it
    assert tried.read_text() == "x"
    assert len(set(messages)) == 1
    pytest.LineMatcher(messages).fnmatch_lines([f"backend * cannot be imported: *{words}*"])
