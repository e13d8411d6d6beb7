"""Axes with words: how a set of an axis's values is said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_rocm_attn.conformance.grid.boxes import Facets

Kind = Literal["flag", "explicit", "gpu", "choice", "record"]
_MANY = 4  # values that are listed; of more, the ones left out are listed when these are fewer


@dataclass(frozen=True, slots=True)
class Dimension:
    """One axis, as the cover of differences sees it.

    Args:
        name: what users call it: the variable, "gfx", "aiter", "request".
        values: for a flag and the explicit choice the texts, None for unset; for a record any
            hashable, told by its facets; for others what they are called.
        kind: how a set of values is said.
        distances: how far each value is from the default, 0 for the default itself; left empty,
            the position: the first is the default.
        facets: of a record: (name, the value of each record) for every facet, plain ones first.
    """

    name: str
    values: tuple[Any, ...]
    kind: Kind
    distances: tuple[int, ...] = ()
    facets: tuple[tuple[str, tuple[Any, ...]], ...] = ()

    def distance(self, value: int) -> int:
        """Return how far the value of that index is from the default."""
        return self.distances[value] if self.distances else value

    def facet_sets(self) -> Facets:
        """Return for each facet, per value that it takes, the records with it as bits."""
        sets = []
        for _, of_records in self.facets:
            by_value: dict[Any, int] = {}
            for record, value in enumerate(of_records):
                by_value[value] = by_value.get(value, 0) | 1 << record
            sets.append(tuple(by_value.values()))
        return tuple(sets)


@dataclass(frozen=True, slots=True)
class Given:
    """A restriction of one axis or facet: it has one of these values.

    Attributes:
        name: the axis's or the facet's.
        values: those allowed, in the axis's order.
        others: those excluded, in the axis's order.
        kind: the axis's.
    """

    name: str
    values: tuple[Any, ...]
    others: tuple[Any, ...]
    kind: Kind

    def __str__(self) -> str:
        match self.kind:
            case "flag":
                return self._flag()
            case "explicit":
                return self._explicit()
            case "gpu":
                return f"{self.name} {self._listed()}"
        return f"{self.name} {self._listed()}" if len(self.values) > 1 else self._single()

    def _single(self) -> str:
        value = self.values[0]
        if value is True:
            return self.name
        if value is False:
            return f"not {self.name}"
        return (
            f"{self.name} {_text(value)}"
            if self.kind == "choice"
            else f"{self.name}={_text(value)}"
        )

    def _flag(self) -> str:
        given = [value for value in self.values if value is not None]
        if None in self.values:
            return f"{self.name} unset" + (f" or {_join(given, 'or')}" if given else "")
        if None in self.others and len(self.others) == 1 and len(given) > 1:
            return f"{self.name} set"
        return f"{self.name}={_join(given, 'or')}"

    def _explicit(self) -> str:
        given = [value for value in self.values if value is not None]
        if not given:
            return "no explicit backend"
        others = [value for value in self.others if value is not None]
        if not others:
            return "an explicit backend is given"
        if _by_exclusion(given, others):
            named = f"an explicit backend other than {_join(others, 'and')}"
        else:
            named = f"explicit {_join(given, 'or')}"
        return f"no explicit backend or {named}" if None in self.values else named

    def _listed(self) -> str:
        if _by_exclusion(self.values, self.others):
            return f"other than {_join(self.others, 'and')}"
        if len(self.values) == 1:
            return _text(self.values[0])
        return f"in {', '.join(map(_text, self.values))}"


def _by_exclusion(values: Sequence[Any], others: Sequence[Any]) -> bool:
    return len(values) > _MANY and 2 * len(others) <= len(values)


def _text(value: Any) -> str:
    return "unset" if value is None else "''" if value == "" else str(value)


def _join(values: Sequence[Any], word: str) -> str:
    texts = [_text(value) for value in values]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} {word} {texts[-1]}"


def constraints(dimension: Dimension, chosen: Sequence[int]) -> tuple[Given, ...]:
    """Return what restricts an axis to the chosen values; nothing when they are all.

    A record's set must be a conjunction over its facets; each facet that restricts it is told.
    """
    if len(chosen) == len(dimension.values):
        return ()
    if dimension.facets:
        return _facet_constraints(dimension, chosen)
    inside = set(chosen)
    return (
        Given(
            dimension.name,
            tuple(dimension.values[value] for value in chosen),
            tuple(v for number, v in enumerate(dimension.values) if number not in inside),
            dimension.kind,
        ),
    )


def _facet_constraints(dimension: Dimension, chosen: Sequence[int]) -> tuple[Given, ...]:
    wanted = sum(1 << record for record in chosen)
    told: dict[int, Given] = {}
    allowed: dict[int, int] = {}
    for number, (name, of_records) in enumerate(dimension.facets):
        inside = list(dict.fromkeys(of_records[record] for record in chosen))
        outside = [value for value in dict.fromkeys(of_records) if value not in inside]
        if not outside:
            continue
        allowed[number] = sum(1 << r for r, value in enumerate(of_records) if value in inside)
        told[number] = Given(name, tuple(inside), tuple(outside), "record")
    everything = (1 << len(dimension.values)) - 1
    # What the other facets say already is left out, the longest and latest facets first.
    for number in sorted(told, key=lambda number: (-len(told[number].values), -number)):
        rest = everything
        for other in told:
            if other != number:
                rest &= allowed[other]
        if rest == wanted:
            del told[number]
    return tuple(told.values())
