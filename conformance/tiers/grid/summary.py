"""All slices' findings together: at most ten conditions, from the records that reports read."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.report.schema import sort_key
from pytest_rocm_attn.conformance.tiers.grid.cover import USUAL_GPU
from pytest_rocm_attn.conformance.tiers.grid.findings import in_order, limit_words
from pytest_rocm_attn.gpu import known_gpus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pytest_rocm_attn.conformance.report.schema import Record, Summary

MOST = 10
_COUNTS = (
    *("cells", "unanswered", "unanswerable", "decided", "compared", "uncompared", "required"),
    "advisory",
)


@dataclass
class Together:
    """Findings of several slices that say the same.

    Attributes:
        finding: the first of them, as plain data.
        smallest: the one whose smallest cell is nearest to the defaults, of all of them.
        cells: how many in all.
        gpus: where they were found.
        more: how many other conditions it stands for.
        named: the backends that their cells name.
        given: the parts that all of them have in common.
        limits: those of all of them.
        expected, got, rules: what any of them tells.
        is_the_rest: it stands for whatever was not important enough of its level.
    """

    finding: dict[str, Any]
    smallest: dict[str, Any]
    cells: int = 0
    gpus: set[str] = field(default_factory=set)
    more: int = 0
    limits: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    named: set[str] = field(default_factory=set)
    expected: set[str] = field(default_factory=set)
    got: set[str] = field(default_factory=set)
    rules: set[str] = field(default_factory=set)
    is_the_rest: bool = False

    @property
    def given(self) -> list[str]:
        return self._given if self._given is not None else list(self.finding["given"])

    _given: list[str] | None = None

    def take(self, other: Together) -> None:
        """Stand for another one's cells as well."""
        self.cells += other.cells
        self.gpus |= other.gpus
        self.named |= other.named
        self.expected |= other.expected
        self.got |= other.got
        self.rules |= other.rules
        self.smallest = min(self.smallest, other.smallest, key=_distance)
        if self.finding["theme"] and self.finding["theme"] == other.finding["theme"]:
            self._add_limits(other.limits)
            self.more += other.more
        else:
            self._given = [part for part in self.given if part in other.given]
            self.more += 1 + other.more

    def add(self, finding: dict[str, Any], gfx: str) -> None:
        self.cells += finding["cells"]
        self.gpus.add(gfx)
        self.expected.add(finding["expected"])
        self.got.add(finding["got"])
        self.rules.add(finding["rule"])
        self.smallest = min(self.smallest, finding, key=_distance)
        self.named.update(finding.get("named", ()))
        self._add_limits(finding["limits"])

    def _add_limits(self, limits: Mapping[str, Mapping[str, Iterable[str]]]) -> None:
        for backend, of_backend in limits.items():
            for name, values in of_backend.items():
                mine = self.limits.setdefault(backend, {}).setdefault(name, [])
                mine[:] = in_order({*mine, *values})

    def where(self, gpus: Sequence[str]) -> str:
        """Return the condition, with the GPUs where these are not all."""
        found = self.finding
        where = limit_words(found["theme"], self.limits) if found["theme"] else found["where"]
        if self.more:
            common = " and ".join(self.given) if not found["theme"] else ""
            # Without anything in common the first of them must not pass for all.
            more = f"{self.more + 1} conditions" if common else f"and {self.more} other conditions"
            where = f"{common or where} ({more})"
        elif len(self.gpus) < len(gpus):
            where += f" on {', '.join(gfx for gfx in gpus if gfx in self.gpus)}"
        return where

    def data(self, gpus: Sequence[str]) -> dict[str, Any]:
        """Return it as plain data: a condition of a record.Summary."""
        found = self.finding
        return {
            "level": "declared" if found["declared"] else found["level"],
            "rule": _one(self.rules, "various rules"),
            "where": self.where(gpus),
            "expected": _one(self.expected, "various answers"),
            "got": _one(self.got, "others"),
            "cells": self.cells,
            "smallest": self.smallest["smallest_words"],
            "again": self.smallest["again"],
        }


def _one(words: set[str], various: str) -> str:
    """Return what all say; else that they say various things."""
    (first, *others) = words
    return various if others else first


def together(records: Sequence[Record], most: int = MOST) -> list[Together]:
    """Return the findings of these records, as few as asked for, the most important first.

    Findings that say the same in several slices are one. Where that is not few enough, those with
    the same answers become one that says what they have in common, and then the least important of
    a level become one; what is only shown before what fails.
    """
    found = _merge(
        records,
        lambda f: (f["declared"], f["level"], f["rule"], _of(f), f["expected"], f["got"]),
    )
    for step in _STEPS:
        if len(found) <= most:
            return found
        found = step(found, most)
    return found


def _distance(finding: Mapping[str, Any]) -> tuple[int, bool, str]:
    """Sort key: how far a finding's smallest cell is from the defaults, on the usual GPU first."""
    words = finding["smallest_words"]
    return finding["distance"], f" {USUAL_GPU}," not in words, words


def _of(finding: dict[str, Any]) -> str:
    return str(finding["theme"] or finding["where"])


def _merge(records: Iterable[Record], key: Any) -> list[Together]:
    groups: dict[Any, Together] = {}
    for record in sorted(records, key=sort_key):  # whatever order they were run in
        for finding in record["details"].get("findings", ()):
            group = groups.setdefault(key(finding), Together(finding, finding))
            group.add(finding, record["gpu"]["gfx"] if record["gpu"] else "")
    return sorted(groups.values(), key=_importance)


def _coarsen(found: Sequence[Together], key: Any, level: str) -> list[Together]:
    """Let those of a level with the same key be one; of any level where level is ""."""
    groups: dict[Any, Together] = {}
    for one in found:  # the most important first: it represents its group
        mine = not level or one.finding["level"] == level
        name = ("together", key(one.finding)) if mine else ("alone", id(one))
        if name in groups:
            groups[name].take(one)
        else:
            groups[name] = one
    return sorted(groups.values(), key=_importance)


def _fold(found: Sequence[Together], level: str, most: int) -> list[Together]:
    """Let the least important of a level be one, so that there are not more than most in all."""
    mine = [one for one in found if one.finding["level"] == level]
    excess = len(found) - most
    if excess <= 0 or len(mine) < 2:
        return list(found)
    kept = max(0, len(mine) - excess - 1)
    rest = mine[kept]
    for one in mine[kept + 1 :]:
        rest.take(one)
    rest.is_the_rest = True
    folded = {id(one) for one in mine[kept + 1 :]}
    return sorted((one for one in found if id(one) not in folded), key=_importance)


def _same_answers(finding: dict[str, Any]) -> Any:
    return (*_same_answer(finding), finding["expected"])


def _same_answer(finding: dict[str, Any]) -> Any:
    return finding["declared"], finding["rule"], finding["theme"], finding["got"]


# From what loses least to what loses most.
_STEPS: tuple[Callable[[Sequence[Together], int], list[Together]], ...] = (
    lambda found, most: _coarsen(found, _same_answers, "advisory"),
    lambda found, most: _coarsen(found, _same_answer, "advisory"),
    lambda found, most: _coarsen(found, _same_answers, "required"),
    lambda found, most: _fold(found, "advisory", most),
    lambda found, most: _coarsen(found, _same_answer, "required"),
    lambda found, most: _fold(found, "required", most),
    lambda found, most: _coarsen(found, lambda finding: (), ""),
)


def _importance(one: Together) -> tuple[Any, ...]:
    found = one.finding
    replaced = found.get("overrides", False)
    return (
        found["level"] != "required",
        one.is_the_rest,
        found["declared"],
        bool(found["theme"]),
        not replaced,
        # What overrides every name is worse than what overrides one.
        -len(one.named) if replaced else 0,
        -one.cells,
        found["where"],
    )


def summary(records: Sequence[Record]) -> Summary:
    """Return the results of a run's slices together."""
    found = together(records)
    found_on = {record["gpu"]["gfx"] for record in records if record["gpu"]}
    gpus = [gfx for gfx in known_gpus() if gfx in found_on]
    counts: Counter[str] = Counter()
    for record in records:
        counts.update({name: record["details"]["counts"].get(name, 0) for name in _COUNTS})
    answered = counts["cells"] - counts["unanswered"] - counts["unanswerable"]
    told = [
        (
            f"{answered:,} of {counts['cells']:,} cells answered in {len(records)} slices"
            f" ({counts['decided']:,} decided by a rule, {counts['compared']:,} compared):"
            f" {counts['required']:,} differ and fail the run,"
            f" {counts['advisory']:,} differ without failing it, in {len(found)} conditions"
        )
    ]
    if counts["unanswered"]:
        told.append(
            f"{counts['unanswered']:,} cells were not reached within the budget and say nothing;"
            " run again to go on from there, or raise --rocm-attn-grid-budget"
        )
    if counts["uncompared"]:
        told.append(
            f"{counts['uncompared']:,} cells have no answer to be compared with: the other selector"
            " did not answer them in time"
        )
    if counts["unanswerable"]:
        told.append(
            f"{counts['unanswerable']:,} cells need more than the mocked platform and say nothing"
        )
    return {"tier": "grid", "told": told, "conditions": [one.data(gpus) for one in found]}
