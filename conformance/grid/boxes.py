"""Cover labelled cells of a product space with few boxes.

A box is a set of values for each axis. The cells of a space are the bits of an integer, in
mixed-radix order, the last axis fastest: whether a slab of cells may join a box is one shift and one
"and". Each label has the cells that it is true of; a cell may have several. Boxes are grown from
single cells to the largest that a label allows, in many orders of the axes, and chosen greedily by
how much they add. They may overlap: the larger box is the shorter sentence.

An axis may have facets (a request has a head size, a block size ...): then a box holds only sets of
its values that "this facet is one of these, that one one of those" describes.
"""

from __future__ import annotations

import itertools
import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Mapping, Sequence

Label = TypeVar("Label", bound="Hashable")
Facets = tuple[tuple[int, ...], ...]  # per facet, per value of the facet: the axis values with it

_WORK = 300_000_000  # bytes of bitsets that one step may touch: what makes large spaces affordable
_POOL = 64_000_000  # bytes of boxes kept for later steps


@dataclass(frozen=True, slots=True)
class Box:
    """A product of value sets.

    Attributes:
        sets: per axis, the values as bits.
    """

    sets: tuple[int, ...]

    def values(self, axis: int) -> list[int]:
        """Return the values of one axis, in order."""
        return list(ones(self.sets[axis]))


class Space:
    """The axes that boxes live on.

    Args:
        sizes: the number of values of each axis.
        facets: axis -> its facets, for the axes that have some.
    """

    def __init__(self, sizes: Sequence[int], facets: Mapping[int, Facets] | None = None) -> None:
        self.sizes = tuple(sizes)
        self.facets = dict(facets or {})
        strides = [1]
        for size in reversed(self.sizes[1:]):
            strides.append(strides[-1] * size)
        self.strides = tuple(reversed(strides))
        self.cells = self.strides[0] * self.sizes[0]

    def coordinates(self, cell: int) -> tuple[int, ...]:
        """Return the cell's value on each axis."""
        return tuple(
            cell // stride % size for stride, size in zip(self.strides, self.sizes, strict=True)
        )

    def bits(self, box: Box) -> int:
        """Return the box's cells."""
        bits = 1
        for axis in reversed(range(len(self.sizes))):
            slab, bits = bits, 0
            for value in box.values(axis):
                bits |= slab << value * self.strides[axis]
        return bits

    def grow(self, cell: int, forbidden: int, order: Sequence[int]) -> Box:
        """Return a largest box around a cell that holds no forbidden cell, axis by axis."""
        start = self.coordinates(cell)
        sets = [1 << value for value in start]
        bits = 1 << cell
        for axis in order:
            stride, seed = self.strides[axis], start[axis]
            slabs = {}
            for value in range(self.sizes[axis]):
                move = (value - seed) * stride
                slab = bits << move if move >= 0 else bits >> -move
                if not slab & forbidden:
                    slabs[value] = slab
            allowed = sum(1 << value for value in slabs)
            if axis in self.facets:
                allowed = widest_conjunction(self.facets[axis], allowed, seed)
            sets[axis] = allowed
            for value in ones(allowed):
                bits |= slabs[value]
        return Box(tuple(sets))


def widest_conjunction(facets: Facets, allowed: int, seed: int) -> int:
    """Return the largest conjunction of facet values found that holds seed and only allowed ones.

    It is grown facet by facet, once with each facet first.
    """
    best = 0
    for first in range(len(facets)):
        order = [first, *(facet for facet in range(len(facets)) if facet != first)]
        found = _conjunction(facets, allowed, seed, order)
        if found.bit_count() > best.bit_count():
            best = found
    return best


def _conjunction(facets: Facets, allowed: int, seed: int, order: Sequence[int]) -> int:
    bit = 1 << seed
    chosen = [next(values for values in facet if values & bit) for facet in facets]
    grown = True
    while grown:
        grown = False
        for facet in order:
            others = -1
            for other, values in enumerate(chosen):
                if other != facet:
                    others &= values
            for values in facets[facet]:
                joining = others & values
                # One that no value has together with the others says nothing, and might say too
                # much once they have grown.
                if joining and not joining & ~allowed and joining & ~chosen[facet]:
                    chosen[facet] |= values
                    grown = True
    result = -1
    for values in chosen:
        result &= values
    return result


def cover(
    space: Space, labels: Mapping[Label, int], most: int = 200
) -> tuple[list[tuple[Label, Box]], int]:
    """Return boxes whose union is every labelled cell, each inside one label, and what is left.

    Args:
        space: the axes.
        labels: label -> the cells that it is true of, as bits. The order decides between equals.
        most: the number of boxes at which to stop; the cells still uncovered are then left.

    Returns:
        the (label, box) pairs, most telling first, and the cells left uncovered, as bits.
    """
    everything = (1 << space.cells) - 1
    forbidden = {label: everything & ~cells for label, cells in labels.items()}
    left = 0
    for cells in labels.values():
        left |= cells
    size = space.cells // 8 + 1
    orders = _orders(len(space.sizes), max(2, _WORK // (8 * size * sum(space.sizes))))
    pool: dict[tuple[Label, Box], int] = {}
    chosen: dict[tuple[Label, Box], int] = {}
    tried: set[tuple[int, Label]] = set()
    while left and len(chosen) < most:
        for seed in _seeds(left):
            for label in labels:
                if not labels[label] >> seed & 1 or (seed, label) in tried:
                    continue
                tried.add((seed, label))
                for order in orders:
                    box = space.grow(seed, forbidden[label], order)
                    if (label, box) not in pool:
                        pool[label, box] = space.bits(box)
        gains = {found: (bits & left).bit_count() for found, bits in pool.items()}
        best = max(pool, key=lambda found: (gains[found], _plainness(space, found[1])))
        chosen[best] = pool[best]
        left &= ~pool[best]
        kept = sorted(pool, key=lambda found: gains[found], reverse=True)[: max(8, _POOL // size)]
        pool = {found: pool[found] for found in kept if gains[found] and found != best}
    return _without_redundant(chosen), left


def _orders(axes: int, most: int) -> list[tuple[int, ...]]:
    """Return orders of the axes: all, or at most so many that vary in what comes first."""
    if _factorial_at_most(axes, most):
        return list(itertools.permutations(range(axes)))
    firsts = list(itertools.permutations(range(axes), min(2, axes)))
    step = max(1, -(-len(firsts) // most))
    # A step that shares a factor with the number of axes would leave some axis never first.
    while axes > 1 and step > 1 and step % (axes - 1) == 0:
        step += 1
    return [
        (*first, *(axis for axis in range(axes) if axis not in first)) for first in firsts[::step]
    ]


def _factorial_at_most(number: int, most: int) -> bool:
    product = 1
    for factor in range(2, number + 1):
        product *= factor
        if product > most:
            return False
    return True


def _seeds(left: int) -> Iterator[int]:
    """Yield the first and the last open cell, and one from the middle."""
    length = left.bit_length()
    first = (left & -left).bit_length() - 1
    yield first
    if length - 1 != first:
        yield length - 1
        half = left >> length // 2
        middle = (half & -half).bit_length() - 1 + length // 2
        if middle != length - 1:
            yield middle


def _plainness(space: Space, box: Box) -> int:
    """Return how few axes the box restricts, as a number that is larger for fewer."""
    return -sum(
        values.bit_count() < size for values, size in zip(box.sets, space.sizes, strict=True)
    )


def _without_redundant(chosen: Mapping[tuple[Label, Box], int]) -> list[tuple[Label, Box]]:
    """Drop the boxes whose cells the others hold together, the latest (least telling) first."""
    before = [0, *itertools.accumulate(chosen.values(), operator.or_)]
    after, kept = 0, []
    for number, found in reversed(list(enumerate(chosen))):
        if chosen[found] & ~(before[number] | after):
            after |= chosen[found]
            kept.append(found)
    return kept[::-1]


def ones(bits: int) -> Iterator[int]:
    """Yield the positions of the set bits, lowest first."""
    while bits:
        lowest = bits & -bits
        yield lowest.bit_length() - 1
        bits ^= lowest
