"""How each cell of some families differs, and what that amounts to: for diffs as for slices."""

from __future__ import annotations

import itertools
import math
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.causes.cause import Explained
from pytest_rocm_attn.conformance.causes.causes import explain
from pytest_rocm_attn.conformance.causes.cells import bits_of
from pytest_rocm_attn.conformance.causes.conditions import THE_NAMED_ONE, Change
from pytest_rocm_attn.conformance.promise.grid.outcomes import Behaviour
from pytest_rocm_attn.conformance.tiers.grid.tables import reduce
from pytest_rocm_attn.flags import EXPLICIT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pytest_rocm_attn.conformance.promise.grid.space import Axis


AGREED_REFUSAL = Change(Behaviour("Rejected"), Behaviour("Rejected"))


@dataclass(frozen=True, slots=True)
class Labelled:
    """A family, or a part of it that has axes of its own, with a label per cell.

    Attributes:
        name: of the family.
        axes: the cells are their product, the last axis fastest.
        codes: per cell, a position in changes.
        changes: what the codes stand for; None for what does not differ. Cells that agree on a
            refusal have AGREED_REFUSAL, which tells apart what a change may be about.
    """

    name: str
    axes: Sequence[Axis]
    codes: Sequence[int]
    changes: Sequence[Change | None]


class Labeller(dict[tuple[int, ...], int]):
    """Labels for combinations of codes and of the backend that is named, each worked out once.

    Args:
        axes: of the cells.
        decide: is given the codes of a cell, and the backend that it names or None, and returns
            how the cell differs, or whatever else there is to say of it.

    Attributes:
        found: what decide returned; a position is a label.
    """

    def __init__(self, axes: Sequence[Axis], decide: Callable[..., Any]) -> None:
        super().__init__()
        self.found: list[Any] = []
        self._decide = decide
        self._numbers: dict[Any, int] = {}
        self._names, self._choices = _choices(axes)

    def of(self, *columns: Sequence[int]) -> array[int]:
        """Return the label of each cell, given its codes."""
        return array("H", map(self.__getitem__, zip(*columns, self._choices, strict=False)))

    def __missing__(self, key: tuple[int, ...]) -> int:
        *codes, choice = key
        name = self._names[choice]
        found = self._decide(*codes, name)
        number = self._numbers.setdefault(found, len(self.found))
        if number == len(self.found):
            self.found.append(found)
        self[key] = number
        return number


def with_named(change: Change, name: str | None) -> Change:
    """Return a change of a cell that names this backend, with the backend as the named one."""
    return change if name is None else change.exchanged(Behaviour("Selected", name), THE_NAMED_ONE)


def _choices(axes: Sequence[Axis]) -> tuple[Sequence[Any], Iterable[int]]:
    """Return the backends that are named, and which of them each cell has, cell after cell."""
    for number, axis in enumerate(axes):
        if axis.name == EXPLICIT:
            stride = math.prod(len(later.values) for later in axes[number + 1 :])
            run = b"".join(bytes([value]) * stride for value in range(len(axis.values)))
            return axis.values, itertools.cycle(run)
    return (None,), itertools.repeat(0)


def explained(families: Sequence[Labelled], most: int = 400) -> Explained:
    """Return what differs in these families: conditions and causes.

    The place of a cell is the position of its family and its position on each axis of it.

    Args:
        families: together they are the cells that conditions are about.
        most: how many conditions to look for before the rest is only counted.
    """
    numbers: dict[Change, int] = {AGREED_REFUSAL: 1}
    tables = []
    for family in families:
        new = [
            0 if one is None else numbers.setdefault(one, len(numbers) + 1)
            for one in family.changes
        ]
        codes = (
            family.codes if new == list(range(len(new))) else [new[code] for code in family.codes]
        )
        tables.append(array("H", codes))
        if len(tables[-1]) != math.prod(len(axis.values) for axis in family.axes):
            raise ValueError(f"family {family.name}: {len(tables[-1])} codes for its cells")
    if len(numbers) == 1:
        return Explained(None)
    cells, labels = reduce([(family.name, family.axes) for family in families], tables)
    of_label = bits_of(labels, len(numbers) + 1)
    by_change = {change: of_label[number] for change, number in numbers.items()}
    refused = by_change.pop(AGREED_REFUSAL)
    return explain(cells, by_change, refused, most)
