"""Questions about backends and the server, and their answers with names and types.

The other end of isolation/inside/capabilities.py.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.adapters.construct import Stage
from pytest_rocm_attn.conformance.adapters.declarations import INHERITED
from pytest_rocm_attn.conformance.isolation import Question, WorkerError
from pytest_rocm_attn.conformance.isolation.inside.capabilities import SINKS_IS_NONE
from pytest_rocm_attn.conformance.promise.got import CRASH, REFUSAL, got_of
from pytest_rocm_attn.outcome import Crashed, Died, Outcome, Rejected, Selected, TimedOut, Told
from pytest_rocm_attn.request import Request

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pytest_rocm_attn.conformance.isolation import Observation
    from pytest_rocm_attn.gpu import Gpu

    Observe = Callable[[Question], Observation]


class Inapplicable(Exception):
    """A check says nothing about this selector; the message says why."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one question.

    Attributes:
        question: what was asked.
        outcome: of the selection; Told if none was made.
        data: what was reported; {} if nothing was.
        trouble: in words, what was raised, or how the process ended; "" for neither.
        deliberate: the trouble is a refusal, not a crash.
        traceback: of the trouble.
        stage: what the trouble arose in, if that is known.
    """

    question: Question
    outcome: Outcome
    data: Mapping[str, Any] = field(default_factory=dict)
    trouble: str = ""
    deliberate: bool = True
    traceback: str = ""
    stage: Stage | None = None

    @property
    def request(self) -> Request:
        return self.question.request

    @property
    def backend(self) -> str:
        """The backend that was selected, or ""."""
        return self.outcome.backend if isinstance(self.outcome, Selected) else ""

    @property
    def built(self) -> bool:
        return bool(self.backend) and not self.trouble

    @property
    def refused(self) -> bool:
        """Whether the selection refused, which is not the server's trouble."""
        return isinstance(self.outcome, Rejected)

    @property
    def stumbled(self) -> bool:
        """Whether the selection neither selected nor refused."""
        return not isinstance(self.outcome, Selected | Rejected)

    @property
    def pinned(self) -> str:
        """The result as a deviation pins it."""
        if self.trouble:
            return REFUSAL if self.deliberate else CRASH
        return got_of(self.outcome).answer

    def says(self, limit: str, value: object) -> bool | None:
        """Return whether the backend declares that it takes a value; None if that is undeclared.

        What is inherited from the common root is a declaration only if somebody decides by it: the
        platform that asks its classes, or for block sizes the runner.
        """
        entry = self.data.get("limits", {}).get(limit)
        if entry is None or "error" in entry:
            return None
        if entry["by"] == INHERITED and not (self.data["decides"] or limit == "block_size"):
            return None
        if value in entry["takes"]:
            return True
        return False if value in entry["not"] else None


def _answer(question: Question, observe: Observe) -> Answer:
    """Ask a question.

    Raises:
        Inapplicable: the selector's adapter cannot do what is asked, or the fork has no such thing.
        WorkerError: we ourselves failed.
    """
    outcome = observe(question).outcome
    if not isinstance(outcome, Told):
        return Answer(question, outcome)
    data = outcome.data
    if "inapplicable" in data:
        raise Inapplicable(data["inapplicable"])
    if "error" not in data:
        return Answer(question, outcome, data)
    first = str(data["message"]).strip().partition("\n")[0]
    trouble = f"{data['error']}: {first}" if first else str(data["error"])
    if "ours" in data:
        raise WorkerError(f"cannot tell: {trouble}")
    stage = Stage(data["stage"]) if data["stage"] else None
    return Answer(question, outcome, data, trouble, data["deliberate"], data["traceback"], stage)


# --- select, then construct -----------------------------------------------------------------------


def construct_question(
    gpu: Gpu, environ: Mapping[str, str], request: Request, *, none_for_sinks: bool = False
) -> Question:
    """Return the question that construction() asks."""
    return Question.of(gpu, environ, request, "construct", SINKS_IS_NONE if none_for_sinks else "")


def construction(question: Question, observe: Observe) -> Answer:
    """Ask for a selection and for building what is selected; raises as _answer() does.

    The outcome is that of the selection: Selected even if the backend cannot be built.
    """
    answer = _answer(question, observe)
    if isinstance(answer.outcome, Told):
        selected = Selected(answer.data["backend"])
        step = answer.data.get("step") or "construct()"
        trouble = f"{step}: {answer.trouble}" if answer.trouble else ""
        return replace(answer, outcome=selected, trouble=trouble)
    if isinstance(answer.outcome, TimedOut | Died):
        # Was it the selection, or the building of what was selected?
        selection = observe(Question(question.gpu, question.environ, question.request)).outcome
        if isinstance(selection, Selected):
            trouble = f"building it: {answer.outcome}"
            return replace(answer, outcome=selection, trouble=trouble, deliberate=False)
    return answer


# --- everything else ------------------------------------------------------------------------------


def declare_question(gpu: Gpu, backend: str, values: Mapping[str, Sequence[Any]]) -> Question:
    """Return the question what a backend declares about these values."""
    asked = json.dumps({"backend": backend, "values": values}, sort_keys=True)
    return Question.of(gpu, {}, Request(), "declare", asked)


def told(question: Question, observe: Observe) -> Answer:
    """Ask any other question; raises as _answer() does.

    A process that ended is trouble, and so is a selection that had to come first and was refused.
    """
    answer = _answer(question, observe)
    if isinstance(answer.outcome, Told):
        return answer
    crashed = isinstance(answer.outcome, Crashed)
    words = got_of(answer.outcome).message if crashed else str(answer.outcome)
    return replace(answer, trouble=words, deliberate=answer.refused)
