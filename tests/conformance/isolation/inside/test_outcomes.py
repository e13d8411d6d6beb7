"""What a selector answers or raises, as an outcome."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_rocm_attn import Crashed, Gpu, Rejected, Request, Selected, Unrecognised
from pytest_rocm_attn.conformance.isolation.inside.outcomes import ask_and_keep

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_rocm_attn.outcome import Outcome


class Answers:
    """An adapter whose selector returns or raises one thing."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer
        self.answered = "as it was answered"

    def select(
        self, request: Request, environ: Mapping[str, str], gpu: Gpu
    ) -> Selected | Unrecognised:
        if isinstance(self._answer, BaseException):
            raise self._answer
        return Selected(self._answer)

    def prepare(self, gpu: Gpu) -> None: ...

    def refresh(self) -> bool:
        return False


def asked(answer: Any) -> tuple[Outcome, object]:
    return ask_and_keep(Answers(answer), Request(), {}, Gpu("gfx942"))


def test_an_answer_is_kept_beside_its_outcome() -> None:
    assert asked("TRITON_ATTN") == (Selected("TRITON_ATTN"), "as it was answered")


def test_a_refusal_is_kept_for_its_trace() -> None:
    error = ValueError("TRITON_MLA: no")
    assert asked(error) == (Rejected("ValueError", "TRITON_MLA: no"), error)


@pytest.mark.parametrize("error", [KeyError("x"), SystemExit(3), KeyboardInterrupt()])
def test_whatever_else_is_raised_is_a_crash_with_its_traceback(error: BaseException) -> None:
    outcome, kept = asked(error)
    assert isinstance(outcome, Crashed)
    assert outcome.error == type(error).__name__
    assert "test_outcomes.py" in outcome.traceback
    assert kept is error


@pytest.mark.parametrize("kind", [ValueError, KeyError])
def test_what_a_hostile_error_says_is_bounded(kind: type[Exception]) -> None:
    outcome, _ = asked(kind("x" * 1_000_000))
    assert isinstance(outcome, Rejected | Crashed)
    text = outcome.message if isinstance(outcome, Rejected) else outcome.traceback
    assert len(text) == 20_000
