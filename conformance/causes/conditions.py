"""Conditions: where cells differ, exactly.

Per cell, what was expected and what was got go in. A *condition* is a conjunction with one answer
expected and one got: every differing cell is in some condition and no other cell is in any.
Conditions may overlap.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.causes import boxes
from pytest_rocm_attn.conformance.causes.cells import FAMILY, KIND, is_field, ones
from pytest_rocm_attn.conformance.promise.grid.outcomes import Behaviour
from pytest_rocm_attn.conformance.promise.grid.space import AITER, GFX
from pytest_rocm_attn.flags import EXPLICIT, USE_AITER

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_rocm_attn.conformance.causes.cells import Attribute, Bits, Cells, Origin

# Stands in for the name of the backend that a cell names.
THE_NAMED_ONE = Behaviour("Selected", "the explicit one")


@dataclass(frozen=True, slots=True)
class Change:
    """One way to differ; cells that differ alike have equal ones.

    If both answers are equal, it stands for cells that agree on that answer.

    Args:
        expected: the answer that was expected.
        got: the answer that came.
        level: "required" or "advisory"; "" if nothing is judged.
        rule: the rule, or the name of what was compared with.
        wanted: what was expected, in other words; "" if `expected` says it.
        declared: the fork's deviations file has an entry for this answer.
    """

    expected: Behaviour
    got: Behaviour
    level: str = ""
    rule: str = ""
    wanted: str = ""
    declared: bool = False

    def exchanged(self, answer: Behaviour, by: Behaviour) -> Change:
        """Return the change with another answer in place of one."""
        expected, got = (by if one == answer else one for one in (self.expected, self.got))
        return replace(self, expected=expected, got=got)


@dataclass(frozen=True, slots=True)
class Given:
    """A restriction: an attribute has one of these values.

    Attributes:
        name: "gfx", "aiter", "family", a variable, or a field of the request.
        values: those allowed; None is an unset variable, or a field that is not given.
        others: those of the grid that are excluded.
    """

    name: str
    values: tuple[Any, ...]
    others: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Condition:
    """Cells that differ alike, exactly.

    Attributes:
        where: what they have in common; empty if that is all cells.
        change: how they differ.
        cells: how many they are.
        smallest: the one with the fewest variables set, nearest to the defaults.
        overrides: in some of them a backend is named and expected, and another one is got.
        inside: the cells.
    """

    where: tuple[Given, ...]
    change: Change
    cells: int
    smallest: Origin
    overrides: bool
    inside: Bits

    @property
    def at_defaults(self) -> bool:
        """Whether it holds with no variable set, for a plain layer, with aiter present."""
        return self.smallest.distance <= 1  # the GPU alone


def conditions(
    cells: Cells, labels: Mapping[Change, Bits], most: int
) -> tuple[list[Condition], Bits]:
    """Return the conditions under which cells differ, the most important first, and what is left.

    Args:
        cells: all that were compared.
        labels: each way to differ -> the cells that differ so; a cell has one at most.
        most: how many conditions to look for; cells that none covers by then are left.
    """
    leading = [number for number, one in enumerate(cells.attributes) if one.name == FAMILY]
    found, left = boxes.cover(cells, _by_name(cells, labels), most, leading)
    all_of = [_condition(cells, change, box, inside) for (change, box), inside in found.items()]
    return sorted(all_of, key=_importance), left


def _by_name(cells: Cells, labels: Mapping[Change, Bits]) -> dict[Change, Bits]:
    """Return for each change the cells that it is true of.

    A cell whose answer is the named one is also one whose answer is the backend of that name, so it
    may go with cells in which nothing or something else was named.
    """
    found: dict[Change, Bits] = defaultdict(int)
    names = next((n for n, one in enumerate(cells.attributes) if one.name == EXPLICIT), None)
    for change, differing in labels.items():
        found[change] |= differing
        if names is None or THE_NAMED_ONE not in (change.expected, change.got):
            continue
        attribute = cells.attributes[names]
        for values, holding in zip(attribute.classes, cells.holding[names], strict=True):
            choice = attribute.values[values[0]]
            if len(values) == 1 and choice is not None and differing & holding:
                name = Behaviour("Selected", str(choice))
                found[change.exchanged(THE_NAMED_ONE, name)] |= differing & holding
    return found


def _condition(cells: Cells, change: Change, box: boxes.Box, inside: Bits) -> Condition:
    where = _constraints(cells, box, inside)
    return Condition(
        where,
        change,
        cells.count(inside),
        cells.smallest(inside),
        _overrides(cells, where, change),
        inside,
    )


def _constraints(cells: Cells, box: boxes.Box, inside: Bits) -> tuple[Given, ...]:
    """Return what restricts a box, in the order of a sentence.

    Classes that no cell of the box has say nothing: they are named only if that is shorter.
    """
    found = []
    for attribute, holding, chosen in zip(cells.attributes, cells.holding, box, strict=True):
        if chosen == (1 << len(holding)) - 1:
            continue
        in_box = attribute.of(ones(chosen))
        allowed = attribute.of(n for n, having in enumerate(holding) if having & inside)
        if attribute.name == EXPLICIT and len(attribute.values) - len(in_box) == 1:
            allowed = in_box
        found.append(given(cells, attribute, allowed, inside))
    return tuple(sorted(found, key=lambda one: place(one.name)))


def given(cells: Cells, attribute: Attribute, values: tuple[Any, ...], inside: Bits) -> Given:
    """Return a restriction to those of these values that the families of some cells have."""
    others = tuple(value for value in attribute.values if value not in values)
    return Given(attribute.name, cells.occurring(attribute.name, values, inside), others)


def place(name: str) -> tuple[int, str]:
    """Sort key of attributes in a sentence: the machine, the environment, the request."""
    first = (GFX, AITER, USE_AITER)
    if name in first:
        return first.index(name), name
    if is_field(name):
        return (6 if name in KIND else 7), name
    return (8 if name == FAMILY else 5 if name == EXPLICIT else 4), name


def _overrides(cells: Cells, where: Sequence[Given], change: Change) -> bool:
    if (change.expected.kind, change.got.kind) != ("Selected", "Selected"):
        return False
    if change.expected == THE_NAMED_ONE:
        return True
    allowed = [one.values for one in where if one.name == EXPLICIT]
    known = cells.values(EXPLICIT, cells.every)
    return change.expected.name in known and all(change.expected.name in one for one in allowed)


def _importance(condition: Condition) -> tuple[Any, ...]:
    """Sort key: what happens without any flag, then named backends overridden, then by size."""
    rank = 0 if condition.at_defaults else 1 if condition.overrides else 2
    change = condition.change
    return (
        change.level in ("advisory", "observed"),
        change.declared,
        rank,
        -condition.cells,
        len(condition.where),
        repr((condition.where, change)),
    )
