"""What conditions are about: one list of attributes over all families, and classes of their values.

A family has an axis for some attributes, an axis of requests for several at a time, and one value
throughout for the rest: no head size but 128, VLLM_X unset. Values of an attribute that nothing
tells apart, in any family, form a class; an attribute with a single class says nothing and is left
out. Cells that agree in the classes of all attributes have the same label by construction.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.promise.grid.space import AITER, GFX, REQUEST
from pytest_rocm_attn.conformance.tiers.grid.quotient import alike, take
from pytest_rocm_attn.flags import EXPLICIT, USE_AITER
from pytest_rocm_attn.request import Request

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_rocm_attn.conformance.promise.grid.space import Axis

FAMILY = "family"
# Sooner left out of a condition when others say the same: fields before the kind of request, the
# less known before the switches that users set, the GPU last.
_LATE = ("use_sparse", "use_mla", USE_AITER, EXPLICIT, AITER, GFX)
_FIELDS = tuple(field.name for field in fields(Request))

Columns = list[tuple["int | None", str, tuple[Any, ...]]]


@dataclass(frozen=True)
class Attribute:
    """Something that conditions may restrict.

    Attributes:
        name: "family", "gfx", "aiter", a variable, or a field of the request.
        values: all that any family has, the default first where it is among them.
        classes: the values in classes, as positions; none tells apart the values of one.
    """

    name: str
    values: tuple[Any, ...]
    classes: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Reduced:
    """A family's table over classes.

    Attributes:
        table: a label per cell.
        cells: per cell, its class of each attribute.
        members: groups of the family's own positions on each axis. A cell stands for one group of each
            axis; cells are in the order of their product, the last axis fastest.
    """

    table: bytes
    cells: list[tuple[int, ...]]
    members: list[list[list[int]]]


def columns(family: str, axes: Sequence[Axis]) -> Columns:
    """Return (axis, attribute, the value at each position) for a family; no axis for constants."""
    found: Columns = [(None, FAMILY, (family,))]
    for number, axis in enumerate(axes):
        found += [(number, name, column) for name, column in axis.facets.items()]
        if axis.name == REQUEST:
            told = axis.facets
            first = axis.values[0]
            found += [(None, name, (getattr(first, name),)) for name in _FIELDS if name not in told]
    return found


def reduce(
    families: Sequence[tuple[str, Sequence[Axis]]], tables: Sequence[bytes]
) -> tuple[list[Attribute], list[Reduced]]:
    """Return the attributes that matter, and each family's table over their classes.

    Args:
        families: names and axes.
        tables: a label per cell of each family; one byte per cell.
    """
    of_families = [columns(name, axes) for name, axes in families]
    names = sorted({name: None for found in of_families for _, name, _ in found}, key=_rank)
    values = {name: _values(name, of_families) for name in names}
    same = [
        {axis: alike(table, _sizes(axes), axis) for axis in range(len(axes))}
        for (_, axes), table in zip(families, tables, strict=True)
    ]
    attributes = [
        Attribute(name, values[name], _classes(name, values[name], of_families, same))
        for name in names
    ]
    apart = {
        name
        for found, alike_of in zip(of_families, same, strict=True)
        for name in _told_apart(found, alike_of, attributes)
    }
    attributes = [
        replace(one, classes=tuple((value,) for value in range(len(one.values))))
        if one.name in apart
        else one
        for one in attributes
    ]
    attributes = [attribute for attribute in attributes if len(attribute.classes) > 1]
    return attributes, [
        _reduced(axes, table, found, attributes)
        for (_, axes), table, found in zip(families, tables, of_families, strict=True)
    ]


def _rank(name: str) -> tuple[int, int, str]:
    late = _LATE.index(name) + 1 if name in _LATE else 0
    return (name != FAMILY), late, ("" if name in _FIELDS else "~") + name


def _sizes(axes: Sequence[Axis]) -> list[int]:
    return [len(axis.values) for axis in axes]


def _values(name: str, of_families: Sequence[Columns]) -> tuple[Any, ...]:
    seen = dict.fromkeys(
        v for found in of_families for _, n, column in found if n == name for v in column
    )
    present = all(any(n == name for _, n, _ in found) for found in of_families)
    if not present and name not in _FIELDS:
        # A variable that some family does not have is unset there.
        seen = dict.fromkeys((None, *seen))
    default = None if name not in _FIELDS else getattr(Request(), name)
    return tuple(sorted(seen, key=lambda value: value != default))


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
    """Return a number per value of a column, the same for values that are alike in the family.

    Where the axis has several attributes, values are alike when positions that differ in this
    attribute only are, and there are such.
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


def _grouped(
    axis: int, found: Columns, attributes: Iterable[Attribute]
) -> dict[tuple[int, ...], list[int]]:
    """Return the positions of an axis by their classes of the attributes that it has."""
    of_axis = {name: column for a, name, column in found if a == axis}
    size = len(next(iter(of_axis.values()))) if of_axis else 1
    class_of = [
        [_class_of(attribute, value) for value in of_axis[attribute.name]]
        for attribute in attributes
        if attribute.name in of_axis
    ]
    groups: dict[tuple[int, ...], list[int]] = {}
    for position in range(size):
        groups.setdefault(tuple(column[position] for column in class_of), []).append(position)
    return groups


def _class_of(attribute: Attribute, value: Any) -> int:
    position = attribute.values.index(value)
    return next(n for n, members in enumerate(attribute.classes) if position in members)


def _told_apart(
    found: Columns, alike_of: dict[int, list[int]], attributes: Sequence[Attribute]
) -> list[str]:
    """Return the attributes of axes where classes hide a difference that only several show."""
    return [
        name
        for axis, same in alike_of.items()
        if any(
            len({same[position] for position in group}) > 1
            for group in _grouped(axis, found, attributes).values()
        )
        for a, name, _ in found
        if a == axis
    ]


def _reduced(
    axes: Sequence[Axis], table: bytes, found: Columns, attributes: Sequence[Attribute]
) -> Reduced:
    sizes = _sizes(axes)
    of_axes = [_grouped(axis, found, attributes) for axis in range(len(axes))]
    for axis, groups in reversed(list(enumerate(of_axes))):
        table = take(table, sizes, axis, [positions[0] for positions in groups.values()])
        sizes[axis] = len(groups)
    # An attribute's class comes from its axis, or is the same in all cells.
    constant = {name: column[0] for axis, name, column in found if axis is None}
    on_axes = {name for axis, name, _ in found if axis is not None}
    names = [
        one.name
        for axis in range(len(axes))
        for one in attributes
        if (axis, one.name) in {(a, n) for a, n, _ in found}
    ]
    fixed = [one for one in attributes if one.name not in on_axes]
    names += [one.name for one in fixed]
    constants = tuple(_class_of(one, constant.get(one.name)) for one in fixed)
    place = [names.index(one.name) for one in attributes]
    cells = []
    for chosen in itertools.product(*of_axes):
        classes = (*itertools.chain.from_iterable(chosen), *constants)
        cells.append(tuple(classes[at] for at in place))
    return Reduced(table, cells, [list(groups.values()) for groups in of_axes])
