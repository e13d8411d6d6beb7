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

    from pytest_rocm_attn.conformance.causes.cells import Bits, Cells

Label = TypeVar("Label", bound="Hashable")
Box = tuple[int, ...]  # per attribute, classes as bits

_WORK = 60_000_000  # bytes of bitsets that one seed may touch: keeps large grids affordable
_FEWEST, _MOST = 12, 40  # orders of the attributes that growing is tried in
_POOL = 64_000_000  # bytes of boxes kept for later steps


def grow(
    cells: Cells, seed: Sequence[int], forbidden: Bits, order: Sequence[int]
) -> tuple[Box, Bits]:
    """Return a largest box around the classes of a cell that holds no forbidden cell, and its cells.

    Args:
        cells: all of them.
        seed: the classes of the cell to start from.
        forbidden: cells that must stay outside.
        order: all attributes, in the order in which the box grows along them.
    """
    box = [1 << one for one in seed]
    allowed = [holding[one] for holding, one in zip(cells.holding, seed, strict=True)]
    # later[n]: the forbidden cells that the last n attributes of the order let through.
    later = list(
        itertools.accumulate(
            (allowed[number] for number in reversed(order[1:])), operator.and_, initial=forbidden
        )
    )
    earlier = cells.every
    for number in order:
        others = earlier & later.pop()
        for one, having in enumerate(cells.holding[number]):
            if not having & others:
                box[number] |= 1 << one
                allowed[number] |= having
        earlier &= allowed[number]
    return tuple(box), earlier


def cover(
    cells: Cells,
    labels: Mapping[Label, Bits],
    most: int = 200,
    leading: Sequence[int] = (),
) -> tuple[dict[tuple[Label, Box], Bits], Bits]:
    """Return boxes whose union is every labelled cell, each inside one label, and what is left.

    Args:
        cells: all of them. Cells that agree in every attribute must have the same labels. The earlier
            an attribute, the sooner the boxes do without it. Boxes grow from the groups with the
            most uncovered cells.
        labels: label -> the cells that it is true of. The order decides between equals.
        most: the number of boxes at which to stop; the cells still uncovered are then left.
        leading: attributes that boxes always grow along first: a box is restricted in them only
            if nothing else tells cells apart.

    Returns:
        (label, box) -> the cells of the box, the box that covers most first; and the cells left
        uncovered.
    """
    left = union_of(labels.values())
    bytes_of_one = len(cells.rows) // 8 + 1
    free = [number for number in range(len(cells.sizes)) if number not in leading]
    orders = _orders(free, _WORK // (bytes_of_one * max(1, sum(cells.sizes))))
    pool: dict[tuple[Label, Box], Bits] = {}
    chosen: dict[tuple[Label, Box], Bits] = {}
    tried: set[tuple[int, Label]] = set()
    while left and len(chosen) < most:
        for seed in _seeds(left, cells.groups):
            for label, labelled in labels.items():
                if not labelled >> seed & 1 or (seed, label) in tried:
                    continue
                tried.add((seed, label))
                forbidden = cells.every & ~labelled
                for order in orders:
                    box, inside = grow(cells, cells.rows[seed], forbidden, (*leading, *order))
                    pool[label, box] = inside
        gains = {found: (inside & left).bit_count() for found, inside in pool.items()}
        best = max(pool, key=lambda found: (gains[found], _plainness(cells.sizes, found[1])))
        chosen[best] = pool[best]
        left &= ~pool[best]
        kept = sorted(pool, key=lambda found: -gains[found])[: max(8, _POOL // bytes_of_one)]
        pool = {found: pool[found] for found in kept if pool[found] & left}
    return _without_redundant(chosen), left


def union_of(sets: Iterable[Bits]) -> Bits:
    """Return the cells that any of these hold."""
    return functools.reduce(operator.or_, sets, 0)


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


def _seeds(left: Bits, groups: Sequence[Bits]) -> Iterator[int]:
    """Yield the first uncovered cell of each of the two groups with the most, and the last of one."""
    fullest = sorted((left & group for group in groups), key=int.bit_count, reverse=True)[:2]
    for cells in filter(None, fullest):
        yield (cells & -cells).bit_length() - 1
    yield fullest[0].bit_length() - 1


def _plainness(sizes: Sequence[int], box: Box) -> int:
    """Return how few attributes the box restricts, as a number that is larger for fewer."""
    return -sum(chosen.bit_count() < size for chosen, size in zip(box, sizes, strict=True))


def _without_redundant(
    chosen: Mapping[tuple[Label, Box], Bits],
) -> dict[tuple[Label, Box], Bits]:
    """Drop the boxes whose cells the others hold together, the latest (which added least) first."""
    before = list(itertools.accumulate(chosen.values(), operator.or_, initial=0))
    after, dropped = 0, set()
    for number, (found, cells) in reversed(list(enumerate(chosen.items()))):
        if cells & ~(before[number] | after):
            after |= cells
        else:
            dropped.add(found)
    return {found: cells for found, cells in chosen.items() if found not in dropped}
