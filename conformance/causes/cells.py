"""Cells with typed attributes: what is explained, from a grid as from a list of rows."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.promise.grid.space import AITER, GFX
from pytest_rocm_attn.flags import EXPLICIT, USE_AITER
from pytest_rocm_attn.request import Request

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

FAMILY = "family"
ASKS = "asks"  # for what else than a layer a backend is asked, such as "vision"; None for a layer
USUAL_GPU = "gfx942"

Bits = int  # a set of cells: their numbers, as bits


@dataclass(frozen=True, slots=True)
class Attribute:
    """Something that conditions may restrict.

    Attributes:
        name: "family", "gfx", "aiter", a variable, or a field of the request.
        values: all that any cell has, the default first if it is among them.
        classes: the values in classes, as positions; nothing tells the values of one class apart.
    """

    name: str
    values: tuple[Any, ...]
    classes: tuple[tuple[int, ...], ...]

    def of(self, classes: Iterable[int]) -> tuple[Any, ...]:
        """Return the values of these classes, in the attribute's order."""
        return tuple(
            self.values[at] for at in sorted(at for one in classes for at in self.classes[one])
        )


@dataclass(frozen=True, slots=True)
class Origin:
    """What a cell over classes stands for.

    Attributes:
        cells: how many cells.
        distance: of the smallest of them from the defaults (see `far`).
        place: where that one is, for whoever made the cells.
    """

    cells: int
    distance: int
    place: tuple[int, ...]


class Cells:
    """All cells that were compared, with what is known of each.

    Args:
        attributes: the earlier one, the sooner a condition does without it.
        rows: per cell, its class of each attribute.
        origins: per cell, what it stands for.
        groups: all cells in groups, such as families.
        constant: attributes that tell no cells apart -> their values.
        seen: per group, attribute -> the values that its cells have.

    Attributes:
        holding: per attribute and class, the cells that have it.
        every: all cells.
    """

    def __init__(
        self,
        attributes: Sequence[Attribute],
        rows: Sequence[tuple[int, ...]],
        origins: Sequence[Origin],
        groups: Sequence[Bits],
        constant: Mapping[str, tuple[Any, ...]],
        seen: Sequence[Mapping[str, Collection[Any]]],
    ) -> None:
        self.attributes = attributes
        self.rows = rows
        self.origins = origins
        self.groups = groups
        self.constant = constant
        self._seen = seen
        self.sizes = tuple(len(one.classes) for one in attributes)
        self.every: Bits = (1 << len(rows)) - 1
        columns: Iterable[Sequence[int]] = zip(*rows, strict=True) if attributes else ()
        self.holding = [
            bits_of(column, size) for column, size in zip(columns, self.sizes, strict=True)
        ]
        # weights[n]: the cells whose count has the bit n.
        digits = max((one.cells for one in origins), default=0).bit_length()
        self._weights = [
            bits_of([one.cells >> digit & 1 for one in origins], 2)[1] for digit in range(digits)
        ]

    @classmethod
    def of_rows(cls, rows: Sequence[Mapping[str, Any]]) -> Cells:
        """Return cells of a list, each with its attributes; one that a row lacks is None there.

        The place of a cell is its position.
        """
        names = sorted({name: None for row in rows for name in row}, key=rank)
        attributes: list[Attribute] = []
        constant: dict[str, tuple[Any, ...]] = {}
        for name in names:
            seen = dict.fromkeys(row.get(name) for row in rows)
            values = first_come(usual(name)[0], seen)
            if len(values) > 1:
                classes = tuple((position,) for position in range(len(values)))
                attributes.append(Attribute(name, values, classes))
            else:
                constant[name] = values
        numbers = [{v: n for n, v in enumerate(one.values)} for one in attributes]
        coded = [
            tuple(
                number[row.get(one.name)] for one, number in zip(attributes, numbers, strict=True)
            )
            for row in rows
        ]
        origins = [
            Origin(1, sum(far(name, value) for name, value in row.items()), (number,))
            for number, row in enumerate(rows)
        ]
        occurring = {one.name: one.values for one in attributes}
        return cls(attributes, coded, origins, [(1 << len(rows)) - 1], constant, [occurring])

    def count(self, cells: Bits) -> int:
        """Return how many cells these stand for."""
        if not cells:
            return 0
        return sum(
            (cells & weight).bit_count() << digit for digit, weight in enumerate(self._weights)
        )

    def smallest(self, cells: Bits) -> Origin:
        """Return the one of these that is nearest to the defaults."""
        return min(
            (self.origins[number] for number in ones(cells)),
            key=lambda one: (one.distance, one.place),
        )

    def occurring(self, name: str, values: Iterable[Any], cells: Bits) -> tuple[Any, ...]:
        """Return those of an attribute's values that occur in the groups that these cells are in."""
        groups = zip(self._seen, self.groups, strict=True)
        found = [seen.get(name, (None,)) for seen, group in groups if group & cells]
        return tuple(value for value in values if any(value in one for one in found))

    def values(self, name: str, cells: Bits) -> tuple[Any, ...]:
        """Return the values that these cells have of an attribute."""
        for attribute, holding in zip(self.attributes, self.holding, strict=True):
            if attribute.name == name:
                return attribute.of(n for n, having in enumerate(holding) if having & cells)
        return self.constant.get(name, ())


def ones(bits: Bits) -> Iterator[int]:
    """Yield the positions of the set bits, lowest first."""
    digits = f"{bits:b}"[::-1]
    at = digits.find("1")
    while at >= 0:
        yield at
        at = digits.find("1", at + 1)


def first_come(first: Any, values: Iterable[Any]) -> tuple[Any, ...]:
    """Return values with one of them first, if it is among them."""
    return tuple(sorted(values, key=lambda value: bool(value != first)))


def bits_of(column: Sequence[int], size: int) -> list[Bits]:
    """Return for each number below size the positions in a column that have it."""
    if not column:
        return [0] * size
    if size <= 256:
        backwards = bytes(column)[::-1]
        return [int(backwards.translate(_digit(number)), 2) for number in range(size)]
    digits = [bytearray(b"0") * len(column) for _ in range(size)]
    for position, number in enumerate(reversed(column)):
        digits[number][position] = ord("1")
    return [int(of_number, 2) for of_number in digits]


@functools.cache
def _digit(number: int) -> bytes:
    """Return a translation of one byte to the digit 1, and of all others to 0."""
    return bytes(ord("1") if one == number else ord("0") for one in range(256))


# --- what is known of attributes ------------------------------------------------------------------

_FIELDS = frozenset(Request.__dataclass_fields__)
_PLAIN = (Request(), Request(use_mla=True))  # what nothing is asked of
KIND = ("use_mla", "use_sparse")  # fields that say what a layer is
# Sooner left out of a condition when others say the same: fields before the kind of request, the
# less known before the switches that users set, the GPU last.
_LATE = ("use_sparse", "use_mla", USE_AITER, EXPLICIT, AITER, GFX)
_STATES = ("present", "absent", "broken", "impostor")
# Distances from the defaults: a variable counts more than a departure of the request, a backend that
# is named more than one variable, and less than two.
_FIELD, _VARIABLE, _NAMED, _BROKEN = 100, 1_000, 1_500, 10_000


def is_field(name: str) -> bool:
    """Whether an attribute is a field of the request."""
    return name in _FIELDS


def is_variable(name: str) -> bool:
    """Whether an attribute is an environment variable: the others have lower-case names."""
    return name.isupper()


def usual(name: str, *, sparse: bool = False) -> tuple[Any, ...]:
    """Return what an attribute is if nothing is set or asked for, the best known first.

    Args:
        name: of the attribute.
        sparse: for layers that attend to an indexed subset of tokens, whose blocks hold one token.
    """
    if name == AITER:
        return ("present",)
    if not is_field(name):
        return (None,)
    return (
        *(getattr(one, name) for one in _PLAIN),
        *([1] if sparse and name == "block_size" else []),
    )


def rank(name: str) -> tuple[int, int, str]:
    """Sort key of attributes in a list: see _LATE."""
    late = _LATE.index(name) + 1 if name in _LATE else 0
    return (name != FAMILY), late, ("" if is_field(name) else "~") + name


def far(name: str, value: Any) -> int:
    """Return how far a value is from the attribute's default."""
    if name in (GFX, FAMILY):
        return int(name == GFX and value != USUAL_GPU)
    if name == AITER:
        state = _STATES.index(value)
        return state * (_BROKEN if state > 1 else _FIELD)
    if value in usual(name) and name not in KIND:
        return 0
    if is_field(name):
        return 0 if value is False else _FIELD
    return _NAMED if name == EXPLICIT else _VARIABLE


def met(distance: int) -> int:
    """Return who meets a cell: 0 with nothing set, 1 with one variable, 2 naming a backend, 3 others."""
    bounds = (_VARIABLE, _NAMED, 2 * _VARIABLE)
    return sum(distance >= bound for bound in bounds)
