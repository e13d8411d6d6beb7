"""A cause, and every difference explained: conditions, and the causes that they are put together to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.causes.cells import is_variable, met
from pytest_rocm_attn.conformance.promise.grid.outcomes import Behaviour
from pytest_rocm_attn.flags import EXPLICIT

if TYPE_CHECKING:
    from pytest_rocm_attn.conformance.causes.cells import Bits, Cells, Origin
    from pytest_rocm_attn.conformance.causes.conditions import Change, Condition, Given

# Stand in for a backend: another one than the cell names, and any.
ANOTHER_ONE = Behaviour("Selected", "another one")
A_BACKEND = Behaviour("Selected", "a backend")
A_REFUSAL = Behaviour("Rejected")
VARIOUS = Behaviour("Various")

OTHER_VARIABLES = "variables"  # a theme: variables that selection does not read


@dataclass(frozen=True, slots=True)
class Cause:
    """One change of behaviour with one explanation.

    Attributes:
        change: what it changes, by meaning.
        theme: what decides it: "aiter", a field of the request, OTHER_VARIABLES; "" for the switches,
            what is named and the GPU.
        where: clauses that are true of 90% of its cells at least, as few as are worth it.
        exceptions: where the clauses are true and yet nothing differs.
        precision: of the cells that clauses and exceptions describe, and in which a backend was
            expected, or a refusal, as the change has it, the share that differs so.
        cells: how many they are.
        smallest: the one of those that clauses and exceptions describe that is nearest to the
            defaults.
        gpus: those on which users meet it.
        everywhere: that is every GPU.
        backends: those that are named, expected or got in most of its cells, most cells first.
        families: numbers of the groups of cells in which it is met.
        conditions: the positions of the exact conditions that its cells are in.
        inside: the cells.
        parts: if one change has several descriptions, a cause for each, the one that most users meet
            first; theme, where, exceptions, precision and smallest are those of the first.
    """

    change: Change
    theme: str
    where: tuple[Given, ...]
    exceptions: tuple[Given, ...]
    precision: float
    cells: int
    smallest: Origin
    gpus: tuple[str, ...]
    everywhere: bool
    backends: tuple[str, ...]
    families: tuple[int, ...]
    conditions: tuple[int, ...]
    inside: Bits
    parts: tuple[Cause, ...] = ()

    @property
    def variables(self) -> frozenset[str]:
        """The variables that its clauses set."""
        names = (one.name for one in self.where if None not in one.values)
        return frozenset(name for name in names if is_variable(name) and name != EXPLICIT)

    @property
    def met(self) -> int:
        """Who meets it first: see cells.met()."""
        return met(self.smallest.distance)


@dataclass(frozen=True, slots=True)
class Explained:
    """Every difference.

    Attributes:
        cells: all that were compared.
        conditions: the most important first.
        causes: in the order of how many users meet them.
        differing: how many cells differ.
        left: how many differing cells no condition covers: 0 unless there are too many conditions.
        left_smallest: the smallest of these; None if there is none.
    """

    cells: Cells | None
    conditions: tuple[Condition, ...] = ()
    causes: tuple[Cause, ...] = ()
    differing: int = 0
    left: int = 0
    left_smallest: Origin | None = None


def order(cause: Cause) -> tuple[Any, ...]:
    """Sort key: what fails first; then who meets it, a plain layer first; then by size."""
    change = cause.change
    return (
        change.level in ("advisory", "observed"),
        change.declared,
        cause.met,
        bool(cause.theme),
        -cause.cells,
        repr((change, cause.theme)),
    )
