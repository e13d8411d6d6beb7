"""A slice's differences as few findings, each a readable condition.

There are two kinds. A *limit* is about requests: one selector takes a request with a backend that
the other refuses it with, whatever the switches are. It is described by what decides it (the state of
aiter, a variable, a field of the request) and by backend, and limits of one theme are one finding.
Everything else is about the environment, and described by cover.py.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.promise.grid.space import AITER, ALSO, REQUEST
from pytest_rocm_attn.conformance.tiers.grid import cover
from pytest_rocm_attn.flags import EXPLICIT
from pytest_rocm_attn.gpu import Aiter
from pytest_rocm_attn.outcome import (
    Crashed,
    Died,
    Outcome,
    Rejected,
    Selected,
    TimedOut,
    Unrecognised,
)
from pytest_rocm_attn.request import Request

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from pytest_rocm_attn.conformance.promise.grid.outcomes import Behaviour
    from pytest_rocm_attn.conformance.promise.grid.space import Family, Slice

REFUSAL = "a refusal"
_THEMES = {
    "block sizes": ("block_size",),
    "attention types": ("attn_type",),
    "dtypes": ("dtype", "kv_cache_dtype"),
    "head sizes and counts": ("head_size", "num_heads", "num_kv_heads"),
    "sinks, masks and scores": (
        *("has_sink", "sliding_window", "alibi", "logits_soft_cap", "use_mm_prefix"),
    ),
}
_FIELD_THEME = {name: theme for theme, names in _THEMES.items() for name in names}
_KIND_FIELDS = ("use_mla", "use_sparse")  # they say what a request is, not what it asks too much
_MOST_CONDITIONS = 40  # of one level and rule in one slice; of more, the rest is reported as one


@dataclass(frozen=True, slots=True)
class Difference:
    """What one selector answers and another should have; equal ones are reported together.

    Args:
        level: "required" or "advisory".
        rule: the rule, or the name of what it was compared with.
        expected: the answer that was expected.
        wanted: what was expected in other words, such as "the explicit one or a refusal"; "" where
            the answer says it.
        got: the answer that came.
        declared: the fork's deviations file has an entry for this answer.
    """

    level: str
    rule: str
    expected: Behaviour
    wanted: str
    got: Behaviour
    declared: bool = False


@dataclass
class Finding:
    """Cells of a slice that differ alike.

    Attributes:
        level: "required" or "advisory".
        rule: the rule, or the name of what it was compared with.
        theme: what kind of limit it is; "" for what the environment decides.
        where: the condition in words.
        expected: in words.
        got: in words.
        cells: how many they are.
        smallest: the number, in the slice, of the one nearest to the defaults.
        distance: how far that is from them, which tells the smallest of several slices.
        limits: of a limit: backend -> field -> the values it is about, all in words.
        given: of what the environment decides: the parts of the condition.
        named: of what the environment decides: the backends that these cells name.
        overrides: a backend is named and expected, and another one came.
        declared: the fork's deviations file has an entry for it.
        again: the command that asks the smallest cell alone.
    """

    level: str
    rule: str
    theme: str
    where: str
    expected: str
    got: str
    cells: int
    smallest: int
    distance: int
    limits: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    given: list[str] = field(default_factory=list)
    named: list[str] = field(default_factory=list)
    overrides: bool = False
    declared: bool = False
    again: str = ""

    def __str__(self) -> str:
        return f"{self.where}: expected {self.expected}, got {self.got}"

    def data(self) -> dict[str, Any]:
        """Return the finding as plain data."""
        return {"condition": str(self), **asdict(self)}


def find(
    of: Slice, labels: Sequence[int], differences: Sequence[Difference | Behaviour]
) -> list[Finding]:
    """Return the findings of a slice, required ones first, each by importance.

    Args:
        of: the slice.
        labels: per cell, a position in differences.
        differences: a Difference, or the answer that came where it will do.
    """
    findings: list[Finding] = []
    groups: dict[tuple[str, str, bool], list[int]] = defaultdict(list)
    for number, difference in enumerate(differences):
        if isinstance(difference, Difference):
            groups[difference.level, difference.rule, difference.declared].append(number)
    for (_, _, declared), numbers in groups.items():
        explained = _limits(of, labels, differences, numbers)
        told = {cell for _, cells in explained for cell in cells}
        together = [found for found, _ in explained]
        together += _conditions(of, labels, differences, set(numbers), told)
        findings += [replace(found, declared=declared) for found in together]
    findings.sort(key=lambda found: (found.level != "required", bool(found.theme)))
    return findings


# --- limits ---------------------------------------------------------------------------------------

_Point = tuple[int, int, int]  # positions of aiter, of the further variables, of the request


def _limits(
    of: Slice,
    labels: Sequence[int],
    differences: Sequence[Difference | Behaviour],
    numbers: Sequence[int],
) -> list[tuple[Finding, list[int]]]:
    """Return a finding for each theme, with its cells."""
    points = _points(of.family)
    cells: dict[tuple[int, int], list[int]] = defaultdict(list)
    for cell, key in enumerate(zip(labels, points, strict=True)):
        cells[key].append(cell)
    where = list(_point_table(of.family))
    fine: dict[str, set[int]] = defaultdict(set)  # backend -> the points where it was right
    apart: dict[tuple[str, bool], dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for (label, point), of_key in cells.items():
        difference = differences[label]
        if not isinstance(difference, Difference):
            if difference.kind == "Selected":
                fine[difference.name].add(point)
        elif label in numbers:
            kinds = difference.expected.kind, difference.got.kind
            if kinds == ("Rejected", "Selected") and difference.wanted in ("", REFUSAL):
                apart[difference.got.name, True][point] += of_key
            elif kinds == ("Selected", "Rejected"):
                apart[difference.expected.name, False][point] += of_key
    told: dict[tuple[str, bool], list[int]] = defaultdict(list)
    limits: dict[tuple[str, bool], dict[str, dict[str, list[str]]]] = defaultdict(dict)
    for (backend, taken), of_backend in apart.items():
        pure = of_backend.keys() - fine[backend]  # there, whatever the environment is
        for point in pure:
            reason = _reason(of, where, point, pure, fine[backend])
            if reason is not None:
                theme, name, value = reason
                told[theme, taken] += of_backend[point]
                values = limits[theme, taken].setdefault(backend, {}).setdefault(name, [])
                if value not in values:
                    values.append(value)
    first = differences[numbers[0]]
    assert isinstance(first, Difference)
    distances = _distances(of.family)
    return [
        (
            Finding(
                first.level,
                first.rule,
                theme,
                limit_words(theme, limits[theme, taken]),
                REFUSAL if taken else "the backend",
                "the backend" if taken else REFUSAL,
                len(of_theme),
                *_nearest(distances, of_theme),
                _sorted_limits(limits[theme, taken]),
            ),
            of_theme,
        )
        for (theme, taken), of_theme in sorted(told.items(), key=lambda item: -len(item[1]))
    ]


def _nearest(distances: Sequence[int], cells: Iterable[int]) -> tuple[int, int]:
    """Return the cell nearest to the defaults, and how far it is."""
    found = min(cells, key=lambda cell: (distances[cell], cell))
    return found, distances[found]


def _reason(
    of: Slice, where: Sequence[_Point], point: int, apart: AbstractSet[int], fine: AbstractSet[int]
) -> tuple[str, str, str] | None:
    """Return what decides a limit at one point: theme, field and value in words; else None."""
    aiter, also, request = where[point]
    axes = {axis.name: axis for axis in of.axes}
    states = axes[AITER].values
    present = states.index(Aiter.PRESENT.value) if Aiter.PRESENT.value in states else None

    def differs(aiter: int | None, also: int) -> bool:
        """Whether the request is treated differently there, too."""
        return aiter is not None and where.index((aiter, also, request)) in apart

    # What is the same with aiter present, and with no further variable, is not due to them.
    alone = differs(aiter, 0) and not differs(present, 0)
    if aiter != present and (alone or not differs(present, also)):
        return "aiter", "aiter", str(states[aiter])
    if also and not differs(aiter, 0):
        assignments: Any = axes[ALSO].values[also]
        return "further variables", *assignments[0]
    asked = axes[REQUEST].values[request]
    assert isinstance(asked, Request)
    departures = {k: v for k, v in asked.non_default().items() if k not in _KIND_FIELDS}
    if not departures:
        return None
    requests: Sequence[Any] = axes[REQUEST].values
    kind = {name: getattr(asked, name) for name in _KIND_FIELDS}
    plain = next((n for n, each in enumerate(requests) if each == Request(**kind)), None)
    usual = aiter if present is None else present
    if plain is not None and where.index((usual, 0, plain)) in apart:
        return None  # a plain layer is treated alike: the departure is not what decides
    served = [requests[where[p][2]] for p in fine]
    refused = [requests[where[p][2]] for p in apart]
    enough = [
        name
        for name, value in departures.items()
        if not any(getattr(each, name) == value for each in served)
    ]
    if enough:
        name = max(
            enough,
            key=lambda each: sum(getattr(r, each) == departures[each] for r in refused),
        )
        return _FIELD_THEME.get(name, name), name, _word(departures[name])
    name = next(iter(departures))
    if len(departures) == 1:  # the backend serves it where the kind of request is another one
        return _FIELD_THEME.get(name, name), name, _word(departures[name])
    words = " and ".join(f"{each} {_word(value)}" for each, value in departures.items())
    return _FIELD_THEME.get(name, name), "together", words


def _word(value: object) -> str:
    return "unset" if value is None else "yes" if value is True else str(value)


def _sorted_limits(limits: Mapping[str, Mapping[str, list[str]]]) -> dict[str, Any]:
    return {
        backend: {name: in_order(values) for name, values in sorted(of_backend.items())}
        for backend, of_backend in sorted(limits.items())
    }


def in_order(words: Iterable[str]) -> list[str]:
    """Return words in order, numbers by their size."""
    return sorted(
        words, key=lambda word: (not word.isdigit(), int(word) if word.isdigit() else 0, word)
    )


def limit_words(theme: str, limits: Mapping[str, Mapping[str, Sequence[str]]]) -> str:
    """Return limits in words, backends with the same ones together."""
    together: dict[str, list[str]] = defaultdict(list)
    for backend in sorted(limits):
        parts = [
            f"{'' if name == 'together' else name + ' '}{_or(in_order(values))}"
            if list(values) != ["yes"]
            else name
            for name, values in sorted(limits[backend].items())
        ]
        together[" or ".join(parts)].append(backend)
    return f"{theme}: " + "; ".join(
        f"{_or(backends)} with {words}" for words, backends in together.items()
    )


def _or(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


@functools.cache
def _point_table(family: Family) -> tuple[_Point, ...]:
    """Return the points that a family's slices have: aiter, further variables, request."""
    names = [axis.name for axis in family.axes]
    also = len(family.axes[names.index(ALSO)].values) if ALSO in names else 1
    return tuple(
        (aiter, other, request)
        for aiter in range(family.sizes[1])
        for other in range(also)
        for request in range(family.sizes[-1])
    )


@functools.cache
def _points(family: Family) -> tuple[int, ...]:
    """Return for each cell of a slice the number of its point."""
    places = {AITER: 0, ALSO: 1, REQUEST: 2}
    cells: list[_Point] = [(0, 0, 0)]
    for axis in family.axes[1:]:
        place = places.get(axis.name)
        cells = [_moved(cell, place, value) for cell in cells for value in range(len(axis.values))]
    number = {point: index for index, point in enumerate(_point_table(family))}
    return tuple(number[cell] for cell in cells)


def _moved(point: _Point, place: int | None, value: int) -> _Point:
    aiter, also, request = point
    if place == 0:
        return value, also, request
    if place == 1:
        return aiter, value, request
    return point if place is None else (aiter, also, value)


@functools.cache
def _distances(family: Family) -> tuple[int, ...]:
    """Return for each cell of a slice how far it is from the defaults of every axis."""
    distances = [0]
    for axis in family.axes[1:]:
        steps = cover.distances(axis)
        distances = [distance + step for distance in distances for step in steps]
    return tuple(distances)


# --- conditions on the environment ----------------------------------------------------------------


def _conditions(
    of: Slice,
    labels: Sequence[int],
    differences: Sequence[Difference | Behaviour],
    numbers: set[int],
    told: set[int],
) -> list[Finding]:
    """Return the findings about cells that no limit tells."""
    codes = [
        label + 1 if label in numbers and cell not in told else 0
        for cell, label in enumerate(labels)
    ]
    if not any(codes):
        return []
    expected: list[Outcome] = [Unrecognised("")]
    got: list[Outcome] = [Unrecognised("")]
    wanted: dict[tuple[str, str], str] = {}
    for number, difference in enumerate(differences):
        if isinstance(difference, Difference):
            expected.append(_stand_in(difference.expected))
            got.append(_stand_in(difference.got))
            if difference.wanted and number in numbers:
                for answer in (difference.expected, cover.THE_EXPLICIT_ONE):
                    wanted[str(answer), str(difference.got)] = difference.wanted
        else:
            expected.append(expected[0])
            got.append(got[0])
    first = next(d for d in (differences[n] for n in numbers) if isinstance(d, Difference))
    compared = cover.Compared(
        of.family.name, of.axes, cover.Table(codes, expected), cover.Table(codes, got)
    )
    covered = cover.differences([compared], _MOST_CONDITIONS)
    found = [
        Finding(
            first.level,
            first.rule,
            "",
            condition.conjunction,
            wanted.get((str(condition.expected), str(condition.got)), str(condition.expected)),
            str(condition.got),
            condition.cells,
            *_place(of, condition.smallest),
            given=[str(given) for given in condition.where],
            named=[
                name
                for given in condition.where
                if given.name == EXPLICIT
                for name in given.values
                if name is not None
            ],
            overrides=condition.overrides,
        )
        for condition in covered.conditions
    ]
    if covered.left and covered.left_smallest is not None:
        found.append(
            Finding(
                first.level,
                first.rule,
                "",
                "elsewhere",
                "various answers",
                "others",
                covered.left,
                *_place(of, covered.left_smallest),
            )
        )
    return found


def _place(of: Slice, place: cover.Place) -> tuple[int, int]:
    """Return the number of a cell of a slice, and how far it is from the defaults."""
    number = of.family.number((0, *place.coordinates))
    return number, _distances(of.family)[number]


def _stand_in(answer: Behaviour) -> Outcome:
    """Return an outcome of a behaviour."""
    match answer.kind:
        case "Selected":
            return Selected(answer.name)
        case "Rejected":
            return Rejected("", "")
        case "Crashed":
            return Crashed(answer.name, "")
        case "TimedOut":
            return TimedOut(0)
        case "Died":
            return Died(None)
        case "Answer":
            return Selected("an answer")
    return Unrecognised(answer.name)
