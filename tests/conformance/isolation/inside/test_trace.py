"""What a selector tells of its way to an answer."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import pytest

from pytest_rocm_attn import Flags, Gpu, Request
from pytest_rocm_attn.backends import select
from pytest_rocm_attn.conformance.isolation import Pool, Question, Subject
from pytest_rocm_attn.conformance.isolation.inside.trace import steps_of


@dataclass
class Told:
    trace: Any


def test_the_steps_of_the_reference_are_read() -> None:
    selection = select(Request(), Flags({}), Gpu("gfx942"))
    steps = steps_of(selection)
    assert [step[0] for step in steps] == [step.rule for step in selection.trace]
    assert all(len(step) == 4 for step in steps)


@pytest.mark.parametrize(
    ("trace", "steps"),
    [
        (["first this"], (("first this", "", "", ""),)),
        ([("rule", "yes")], (("rule", "yes", "", ""),)),
        ([("a", 1, None, 2.5, "more")], (("a", "1", "None", "2.5"),)),
        (None, ()),
        ("not steps", ()),
        (7, ()),
        ([], ()),
    ],
)
def test_steps_may_be_texts_or_tuples(trace: object, steps: tuple[object, ...]) -> None:
    assert steps_of(Told(trace)) == steps


def test_what_has_no_trace_or_breaks_when_asked_has_no_steps() -> None:
    class Broken:
        @property
        def trace(self) -> object:
            raise OSError

    assert steps_of("TRITON_ATTN") == ()
    assert steps_of(None) == ()
    assert steps_of(Broken()) == ()


def test_an_endless_or_huge_trace_is_bounded() -> None:
    assert len(steps_of(Told(itertools.repeat("x" * 10_000)))) == 200
    assert {len(step[0]) for step in steps_of(Told(["x" * 10_000]))} == {1_000}


def test_refusals_tell_their_steps_through_a_worker_too() -> None:
    pool = Pool(Subject("pytest_rocm_attn.backends:select", pure=True, preload=()))
    try:
        question = Question.of(
            Gpu("gfx1100"), {"VLLM_ATTENTION_BACKEND": "ROCM_AITER_FA"}, Request()
        )
        (future,) = pool.submit([question])
        observation = future.result()
    finally:
        pool.close()
    assert "gfx1100" in str(observation.outcome)
    assert observation.trace[-1][:2] == ("decision", "refused")
    assert "only supported on gfx9" in observation.trace[-1][2]
