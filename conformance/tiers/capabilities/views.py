"""What the worker told, with names and types: the driving side of asking.py."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.adapters.declarations import INHERITED
from pytest_rocm_attn.conformance.isolation import Question, WorkerError
from pytest_rocm_attn.conformance.isolation.inside.capabilities import SINKS_IS_NONE
from pytest_rocm_attn.conformance.promise.got import CRASH, REFUSAL, got_of
from pytest_rocm_attn.outcome import Crashed, Died, Rejected, Selected, TimedOut, Told

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pytest_rocm_attn.conformance.isolation import Observation
    from pytest_rocm_attn.gpu import Gpu
    from pytest_rocm_attn.outcome import Outcome
    from pytest_rocm_attn.request import Request


class Inapplicable(Exception):
    """An item that says nothing of this selector; its message says why."""


@dataclass(frozen=True, slots=True)
class Construction:
    """What came of selecting and building for one request.

    Attributes:
        request: what was asked.
        outcome: what the selection came to: Selected wherever something was selected.
        trouble: in words why what was selected cannot be built; "" where it can, or where nothing
            was selected.
        deliberate: the trouble is a refusal, no crash.
        traceback: of the trouble.
    """

    request: Request
    outcome: Outcome
    trouble: str = ""
    deliberate: bool = True
    traceback: str = ""

    @property
    def backend(self) -> str:
        """The backend that was selected, or ""."""
        return self.outcome.backend if isinstance(self.outcome, Selected) else ""

    @property
    def answer(self) -> str:
        """The result as a deviation pins it."""
        if self.trouble:
            return REFUSAL if self.deliberate else CRASH
        return got_of(self.outcome).answer

    @property
    def built(self) -> bool:
        return bool(self.backend) and not self.trouble


def construct_question(
    gpu: Gpu, environ: Mapping[str, str], request: Request, *, none_for_sinks: bool = False
) -> Question:
    """Return the question that construction() reads the answer of."""
    return Question.of(gpu, environ, request, "construct", SINKS_IS_NONE if none_for_sinks else "")


def construction(question: Question, observe: Callable[[Question], Observation]) -> Construction:
    """Ask a construct question.

    Raises:
        Inapplicable: the selector's adapter cannot construct.
        WorkerError: we ourselves cannot tell.
    """
    outcome = observe(question).outcome
    if isinstance(outcome, Told):
        data = _ours(outcome)
        selected = Selected(data["backend"])
        if data["built"]:
            return Construction(question.request, selected)
        return Construction(
            question.request,
            selected,
            f"{data['step'] or 'construct()'}: {_error(data)}",
            data["deliberate"],
            data["traceback"],
        )
    if isinstance(outcome, TimedOut | Died):
        # Was it the selection, or the building of what was selected?
        selection = observe(Question(question.gpu, question.environ, question.request)).outcome
        if isinstance(selection, Selected):
            return Construction(
                question.request, selection, f"building it: {outcome}", deliberate=False
            )
    return Construction(question.request, outcome)


def stumbled(outcome: Outcome) -> bool:
    """Whether a selection neither selected nor refused."""
    return not isinstance(outcome, Selected | Rejected)


# --- declarations ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Declaration:
    """What a backend declares on one platform, or why it cannot be imported."""

    backend: str
    data: Mapping[str, Any]
    import_error: str = ""
    deliberate: bool = True

    def says(self, limit: str, value: object) -> bool | None:
        """Whether the class declares to take a value; None when that is undeclared.

        What is inherited from the common root is a declaration only where somebody decides by it:
        the platform that asks its classes, or for block sizes the runner.
        """
        entry = self.data.get("limits", {}).get(limit)
        if entry is None or "error" in entry:
            return None
        decides = self.data["decides"] or limit == "block_size"
        if entry["by"] == INHERITED and not decides:
            return None
        if value in entry["takes"]:
            return True
        return False if value in entry["not"] else None


def declare_question(gpu: Gpu, backend: str, values: Mapping[str, Sequence[Any]]) -> Question:
    """Return the question that declaration() reads the answer of."""
    from pytest_rocm_attn.request import Request

    asked = json.dumps({"backend": backend, "values": values}, sort_keys=True)
    return Question.of(gpu, {}, Request(), "declare", asked)


def declaration(question: Question, observe: Callable[[Question], Observation]) -> Declaration:
    """Ask a declare question.

    Raises:
        Inapplicable: the adapter knows no classes, or the fork has no such backend.
        WorkerError: we ourselves cannot tell.
    """
    backend = json.loads(question.detail)["backend"]
    outcome = observe(question).outcome
    if not isinstance(outcome, Told):
        return Declaration(backend, {}, f"importing it: {outcome}", deliberate=False)
    data = _ours(outcome)
    if "error" in data:
        return Declaration(backend, {}, _error(data), data["deliberate"])
    return Declaration(backend, data)


def import_trouble(question: Question, observe: Callable[[Question], Observation]) -> str:
    """Ask an import question; return why the module cannot be imported, or ""."""
    outcome = observe(question).outcome
    if not isinstance(outcome, Told):
        return str(outcome)
    data = _ours(outcome)
    return _error(data) if data else ""


# --- the server -----------------------------------------------------------------------------------


def question(
    kind: str,
    gpu: Gpu,
    environ: Mapping[str, str] | None = None,
    request: Request | None = None,
    detail: str = "",
) -> Question:
    """Return a question of one of the kinds of asking.py that told() reads the answer of."""
    from pytest_rocm_attn.request import Request

    return Question.of(gpu, environ or {}, request or Request(), kind, detail)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a question about the server came to.

    Attributes:
        data: what was told; {} where nothing was.
        trouble: why nothing was, in words: what was raised, or how the selection ended.
        deliberate: the trouble is a refusal, no crash.
        refused: the selection refused, which is no trouble of the server's.
    """

    data: Mapping[str, Any]
    trouble: str = ""
    deliberate: bool = True
    refused: bool = False


def answer(question: Question, observe: Callable[[Question], Observation]) -> Answer:
    """Ask a question about the server.

    Raises:
        Inapplicable: the adapter knows no server, or the fork has no such thing.
        WorkerError: we ourselves cannot tell.
    """
    outcome = observe(question).outcome
    if not isinstance(outcome, Told):
        refused = isinstance(outcome, Rejected)
        words = str(outcome)
        if isinstance(outcome, Crashed):
            last = outcome.traceback.strip().rpartition("\n")[2].strip()
            words = last if last.startswith(outcome.error) else f"{outcome.error}: {last}"
        return Answer({}, words, deliberate=refused, refused=refused)
    data = _ours(outcome)
    if "error" in data:
        return Answer({}, _error(data), deliberate=data["deliberate"])
    return Answer(data)


def _ours(told: Told) -> dict[str, Any]:
    if "inapplicable" in told.data:
        raise Inapplicable(told.data["inapplicable"])
    if "ours" in told.data:
        raise WorkerError(f"cannot tell: {_error(told.data)}")
    return told.data


def _error(data: Mapping[str, Any]) -> str:
    first = str(data["message"]).strip().partition("\n")[0]
    return f"{data['error']}: {first}" if first else str(data["error"])
