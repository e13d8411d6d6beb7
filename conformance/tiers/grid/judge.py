"""Judging a slice: what came, against the contract's rules and against another selector's answers.

A cell that a rule decides is judged by the rule, at the rule's level. Beyond that it is compared
with the other selector: two refusals agree whatever their words, a crash agrees with nothing. What
the other selector is there for decides the level: the reference fills the contract's silences, so a
difference from it is advisory; a baseline, or a selector that the user names, is the standard.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pytest_rocm_attn.conformance.isolation.inside.cells import UNANSWERED
from pytest_rocm_attn.conformance.promise.grid import rules as rules_module
from pytest_rocm_attn.conformance.promise.grid.outcomes import Behaviour, behaviour
from pytest_rocm_attn.conformance.tiers.grid.cover import THE_EXPLICIT_ONE
from pytest_rocm_attn.conformance.tiers.grid.evaluate import UNANSWERABLE
from pytest_rocm_attn.conformance.tiers.grid.findings import Difference, Finding, find
from pytest_rocm_attn.flags import EXPLICIT
from pytest_rocm_attn.outcome import Crashed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pytest_rocm_attn.conformance.promise.grid.rules import Rule
    from pytest_rocm_attn.conformance.promise.grid.space import Slice
    from pytest_rocm_attn.outcome import Outcome

ANSWERS = ("Selected", "Rejected")  # any other outcome is not an answer


@dataclass(frozen=True)
class Answers:
    """The outcomes of a slice's cells.

    Attributes:
        codes: per cell, a position in outcomes, or UNANSWERED.
        outcomes: what the codes stand for.
    """

    codes: Sequence[int]
    outcomes: Sequence[Outcome]


@dataclass(frozen=True)
class Standard:
    """What a slice is judged by.

    Args:
        name: of the other selector or baseline: "the-reference", "vllm-0.18.1".
        level: of a difference from it.
        rules: the contract's, where it is what counts.
    """

    name: str
    level: str
    rules: tuple[Rule, ...] = ()


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
        crashed: how many of the required ones are no answer at all.
        findings: the differences; a cell may be under several.
        differing: each way in which cells differ -> how many do, each counted once.
        rules: the rules that decide some of its cells.
    """

    cells: int
    unanswered: int = 0
    unanswerable: int = 0
    decided: int = 0
    compared: int = 0
    uncompared: int = 0
    required: int = 0
    advisory: int = 0
    crashed: int = 0
    findings: list[Finding] = field(default_factory=list)
    differing: Counter[Difference] = field(default_factory=Counter)
    rules: tuple[str, ...] = ()

    def cells_of(self, findings: Iterable[Finding]) -> int:
        """Return how many cells are under some findings; they are all, or none, of each rule's."""
        keys = {(f.level, f.rule, f.declared) for f in findings}
        return sum(
            count for d, count in self.differing.items() if (d.level, d.rule, d.declared) in keys
        )


def judge(
    of: Slice,
    got: Answers,
    other: Answers | None,
    standard: Standard,
    declares: Callable[[str, Behaviour], bool] = lambda rule, came: False,
) -> Judged:
    """Judge the answers to a slice.

    Args:
        of: the slice.
        got: what came of the selector under test.
        other: what came of the one that it is compared with; None where it is compared with none.
        standard: what to judge by.
        declares: says whether the fork declares that this answer comes where this rule is broken.
    """
    labeller = _Labeller(of, got, other, standard, declares)
    ruled = rules_module.applied(standard.rules, of) if standard.rules else bytes(of.cells)
    others = other.codes if other is not None else [UNANSWERED] * of.cells
    sides = [labeller.other(code) for code in others]
    choices = _choices(of)
    labels = [labeller[key] for key in zip(got.codes, others, ruled, choices, strict=True)]
    judged = Judged(of.cells, rules=tuple(standard.rules[n - 1].id for n in set(ruled) if n))
    for key, count in Counter(zip(labels, ruled, sides, strict=True)).items():
        label, rule, side = key
        difference = labeller.found[label]
        if difference in (_UNANSWERED, _UNANSWERABLE):
            name = "unanswered" if difference == _UNANSWERED else "unanswerable"
            setattr(judged, name, getattr(judged, name) + count)
            continue
        judged.decided += count if rule else 0
        if other is not None:
            judged.compared += count if side not in (_UNANSWERED, _UNANSWERABLE) else 0
            judged.uncompared += count if side == _UNANSWERED else 0
        if isinstance(difference, Difference):
            judged.differing[difference] += count
            if difference.level == "required":
                judged.required += count
                judged.crashed += count if difference.got.kind not in ANSWERS else 0
            else:
                judged.advisory += count
    judged.findings = find(of, labels, labeller.found)
    return judged


_UNANSWERED = Behaviour("Unanswered")
_UNANSWERABLE = Behaviour("Unanswerable")
_ANY_ANSWER = Behaviour("Answer")


class _Labeller(dict[tuple[int, int, int, int], int]):
    """What becomes of a combination of answer, other answer, rule and named backend, worked out once."""

    def __init__(
        self,
        of: Slice,
        got: Answers,
        other: Answers | None,
        standard: Standard,
        declares: Callable[[str, Behaviour], bool],
    ) -> None:
        super().__init__()
        self.found: list[Difference | Behaviour] = []
        self._numbers: dict[Difference | Behaviour, int] = {}
        self._standard = standard
        self._declares = declares
        self._got = [_answer(outcome) for outcome in got.outcomes]
        self._other = [_answer(outcome) for outcome in other.outcomes] if other else []
        axis = next((axis for axis in of.axes if axis.name == EXPLICIT), None)
        self._names = axis.values if axis is not None else (None,)

    def __missing__(self, key: tuple[int, int, int, int]) -> int:
        found = self._judge(*key)
        if isinstance(found, Difference) and self._declares(found.rule, found.got):
            found = replace(found, declared=True)
        number = self._numbers.setdefault(found, len(self.found))
        if number == len(self.found):
            self.found.append(found)
        self[key] = number
        return number

    def other(self, code: int) -> Behaviour:
        """Return what the other selector did. A time that ran out is not an answer."""
        if code >= len(self._other) or self._other[code].kind == "TimedOut":
            return _UNANSWERED
        return self._other[code]

    def _judge(
        self, code: int, other: int, rule_number: int, choice: int
    ) -> Difference | Behaviour:
        if code == UNANSWERED:
            return _UNANSWERED
        got = self._got[code]
        if got == _UNANSWERABLE:
            return got
        chosen = self._names[choice]
        name = chosen if isinstance(chosen, str) else None
        if rule_number:
            rule = self._standard.rules[rule_number - 1]
            if not rule.expect.allows(got, name):
                return Difference(rule.level, rule.id, *_expected(rule, name), got)
        expected = self.other(other)
        if expected in (_UNANSWERED, _UNANSWERABLE):
            # Nothing to compare with; an outcome that is not an answer is wrong in any case.
            if got.kind in ANSWERS:
                return got
            return Difference("required", self._standard.name, _ANY_ANSWER, "", got)
        if got == expected and (got.kind in ANSWERS or self._standard.level == "required"):
            return got  # or a baseline that crashed there too
        level = self._standard.level if got.kind in ANSWERS else "required"
        wanted = _ANY_ANSWER if expected == got else expected
        return Difference(level, self._standard.name, wanted, "", got)


def _answer(outcome: Outcome) -> Behaviour:
    """Return the answer that an outcome stands for; a limit of the mock says nothing about the selector."""
    if isinstance(outcome, Crashed) and outcome.error == UNANSWERABLE:
        return _UNANSWERABLE
    return behaviour(outcome)


def _expected(rule: Rule, name: str | None) -> tuple[Behaviour, str]:
    """Return one answer that a rule allows, for telling alike cells together, and all in words."""
    expect = rule.expect
    if expect.backend:
        return Behaviour("Selected", expect.backend), str(expect)
    if expect.named:
        return Behaviour("Selected", name) if name else THE_EXPLICIT_ONE, str(expect)
    return Behaviour("Rejected"), str(expect)


def _choices(of: Slice) -> list[int]:
    """Return for each cell of a slice the position of the explicit choice."""
    choices = [0]
    for axis in of.axes:
        positions = range(len(axis.values))
        choices = [
            position if axis.name == EXPLICIT else before
            for before in choices
            for position in positions
        ]
    return choices
