"""Outcomes: what they say of themselves, and their way over a pipe."""

from __future__ import annotations

import json

import pytest

from pytest_rocm_attn.outcome import (
    Crashed,
    Died,
    Outcome,
    Rejected,
    Selected,
    TimedOut,
    Unrecognised,
    from_wire,
    to_wire,
)


@pytest.mark.parametrize(
    ("outcome", "text"),
    [
        (Selected("TRITON_ATTN"), "TRITON_ATTN"),
        (Unrecognised("None"), "an answer that names no backend: None"),
        (Rejected("ValueError", "block size 1"), "ValueError: block size 1"),
        (Crashed("KeyError", "Traceback...\n  line\nKeyError: 'x'\n"), "crash: KeyError: 'x'"),
        (Crashed("KeyError", "KeyError: 'x'"), "crash: KeyError: 'x'"),
        (Crashed("KeyError", " \n"), "crash: KeyError"),
        (TimedOut(2.5), "no answer within 2.5 s"),
        (TimedOut(60.0), "no answer within 60 s"),
        (Died(11), "the process was killed by SIGSEGV (11)"),
        (Died(250), "the process was killed by an unknown signal (250)"),
        (Died(None, 3), "the process exited with status 3"),
    ],
)
def test_an_outcome_says_what_happened_and_survives_the_wire(outcome: Outcome, text: str) -> None:
    assert str(outcome) == text
    assert from_wire(json.loads(json.dumps(to_wire(outcome)))) == outcome
