"""What a selector under test did with one request, as data.

As plain data, an outcome is a list: the name of its class, then its fields in order.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec


class _Outcome(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """What all outcomes are."""


class Selected(_Outcome, frozen=True):
    """The selector answered with a backend, by its registry name."""

    backend: str

    def __str__(self) -> str:
        return self.backend


class Unrecognised(_Outcome, frozen=True):
    """The selector answered, but not with anything that names a backend (None, a wrong path...)."""

    value: str

    def __str__(self) -> str:
        return f"an answer that names no backend: {self.value}"


class Rejected(_Outcome, frozen=True):
    """The selector refused on purpose: ValueError, NotImplementedError, RuntimeError, AssertionError.

    conformance/isolation/inside/refusal.py decides which of these are crashes instead.
    """

    error: str
    message: str

    def __str__(self) -> str:
        return f"{self.error}: {self.message}"


class Crashed(_Outcome, frozen=True):
    """The selector raised something that is not a refusal. Never satisfies a row that expects one."""

    error: str
    traceback: str

    def __str__(self) -> str:
        last = self.traceback.strip().rpartition("\n")[2]
        return f"crash: {last or self.error}"


class TimedOut(_Outcome, frozen=True):
    """The selector did not answer within the time limit."""

    seconds: float

    def __str__(self) -> str:
        return f"no answer within {self.seconds:g} s"


class Died(_Outcome, frozen=True):
    """The selector's process ended: by a signal (its number), or by itself (exit status)."""

    signal: int | None
    status: int | None = None

    def __str__(self) -> str:
        if self.signal is None:
            return f"the process exited with status {self.status}"
        import signal

        try:
            name = signal.Signals(self.signal).name
        except ValueError:
            name = "an unknown signal"
        return f"the process was killed by {name} ({self.signal})"


class Told(_Outcome, frozen=True):
    """The question was about more than a selection, and this is its answer, as plain data."""

    data: dict[str, Any]

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.data.items())


Outcome: TypeAlias = Selected | Unrecognised | Rejected | Crashed | TimedOut | Died | Told


def to_wire(outcome: Outcome) -> list[Any]:
    """Return the outcome as plain data."""
    data: list[Any] = msgspec.to_builtins(outcome)
    return data


def from_wire(data: object) -> Outcome:
    """Return the outcome that to_wire() turned into data.

    Raises:
        ValueError: the data is not that of an outcome.
    """
    try:
        outcome: Outcome = msgspec.convert(data, Outcome)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None
    return outcome


def ended_with(code: int) -> Died | None:
    """Return how a process ended, given its exit code as Python has it; None if it was well."""
    if code < 0:
        return Died(-code)
    return Died(None, code) if code else None
