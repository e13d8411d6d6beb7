"""The unit of work of the grid: a slice with one state of aiter, and what is known of it."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_rocm_attn.conformance.isolation.inside.cells import UNANSWERED, Enumeration
from pytest_rocm_attn.conformance.promise.grid.outcomes import normalised
from pytest_rocm_attn.gpu import Aiter, Gpu

if TYPE_CHECKING:
    from pytest_rocm_attn.conformance.promise.grid.space import Slice
    from pytest_rocm_attn.outcome import Outcome


@dataclass
class PartTable:
    """The outcomes of a slice with one state of aiter.

    Attributes:
        codes: per cell, in order, a position in outcomes, or UNANSWERED.
        outcomes: normalised.
        seconds: how long it took.
        written: environment variables that the selector wrote.
    """

    codes: array[int]
    outcomes: list[Outcome] = field(default_factory=list)
    seconds: float = 0.0
    written: set[str] = field(default_factory=set)

    @classmethod
    def empty(cls, cells: int) -> PartTable:
        return cls(array("H", b"\xff\xff" * cells))

    @property
    def unanswered(self) -> int:
        return self.codes.count(UNANSWERED)

    def code(self, outcome: Outcome) -> int:
        """Return the code of an outcome; a new one where the table does not have it yet."""
        kept = normalised(outcome)
        if kept not in self.outcomes:
            self.outcomes.append(kept)
        return self.outcomes.index(kept)


@dataclass(frozen=True)
class Part:
    """A slice with one state of aiter."""

    slice: Slice
    position: int

    @property
    def gpu(self) -> Gpu:
        return Gpu(self.slice.gfx, Aiter(str(self.slice.axes[0].values[self.position])))

    @property
    def id(self) -> str:
        return f"{self.slice.id}-{self.gpu.aiter}"

    @property
    def enumeration(self) -> Enumeration:
        return Enumeration.of(self.slice.axes[1:])

    @property
    def cells(self) -> int:
        return self.slice.cells // len(self.slice.axes[0].values)


def parts_of(part: Slice) -> list[Part]:
    """Return the parts of a slice, in the order of its cells."""
    return [Part(part, position) for position in range(len(part.axes[0].values))]
