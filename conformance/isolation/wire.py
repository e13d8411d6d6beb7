"""What our processes say to each other: a class for each message, for both ends.

A message is a line of JSON. It is the standard library's JSON, since msgspec's refuses the lone
surrogates that a selector's texts may hold.
"""

from __future__ import annotations

import json
from typing import Any, TypeVar

import msgspec

from pytest_rocm_attn.conformance.isolation.question import Group, Observation
from pytest_rocm_attn.gpu import Gpu
from pytest_rocm_attn.outcome import Outcome

T = TypeVar("T")


class Message(msgspec.Struct, frozen=True, tag=True):
    """What all messages are."""


def encode(message: object) -> bytes:
    """Return a message as a line."""
    return json.dumps(msgspec.to_builtins(message)).encode() + b"\n"


def decode(line: bytes, kind: type[T] | Any) -> T | Any:
    """Return the message that a line holds.

    Args:
        line: as encode() returns it.
        kind: the class of the message, or a union of those that may come.

    Raises:
        ValueError: the line holds no such message.
    """
    try:
        return msgspec.convert(json.loads(line), kind)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None


# --- to a process that forks ------------------------------------------------------------------------


class Preload(Message, frozen=True):
    """Import modules that all children would import. The first message to every process."""

    names: list[str]


class ForkChild(Message, frozen=True):
    """Fork; the child talks over the descriptor that comes along."""


class Reap(Message, frozen=True):
    """Wait for the end of a child."""

    pid: int


class Forked(Message, frozen=True):
    """The answer to ForkChild."""

    pid: int


class Reaped(Message, frozen=True):
    """The answer to Reap: how the child ended, or None if it ended well."""

    how: Outcome | None


# --- to a process that opens a platform --------------------------------------------------------------


class Open(Message, frozen=True):
    """Import a selector on a platform.

    Attributes:
        gpu: the platform.
        environ: what holds while the selector is imported.
        evidence: "mock" to mock the platform; see Subject.evidence.
        selector: its name.
        prepare: have the adapter prepare it.
        refresh: find out whether the adapter can refresh it.
    """

    gpu: Gpu
    environ: dict[str, str]
    evidence: str
    selector: str
    prepare: bool
    refresh: bool


class Imported(Message, frozen=True):
    """The import is over: what becomes of the process from here on is not its fault."""


class Ready(Message, frozen=True):
    """The selector can be asked.

    Attributes:
        reads: the variables that its imports read, with the values they saw.
        refreshes: the adapter can refresh it.
        neutral: modules that it would import alike on every platform.
        unfilled: what it can be asked and is not, by name; see adapters.Fills.
    """

    reads: dict[str, str | None]
    refreshes: bool
    neutral: list[str]
    unfilled: tuple[str, ...] = ()


class Unusable(Message, frozen=True):
    """What was named is not a selector, for the reason that is given."""

    why: str


# --- to a process that answers -----------------------------------------------------------------------


class AskQuestions(Message, frozen=True):
    """Questions; each is answered with an Observation, in order. Then comes Done.

    Attributes:
        groups: each under its own environment.
        refresh: have the adapter bring the selector up to each environment.
        more: another message comes after this one.
    """

    groups: list[Group]
    refresh: bool
    more: bool = False


class AskCells(Message, frozen=True):
    """Very many cells, whose answers go into a file; see inside/cells.py. Then comes Done.

    Attributes:
        file: that of the codes.
        axes: the axes of the cells, the requests last.
        gpu: the platform.
        environments: the numbers of those to ask under; None for all.
        pure: the selector reads nothing but its arguments.
        seconds: that it may take.
        outcomes: what the codes mean so far.
        refresh: have the adapter bring the selector up to each environment.
    """

    file: str
    axes: list[Any]
    gpu: Gpu
    environments: list[int] | None
    pure: bool
    seconds: float
    outcomes: list[Outcome]
    refresh: bool = False


class Recall(Message, frozen=True):
    """Look into, or change, what the process remembers; see inside/memory.py."""

    asked: dict[str, Any]
    more: bool = True


class Numbered(Message, frozen=True):
    """The outcome that the next code means."""

    outcome: Outcome


class Remembered(Message, frozen=True):
    """The answer to Recall, or the class of the exception that it failed with."""

    answer: Any = None
    failed: str = ""


class Done(Message, frozen=True):
    """All is done; the variables that the selector wrote, as far as nothing else reports them."""

    written: list[str] = []


class Ours(Message, frozen=True):
    """Our own code failed in the process, in the words that are given."""

    words: str


ToFork = Preload | ForkChild | Reap
ToAnswer = AskQuestions | AskCells | Recall
Reply = (
    Forked
    | Reaped
    | Imported
    | Ready
    | Unusable
    | Observation
    | Numbered
    | Remembered
    | Done
    | Ours
)
