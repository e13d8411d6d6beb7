"""Outcomes as small numbers: what a table of a million cells holds.

An outcome is kept in a form that two runs of the same selector share: without addresses, folders,
reprs of objects, or the order in which a set happened to be printed. How two outcomes compare is a
question of behaviour: two refusals are alike, whatever their words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from pytest_rocm_attn.conformance.promise.got import CRASH, DIED, NO_BACKEND, REFUSAL, TIMEOUT, Got
from pytest_rocm_attn.errors import MockError
from pytest_rocm_attn.outcome import (
    Crashed,
    Outcome,
    Rejected,
    Selected,
    TimedOut,
    Unrecognised,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ANSWERS = ("Selected", "Rejected")  # kinds; any other outcome is not an answer
UNANSWERABLE = MockError.__name__  # the error of what neither mock nor machine can answer
TEXT_LIMIT = 400  # characters of a message: enough to say why; bounded for a hostile one

_SPACE = re.compile(r"\s+")
_ADDRESS = re.compile(r"(?<=\bat )0x[0-9a-fA-F]+|0x[0-9a-fA-F]{8,}")
# Two folders or more, so that "and/or" and "n/a" stay.
_PATH = re.compile(r"(?<![\w.:/])(?:[A-Za-z]:)?(?:[/\\][^\s/\\'\"<>|:,;()]+){2,}")
_LINE = re.compile(r"(?<=, line )\d+")
_CALL = re.compile(r"\b[A-Z]\w*\(")  # the repr of a dataclass, a NamedTuple, a Struct
_SET = re.compile(r"\{('[^'{}:]*'(?:, '[^'{}:]*')+)\}")


def normalised(outcome: Outcome) -> Outcome:
    """Return the outcome without what differs from run to run in its texts, such as addresses.

    A crash keeps the last line of its traceback only.
    """
    match outcome:
        case Rejected():
            return msgspec.structs.replace(outcome, message=normalised_text(outcome.message))
        case Crashed():
            last = outcome.traceback.strip().rpartition("\n")[2]
            return msgspec.structs.replace(
                outcome, traceback=normalised_text(last or outcome.error)
            )
        case Unrecognised():
            return msgspec.structs.replace(outcome, value=normalised_text(outcome.value))
    return outcome


def normalised_text(text: str) -> str:
    """Return text on one line, without what differs from one run or machine to the next."""
    text = text[: 50 * TEXT_LIMIT]  # the rest would be cut below
    text = _SPACE.sub(" ", "".join(c if c.isprintable() else " " for c in text)).strip()
    text = _ADDRESS.sub("0x...", text)
    text = _PATH.sub(lambda path: ".../" + re.split(r"[/\\]", path[0])[-1], text)
    text = _LINE.sub("N", text)
    text = _SET.sub(_sorted_set, text)
    text = _without_arguments(text)
    return text if len(text) <= TEXT_LIMIT else text[: TEXT_LIMIT - 3] + "..."


def _sorted_set(found: re.Match[str]) -> str:
    # A set of texts prints in an order that changes with the hash seed.
    return "{" + ", ".join(sorted(found[1].split(", "))) + "}"


def _without_arguments(text: str) -> str:
    """Write the repr of an object, ``Name(field=...)``, as ``Name(...)``."""
    parts: list[str] = []
    start = 0
    while found := _CALL.search(text, start):
        depth, end = 1, found.end()
        while end < len(text) and depth:
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            end += 1
        inside = text[found.end() : end - 1]
        # "Attention(MLA)" is prose: only fields make a repr, and a text cut inside one is one too.
        keep = depth == 0 and "=" not in inside
        parts += [text[start : found.end()], inside if keep else "...", ")"]
        start = end
    return "".join(parts) + text[start:]


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What an outcome means for whoever asked; equal if only the words differ.

    Attributes:
        kind: the outcome's class name; "Various" for several that are kept as one.
        name: the backend that was selected, or the class of the error that a crash raised; else "".
    """

    kind: str
    name: str = ""

    def __str__(self) -> str:
        return {
            "Selected": self.name,
            "Rejected": "a refusal",
            "Crashed": f"a crash ({self.name})",
            "TimedOut": "no answer in time",
            "Died": "the end of its process",
            "Unrecognised": "an answer that names no backend",
            "Various": "various answers",
            "Answer": "an answer",
        }[self.kind]


def got(behaviour: Behaviour) -> Got:
    """Return what a deviation pins of a behaviour: not the words of a refusal."""
    match behaviour.kind:
        case "Selected":
            return Got(behaviour.name)
        case "Crashed":
            return Got(CRASH, behaviour.name)
    kinds = {"Rejected": REFUSAL, "TimedOut": TIMEOUT, "Died": DIED}
    return Got(kinds.get(behaviour.kind, NO_BACKEND))


def behaviour(outcome: Outcome) -> Behaviour:
    """Return what the outcome means."""
    match outcome:
        case Selected(backend):
            return Behaviour("Selected", backend)
        case Crashed(error):
            return Behaviour("Crashed", error)
    return Behaviour(type(outcome).__name__)


def answer_of(outcome: Outcome) -> Behaviour | None:
    """Return what the selector did; None if the mocked platform could not answer."""
    unanswerable = isinstance(outcome, Crashed) and outcome.error == UNANSWERABLE
    return None if unanswerable else behaviour(outcome)


def is_answer(outcome: Outcome) -> bool:
    """Whether the selector answered: it selected a backend, or refused."""
    return isinstance(outcome, Selected | Rejected)


def differ(first: Outcome, second: Outcome) -> bool:
    """Whether two outcomes are known to differ in behaviour.

    An outcome that a time limit cut short differs from nothing: what it would have been is not known.
    """
    if isinstance(first, TimedOut) or isinstance(second, TimedOut):
        return False
    return behaviour(first) != behaviour(second)


@dataclass(frozen=True, slots=True)
class Table:
    """The outcomes of some cells.

    Attributes:
        codes: per cell, a position in outcomes. A code beyond them is a cell without an answer.
        outcomes: what the codes stand for.
    """

    codes: Sequence[int]
    outcomes: Sequence[Outcome]

    def outcome(self, cell: int) -> Outcome | None:
        """Return the outcome of a cell; None if there is none."""
        code = self.codes[cell]
        return self.outcomes[code] if code < len(self.outcomes) else None


@dataclass
class OutcomeCodes:
    """The outcomes of a table, numbered in the order in which they first came.

    Attributes:
        outcomes: normalised; the position is the code.
    """

    outcomes: list[Outcome] = field(default_factory=list)
    _codes: dict[Outcome, int] = field(default_factory=dict, repr=False)
    _raw: dict[Outcome, int] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self._codes = {outcome: code for code, outcome in enumerate(self.outcomes)}

    def code(self, outcome: Outcome) -> int:
        """Return the outcome's code, a new one if it is the first of its kind."""
        code = self._raw.get(outcome)
        if code is None:
            kept = normalised(outcome)
            code = self._codes.get(kept)
            if code is None:
                code = self._codes[kept] = len(self.outcomes)
                self.outcomes.append(kept)
            if len(self._raw) < _REMEMBERED:
                self._raw[outcome] = code
        return code


_REMEMBERED = 10_000  # raw outcomes, so that normalising each text once is enough


def in_order(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Return outcomes in an order that does not depend on which came first."""
    return sorted(outcomes, key=lambda outcome: (type(outcome).__name__, repr(outcome)))
