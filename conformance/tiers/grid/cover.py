"""Turn differing cells into few readable conditions that cover exactly them.

Two tables over the same families go in: per cell, what was expected and what was got. Conditions
come out, each a conjunction with one answer expected and one got: "VLLM_ROCM_USE_AITER=1 and an
explicit backend is given: expected the explicit one, got ROCM_AITER_FA". Every differing cell is in
some condition and no other cell is in any; what is beyond the limit on conditions is counted, and
its smallest cell is reported. Conditions may overlap.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_rocm_attn.conformance.promise.grid.outcomes import Behaviour, behaviour
from pytest_rocm_attn.conformance.promise.grid.space import AITER, ALSO, GFX, REQUEST
from pytest_rocm_attn.conformance.tiers.grid import boxes
from pytest_rocm_attn.conformance.tiers.grid.attributes import FAMILY, Attribute, Reduced, reduce
from pytest_rocm_attn.conformance.tiers.grid.boxes import Cells, Classes
from pytest_rocm_attn.conformance.tiers.grid.wording import Given, rank
from pytest_rocm_attn.errors import MockError
from pytest_rocm_attn.flags import EXPLICIT
from pytest_rocm_attn.outcome import Crashed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_rocm_attn.conformance.promise.grid.space import Axis
    from pytest_rocm_attn.outcome import Outcome

# Stand in for an outcome: the backend that the cell names, and whatever it was where a byte cannot
# number all pairs of answers.
THE_EXPLICIT_ONE = Behaviour("Selected", "the explicit one")
VARIOUS = Behaviour("Various")
_CUT_SHORT = Behaviour("TimedOut")  # does not show what the answer would have been
_MOST_PAIRS = 254
USUAL_GPU = "gfx942"

Pair = tuple[Behaviour, Behaviour]


@dataclass(frozen=True, slots=True)
class Table:
    """The outcome of each cell of a family.

    Attributes:
        codes: one per cell, in mixed-radix order of the axes, the last axis fastest. A code beyond
            the outcomes is a cell without an answer, and so is one that the mocked platform could
            not answer: they are compared with nothing.
        outcomes: what the codes stand for.
    """

    codes: Sequence[int]
    outcomes: Sequence[Outcome]

    def answer(self, cell: int) -> Behaviour | None:
        """Return the answer that a cell's outcome gives; None if there is none."""
        code = self.codes[cell]
        return _answer(self.outcomes[code]) if code < len(self.outcomes) else None


@dataclass(frozen=True, slots=True)
class Compared:
    """A family, or a part of it that has axes of its own, with both tables."""

    name: str
    axes: tuple[Axis, ...]
    expected: Table
    got: Table


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """One cell: which of the families compared, and the position on each of its axes."""

    family: int
    coordinates: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Condition:
    """Cells that differ alike.

    Attributes:
        where: what they have in common; empty when that is all cells.
        expected: the answer expected in all of them.
        got: the answer got in all of them.
        cells: how many they are.
        smallest: the one with the fewest variables set, nearest to the defaults.
        at_defaults: the smallest sets no variable and asks for a plain layer, with aiter present.
        overrides: in some of them a backend is named and expected, and another one is got.
    """

    where: tuple[Given, ...]
    expected: Behaviour
    got: Behaviour
    cells: int
    smallest: Place
    at_defaults: bool
    overrides: bool

    @property
    def conjunction(self) -> str:
        """What the cells have in common, in words."""
        return " and ".join(str(given) for given in self.where) or "everywhere"

    def __str__(self) -> str:
        return f"{self.conjunction}: expected {self.expected}, got {self.got}"


@dataclass(frozen=True, slots=True)
class Cover:
    """Every difference between two tables.

    Attributes:
        conditions: the most important first.
        cells: how many cells there are.
        differing: how many of them differ.
        left: how many differing cells no condition covers: 0 unless there are too many conditions.
        left_smallest: the smallest of these; None when there is none.
        unanswered: how many cells have no answer on one side at least, or ran out of time on both.
    """

    conditions: tuple[Condition, ...]
    cells: int
    differing: int
    left: int = 0
    left_smallest: Place | None = None
    unanswered: int = 0


def differences(families: Sequence[Compared], most: int = 200) -> Cover:
    """Return the conditions under which two tables differ in behaviour.

    Args:
        families: what is compared; together they are the cells that conditions speak of.
        most: how many conditions to look for before the rest is only counted.
    """
    coder = _Coder()
    coded = [coder.code(family) for family in families]
    cells = sum(map(len, coded))
    differing = sum(len(table) - table.count(0) for table in coded)
    if not differing:
        return Cover((), cells, 0, unanswered=coder.unanswered)
    attributes, reduced = reduce([(family.name, family.axes) for family in families], coded)
    classes = Classes(
        [cell for one in reduced for cell in one.cells], [len(one.classes) for one in attributes]
    )
    labels = _labels(attributes, classes, b"".join(one.table for one in reduced), coder.numbers)
    by_family = [number for number, one in enumerate(attributes) if one.name == FAMILY]
    found, left = boxes.cover(classes, labels, _groups(reduced), most, leading=by_family)
    origins = _origins(families, reduced)
    conditions = []
    for (label, box), inside in found.items():
        count, smallest, distance = _within(families, origins, inside)
        where = _constraints(attributes, classes, box, inside)
        overrides = _overrides(families, where, *label)
        conditions.append(Condition(where, *label, count, smallest, distance == 0, overrides))
    conditions.sort(key=_importance)
    rest, smallest_left = 0, None
    if left:
        rest, smallest_left, _ = _within(families, origins, left)
    return Cover(tuple(conditions), cells, differing, rest, smallest_left, coder.unanswered)


# --- labels ---------------------------------------------------------------------------------------


class _Coder:
    """Numbers pairs of answers.

    Attributes:
        numbers: (expected, got) -> its code; 0 stands for the same behaviour.
        unanswered: how many cells had no answer on one side.
    """

    def __init__(self) -> None:
        self.numbers: dict[Pair, int] = {}
        self.unanswered = 0

    def code(self, family: Compared) -> bytes:
        """Return a byte per cell."""
        expected, got = ([_answer(o) for o in t.outcomes] for t in (family.expected, family.got))
        names, choices = _choices(family.axes)
        codes: dict[tuple[int, int, int], int] = {}
        counted = 0
        coded = bytearray()
        for one, other, choice in zip(
            family.expected.codes, family.got.codes, choices, strict=False
        ):
            key = (one, other, choice)
            code = codes.get(key)
            if code is None:
                before = expected[one] if one < len(expected) else None
                after = got[other] if other < len(got) else None
                if before is None or after is None or before == after == _CUT_SHORT:
                    code = -1
                else:
                    code = self._number(before, after, names[choice])
                codes[key] = code
            if code < 0:
                counted += 1
                code = 0
            coded.append(code)
        self.unanswered += counted
        if len(coded) != math.prod(len(axis.values) for axis in family.axes):
            raise ValueError(f"family {family.name}: {len(coded)} codes for its cells")
        return bytes(coded)

    def _number(self, expected: Behaviour, got: Behaviour, choice: Any) -> int:
        if expected == got:
            return 0
        named = Behaviour("Selected", str(choice))
        pair = tuple(
            THE_EXPLICIT_ONE if choice is not None and answer == named else answer
            for answer in (expected, got)
        )
        if pair not in self.numbers and len(self.numbers) >= _MOST_PAIRS:
            pair = (VARIOUS, VARIOUS)
        return self.numbers.setdefault((pair[0], pair[1]), len(self.numbers) + 1)


def _answer(outcome: Outcome) -> Behaviour | None:
    """Return what the selector did; None where the mocked platform could not tell."""
    unanswerable = isinstance(outcome, Crashed) and outcome.error == MockError.__name__
    return None if unanswerable else behaviour(outcome)


def _choices(axes: Sequence[Axis]) -> tuple[Sequence[Any], Iterable[int]]:
    """Return the explicit choices, and which of them each cell has, cell after cell."""
    for number, axis in enumerate(axes):
        if axis.name == EXPLICIT:
            stride = math.prod(len(later.values) for later in axes[number + 1 :])
            run = b"".join(bytes([value]) * stride for value in range(len(axis.values)))
            return axis.values, itertools.cycle(run)
    return (None,), itertools.repeat(0)


def _labels(
    attributes: Sequence[Attribute], classes: Classes, table: bytes, pairs: Iterable[Pair]
) -> dict[Pair, Cells]:
    """Return for each pair of answers the cells that it is true of.

    A cell whose answer is the explicit one is also one whose answer is the backend of that name, so
    it may go with cells where nothing or something else was named.
    """
    labels: dict[Pair, Cells] = defaultdict(int)
    explicit = next((n for n, one in enumerate(attributes) if one.name == EXPLICIT), None)
    for code, pair in enumerate(pairs, start=1):
        cells = _bits(table, code)
        labels[pair] |= cells
        if explicit is None or THE_EXPLICIT_ONE not in pair:
            continue
        attribute = attributes[explicit]
        for values, holding in zip(attribute.classes, classes.holding[explicit], strict=True):
            choice = attribute.values[values[0]]
            if len(values) == 1 and choice is not None and cells & holding:
                name = Behaviour("Selected", str(choice))
                one, other = (name if answer == THE_EXPLICIT_ONE else answer for answer in pair)
                labels[one, other] |= cells & holding
    return labels


def _bits(table: bytes, code: int) -> int:
    """Return the positions of one code as the bits of an integer."""
    digits = bytearray(b"0" * 256)
    digits[code] = ord("1")
    return int(table.translate(bytes(digits))[::-1], 2)


# --- conditions -----------------------------------------------------------------------------------


def _constraints(
    attributes: Sequence[Attribute], classes: Classes, box: boxes.Box, inside: Cells
) -> tuple[Given, ...]:
    """Return what restricts the box.

    Classes that no cell of the box has say nothing: they are named only if that is shorter.
    """
    found = []
    for attribute, holding, chosen in reversed(
        list(zip(attributes, classes.holding, box, strict=True))
    ):
        if chosen == (1 << len(holding)) - 1:
            continue
        in_box = _values(attribute, boxes.ones(chosen))
        allowed = _values(attribute, (n for n, cells in enumerate(holding) if cells & inside))
        if attribute.name == EXPLICIT and len(attribute.values) - len(in_box) == 1:
            allowed = in_box
        others = tuple(value for value in attribute.values if value not in allowed)
        found.append(Given(attribute.name, allowed, others))
    return tuple(sorted(found, key=lambda given: rank(given.name)))


def _values(attribute: Attribute, classes: Iterable[int]) -> tuple[Any, ...]:
    """Return the values of these classes, in the attribute's order."""
    positions = sorted(at for one in classes for at in attribute.classes[one])
    return tuple(attribute.values[at] for at in positions)


def distances(axis: Axis) -> list[int]:
    """Return how far each value of an axis is from the default, which is 0.

    A variable that is set counts more than anything in the order of values.
    """
    weights = []
    for position, value in enumerate(axis.values):
        if axis.name == GFX:
            weights.append(0 if value == USUAL_GPU else 1 + position)
        elif axis.name == REQUEST:
            weights.append(100 * len(value.non_default()) + position * bool(value.non_default()))  # type: ignore[union-attr]
        elif axis.name == AITER:
            weights.append(100 * position)
        elif axis.name == ALSO:
            weights.append(100 * len(value or ()))  # type: ignore[arg-type]
        else:
            weights.append(0 if value is None else 100)
    return weights


class _Origin(NamedTuple):
    """What a cell over classes stands for: how many cells of a family, and the smallest of them."""

    cells: int
    smallest: tuple[int, Place]  # with its distance from the defaults


def _origins(families: Sequence[Compared], reduced: Sequence[Reduced]) -> list[_Origin]:
    origins = []
    for number, (family, one) in enumerate(zip(families, reduced, strict=True)):
        nearest = [
            [(len(positions), *min((far[at], at) for at in positions)) for positions in groups]
            for far, groups in zip(map(distances, family.axes), one.members, strict=True)
        ]
        for groups in itertools.product(*nearest):
            counts, far, place = zip(*groups, strict=True)
            origins.append(_Origin(math.prod(counts), (sum(far), Place(number, place))))
    return origins


def _within(
    families: Sequence[Compared], origins: Sequence[_Origin], cells: Cells
) -> tuple[int, Place, int]:
    """Return how many cells these stand for, the smallest of them, and its distance from the defaults."""
    found = [origins[number] for number in boxes.ones(cells)]
    distance, place = min(origin.smallest for origin in found)
    # The usual GPU is only a convenience, not a default: any GPU counts as the default one.
    of_gpu = distances(families[place.family].axes[0])[place.coordinates[0]]
    return sum(origin.cells for origin in found), place, distance - of_gpu


def _groups(reduced: Sequence[Reduced]) -> list[Cells]:
    """Return the cells of each family."""
    ends = list(itertools.accumulate((len(one.cells) for one in reduced), initial=0))
    return [(1 << end) - (1 << start) for start, end in itertools.pairwise(ends)]


def _overrides(
    families: Sequence[Compared], where: Sequence[Given], expected: Behaviour, got: Behaviour
) -> bool:
    if (expected.kind, got.kind) != ("Selected", "Selected"):
        return False
    if expected == THE_EXPLICIT_ONE:
        return True
    allowed = [given.values for given in where if given.name == EXPLICIT]
    return all(expected.name in values for values in allowed) and any(
        axis.name == EXPLICIT and expected.name in axis.values
        for family in families
        for axis in family.axes
    )


def _importance(condition: Condition) -> tuple[int, int, int, str]:
    """Sort key: what happens without any flag, then explicit choices overridden, then by size."""
    if condition.at_defaults:
        rank = 0
    elif condition.overrides:
        rank = 1
    else:
        rank = 2
    return rank, -condition.cells, len(condition.where), str(condition)
