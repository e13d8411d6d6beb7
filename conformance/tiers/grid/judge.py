"""Judging a slice: what came, against the contract's rules and against another selector's answers.

A cell that a rule decides is judged by the rule, at the rule's level. Beyond that it is compared
with the other selector: two refusals agree whatever their words, a crash agrees with nothing. What
the other selector is there for decides the level: the reference fills the contract's silences, so a
difference from it is advisory; a baseline, or a selector that the user names, is the standard.
"""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pytest_rocm_attn.conformance.causes.conditions import THE_NAMED_ONE, Change
from pytest_rocm_attn.conformance.isolation.inside.cells import UNANSWERED
from pytest_rocm_attn.conformance.promise.grid import rules as rules_module
from pytest_rocm_attn.conformance.promise.grid.outcomes import ANSWERS, Behaviour, Table, answer_of
from pytest_rocm_attn.conformance.tiers.grid.labels import (
    AGREED_REFUSAL,
    Labelled,
    Labeller,
    with_named,
)
from pytest_rocm_attn.conformance.tiers.grid.tables import distances

if TYPE_CHECKING:
    from array import array
    from collections.abc import Callable

    from pytest_rocm_attn.conformance.promise.grid.rules import Rule
    from pytest_rocm_attn.conformance.promise.grid.space import Slice


@dataclass(frozen=True)
class Standard:
    """What a slice is judged by.

    Args:
        name: of the other selector or baseline: "the-reference", "vllm-0.18.1".
        level: of a difference from it.
        rules: the contract's, if it is what counts.
    """

    name: str
    level: str
    rules: tuple[Rule, ...] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """Cells of a slice that differ alike.

    Attributes:
        change: how they differ; a backend that the cells name is the named one.
        cells: how many they are.
        smallest: the number of the one nearest to the defaults.
        distance: how far that one is from them.
    """

    change: Change
    cells: int
    smallest: int
    distance: int


@dataclass
class Judged:
    """The result of a slice.

    Attributes:
        cells: how many it has.
        unanswered: how many were not reached in time.
        unanswerable: how many the mocked platform could not answer.
        decided: how many of those answered a rule decides.
        compared: how many of those answered were compared with an answer of the other selector.
        uncompared: how many of those answered the other selector did not answer in time.
        required: how many differ and fail the run.
        advisory: how many differ and are shown only.
        crashed: how many of the required ones are not an answer at all.
        findings: the ways in which cells differ, required ones first, then the largest.
        differing: the same, with the name of each backend -> how many cells.
        labelled: how each cell differs, for causes.
        rules: the rules that decide some of its cells.
    """

    cells: int
    labelled: Labelled
    unanswered: int = 0
    unanswerable: int = 0
    decided: int = 0
    compared: int = 0
    uncompared: int = 0
    required: int = 0
    advisory: int = 0
    crashed: int = 0
    findings: list[Finding] = field(default_factory=list)
    differing: Counter[Change] = field(default_factory=Counter)
    rules: tuple[str, ...] = ()


def judge(
    of: Slice,
    got: Table,
    other: Table | None,
    standard: Standard,
    declares: Callable[[str, Behaviour], bool] = lambda rule, came: False,
) -> Judged:
    """Judge the answers to a slice.

    Args:
        of: the slice.
        got: what the selector under test answered.
        other: what the one that it is compared with answered; None if it is compared with none.
        standard: what to judge by.
        declares: says whether the fork declares that this answer comes where this rule is broken.
    """
    judging = _Judging(got, other, standard, declares)
    labeller = Labeller(of.axes, judging.label)
    ruled = rules_module.applied(standard.rules, of) if standard.rules else bytes(of.cells)
    others = other.codes if other is not None else [UNANSWERED] * of.cells
    labels = labeller.of(got.codes, others, ruled)
    changes = [one.told for one in labeller.found]
    agreed = [AGREED_REFUSAL if one.found == AGREED_REFUSAL.got else None for one in labeller.found]
    judged = Judged(
        of.cells,
        Labelled(
            of.family.name,
            of.axes,
            labels,
            [one or other for one, other in zip(changes, agreed, strict=True)],
        ),
        rules=tuple(standard.rules[n - 1].id for n in set(ruled) if n),
    )
    nearest = _nearest(of, labels, {n for n, change in enumerate(changes) if change is not None})
    found: dict[Change, list[tuple[int, int, int]]] = {}
    for label, count in Counter(labels).items():
        one = labeller.found[label]
        if one.found in (_UNANSWERED, _UNANSWERABLE):
            name = "unanswered" if one.found == _UNANSWERED else "unanswerable"
            setattr(judged, name, getattr(judged, name) + count)
            continue
        judged.decided += count if one.ruled else 0
        if other is not None:
            judged.compared += count if one.other not in (_UNANSWERED, _UNANSWERABLE) else 0
            judged.uncompared += count if one.other == _UNANSWERED else 0
        if one.told is not None:
            assert isinstance(one.found, Change)
            judged.differing[one.found] += count
            cell, distance = nearest[label]
            found.setdefault(one.told, []).append((distance, cell, count))
            if one.told.level == "required":
                judged.required += count
                judged.crashed += count if one.told.got.kind not in ANSWERS else 0
            else:
                judged.advisory += count
    judged.findings = [
        Finding(change, sum(count for _, _, count in labelled), *min(labelled)[1::-1])
        for change, labelled in found.items()
    ]
    judged.findings.sort(key=lambda one: (one.change.level != "required", -one.cells, one.smallest))
    return judged


def _nearest(of: Slice, labels: array[int], wanted: set[int]) -> dict[int, tuple[int, int]]:
    """Return for each label the number of the cell nearest to the defaults, and how far it is."""
    far = _distances(of)
    found: dict[int, tuple[int, int]] = {}
    for cell, label in enumerate(labels):
        if label in wanted and (label not in found or far[cell] < found[label][1]):
            found[label] = cell, far[cell]
    return found


@functools.cache
def _distances(of: Slice) -> list[int]:
    """Return for each cell of a slice how far it is from the defaults."""
    sums = [0]
    for steps in map(distances, of.axes):
        sums = [distance + step for distance in sums for step in steps]
    return sums


_UNANSWERED = Behaviour("Unanswered")
_UNANSWERABLE = Behaviour("Unanswerable")
_ANY_ANSWER = Behaviour("Answer")


@dataclass(frozen=True, slots=True)
class _Label:
    """What there is to say of a cell.

    Attributes:
        found: how it differs; an answer if it does not, or why it is not judged.
        told: how it differs, with a named backend as such.
        other: what the other selector did.
        ruled: a rule decides it.
    """

    found: Change | Behaviour
    told: Change | None
    other: Behaviour
    ruled: bool


@dataclass
class _Judging:
    """Says of a combination of answer, other answer, rule and named backend how it differs."""

    got: Table
    other: Table | None
    standard: Standard
    declares: Callable[[str, Behaviour], bool]

    def label(self, code: int, other: int, rule: int, name: str | None) -> _Label:
        expected = self._answer(self.other, other)
        if expected.kind == "TimedOut":  # that does not show what the answer would have been
            expected = _UNANSWERED
        found = self._judge(self._answer(self.got, code), expected, rule, name)
        if not isinstance(found, Change):
            return _Label(found, None, expected, bool(rule))
        if self.declares(found.rule, found.got):
            found = replace(found, declared=True)
        return _Label(found, with_named(found, name), expected, bool(rule))

    def _answer(self, table: Table | None, code: int) -> Behaviour:
        if table is None or code >= len(table.outcomes):
            return _UNANSWERED
        return answer_of(table.outcomes[code]) or _UNANSWERABLE

    def _judge(
        self, got: Behaviour, expected: Behaviour, number: int, name: str | None
    ) -> Change | Behaviour:
        if got in (_UNANSWERED, _UNANSWERABLE):
            return got
        if number:
            rule = self.standard.rules[number - 1]
            if not rule.expect.allows(got, name):
                return Change(_expected(rule, name), got, rule.level, rule.id, str(rule.expect))
        answered = got.kind in ANSWERS
        if expected in (_UNANSWERED, _UNANSWERABLE):
            # Nothing to compare with; what is not an answer is wrong in any case.
            return got if answered else Change(_ANY_ANSWER, got, "required", self.standard.name)
        if got == expected and (answered or self.standard.level != "advisory"):
            return got  # or a baseline that crashed there too
        level = self.standard.level if answered else "required"
        return Change(_ANY_ANSWER if expected == got else expected, got, level, self.standard.name)


def _expected(rule: Rule, name: str | None) -> Behaviour:
    """Return one answer that a rule allows, which tells alike cells together."""
    expect = rule.expect
    if expect.backend:
        return Behaviour("Selected", expect.backend)
    if expect.named:
        return Behaviour("Selected", name) if name else THE_NAMED_ONE
    return Behaviour("Rejected")
