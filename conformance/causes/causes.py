"""Turn differing cells into conditions that are exactly right, and into causes that can be read.

Per cell, what was expected and what was got go in. A *condition* is a conjunction with one answer
expected and one got: every differing cell is in some condition and no other cell is in any. A
*cause* is one change of behaviour with one explanation: conditions of the same meaning are one
cause, whatever families and GPUs they are about. Every differing cell is in exactly one cause.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.causes import boxes
from pytest_rocm_attn.conformance.causes.cells import (
    FAMILY,
    KIND,
    is_field,
    is_variable,
    met,
    ones,
    usual,
)
from pytest_rocm_attn.conformance.promise.grid.design import SWITCHES
from pytest_rocm_attn.conformance.promise.grid.outcomes import Behaviour
from pytest_rocm_attn.conformance.promise.grid.space import AITER, GFX
from pytest_rocm_attn.flags import EXPLICIT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from pytest_rocm_attn.conformance.causes.cells import Attribute, Bits, Cells, Origin

# Stand in for a backend's name: the one that the cell names, another than that one, and any.
THE_NAMED_ONE = Behaviour("Selected", "the explicit one")
ANOTHER_ONE = Behaviour("Selected", "another one")
A_BACKEND = Behaviour("Selected", "a backend")
A_REFUSAL = Behaviour("Rejected")
VARIOUS = Behaviour("Various")

OTHER_VARIABLES = "variables"  # a theme: variables that selection does not read
PLAIN = 0.8  # of the cells that a description is about: below it the words add "in part"
_CLEARER = 0.2  # what telling apart must add to that share
_RECALL = 0.9  # of a cause's cells, at least, that its clauses are true of
_PRECISE = (
    0.97  # of the cells that the clauses are true of, the share that needs no more exceptions
)
_GAIN = 0.05  # of that share: what a clause or an exception must add
_MOST_CLAUSES, _MOST_EXCEPTIONS = 6, 3


@dataclass(frozen=True, slots=True)
class Change:
    """One way to differ; cells that differ alike have equal ones.

    Args:
        expected: the answer that was expected.
        got: the answer that came.
        level: "required" or "advisory"; "" if nothing is judged.
        rule: the rule, or the name of what was compared with.
        wanted: what was expected, in other words; "" if `expected` says it.
        declared: the fork's deviations file has an entry for this answer.
    """

    expected: Behaviour
    got: Behaviour
    level: str = ""
    rule: str = ""
    wanted: str = ""
    declared: bool = False


@dataclass(frozen=True, slots=True)
class Given:
    """A restriction: an attribute has one of these values.

    Attributes:
        name: "gfx", "aiter", "family", a variable, or a field of the request.
        values: those allowed; None is an unset variable, or a field that is not given.
        others: those of the grid that are excluded.
    """

    name: str
    values: tuple[Any, ...]
    others: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Condition:
    """Cells that differ alike, exactly.

    Attributes:
        where: what they have in common; empty if that is all cells.
        change: how they differ.
        cells: how many they are.
        smallest: the one with the fewest variables set, nearest to the defaults.
        overrides: in some of them a backend is named and expected, and another one is got.
        inside: the cells.
    """

    where: tuple[Given, ...]
    change: Change
    cells: int
    smallest: Origin
    overrides: bool
    inside: Bits

    @property
    def at_defaults(self) -> bool:
        """Whether it holds with no variable set, for a plain layer, with aiter present."""
        return self.smallest.distance <= 1  # the GPU alone


@dataclass(frozen=True, slots=True)
class Cause:
    """One change of behaviour with one explanation.

    Attributes:
        change: what it changes, by meaning.
        theme: what decides it: "aiter", a field of the request, OTHER_VARIABLES; "" for the switches,
            what is named and the GPU.
        where: clauses that are true of 90% of its cells at least, as few as are worth it.
        exceptions: where the clauses are true and yet nothing differs.
        precision: of the cells that clauses and exceptions describe, the share that differs so.
        cells: how many they are.
        smallest: the one of those that clauses and exceptions describe that is nearest to the
            defaults.
        gpus: those on which it occurs.
        everywhere: that is every GPU.
        backends: those that are named, expected or got, by their names, most cells first.
        families: numbers of the groups of cells in which it is met.
        conditions: the positions of the exact conditions that its cells are in.
        inside: the cells.
    """

    change: Change
    theme: str
    where: tuple[Given, ...]
    exceptions: tuple[Given, ...]
    precision: float
    cells: int
    smallest: Origin
    gpus: tuple[str, ...]
    everywhere: bool
    backends: tuple[str, ...]
    families: tuple[int, ...]
    conditions: tuple[int, ...]
    inside: Bits

    @property
    def met(self) -> int:
        """Who meets it first: see cells.met()."""
        return met(self.smallest.distance)


@dataclass(frozen=True, slots=True)
class Explained:
    """Every difference.

    Attributes:
        cells: all that were compared.
        conditions: the most important first.
        causes: in the order of how many users meet them.
        differing: how many cells differ.
        left: how many differing cells no condition covers: 0 unless there are too many conditions.
        left_smallest: the smallest of these; None if there is none.
    """

    cells: Cells | None
    conditions: tuple[Condition, ...] = ()
    causes: tuple[Cause, ...] = ()
    differing: int = 0
    left: int = 0
    left_smallest: Origin | None = None


def explain(cells: Cells, labels: Mapping[Change, Bits], most: int = 400) -> Explained:
    """Return the conditions under which cells differ, and their causes.

    Args:
        cells: all that were compared.
        labels: each way to differ -> the cells that differ so; a cell has one at most.
        most: how many conditions to look for before the rest is only counted.
    """
    differing = boxes.union_of(labels.values())
    if not differing:
        return Explained(cells)
    leading = [number for number, one in enumerate(cells.attributes) if one.name == FAMILY]
    found, left = boxes.cover(cells, _by_name(cells, labels), most, leading)
    conditions = sorted(
        (_condition(cells, change, box, inside) for (change, box), inside in found.items()),
        key=_importance,
    )
    return Explained(
        cells,
        tuple(conditions),
        tuple(_causes(cells, conditions, left)),
        cells.count(differing),
        cells.count(left),
        cells.smallest(left) if left else None,
    )


def _by_name(cells: Cells, labels: Mapping[Change, Bits]) -> dict[Change, Bits]:
    """Return for each change the cells that it is true of.

    A cell whose answer is the named one is also one whose answer is the backend of that name, so it
    may go with cells in which nothing or something else was named.
    """
    found: dict[Change, Bits] = defaultdict(int)
    names = next((n for n, one in enumerate(cells.attributes) if one.name == EXPLICIT), None)
    for change, differing in labels.items():
        found[change] |= differing
        if names is None or THE_NAMED_ONE not in (change.expected, change.got):
            continue
        attribute = cells.attributes[names]
        for values, holding in zip(attribute.classes, cells.holding[names], strict=True):
            choice = attribute.values[values[0]]
            if len(values) == 1 and choice is not None and differing & holding:
                name = Behaviour("Selected", str(choice))
                sides = {
                    side: name
                    for side in ("expected", "got")
                    if getattr(change, side) == THE_NAMED_ONE
                }
                found[replace(change, **sides)] |= differing & holding
    return found


# --- conditions -----------------------------------------------------------------------------------


def _condition(cells: Cells, change: Change, box: boxes.Box, inside: Bits) -> Condition:
    where = _constraints(cells, box, inside)
    return Condition(
        where,
        change,
        cells.count(inside),
        cells.smallest(inside),
        _overrides(cells, where, change),
        inside,
    )


def _constraints(cells: Cells, box: boxes.Box, inside: Bits) -> tuple[Given, ...]:
    """Return what restricts a box, in the order of a sentence.

    Classes that no cell of the box has say nothing: they are named only if that is shorter.
    """
    found = []
    for attribute, holding, chosen in zip(cells.attributes, cells.holding, box, strict=True):
        if chosen == (1 << len(holding)) - 1:
            continue
        in_box = attribute.of(ones(chosen))
        allowed = attribute.of(n for n, having in enumerate(holding) if having & inside)
        if attribute.name == EXPLICIT and len(attribute.values) - len(in_box) == 1:
            allowed = in_box
        found.append(_given(cells, attribute, allowed, inside))
    return tuple(sorted(found, key=lambda given: place(given.name)))


def _given(cells: Cells, attribute: Attribute, values: tuple[Any, ...], inside: Bits) -> Given:
    others = tuple(value for value in attribute.values if value not in values)
    return Given(attribute.name, cells.occurring(attribute.name, values, inside), others)


def place(name: str) -> tuple[int, str]:
    """Sort key of attributes in a sentence: the machine, the environment, the request."""
    first = (GFX, AITER, SWITCHES[0])
    if name in first:
        return first.index(name), name
    if is_field(name):
        return (6 if name in KIND else 7), name
    return (8 if name == FAMILY else 5 if name == EXPLICIT else 4), name


def _overrides(cells: Cells, where: Sequence[Given], change: Change) -> bool:
    if (change.expected.kind, change.got.kind) != ("Selected", "Selected"):
        return False
    if change.expected == THE_NAMED_ONE:
        return True
    allowed = [given.values for given in where if given.name == EXPLICIT]
    known = cells.values(EXPLICIT, cells.every)
    return change.expected.name in known and all(change.expected.name in one for one in allowed)


def _importance(condition: Condition) -> tuple[Any, ...]:
    """Sort key: what happens without any flag, then named backends overridden, then by size."""
    rank = 0 if condition.at_defaults else 1 if condition.overrides else 2
    change = condition.change
    return (
        change.level == "advisory",
        change.declared,
        rank,
        -condition.cells,
        len(condition.where),
        repr((condition.where, change)),
    )


# --- causes ---------------------------------------------------------------------------------------


Key = tuple[Change, str, tuple[str, ...]]  # meaning, theme, switches


def _causes(cells: Cells, conditions: Sequence[Condition], left: Bits) -> list[Cause]:
    """Return causes that share the differing cells among them, in the order of who meets them."""
    groups: dict[Key, Bits] = defaultdict(int)
    for condition in conditions:
        theme = _theme(condition)
        groups[_meaning(condition, theme), theme, ()] |= condition.inside
    found = [
        _cause(cells, conditions, key, share)
        for key, inside in _shared(cells, groups).items()
        for key, share in _split(cells, conditions, key, inside).items()
    ]
    found = _merged(cells, conditions, found)
    if left:
        found.append(_cause(cells, conditions, (Change(VARIOUS, VARIOUS), "", ()), left))
    return sorted(found, key=_order)


def _shared(cells: Cells, groups: Mapping[Key, Bits]) -> dict[Key, Bits]:
    """Give each cell to one of its groups: to the one that is left with the most."""
    open_ones, shares = dict(groups), {}
    free = boxes.union_of(groups.values())
    while free:
        key = max(open_ones, key=lambda key: (cells.count(open_ones[key] & free), not key[1]))
        shares[key] = open_ones.pop(key) & free
        free &= ~shares[key]
    return shares


def _split(
    cells: Cells, conditions: Sequence[Condition], key: Key, inside: Bits
) -> dict[Key, Bits]:
    """Tell apart by the switches that are set what has no description in common."""
    change, theme, _ = key

    def precision(share: Bits) -> float:
        region = _described(cells, share)[2]
        return cells.count(region & share) / max(1, cells.count(region))

    whole = precision(inside)
    if whole >= PLAIN:
        return {key: inside}
    groups: dict[Key, Bits] = defaultdict(int)
    for condition in conditions:
        if condition.inside & inside and _meaning(condition, _theme(condition)) == change:
            switches = tuple(
                g.name for g in condition.where if g.name in SWITCHES and None not in g.values
            )
            groups[change, theme, switches] |= condition.inside & inside
    shares = _shared(cells, groups)
    rest = inside & ~boxes.union_of(shares.values())
    if rest:
        shares[key] = shares.get(key, 0) | rest
    clear = sum(precision(one) * cells.count(one) for one in shares.values())
    return shares if clear >= (whole + _CLEARER) * cells.count(inside) else {key: inside}


def _merged(cells: Cells, conditions: Sequence[Condition], causes: Sequence[Cause]) -> list[Cause]:
    """Let causes that make the same change be one if one description fits them."""
    found: list[Cause] = []
    for cause in sorted(causes, key=lambda one: -one.cells):
        for number, other in enumerate(found):
            if other.change != cause.change:
                continue
            key = (other.change, other.theme, ())
            both = _cause(cells, conditions, key, other.inside | cause.inside)
            little = cause.cells <= (1 - _RECALL) / 2 * other.cells
            if little or both.precision >= PLAIN:
                found[number] = both
                break
        else:
            found.append(cause)
    return found


def _theme(condition: Condition) -> str:
    """Return what decides a condition, unless it is a switch, a name or the GPU."""
    sparse = any(one.name == "use_sparse" and one.values == (True,) for one in condition.where)
    departing = [
        one.name
        for one in condition.where
        if not set(usual(one.name, sparse=sparse)) & set(one.values)
    ]
    crash = no_answer(condition.change.got) or no_answer(condition.change.expected)
    if crash and AITER in departing:
        return AITER
    fields = [name for name in departing if is_field(name) and name not in KIND]
    if fields or AITER in departing:
        return (*fields, AITER)[0]
    further = [
        name for name in departing if is_variable(name) and name not in (EXPLICIT, *SWITCHES)
    ]
    return OTHER_VARIABLES if further else ""


def _meaning(condition: Condition, theme: str) -> Change:
    """Return a condition's change by meaning: equal for those that a reader takes for one."""
    change = condition.change
    expected, got = change.expected, change.got
    names = [one.values for one in condition.where if one.name == EXPLICIT]
    named = bool(names) and None not in names[0]
    if no_answer(got):
        expected = VARIOUS
    elif no_answer(expected):
        got = VARIOUS
    elif A_REFUSAL in (expected, got):
        backend = got if expected == A_REFUSAL else expected
        if theme:
            backend = A_BACKEND
        elif named and backend != THE_NAMED_ONE:
            one = len(names[0]) == 1 and backend.name == names[0][0]
            backend = THE_NAMED_ONE if one else ANOTHER_ONE
        elif backend != THE_NAMED_ONE:
            backend = A_BACKEND
        expected, got = (A_REFUSAL, backend) if expected == A_REFUSAL else (backend, A_REFUSAL)
    elif got == THE_NAMED_ONE:
        expected = ANOTHER_ONE
    return replace(change, expected=expected, got=got)


def no_answer(answer: Behaviour) -> bool:
    """Whether it is neither a backend nor a refusal: a crash, a hang ..."""
    return answer.kind not in ("Selected", "Rejected", "Various", "Answer")


def _cause(cells: Cells, conditions: Sequence[Condition], key: Key, inside: Bits) -> Cause:
    change, theme, _ = key
    mine = tuple(n for n, one in enumerate(conditions) if one.inside & inside)
    change = replace(
        change,
        expected=_only([conditions[n].change.expected for n in mine], change.expected),
        got=_only([conditions[n].change.got for n in mine], change.got),
    )
    where, exceptions, region = _described(cells, inside)
    said = inside & region or inside
    gpus = cells.values(GFX, inside)
    return Cause(
        change,
        theme,
        where,
        exceptions,
        cells.count(said) / cells.count(region | said),
        cells.count(inside),
        cells.smallest(said),
        gpus,
        set(gpus) == set(cells.values(GFX, cells.every)),
        _backends(cells, [conditions[n] for n in mine], inside),
        tuple(number for number, group in enumerate(cells.groups) if group & inside),
        mine,
        inside,
    )


def _backends(cells: Cells, conditions: Sequence[Condition], inside: Bits) -> tuple[str, ...]:
    counts: Counter[str] = Counter()
    for condition in conditions:
        count = cells.count(condition.inside & inside)
        for answer in (condition.change.expected, condition.change.got):
            if answer == THE_NAMED_ONE:
                names = next((one.values for one in condition.where if one.name == EXPLICIT), ())
                counts.update({name: count for name in names if name is not None})
            elif answer.kind == "Selected":
                counts[answer.name] += count
    return tuple(name for name, _ in counts.most_common())


def _only(answers: Sequence[Behaviour], otherwise: Behaviour) -> Behaviour:
    """Return the one backend that all of these are, if what stands for several is just that one."""
    several = otherwise in (A_BACKEND, ANOTHER_ONE, VARIOUS)
    return answers[0] if several and len(set(answers)) == 1 else otherwise


def _order(cause: Cause) -> tuple[Any, ...]:
    """Sort key: what fails first; then who meets it, a plain layer first; then by size."""
    change = cause.change
    return (
        change.level == "advisory",
        change.declared,
        cause.met,
        bool(cause.theme),
        -cause.cells,
        repr((change, cause.theme)),
    )


# --- what a cause's cells have in common ----------------------------------------------------------


@dataclass
class _Region:
    """The cells that some clauses and exceptions describe, while they are looked for."""

    cells: Cells
    wanted: Bits
    now: Bits
    total: int

    def precision(self, now: Bits) -> float:
        count = self.cells.count(now)
        return self.cells.count(now & self.wanted) / count if count else 0.0

    def clause(self, number: int, kept: Bits) -> tuple[Bits, tuple[int, ...]]:
        """Return the fewest classes of an attribute that hold enough of the cells."""
        holding = self.cells.holding[number]
        shares = sorted(
            (self.cells.count(having & kept), one) for one, having in enumerate(holding)
        )
        spare = self.cells.count(kept) - _RECALL * self.total
        used = []
        for share, one in shares:
            if share <= spare:
                spare -= share
            else:
                used.append(one)
        return boxes.union_of(holding[one] for one in used), tuple(sorted(used))


def _described(cells: Cells, inside: Bits) -> tuple[tuple[Given, ...], tuple[Given, ...], Bits]:
    """Return clauses, exceptions, and the cells that these describe, of which most are inside.

    A clause says what was set or asked for: it excludes the attribute's default. What departs from
    a default and is not inside is an exception.
    """
    region = _Region(cells, inside, cells.every, cells.count(inside))
    clauses: dict[int, tuple[Bits, tuple[int, ...]]] = {}
    while len(clauses) < _MOST_CLAUSES:
        share = region.precision(region.now)
        found: list[tuple[float, int, Bits, tuple[int, ...]]] = []
        for number, attribute in enumerate(cells.attributes):
            if number in clauses or attribute.name == FAMILY:
                continue
            allowed, used = region.clause(number, region.now & inside)
            if not _says_what_is_asked(attribute, used):
                continue
            after = region.precision(region.now & allowed)
            if after >= share * (1 + _GAIN):
                found.append((after, number, allowed, used))
        if not found:
            break
        # Of those that are about as good, the one that is best known.
        enough = max(found)[0] * (1 - _GAIN)
        _, number, allowed, used = next(one for one in reversed(found) if one[0] >= enough)
        clauses[number] = allowed, used
        region.now &= allowed
    exceptions: dict[int, tuple[int, ...]] = {}
    before = region.now
    while len(exceptions) < _MOST_EXCEPTIONS and region.precision(region.now) < _PRECISE:
        one = _exception(region, {*clauses, *exceptions})
        if one is None:
            break
        number, used = one
        exceptions[number] = used
        region.now &= ~boxes.union_of(cells.holding[number][one] for one in used)

    def given(number: int, used: Sequence[int], among: Bits) -> Given:
        attribute = cells.attributes[number]
        return _given(cells, attribute, attribute.of(used), among)

    where = [given(number, used, inside) for number, (_, used) in clauses.items()]
    where.sort(key=lambda one: place(one.name))
    but = [given(number, used, before) for number, used in exceptions.items()]
    return tuple(where), tuple(but), region.now


def _says_what_is_asked(attribute: Attribute, used: Sequence[int]) -> bool:
    if len(used) == len(attribute.classes):
        return False
    if attribute.name in (GFX, EXPLICIT, *KIND):
        return True
    return not set(usual(attribute.name)) & set(attribute.of(used))


def _exception(region: _Region, taken: AbstractSet[int]) -> tuple[int, tuple[int, ...]] | None:
    """Return the attribute, and its classes, that take away the most cells that do not differ."""
    cells = region.cells
    best, most = None, _GAIN * cells.count(region.now & ~region.wanted)
    for number, attribute in enumerate(cells.attributes):
        if number in taken or attribute.name in (FAMILY, GFX):
            continue
        used = tuple(
            one
            for one, having in enumerate(cells.holding[number])
            if not set(usual(attribute.name)) & set(attribute.of([one])) and _spared(region, having)
        )
        gone = cells.count(region.now & boxes.union_of(cells.holding[number][one] for one in used))
        if used and gone > most:
            best, most = (number, used), gone
    return best


def _spared(region: _Region, having: Bits) -> bool:
    """Whether hardly any of these cells differ."""
    differing = region.cells.count(region.now & having & region.wanted)
    every = (1 - _RECALL) / 2
    return not differing or differing <= every * region.cells.count(region.now & having)
