"""Cover labelled cells with few boxes, each inside one label.

A cell has one class of each attribute. A *box* is a set of classes per attribute and holds the cells
whose class of every attribute is in it. Sets of cells are the bits of one integer, so that a step
over all cells is a few operations on integers.

The search is greedy: boxes grow around uncovered cells, along the attributes in many orders, as far
as no cell of another label gets in. The box that covers the most comes first. It need not find the
fewest boxes; it finds the same ones whenever it is given the same cells.
"""

from __future__ import annotations

import functools
import itertools
import operator
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence

Label = TypeVar("Label", bound="Hashable")
Cells = int  # the numbers of cells, as bits
Box = tuple[int, ...]  # per attribute, classes as bits

_WORK = 60_000_000  # bytes of bitsets that one seed may touch: keeps large grids affordable
_FEWEST, _MOST = 12, 160  # orders of the attributes that growing is tried in
_POOL = 64_000_000  # bytes of boxes kept for later steps


class Classes:
    """The classes of all cells, by attribute.

    Args:
        cells: per cell, its class of each attribute.
        sizes: per attribute, the number of its classes.

    Attributes:
        holding: per attribute and class, the cells that have it.
        every: all cells.
    """

    def __init__(self, cells: Sequence[Sequence[int]], sizes: Sequence[int]) -> None:
        self.cells = cells
        self.sizes = tuple(sizes)
        self.every: Cells = (1 << len(cells)) - 1
        self.holding = [
            _holding(column, size)
            for column, size in zip(zip(*cells, strict=True), sizes, strict=True)
        ]

    def grow(
        self, seed: Sequence[int], forbidden: Cells, order: Sequence[int]
    ) -> tuple[Box, Cells]:
        """Return a largest box around the classes of a cell that holds no forbidden cell, and its cells.

        Args:
            seed: the classes of the cell to start from.
            forbidden: cells that must stay outside.
            order: all attributes, in the order in which the box grows along them.
        """
        box = [1 << one for one in seed]
        allowed = [holding[one] for holding, one in zip(self.holding, seed, strict=True)]
        # later[n]: the forbidden cells that the last n attributes of the order let through.
        later = list(
            itertools.accumulate(
                (allowed[number] for number in reversed(order[1:])),
                operator.and_,
                initial=forbidden,
            )
        )
        earlier = self.every
        for number in order:
            others = earlier & later.pop()
            for one, cells in enumerate(self.holding[number]):
                if not cells & others:
                    box[number] |= 1 << one
                    allowed[number] |= cells
            earlier &= allowed[number]
        return tuple(box), earlier


def cover(
    classes: Classes,
    labels: Mapping[Label, Cells],
    groups: Sequence[Cells],
    most: int = 200,
    leading: Sequence[int] = (),
) -> tuple[dict[tuple[Label, Box], Cells], Cells]:
    """Return boxes whose union is every labelled cell, each inside one label, and what is left.

    Args:
        classes: the cells. Cells that agree in every attribute must have the same labels. The earlier
            an attribute, the sooner the boxes do without it.
        labels: label -> the cells that it is true of. The order decides between equals.
        groups: all cells in groups; boxes grow from the groups with the most uncovered cells.
        most: the number of boxes at which to stop; the cells still uncovered are then left.
        leading: attributes that boxes always grow along first: a box is restricted in them only
            if nothing else tells cells apart.

    Returns:
        (label, box) -> the cells of the box, the box that covers most first; and the cells left
        uncovered.
    """
    left = union_of(labels.values())
    bytes_of_one = len(classes.cells) // 8 + 1
    free = [number for number in range(len(classes.sizes)) if number not in leading]
    orders = _orders(free, _WORK // (bytes_of_one * max(1, sum(classes.sizes))))
    pool: dict[tuple[Label, Box], Cells] = {}
    chosen: dict[tuple[Label, Box], Cells] = {}
    tried: set[tuple[int, Label]] = set()
    while left and len(chosen) < most:
        for seed in _seeds(left, groups):
            for label, cells in labels.items():
                if not cells >> seed & 1 or (seed, label) in tried:
                    continue
                tried.add((seed, label))
                forbidden = classes.every & ~cells
                for order in orders:
                    box, inside = classes.grow(classes.cells[seed], forbidden, (*leading, *order))
                    pool[label, box] = inside
        gains = {found: (cells & left).bit_count() for found, cells in pool.items()}
        best = max(pool, key=lambda found: (gains[found], _plainness(classes.sizes, found[1])))
        chosen[best] = pool[best]
        left &= ~pool[best]
        kept = sorted(pool, key=lambda found: -gains[found])[: max(8, _POOL // bytes_of_one)]
        pool = {found: pool[found] for found in kept if pool[found] & left}
    return _without_redundant(chosen), left


def union_of(cells: Iterable[Cells]) -> Cells:
    """Return the cells that any of these hold."""
    return functools.reduce(operator.or_, cells, 0)


def ones(bits: int) -> Iterator[int]:
    """Yield the positions of the set bits, lowest first."""
    return (number for number, digit in enumerate(reversed(f"{bits:b}")) if digit == "1")


def _holding(column: Sequence[int], size: int) -> list[Cells]:
    """Return for each class the cells that have it, given the class of each cell."""
    digits = [bytearray(b"0") * len(column) for _ in range(size)]
    for number, one in enumerate(reversed(column)):
        digits[one][number] = ord("1")
    return [int(of_class, 2) for of_class in digits]


def _orders(natural: Sequence[int], most: int) -> list[tuple[int, ...]]:
    """Return orders of the attributes: all of a few; else such as vary in the first and the last."""
    if len(natural) <= 4:
        return list(itertools.permutations(natural))
    orders = [tuple(natural)]
    orders += [(first, *(a for a in natural if a != first)) for first in natural[1:]]
    pairs = list(itertools.permutations(natural, 2))
    wanted = min(_MOST, max(_FEWEST, most))
    step = max(1, len(pairs) // wanted)
    orders += [
        (first, *(a for a in natural if a not in (first, last)), last)
        for first, last in pairs[::step]
    ]
    return orders


def _seeds(left: Cells, groups: Sequence[Cells]) -> Iterator[int]:
    """Yield the first uncovered cell of each of the two groups with the most, and the last of one."""
    fullest = sorted((left & group for group in groups), key=int.bit_count, reverse=True)[:2]
    for cells in filter(None, fullest):
        yield (cells & -cells).bit_length() - 1
    yield fullest[0].bit_length() - 1


def _plainness(sizes: Sequence[int], box: Box) -> int:
    """Return how few attributes the box restricts, as a number that is larger for fewer."""
    return -sum(chosen.bit_count() < size for chosen, size in zip(box, sizes, strict=True))


def _without_redundant(
    chosen: Mapping[tuple[Label, Box], Cells],
) -> dict[tuple[Label, Box], Cells]:
    """Drop the boxes whose cells the others hold together, the latest (which added least) first."""
    before = list(itertools.accumulate(chosen.values(), operator.or_, initial=0))
    after, dropped = 0, set()
    for number, (found, cells) in reversed(list(enumerate(chosen.items()))):
        if cells & ~(before[number] | after):
            after |= cells
        else:
            dropped.add(found)
    return {found: cells for found, cells in chosen.items() if found not in dropped}
