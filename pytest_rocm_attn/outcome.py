"""What a selector under test did with one request, as data."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True)
class Selected:
    """The selector answered with a backend, by its registry name."""

    backend: str

    def __str__(self) -> str:
        return self.backend


@dataclass(frozen=True, slots=True)
class Unrecognised:
    """The selector answered, but not with anything that names a backend (None, a wrong path...)."""

    value: str

    def __str__(self) -> str:
        return f"an answer that names no backend: {self.value}"


@dataclass(frozen=True, slots=True)
class Rejected:
    """The selector refused on purpose: ValueError, NotImplementedError, RuntimeError, AssertionError.

    Which of these are a crash instead, says conformance/isolation/inside/refusal.py.
    """

    error: str
    message: str

    def __str__(self) -> str:
        return f"{self.error}: {self.message}"


@dataclass(frozen=True, slots=True)
class Crashed:
    """The selector raised something that is no refusal. Never satisfies a row that expects one."""

    error: str
    traceback: str

    def __str__(self) -> str:
        last = self.traceback.strip().rpartition("\n")[2]
        return f"crash: {last or self.error}"


@dataclass(frozen=True, slots=True)
class TimedOut:
    """The selector did not answer within the time limit."""

    seconds: float

    def __str__(self) -> str:
        return f"no answer within {self.seconds:g} s"


@dataclass(frozen=True, slots=True)
class Died:
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


@dataclass(frozen=True, slots=True)
class Told:
    """The question was about more than a selection, and this is its answer, as plain data."""

    data: dict[str, Any]

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.data.items())


Outcome: TypeAlias = Selected | Unrecognised | Rejected | Crashed | TimedOut | Died | Told

_KINDS = {
    kind.__name__: kind
    for kind in (Selected, Unrecognised, Rejected, Crashed, TimedOut, Died, Told)
}


def to_wire(outcome: Outcome) -> list[Any]:
    """Return the outcome as plain data: its class name, then its fields in order."""
    return [type(outcome).__name__, *(getattr(outcome, field.name) for field in fields(outcome))]


def from_wire(data: list[Any]) -> Outcome:
    """Return the outcome that to_wire turned into data."""
    kind, *values = data
    return _KINDS[kind](*values)
