"""Cover labelled cells of several product spaces with few boxes over common attributes.

An attribute has classes, numbered from 0. A space is a product of axes; an axis has one attribute
(each position is one class) or several (each position is a class of each: a request has a head
size, a block size ...); attributes without an axis in a space have one class throughout. A box is a
set of classes for each attribute, and so a product in every space.

The cells of a space are the bits of an integer, in mixed-radix order, the last axis fastest:
whether a slab of cells may join a box is one "and". Each label has the cells that it is true of; a
cell may have several. Boxes are grown from single cells to the largest that a label allows, in many
orders of the attributes, and chosen greedily by how much they add. They may overlap: the larger box
is the shorter sentence.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Mapping, Sequence

Label = TypeVar("Label", bound="Hashable")
Cells = tuple[int, ...]  # per space, cells as bits
Box = tuple[int, ...]  # per attribute, classes as bits

_WORK = 60_000_000  # bytes of bitsets that one seed may touch: what makes large spaces affordable
_FEWEST, _MOST = 12, 160  # orders of the attributes that growing is tried in
_POOL = 64_000_000  # bytes of boxes kept for later steps


@dataclass(frozen=True)
class SpaceAxis:
    """One axis of a space.

    Attributes:
        size: its positions.
        masks: attribute -> per class of the attribute, the positions with it as bits.
    """

    size: int
    masks: Mapping[int, tuple[int, ...]]


class Space:
    """A product of axes.

    Args:
        axes: in the order of the mixed radix, the last fastest.
        constants: per attribute, its class where no axis has it.
    """

    def __init__(self, axes: Sequence[SpaceAxis], constants: Sequence[int]) -> None:
        self.axes = tuple(axes)
        self.constants = tuple(constants)
        sizes = [axis.size for axis in axes]
        self.strides = [math.prod(sizes[number + 1 :]) for number in range(len(axes))]
        self.cells = math.prod(sizes)
        self.axis_of = {name: number for number, axis in enumerate(axes) for name in axis.masks}
        self.fixed = [name for name in range(len(self.constants)) if name not in self.axis_of]

    def coordinates(self, cell: int) -> tuple[int, ...]:
        """Return the cell's position on each axis."""
        return tuple(
            cell // stride % axis.size for stride, axis in zip(self.strides, self.axes, strict=True)
        )

    def classes(self, cell: int) -> list[int]:
        """Return the cell's class of each attribute."""
        found = list(self.constants)
        for position, axis in zip(self.coordinates(cell), self.axes, strict=True):
            for attribute, masks in axis.masks.items():
                found[attribute] = next(c for c, mask in enumerate(masks) if mask >> position & 1)
        return found

    def positions(self, box: Box) -> list[int] | None:
        """Return per axis the positions in the box, as bits; None where the box is empty here."""
        for attribute in self.fixed:
            if not box[attribute] >> self.constants[attribute] & 1:
                return None
        positions = []
        for axis in self.axes:
            allowed = (1 << axis.size) - 1
            for attribute, masks in axis.masks.items():
                allowed &= _union(masks, box[attribute])
            if not allowed:
                return None
            positions.append(allowed)
        return positions

    def product(self, positions: Sequence[int]) -> int:
        """Return the cells with these positions, as bits."""
        cells = 1
        for stride, chosen in zip(reversed(self.strides), reversed(positions), strict=True):
            slab, cells = cells, 0
            for position in ones(chosen):
                cells |= slab << position * stride
        return cells

    def bits(self, box: Box) -> int:
        """Return the box's cells in this space."""
        positions = self.positions(box)
        return 0 if positions is None else self.product(positions)


def _union(masks: Sequence[int], chosen: int) -> int:
    if chosen == (1 << len(masks)) - 1:
        return -1
    union = 0
    for number in ones(chosen):
        union |= masks[number]
    return union


class _Growing:
    """A box in one space while it grows: the positions that it has on each axis, kept up to date."""

    def __init__(self, space: Space, seed: Sequence[int], forbidden: int) -> None:
        self._space = space
        self._forbidden = forbidden
        self._lacking = {a for a in space.fixed if seed[a] != space.constants[a]}
        self._masks = {
            attribute: axis.masks[attribute][seed[attribute]]
            for axis in space.axes
            for attribute in axis.masks
        }
        self._axes = [self._axis(number) for number in range(len(space.axes))]

    def _axis(self, number: int, but: int = -1) -> int:
        axis = self._space.axes[number]
        allowed = (1 << axis.size) - 1
        for attribute in axis.masks:
            if attribute != but:
                allowed &= self._masks[attribute]
        return allowed

    def joinable(self, attribute: int, wanted: int) -> int:
        """Return which of the wanted classes of an attribute bring no forbidden cell into the box."""
        space = self._space
        if self._lacking and self._lacking != {attribute}:
            return wanted  # the box is empty here whatever the attribute is
        number = space.axis_of.get(attribute)
        if number is None:
            one = 1 << space.constants[attribute]
            if not wanted & one or not all(self._axes):
                return wanted
            return wanted & ~one if space.product(self._axes) & self._forbidden else wanted
        if not all(self._axes[:number]) or not all(self._axes[number + 1 :]):
            return wanted
        allowed = self._axis(number, but=attribute)
        if not allowed:
            return wanted
        unit = space.product([*self._axes[:number], 1, *self._axes[number + 1 :]])
        stride, masks = space.strides[number], space.axes[number].masks[attribute]
        result = wanted
        for one_class in ones(wanted):
            for position in ones(masks[one_class] & allowed):
                if unit << position * stride & self._forbidden:
                    result &= ~(1 << one_class)
                    break
        return result

    def join(self, attribute: int, classes: int) -> None:
        """Let the box have these classes of an attribute too."""
        number = self._space.axis_of.get(attribute)
        if number is None:
            if classes >> self._space.constants[attribute] & 1:
                self._lacking.discard(attribute)
            return
        self._masks[attribute] |= _union(self._space.axes[number].masks[attribute], classes)
        self._axes[number] = self._axis(number)


def grow(
    spaces: Sequence[Space],
    sizes: Sequence[int],
    seed: Sequence[int],
    forbidden: Cells,
    order: Sequence[int],
) -> Box:
    """Return a largest box around the classes of a cell that holds no forbidden cell.

    Args:
        spaces: all of them.
        sizes: per attribute, the number of its classes.
        seed: the classes of the cell to start from.
        forbidden: per space.
        order: the attributes in the order in which the box grows along them.
    """
    box = [1 << number for number in seed]
    growing = [_Growing(one, seed, cells) for one, cells in zip(spaces, forbidden, strict=True)]
    for attribute in order:
        wanted = ((1 << sizes[attribute]) - 1) & ~box[attribute]
        for one in growing:
            if not wanted:
                break
            wanted = one.joinable(attribute, wanted)
        if wanted:
            box[attribute] |= wanted
            for one in growing:
                one.join(attribute, wanted)
    return tuple(box)


def cover(
    spaces: Sequence[Space],
    sizes: Sequence[int],
    labels: Mapping[Label, Cells],
    most: int = 200,
    leading: Sequence[int] = (),
) -> tuple[list[tuple[Label, Box]], Cells]:
    """Return boxes whose union is every labelled cell, each inside one label, and what is left.

    Args:
        spaces: where the cells are. Cells that agree in every attribute must have the same labels.
        sizes: per attribute, the number of its classes. The earlier an attribute, the sooner the
            boxes do without it.
        labels: label -> the cells that it is true of. The order decides between equals.
        most: the number of boxes at which to stop; the cells still uncovered are then left.
        leading: attributes that boxes always grow along first: they are told only where nothing
            else tells cells apart.

    Returns:
        the (label, box) pairs, most telling first, and the cells left uncovered.
    """
    forbidden = {
        label: tuple(~bits & (1 << s.cells) - 1 for s, bits in zip(spaces, cells, strict=True))
        for label, cells in labels.items()
    }
    left = list(map(union_of, zip(*labels.values(), strict=True)))
    bytes_of_one = sum(space.cells for space in spaces) // 8 + 1
    free = [attribute for attribute in range(len(sizes)) if attribute not in leading]
    orders = _orders(free, _WORK // (bytes_of_one * max(1, sum(sizes))))
    pool: dict[tuple[Label, Box], Cells] = {}
    chosen: dict[tuple[Label, Box], Cells] = {}
    tried: set[tuple[int, int, Label]] = set()
    while any(left) and len(chosen) < most:
        for number, cell in _seeds(left):
            classes = spaces[number].classes(cell)
            for label, cells in labels.items():
                if not cells[number] >> cell & 1 or (number, cell, label) in tried:
                    continue
                tried.add((number, cell, label))
                for order in orders:
                    box = grow(spaces, sizes, classes, forbidden[label], (*leading, *order))
                    if (label, box) not in pool:
                        pool[label, box] = tuple(space.bits(box) for space in spaces)
        gains = {found: _common(cells, left) for found, cells in pool.items()}
        best = max(pool, key=lambda found: (gains[found], _plainness(sizes, found[1])))
        chosen[best] = pool[best]
        left = [open_ & ~cells for open_, cells in zip(left, pool[best], strict=True)]
        kept = sorted(pool, key=lambda found: -gains[found])[: max(8, _POOL // bytes_of_one)]
        pool = {
            found: pool[found] for found in kept if found != best and any(_open(pool[found], left))
        }
    return _without_redundant(chosen, len(spaces)), tuple(left)


def union_of(values: Sequence[int]) -> int:
    """Return the union of cells."""
    return functools.reduce(operator.or_, values, 0)


def _open(cells: Cells, left: Sequence[int]) -> Iterator[int]:
    return (one & other for one, other in zip(cells, left, strict=True))


def _common(cells: Cells, left: Sequence[int]) -> int:
    return sum(bits.bit_count() for bits in _open(cells, left))


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


def _seeds(left: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the first open cell of each of the two spaces with the most, and the last of one."""
    fullest = sorted(range(len(left)), key=lambda number: -left[number].bit_count())
    for number in fullest[:2]:
        if left[number]:
            yield number, (left[number] & -left[number]).bit_length() - 1
    yield fullest[0], left[fullest[0]].bit_length() - 1


def _plainness(sizes: Sequence[int], box: Box) -> int:
    """Return how few attributes the box restricts, as a number that is larger for fewer."""
    return -sum(chosen.bit_count() < size for chosen, size in zip(box, sizes, strict=True))


def _without_redundant(
    chosen: Mapping[tuple[Label, Box], Cells], spaces: int
) -> list[tuple[Label, Box]]:
    """Drop the boxes whose cells the others hold together, the latest (least telling) first."""

    def union(one: Cells, other: Cells) -> Cells:
        return tuple(map(operator.or_, one, other))

    none = (0,) * spaces
    before = list(itertools.accumulate(chosen.values(), union, initial=none))
    after, kept = none, []
    for number, found in reversed(list(enumerate(chosen))):
        others = union(before[number], after)
        if any(cells & ~other for cells, other in zip(chosen[found], others, strict=True)):
            after = union(after, chosen[found])
            kept.append(found)
    return kept[::-1]


def ones(bits: int) -> Iterator[int]:
    """Yield the positions of the set bits, lowest first."""
    while bits:
        lowest = bits & -bits
        yield lowest.bit_length() - 1
        bits ^= lowest
