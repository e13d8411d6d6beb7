"""The cells of the grid: products of axes, numbered, the same in every run of one version.

A family is a kind of request with the environment that affects it; its cells are the product of
its axes, in mixed-radix order with the last axis fastest. A slice is the part of a family on one
GPU: the unit that is run, judged and reported, and a contiguous run of the family's numbers.

design.py chooses the axes and values. A recorded table is an array of outcome codes
in this order, so any change there is another grid: its digest changes.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from pytest_rocm_attn.gpu import Aiter, Gpu
from pytest_rocm_attn.request import Request

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

GFX, AITER, ALSO, REQUEST = "gfx", "aiter", "also", "request"

Assignments: TypeAlias = tuple[tuple[str, str], ...]
# By the axis's name: a target, a state of aiter, assignments, a request; of any other axis, which
# is an environment variable, its text, or None if it is unset.
Value: TypeAlias = "str | None | Assignments | Request"


@dataclass(frozen=True)
class Axis:
    """One dimension of a family.

    Args:
        name: "gfx", "aiter", "also" (further variables, several at a time or none), "request", or
            the name of an environment variable.
        values: what it runs through.
    """

    name: str
    values: tuple[Value, ...]

    @functools.cached_property
    def facets(self) -> dict[str, tuple[Any, ...]]:
        """What tells its values apart: name of a property -> that property of each value.

        Of a request these are the fields that vary, of assignments the variables, of any other
        axis the values themselves.
        """
        if self.name == REQUEST:
            columns = {
                field.name: tuple(getattr(value, field.name) for value in self.values)
                for field in fields(Request)
            }
            return {name: column for name, column in columns.items() if len(set(column)) > 1}
        if self.name == ALSO:
            tables: list[dict[str, str]] = [dict(cast(Assignments, value)) for value in self.values]
            names = dict.fromkeys(name for table in tables for name in table)
            return {name: tuple(table.get(name) for table in tables) for name in names}
        return {self.name: self.values}

    def data(self) -> dict[str, Any]:
        """Return the axis as plain data."""
        values: list[Any] = [
            value.non_default() if isinstance(value, Request) else value for value in self.values
        ]
        return {"name": self.name, "values": values}

    @classmethod
    def of(cls, data: dict[str, Any]) -> Axis:
        """Return the axis that data() described."""
        values = data["values"]
        if data["name"] == REQUEST:
            values = [Request(**value) for value in values]
        elif data["name"] == ALSO:
            values = [tuple((name, text) for name, text in value) for value in values]
        return cls(data["name"], tuple(values))


@dataclass(frozen=True, slots=True)
class Cell:
    """One question of the grid."""

    environ: dict[str, str]
    gpu: Gpu
    request: Request


@dataclass(frozen=True)
class Family:
    """Cells of one kind: the product of axes.

    Args:
        name: kebab-case, part of a pytest node id.
        title: what it is about, in a few words.
        axes: first "gfx", then "aiter", then variables, last "request".
    """

    name: str
    title: str
    axes: tuple[Axis, ...]

    def __post_init__(self) -> None:
        names = [axis.name for axis in self.axes]
        assert names[:2] == [GFX, AITER], names
        assert names[-1] == REQUEST, names
        assert len(set(names)) == len(names), names
        assert all(len(set(axis.values)) == len(axis.values) for axis in self.axes), self.name

    @functools.cached_property
    def sizes(self) -> tuple[int, ...]:
        """The number of values of each axis."""
        return tuple(len(axis.values) for axis in self.axes)

    @property
    def cells(self) -> int:
        """The number of cells."""
        return math.prod(self.sizes)

    def coordinates(self, number: int) -> tuple[int, ...]:
        """Return the position of a cell on each axis.

        Raises:
            IndexError: the family has no cell of that number.
        """
        if not 0 <= number < self.cells:
            raise IndexError(f"family {self.name} has the cells 0 to {self.cells - 1}: {number}")
        positions = []
        for size in reversed(self.sizes):
            number, position = divmod(number, size)
            positions.append(position)
        return tuple(reversed(positions))

    def number(self, coordinates: Collection[int]) -> int:
        """Return the number of the cell at these positions."""
        number = 0
        for size, position in zip(self.sizes, coordinates, strict=True):
            number = number * size + position
        return number

    def cell(self, number: int) -> Cell:
        """Return the question that a cell asks. Raises what coordinates() raises."""
        values = [
            axis.values[position]
            for axis, position in zip(self.axes, self.coordinates(number), strict=True)
        ]
        gfx, aiter, request = values[0], values[1], values[-1]
        assert isinstance(gfx, str)
        assert isinstance(aiter, str)
        assert isinstance(request, Request)
        return Cell(environment_of(self.axes[2:-1], values[2:-1]), Gpu(gfx, Aiter(aiter)), request)

    def slices(self) -> Iterator[Slice]:
        """Yield the family's part on each of its GPUs, in order."""
        for position in range(self.sizes[0]):
            yield Slice(self, position)

    def data(self) -> dict[str, Any]:
        """Return the family as plain data."""
        return {"name": self.name, "axes": [axis.data() for axis in self.axes]}


@dataclass(frozen=True)
class Slice:
    """A family on one GPU: the cells ``first`` to ``first + cells - 1`` of the family."""

    family: Family
    position: int

    @property
    def gfx(self) -> str:
        gfx = self.family.axes[0].values[self.position]
        assert isinstance(gfx, str)
        return gfx

    @property
    def id(self) -> str:
        """The name of its item: "mla[gfx942]"."""
        return f"{self.family.name}[{self.gfx}]"

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The axes without that of the GPU."""
        return self.family.axes[1:]

    @property
    def cells(self) -> int:
        return self.family.cells // self.family.sizes[0]

    @property
    def first(self) -> int:
        """The number, in the family, of its first cell."""
        return self.position * self.cells

    def cell(self, number: int) -> Cell:
        """Return the question that a cell of the slice asks, numbered from 0.

        Raises:
            IndexError: the slice has no cell with that number.
        """
        if not 0 <= number < self.cells:
            raise IndexError(f"slice {self.id} has the cells 0 to {self.cells - 1}: {number}")
        return self.family.cell(self.first + number)


@dataclass(frozen=True)
class Grid:
    """A fixed set of families. Tables are comparable exactly where the digest is the same."""

    name: str
    families: tuple[Family, ...]

    @property
    def cells(self) -> int:
        return sum(family.cells for family in self.families)

    @property
    def slices(self) -> tuple[Slice, ...]:
        """Every slice, GPU by GPU, so that a selector imported on one answers all of its slices."""
        slices = [part for family in self.families for part in family.slices()]
        order = list(dict.fromkeys(part.gfx for part in slices))
        return tuple(sorted(slices, key=lambda part: order.index(part.gfx)))

    @functools.cached_property
    def digest(self) -> str:
        """What two grids share exactly when all their families are equal: hexadecimal."""
        data = [family.data() for family in self.families]
        text = json.dumps(data, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def family(self, name: str) -> Family:
        """Return a family. Raises KeyError for a name that the grid does not have."""
        return {family.name: family for family in self.families}[name]

    def slice(self, slice_id: str) -> Slice:
        """Return the slice of an id such as "mla[gfx942]". Raises KeyError if there is none."""
        return {part.id: part for part in self.slices}[slice_id]


def environment_of(axes: Collection[Axis], values: Collection[Value]) -> dict[str, str]:
    """Return the environment that these values of variable axes mean."""
    environ: dict[str, str] = {}
    for axis, value in zip(axes, values, strict=True):
        if axis.name == ALSO:
            environ.update(cast(Assignments, value))
        elif isinstance(value, str):
            environ[axis.name] = value
    return environ
