"""Messages between processes: what one end sends, the other reads; nothing else is read."""

from __future__ import annotations

import pytest

from pytest_rocm_attn import (
    Aiter,
    Amdsmi,
    Crashed,
    Died,
    Gpu,
    Rejected,
    Request,
    Selected,
    TimedOut,
)
from pytest_rocm_attn.conformance.isolation import Observation, Question, wire
from pytest_rocm_attn.conformance.isolation.question import FailedImport, Group
from pytest_rocm_attn.outcome import Told

BROKEN = Gpu("gfx1201", Aiter.BROKEN, Amdsmi.EMPTY)
HOSTILE = "a lone surrogate \ud800, a new\nline and \x00"
ASKED = Question.of(
    BROKEN, {"B": HOSTILE, "A": ""}, Request(use_mla=True, logits_soft_cap=30.0), "names", HOSTILE
)


@pytest.mark.parametrize(
    "message",
    [
        wire.Preload(["torch", "json"]),
        wire.ForkChild(),
        wire.Reap(7),
        wire.Open(BROKEN, {"A": HOSTILE}, "mock", "fork.platforms:Platform", True, False),
        wire.AskQuestions([Group({"B": "1", "A": "2"}, [ASKED])], refresh=True, more=True),
        wire.AskCells("file", [["A", [None, "1"]]], BROKEN, None, False, 1.5, [Died(None, 3)]),
        wire.Recall({"assign": {"module.value": None}, "of": "module"}),
    ],
    ids=lambda message: type(message).__name__,
)
def test_what_the_driving_side_sends_is_read_as_it_was(message: wire.Message) -> None:
    kinds = wire.ToFork | wire.Open | wire.ToAnswer
    line = wire.encode(message)
    assert line.count(b"\n") == 1
    assert wire.decode(line, kinds) == message


@pytest.mark.parametrize(
    "reply",
    [
        wire.Forked(7),
        wire.Reaped(Died(11)),
        wire.Reaped(None),
        wire.Ready({"A": None, "B": HOSTILE}, True, ["json"]),
        wire.Unusable(HOSTILE),
        Observation(Selected("TRITON_ATTN"), 0.25, ("A",), (("rule", "yes", HOSTILE, ""),)),
        Observation(Crashed("ImportError", HOSTILE), failed_import=FailedImport("gone", "fork")),
        Observation(Told({"limits": {"dtype": {"takes": ["float16"], "not": []}}})),
        wire.Numbered(Rejected("ValueError", HOSTILE)),
        wire.Numbered(TimedOut(30.0)),
        wire.Remembered({"module.value": 3}),
        wire.Done(["A"]),
        wire.Ours(HOSTILE),
    ],
    ids=lambda reply: type(reply).__name__,
)
def test_what_a_process_replies_is_read_as_it_was(reply: object) -> None:
    assert wire.decode(wire.encode(reply), wire.Reply) == reply


@pytest.mark.parametrize(
    "line",
    [
        b"hello\n",
        b"3\n",
        b"[]\n",
        b"{}\n",
        b'{"type": "Unheard"}\n',
        b'{"type": "Forked"}\n',
        b'{"type": "Forked", "pid": "7"}\n',
        b'{"type": "Observation", "outcome": ["Selected"]}\n',
        b'{"type": "Observation", "outcome": ["Chosen", "TRITON_ATTN"]}\n',
        b'{"type": "Observation", "outcome": ["Selected", 3]}\n',
        b'{"type": "Open"}\n',  # the other end's
        b"\xff\n",
    ],
)
def test_a_line_that_is_no_reply_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError):
        wire.decode(line, wire.Reply)
