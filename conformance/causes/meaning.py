"""What a change means to a reader, and which changes are the same to them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_rocm_attn.conformance.causes.cause import (
    A_BACKEND,
    A_REFUSAL,
    ANOTHER_ONE,
    OTHER_VARIABLES,
    VARIOUS,
)
from pytest_rocm_attn.conformance.causes.cells import KIND, is_field, is_variable, usual
from pytest_rocm_attn.conformance.causes.conditions import THE_NAMED_ONE, Change
from pytest_rocm_attn.conformance.promise.grid.design import SWITCHES
from pytest_rocm_attn.conformance.promise.grid.outcomes import Behaviour
from pytest_rocm_attn.conformance.promise.grid.space import AITER
from pytest_rocm_attn.flags import EXPLICIT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_rocm_attn.conformance.causes.cause import Cause
    from pytest_rocm_attn.conformance.causes.conditions import Condition


def theme_of(condition: Condition) -> str:
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


def meaning_of(condition: Condition, theme: str) -> Change:
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


def only(answers: Sequence[Behaviour], otherwise: Behaviour) -> Behaviour:
    """Return the one backend that all of these are, if what stands for several is just that one."""
    several = otherwise in (A_BACKEND, ANOTHER_ONE, VARIOUS)
    return answers[0] if several and len(set(answers)) == 1 else otherwise


def _names(cause: Cause) -> bool:
    """Whether its cells name a backend."""
    return any(one.name == EXPLICIT and None not in one.values for one in cause.where)


def kind_of_change(cause: Cause) -> Change:
    """Return what is equal for changes that differ in what is asked for alone."""
    change = cause.change
    expected, got = change.expected, change.got
    if got == A_REFUSAL:
        expected = THE_NAMED_ONE if _names(cause) else A_BACKEND
    elif expected == A_REFUSAL and _names(cause):
        got = THE_NAMED_ONE
    elif got == THE_NAMED_ONE:
        expected = ANOTHER_ONE
    return replace(change, expected=expected, got=got)


def share_an_answer(one: tuple[Cause, Change], other: tuple[Cause, Change]) -> bool:
    """Whether what two causes change has an answer in common, of changes that can be one.

    Args:
        one: a cause, and the kind of its change.
        other: another one.
    """
    (first, mine), (second, theirs) = one, other
    if mine.expected != theirs.expected and mine.got != theirs.got:
        return False
    if (mine.level, mine.rule, mine.declared) != (theirs.level, theirs.rule, theirs.declared):
        return False
    answers = (mine.expected, mine.got, theirs.expected, theirs.got)
    if mine.wanted or theirs.wanted or any(map(no_answer, answers)):
        return False
    refusals = [(kind.expected == A_REFUSAL, kind.got == A_REFUSAL) for kind in (mine, theirs)]
    variables = first.variables, second.variables
    return refusals[0] == refusals[1] and (
        variables[0] <= variables[1] or variables[1] <= variables[0]
    )


def any_of(answers: Sequence[tuple[Behaviour, int]]) -> Behaviour:
    """Return the answers of several changes as one, those of most cells first.

    Args:
        answers: each with the number of its cells.
    """
    counts: Counter[Behaviour] = Counter()
    for answer, cells in answers:
        counts[answer] += cells
    if len(counts) == 1:
        return answers[0][0]
    several = (A_BACKEND, ANOTHER_ONE, THE_NAMED_ONE)
    if any(one.kind != "Selected" or one in several for one in counts):
        return A_BACKEND
    names = [one.name for one, _ in counts.most_common()]
    return Behaviour("Selected", f"{', '.join(names[:-1])} or {names[-1]}")
