"""Conditions as trees: the same answers as the functions, or an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pytest_rocm_attn import Flags, Gpu, Request
from pytest_rocm_attn.backends.atlas.conditions import Tree, UnknownConditionError, tree
from pytest_rocm_attn.backends.policy import Policy
from pytest_rocm_attn.backends.releases import policy_of

_COMPARE: dict[str, Callable[[int, int], bool]] = {
    "==": lambda a, b: a == b,
    "<=": lambda a, b: a <= b,
    ">=": lambda a, b: a >= b,
    "<": lambda a, b: a < b,
    ">": lambda a, b: a > b,
}


def value(grown: Tree, request: Request, flags: Flags, gpu: Gpu) -> bool:
    """Return what a tree says of a question."""
    while not isinstance(grown, bool):
        (subject, name, *rest), branches = grown
        if subject == "request":
            fact = getattr(request, str(name))
        elif subject == "none":
            fact = getattr(request, str(name)) is None
        elif subject == "flag":
            fact = flags[str(name)]
        elif subject == "gpu":
            fact = getattr(gpu, str(name))
        else:
            number = getattr(request, str(subject))
            sign, bound = (name, rest[0]) if name != "%" else (rest[1], rest[2])
            fact = _COMPARE[str(sign)](number % int(rest[0]) if name == "%" else number, int(bound))
        grown = next(branch for answer, branch in branches if answer == fact)
    return grown


def conditions(policy: Policy) -> list[tuple[Callable[..., bool], tuple[str, ...]]]:
    """Return every condition of a policy with what it is asked of."""
    every = [*policy.limits.values(), *policy.when_named.values()]
    return [
        *((branch.takes, ("request",)) for branch in policy.branches),
        *(
            (predicate.holds, ("request", "flags", "gpu"))
            for branch in policy.branches
            for rule in branch.rules
            for predicate in rule.when
        ),
        *((limit.holds, ("request", "gpu")) for limits in every for limit in limits),
    ]


@pytest.mark.parametrize("release", ["0.11", "pr-26980", "0.33"])
def test_the_tree_of_each_condition_says_what_the_condition_says(
    release: str, draw: Callable[[int, int], list[dict[str, Any]]]
) -> None:
    questions: list[dict[str, Any]] = [
        {
            "request": Request(**asked["request"]),
            "flags": Flags(asked["environ"]),
            "gpu": Gpu(asked["gpu"], asked["aiter"]),
        }
        for asked in draw(60, 7)
    ]
    said, known = set(), dict[Any, Tree]()
    for condition, needs in conditions(policy_of(release)):
        grown = tree(condition, known)
        for question in questions:
            expected = condition(*(question[name] for name in needs))
            assert value(grown, **question) == expected, (condition, question)
            said.add(expected)
    assert said == {False, True}


@pytest.mark.parametrize(
    "condition",
    [
        pytest.param(lambda request: request.no_such_field, id="another-field"),
        pytest.param(lambda request: request.non_default(), id="a-method"),
        pytest.param(lambda request: request.head_size // 2 == 32, id="another-operation"),
        pytest.param(lambda request: request.head_size + 1 > 64, id="a-sum"),
        pytest.param(lambda request: request.head_size in {64, 128}, id="a-set"),
        pytest.param(lambda request: f"{request.head_size}" == "64", id="a-format"),
        pytest.param(lambda request: str(request.head_size).startswith("6"), id="a-part-of-digits"),
        pytest.param(lambda request: request.head_size % 8 % 3 == 0, id="a-remainder-twice"),
        pytest.param(lambda request: request.head_size > request.num_heads, id="two-numbers"),
        pytest.param(lambda flags: flags["--attention-backend"], id="a-free-text"),
        pytest.param(lambda flags: flags["Q_SCALE_CONSTANT"], id="a-number-of-the-environment"),
        pytest.param(lambda gpu: gpu.lds_bytes > 65536, id="another-fact-of-the-gpu"),
    ],
)
def test_a_condition_that_cannot_be_followed_is_an_error_and_no_guess(
    condition: Callable[..., bool],
) -> None:
    with pytest.raises(UnknownConditionError, match="^a condition "):
        tree(condition)


def test_conditions_with_the_same_code_and_bound_values_are_grown_once() -> None:
    def at_least(size: int) -> Callable[..., bool]:
        return lambda request: request.head_size >= size

    known: dict[Any, Tree] = {}
    first, same, other = (tree(at_least(size), known) for size in (32, 32, 64))
    assert len(known) == 2
    assert first is same
    assert first != other
