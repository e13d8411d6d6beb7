"""Turn differing cells into few readable conditions that cover exactly them.

Two tables over the same axes go in: per cell, what was expected and what was got. Conditions come
out, each a conjunction over axes with one answer expected and one got: "wherever
VLLM_ROCM_USE_AITER=1 and an explicit backend is given: expected the explicit one, got
ROCM_AITER_FA". Every differing cell is in some condition and no other cell is in any; what is beyond
the limit on conditions is counted, and its smallest cell is told. Conditions may overlap.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_rocm_attn.conformance.grid import boxes
from pytest_rocm_attn.conformance.grid.outcomes import Behaviour, behaviour
from pytest_rocm_attn.conformance.grid.quotient import collapse
from pytest_rocm_attn.conformance.grid.wording import Dimension, Given, constraints

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_rocm_attn.outcome import Outcome

# Stand in for an outcome: the backend that the cell names, and whatever it was where a byte cannot
# number all pairs of answers.
THE_EXPLICIT_ONE = Behaviour("Selected", "the explicit one")
VARIOUS = Behaviour("Various")
_MOST_PAIRS = 254

Pair = tuple[Behaviour, Behaviour]


@dataclass(frozen=True, slots=True)
class Table:
    """The outcome of each cell.

    Attributes:
        codes: one per cell, in mixed-radix order of the axes, the last axis fastest.
        outcomes: what the codes stand for.
    """

    codes: Sequence[int]
    outcomes: Sequence[Outcome]


@dataclass(frozen=True, slots=True)
class Condition:
    """Cells that differ alike.

    Attributes:
        where: what they have in common; empty when that is all cells.
        expected: the answer expected in all of them.
        got: the answer got in all of them.
        cells: how many they are.
        smallest: the one with the fewest flags set, nearest to the defaults: an index per axis.
        at_defaults: the smallest has every axis that is no GPU at its default.
    """

    where: tuple[Given, ...]
    expected: Behaviour
    got: Behaviour
    cells: int
    smallest: tuple[int, ...]
    at_defaults: bool

    def __str__(self) -> str:
        where = " and ".join(str(given) for given in self.where)
        return f"{where or 'everywhere'}: expected {self.expected}, got {self.got}"


@dataclass(frozen=True, slots=True)
class Cover:
    """Every difference between two tables.

    Attributes:
        conditions: the most important first.
        cells: how many cells were compared.
        differing: how many of them differ.
        left: how many differing cells no condition covers: 0 unless there are too many conditions.
        left_smallest: the smallest of these, an index per axis; None when there is none.
    """

    conditions: tuple[Condition, ...]
    cells: int
    differing: int
    left: int = 0
    left_smallest: tuple[int, ...] | None = None


def differences(
    dimensions: Sequence[Dimension], expected: Table, got: Table, most: int = 200
) -> Cover:
    """Return the conditions under which two tables differ in behaviour.

    Args:
        dimensions: the axes; one of them may be the explicit choice.
        expected: what each cell is compared with.
        got: what each cell gave.
        most: how many conditions to look for before the rest is only counted.
    """
    sizes = [len(dimension.values) for dimension in dimensions]
    coded, pairs = _code_pairs(dimensions, sizes, expected, got)
    differing = len(coded) - coded.count(0)
    if not differing:
        return Cover((), len(coded), 0)
    records = {
        axis: dimension.facet_sets()
        for axis, dimension in enumerate(dimensions)
        if dimension.facets
    }
    smaller, classes = collapse(coded, sizes, keep=records)
    space = boxes.Space([len(of_axis) for of_axis in classes], records)
    labels = _labels(dimensions, space, classes, smaller, pairs)
    found, left = boxes.cover(space, labels, most)
    conditions = [_condition(dimensions, classes, label, box) for label, box in found]
    conditions.sort(key=_importance)
    return Cover(tuple(conditions), len(coded), differing, *_rest(dimensions, space, classes, left))


def _code_pairs(
    dimensions: Sequence[Dimension], sizes: Sequence[int], expected: Table, got: Table
) -> tuple[bytes, list[Pair]]:
    """Return a byte per cell, 0 where the behaviour is the same, and the pair of each other one."""
    numbers: dict[Pair, int] = {}
    of_expected = [behaviour(outcome) for outcome in expected.outcomes]
    of_got = [behaviour(outcome) for outcome in got.outcomes]
    axis = _explicit_axis(dimensions)
    named = [None] if axis is None else list(dimensions[axis].values)

    def symbolic(answer: Behaviour, choice: int) -> Behaviour:
        explicit = named[choice] is not None and answer == Behaviour("Selected", str(named[choice]))
        return THE_EXPLICIT_ONE if explicit else answer

    class Codes(dict[tuple[int, int, int], int]):
        def __missing__(self, key: tuple[int, int, int]) -> int:
            one, other = of_expected[key[0]], of_got[key[1]]
            if one == other:
                code = 0
            else:
                pair = symbolic(one, key[2]), symbolic(other, key[2])
                if pair not in numbers and len(numbers) >= _MOST_PAIRS:
                    pair = (VARIOUS, VARIOUS)
                code = numbers.setdefault(pair, len(numbers) + 1)
            self[key] = code
            return code

    choices: Iterable[int] = itertools.repeat(0)
    if axis is not None:
        stride = boxes.Space(sizes).strides[axis]
        choices = itertools.cycle(b"".join(bytes([v]) * stride for v in range(sizes[axis])))
    cells = zip(expected.codes, got.codes, strict=True)
    codes = Codes()
    coded = bytes(
        codes[one, other, choice] for (one, other), choice in zip(cells, choices, strict=False)
    )
    return coded, list(numbers)


def _explicit_axis(dimensions: Sequence[Dimension]) -> int | None:
    return next((axis for axis, d in enumerate(dimensions) if d.kind == "explicit"), None)


def _labels(
    dimensions: Sequence[Dimension],
    space: boxes.Space,
    classes: Sequence[Sequence[Sequence[int]]],
    table: bytes,
    pairs: Sequence[Pair],
) -> dict[Pair, int]:
    """Return for each pair of answers the cells that it is true of.

    A cell whose answer is the explicit one is also one whose answer is the backend of that name, so
    it may go with cells where nothing or something else was named.
    """
    labels: dict[Pair, int] = {}
    axis = _explicit_axis(dimensions)
    for code, pair in enumerate(pairs, start=1):
        cells = _bits(table, code)
        labels[pair] = labels.get(pair, 0) | cells
        if axis is None or THE_EXPLICIT_ONE not in pair:
            continue
        for number, values in enumerate(classes[axis]):
            if len(values) > 1:
                continue
            whole = [(1 << size) - 1 for size in space.sizes]
            whole[axis] = 1 << number
            if here := cells & space.bits(boxes.Box(tuple(whole))):
                name = Behaviour("Selected", str(dimensions[axis].values[values[0]]))
                one, other = (name if answer == THE_EXPLICIT_ONE else answer for answer in pair)
                labels[one, other] = labels.get((one, other), 0) | here
    return labels


def _bits(table: bytes, code: int) -> int:
    """Return the positions of one code as the bits of an integer."""
    digits = bytearray(b"0" * 256)
    digits[code] = ord("1")
    return int(table.translate(bytes(digits))[::-1], 2)


def _condition(
    dimensions: Sequence[Dimension],
    classes: Sequence[Sequence[Sequence[int]]],
    label: Pair,
    box: boxes.Box,
) -> Condition:
    chosen = [
        sorted(itertools.chain.from_iterable(classes[axis][number] for number in box.values(axis)))
        for axis in range(len(dimensions))
    ]
    cells = 1
    for values in chosen:
        cells *= len(values)
    smallest = tuple(
        min(values, key=dimension.distance)
        for dimension, values in zip(dimensions, chosen, strict=True)
    )
    where = [
        given
        for dimension, values in zip(dimensions, chosen, strict=True)
        for given in constraints(dimension, values)
    ]
    return Condition(tuple(where), *label, cells, smallest, _at_defaults(dimensions, smallest))


def _at_defaults(dimensions: Sequence[Dimension], cell: Sequence[int]) -> bool:
    return all(
        dimension.distance(value) == 0
        for dimension, value in zip(dimensions, cell, strict=True)
        if dimension.kind != "gpu"
    )


def _importance(condition: Condition) -> tuple[int, int, int, str]:
    """Sort key: what happens without any flag, then explicit choices overridden, then by size."""
    if condition.at_defaults:
        rank = 0
    elif condition.expected == THE_EXPLICIT_ONE and condition.got.kind == "Selected":
        rank = 1
    else:
        rank = 2
    return rank, -condition.cells, len(condition.where), str(condition)


def _rest(
    dimensions: Sequence[Dimension],
    space: boxes.Space,
    classes: Sequence[Sequence[Sequence[int]]],
    left: int,
) -> tuple[int, tuple[int, ...] | None]:
    """Return how many cells are left, and the smallest of them."""
    if not left:
        return 0, None
    cells, best = 0, None
    for cell in boxes.ones(left):
        coordinates = space.coordinates(cell)
        members = [classes[axis][number] for axis, number in enumerate(coordinates)]
        weight = 1
        for values in members:
            weight *= len(values)
        cells += weight
        smallest = tuple(
            min(values, key=dimension.distance)
            for dimension, values in zip(dimensions, members, strict=True)
        )
        distance = sum(
            dimension.distance(value) for dimension, value in zip(dimensions, smallest, strict=True)
        )
        if best is None or (distance, smallest) < best:
            best = (distance, smallest)
    return cells, best[1] if best else None
