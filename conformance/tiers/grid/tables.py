"""Tables over products of axes as cells with attributes, for conformance/causes.

A family has an axis for some attributes, an axis of requests for several at a time, and one value
throughout for the rest: no head size but 128, VLLM_X unset. Values of an attribute that nothing
tells apart, in any family, form a class; an attribute with a single class says nothing and is left
out. Cells that agree in the classes of all attributes have the same label by construction. Most
flags change nothing in most comparisons, so a million cells usually come down to a few thousand.
"""

from __future__ import annotations

import itertools
import math
from array import array
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.causes.cells import (
    FAMILY,
    Attribute,
    Cells,
    Origin,
    far,
    first_come,
    is_field,
    rank,
    usual,
)
from pytest_rocm_attn.conformance.promise.grid.space import REQUEST
from pytest_rocm_attn.request import Request

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pytest_rocm_attn.conformance.promise.grid.space import Axis

Columns = list[tuple["int | None", str, tuple[Any, ...]]]
_FIELDS = tuple(Request.__dataclass_fields__)


# --- attributes and their classes -----------------------------------------------------------------


def columns(family: str, axes: Sequence[Axis]) -> Columns:
    """Return (axis, attribute, the value at each position) for a family; no axis for constants."""
    found: Columns = [(None, FAMILY, (family,))]
    for number, axis in enumerate(axes):
        found += [(number, name, column) for name, column in axis.facets.items()]
        if axis.name == REQUEST:
            varying, first = axis.facets, axis.values[0]
            found += [(None, n, (getattr(first, n),)) for n in _FIELDS if n not in varying]
    return found


def reduce(
    families: Sequence[tuple[str, Sequence[Axis]]], tables: Sequence[array[int]]
) -> tuple[Cells, list[int]]:
    """Return cells over the classes that matter, and the label of each.

    Args:
        families: names and axes.
        tables: a label per cell of each family.
    """
    of_families = [columns(name, axes) for name, axes in families]
    names = sorted({name: None for found in of_families for _, name, _ in found}, key=rank)
    same = [
        {axis: alike(table, _sizes(axes), axis) for axis in range(len(axes))}
        for (_, axes), table in zip(families, tables, strict=True)
    ]
    every = [
        Attribute(name, values, _classes(name, values, of_families, same))
        for name in names
        for values in [_values(name, of_families)]
    ]
    apart = {
        name
        for found, alike_of in zip(of_families, same, strict=True)
        for name in _told_apart(found, alike_of, every)
    }
    every = [
        replace(one, classes=tuple((value,) for value in range(len(one.values))))
        if one.name in apart
        else one
        for one in every
    ]
    attributes = [attribute for attribute in every if len(attribute.classes) > 1]
    rows: list[tuple[int, ...]] = []
    labels: list[int] = []
    origins: list[Origin] = []
    groups = []
    for number, ((_, axes), table, found) in enumerate(
        zip(families, tables, of_families, strict=True)
    ):
        first = len(rows)
        groups_of_axes = [_grouped(axis, found, attributes) for axis in range(len(axes))]
        rows += _rows(found, attributes, groups_of_axes)
        labels += _smaller(table, axes, groups_of_axes)
        origins += _origins(number, axes, groups_of_axes)
        groups.append((1 << len(rows)) - (1 << first))
    constant = {one.name: one.values for one in every if len(one.classes) == 1}
    seen = [{name: set(column) for _, name, column in found} for found in of_families]
    return Cells(attributes, rows, origins, groups, constant, seen), labels


def _sizes(axes: Sequence[Axis]) -> list[int]:
    return [len(axis.values) for axis in axes]


def _values(name: str, of_families: Sequence[Columns]) -> tuple[Any, ...]:
    seen = dict.fromkeys(
        v for found in of_families for _, n, column in found if n == name for v in column
    )
    present = all(any(n == name for _, n, _ in found) for found in of_families)
    if not present and not is_field(name):
        # A variable that some family does not have is unset there.
        seen = dict.fromkeys((None, *seen))
    return first_come(usual(name)[0] if is_field(name) else None, seen)


def _classes(
    name: str,
    values: tuple[Any, ...],
    of_families: Sequence[Columns],
    same: Sequence[dict[int, list[int]]],
) -> tuple[tuple[int, ...], ...]:
    """Return values in classes such that no family tells the members of one apart.

    Values that no family has both of may share a class when each is like a third one.
    """
    kinds = [
        _kinds(name, column, found, alike_of)
        for found, alike_of in zip(of_families, same, strict=True)
        for axis, n, column in found
        if n == name and axis is not None
    ]
    classes: list[tuple[list[int], dict[int, int]]] = []  # members; per family, its kind there
    for position, value in enumerate(values):
        mine = {number: kind[value] for number, kind in enumerate(kinds) if value in kind}
        for members, theirs in classes:
            common = mine.keys() & theirs.keys()
            if common and all(mine[number] == theirs[number] for number in common):
                members.append(position)
                theirs.update(mine)
                break
        else:
            classes.append(([position], mine))
    return tuple(tuple(members) for members, _ in classes)


def _kinds(
    name: str, column: tuple[Any, ...], found: Columns, alike_of: dict[int, list[int]]
) -> dict[Any, int]:
    """Return a number for each value of a column; values that are alike in the family have the same number.

    On an axis with several attributes, two values are alike if there are positions that differ in this attribute
    only, and all of these positions are alike.
    """
    axis = next(axis for axis, n, _ in found if n == name)
    assert axis is not None
    same = alike_of[axis]
    others = [c for a, n, c in found if a == axis and n != name]
    rest: list[tuple[Any, ...]] = list(zip(*others, strict=True)) or [()] * len(column)
    groups: dict[tuple[Any, ...], dict[Any, int]] = {}
    for position, value in enumerate(column):
        groups.setdefault(rest[position], {})[value] = same[position]
    kinds: list[list[Any]] = []
    for value in dict.fromkeys(column):
        for kind in kinds:
            both = [
                group[value] == group[member]
                for group in groups.values()
                for member in kind
                if value in group and member in group
            ]
            if both and all(both):
                kind.append(value)
                break
        else:
            kinds.append([value])
    return {value: number for number, kind in enumerate(kinds) for value in kind}


Groups = dict[tuple[int, ...], list[int]]


def _grouped(axis: int, found: Columns, attributes: Iterable[Attribute]) -> Groups:
    """Return the positions of an axis by their classes of the attributes that it has."""
    of_axis = {name: column for a, name, column in found if a == axis}
    size = len(next(iter(of_axis.values()))) if of_axis else 1
    class_of = [
        [_class_of(attribute, value) for value in of_axis[attribute.name]]
        for attribute in attributes
        if attribute.name in of_axis
    ]
    groups: Groups = {}
    for position in range(size):
        groups.setdefault(tuple(column[position] for column in class_of), []).append(position)
    return groups


def _class_of(attribute: Attribute, value: Any) -> int:
    position = attribute.values.index(value)
    return next(n for n, members in enumerate(attribute.classes) if position in members)


def _told_apart(
    found: Columns, alike_of: dict[int, list[int]], attributes: Sequence[Attribute]
) -> Iterator[str]:
    """Yield the attributes of axes if classes hide a difference that only several show."""
    for axis, same in alike_of.items():
        groups = _grouped(axis, found, attributes).values()
        if any(len({same[position] for position in group}) > 1 for group in groups):
            yield from (name for a, name, _ in found if a == axis)


# --- cells over classes ---------------------------------------------------------------------------


def _rows(
    found: Columns, attributes: Sequence[Attribute], groups: Sequence[Groups]
) -> Iterator[tuple[int, ...]]:
    """Yield the classes of each cell of a family, in the order of the product of the groups."""
    # An attribute's class comes from its axis, or is the same in all cells.
    constant = {name: column[0] for axis, name, column in found if axis is None}
    on_axes = {(axis, name) for axis, name, _ in found if axis is not None}
    names = [
        one.name for axis in range(len(groups)) for one in attributes if (axis, one.name) in on_axes
    ]
    fixed = [one for one in attributes if one.name not in names]
    constants = tuple(_class_of(one, constant.get(one.name)) for one in fixed)
    names += [one.name for one in fixed]
    place = [names.index(one.name) for one in attributes]
    for chosen in itertools.product(*groups):
        classes = (*itertools.chain.from_iterable(chosen), *constants)
        yield tuple([classes[at] for at in place])


def _smaller(table: array[int], axes: Sequence[Axis], groups: Sequence[Groups]) -> array[int]:
    """Return a table with one position of each group."""
    sizes = _sizes(axes)
    for axis, of_axis in reversed(list(enumerate(groups))):
        table = take(table, sizes, axis, [positions[0] for positions in of_axis.values()])
        sizes[axis] = len(of_axis)
    return table


def _origins(number: int, axes: Sequence[Axis], groups: Sequence[Groups]) -> Iterator[Origin]:
    nearest = [
        [(len(group), *min((distance[at], at) for at in group)) for group in of_axis.values()]
        for distance, of_axis in zip(map(distances, axes), groups, strict=True)
    ]
    for chosen in itertools.product(*nearest):
        counts, distance, place = zip(*chosen, strict=True)
        yield Origin(math.prod(counts), sum(distance), (number, *place))


def distances(axis: Axis) -> list[int]:
    """Return how far each value of an axis is from the default."""
    found = []
    for value in axis.values:
        parts: Iterable[tuple[str, Any]] = [(axis.name, value)]
        if isinstance(value, Request):
            parts = value.non_default().items()
        elif isinstance(value, tuple):
            parts = value
        found.append(sum(far(name, part) for name, part in parts))
    return found


# --- values that nothing tells apart --------------------------------------------------------------


def alike(table: array[int], sizes: Sequence[int], axis: int) -> list[int]:
    """Return for each value of an axis the first value that has the same cells."""
    first: dict[bytes, int] = {}
    stride = math.prod(sizes[axis + 1 :])
    size = sizes[axis]
    step = stride * size

    def cells(value: int) -> bytes:
        """Return all cells with the value, in an order that only the other axes decide."""
        start = value * stride
        if len(table) // step <= stride:
            return b"".join(
                table[at : at + stride].tobytes() for at in range(start, len(table), step)
            )
        return b"".join(table[start + at :: step].tobytes() for at in range(stride))

    return [first.setdefault(cells(value), value) for value in range(size)]


def take(table: array[int], sizes: Sequence[int], axis: int, values: Sequence[int]) -> array[int]:
    """Return the table with only these values of an axis, in this order."""
    size, stride = sizes[axis], math.prod(sizes[axis + 1 :])
    if list(values) == list(range(size)):
        return table
    step, kept = stride * size, stride * len(values)
    smaller = array("H", bytes(2 * (len(table) // size * len(values))))
    if len(table) // step <= stride:
        starts = (at + value * stride for at in range(0, len(table), step) for value in values)
        for new, start in enumerate(starts):
            smaller[new * stride : (new + 1) * stride] = table[start : start + stride]
        return smaller
    for new, value in enumerate(values):
        for at in range(stride):
            smaller[new * stride + at :: kept] = table[value * stride + at :: step]
    return smaller
