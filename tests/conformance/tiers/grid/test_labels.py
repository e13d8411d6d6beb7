"""From labels of cells to conditions and causes: exactness as a law, then what they say exactly."""

from __future__ import annotations

import functools
import itertools
import operator
import random
from array import array
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

import hypothesis
import pytest
from hypothesis import strategies as st

from pytest_rocm_attn import Request
from pytest_rocm_attn.conformance.causes.cause import Cause, Explained
from pytest_rocm_attn.conformance.causes.cells import Cells
from pytest_rocm_attn.conformance.causes.conditions import (
    THE_NAMED_ONE,
    Change,
    Condition,
    Given,
)
from pytest_rocm_attn.conformance.causes.words import condition_words
from pytest_rocm_attn.conformance.promise.grid.outcomes import Behaviour, behaviour
from pytest_rocm_attn.conformance.promise.grid.space import Axis
from pytest_rocm_attn.conformance.tiers.grid.labels import (
    AGREED_REFUSAL,
    Labelled,
    explained,
    with_named,
)
from pytest_rocm_attn.conformance.tiers.grid.tables import alike, take
from pytest_rocm_attn.flags import EXPLICIT, MLA, USE_AITER
from pytest_rocm_attn.outcome import Outcome, Rejected, Selected

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

A, B, C = "TRITON_ATTN", "ROCM_ATTN", "ROCM_AITER_FA"
REFUSED = Rejected("ValueError", "no")
OUTCOMES: tuple[Outcome, ...] = (*map(Selected, (A, B, C)), REFUSED, Rejected("ValueError", "not"))

GPUS = Axis("gfx", ("gfx90a", "gfx942", "gfx1100"))
AITER = Axis("aiter", ("present", "absent"))
SMALL: dict[str, tuple[Axis, ...]] = {
    "ordinary": (
        GPUS,
        AITER,
        Axis(USE_AITER, (None, "0", "1")),
        Axis(EXPLICIT, (None, A, B, C)),
        Axis("request", (Request(), Request(block_size=1))),
    ),
    "mla": (
        GPUS,
        Axis("aiter", ("present",)),
        Axis(USE_AITER, (None, "1")),
        Axis(MLA, (None, "0")),
        Axis(EXPLICIT, (None, A, B)),
        Axis("request", tuple(Request(use_mla=True, block_size=n) for n in (16, 1, 8))),
    ),
    "variables": (
        Axis("gfx", ("gfx942", "gfx1100")),
        Axis("aiter", ("present",)),
        Axis(USE_AITER, (None, "1", "true")),
        Axis("also", ((), ((MLA, "0"),), ((MLA, "1"),), (("VLLM_MLA_DISABLE", "1"),))),
        Axis(EXPLICIT, (None,)),
        Axis("request", (Request(), Request(use_mla=True))),
    ),
}

Facts: TypeAlias = "dict[str, Any]"
Rule: TypeAlias = "Callable[[Facts], tuple[Outcome, Outcome]]"


def facts_of(name: str, axes: Sequence[Axis], place: Sequence[int]) -> Facts:
    """Everything that is true of a cell, by attribute."""
    facts: Facts = {"family": name}
    for axis, position in zip(axes, place, strict=True):
        value: Any = axis.values[position]
        if axis.name == "request":
            facts |= {field: getattr(value, field) for field in Request.__dataclass_fields__}
        elif axis.name == "also":
            facts |= dict(value)
        else:
            facts[axis.name] = value
    return facts


def cells_of(axes: Sequence[Axis]) -> list[tuple[int, ...]]:
    return list(itertools.product(*(range(len(axis.values)) for axis in axes)))


EVERY_CELL = [
    (family, place, facts_of(name, axes, place))
    for family, (name, axes) in enumerate(SMALL.items())
    for place in cells_of(axes)
]


def labelled(
    pairs: Sequence[tuple[Outcome, Outcome]], families: dict[str, tuple[Axis, ...]] = SMALL
) -> list[Labelled]:
    rest = iter(pairs)
    found = []
    for name, axes in families.items():
        changes: list[Change | None] = [None]
        codes = array("H")
        for place in cells_of(axes):
            one, other = map(behaviour, next(rest))
            named = facts_of(name, axes, place).get(EXPLICIT)
            agreed = AGREED_REFUSAL if one == AGREED_REFUSAL.got else None
            change = agreed if one == other else with_named(Change(one, other), named)
            if change not in changes:
                changes.append(change)
            codes.append(changes.index(change))
        found.append(Labelled(name, axes, codes, changes))
    return found


def holds(condition: Condition, facts: Facts) -> bool:
    """Whether a condition's words are true of a cell, read from the words' values alone."""
    return all(facts.get(given.name) in given.values for given in condition.where)


def check_exact(pairs: Sequence[tuple[Outcome, Outcome]], found: Explained) -> None:
    counts = [0] * len(found.conditions)
    differing = 0
    for (_, _, facts), (one, other) in zip(EVERY_CELL, pairs, strict=True):
        differs = behaviour(one) != behaviour(other)
        differing += differs
        true = [n for n, c in enumerate(found.conditions) if holds(c, facts)]
        assert bool(true) == differs, (facts, one, other)
        for number in true:
            counts[number] += 1
            change = found.conditions[number].change
            for said, was in ((change.expected, one), (change.got, other)):
                if said == THE_NAMED_ONE:
                    said = Behaviour("Selected", facts[EXPLICIT])
                assert said == behaviour(was)
    assert found.differing == differing
    assert counts == [condition.cells for condition in found.conditions]
    for condition in found.conditions:
        (facts,) = [
            facts
            for family, place, facts in EVERY_CELL
            if (family, *place) == condition.smallest.place
        ]
        assert holds(condition, facts)
    check_causes(pairs, found)


def check_causes(pairs: Sequence[tuple[Outcome, Outcome]], found: Explained) -> None:
    """Each differing cell is in exactly one cause, and in a condition of that cause; no other is."""
    cells = found.cells
    if cells is None:
        assert not found.causes
        return
    inside = [cause.inside for cause in found.causes]
    assert all(not one & other for one, other in itertools.combinations(inside, 2))
    whole = functools.reduce(operator.or_, inside, 0)
    assert cells.count(whole) == found.differing == sum(cause.cells for cause in found.causes)
    exact = functools.reduce(operator.or_, (one.inside for one in found.conditions), 0)
    assert whole == exact
    for cause in found.causes:
        of_cause = (found.conditions[number].inside for number in cause.conditions)
        assert not cause.inside & ~functools.reduce(operator.or_, of_cause, 0)
        assert cells.count(cause.inside) == cause.cells > 0
        parts = cause.parts or (cause,)
        assert sum(part.cells for part in parts) == cause.cells
        assert functools.reduce(operator.or_, (part.inside for part in parts)) == cause.inside
        for part in parts:
            check_description(pairs, cells, part)


def check_description(pairs: Sequence[tuple[Outcome, Outcome]], cells: Cells, cause: Cause) -> None:
    """A cause's clauses are true of 90% of its cells, and its precision is what it says."""
    described = cells.every
    for given in cause.where:
        described &= having(cells, given)
    assert cells.count(described & cause.inside) >= 0.9 * cause.cells
    for given in cause.exceptions:
        described &= ~having(cells, given)
    if cause.change.expected.kind in ("Selected", "Rejected"):
        # "A -> B" is about cells in which a backend was expected, or a refusal, as A is.
        refusal = cause.change.expected.kind == "Rejected"
        of_place = {(family, *place): n for n, (family, place, _) in enumerate(EVERY_CELL)}
        described &= cause.inside | sum(
            1 << row
            for row, origin in enumerate(cells.origins)
            if isinstance(pairs[of_place[origin.place]][0], Rejected) == refusal
        )
    assert cells.count(described & cause.inside) == pytest.approx(
        cause.precision * cells.count(described)
    )


def having(cells: Cells, given: Given) -> int:
    """Return the cells that a restriction is true of: a class is named by those of its values that
    the cause's families have."""
    number = [one.name for one in cells.attributes].index(given.name)
    attribute = cells.attributes[number]
    return sum(
        bits
        for classes, bits in zip(attribute.classes, cells.holding[number], strict=True)
        if any(attribute.values[at] in given.values for at in classes)
    )


@st.composite
def pairs_with_rules(draw: st.DrawFn) -> list[tuple[Outcome, Outcome]]:
    """Tables with rules in them, as selectors give, and some noise."""
    pairs: list[list[Outcome]] = []
    for _, _, facts in EVERY_CELL:
        chosen = Selected(facts[EXPLICIT] or A)
        pairs.append([chosen, chosen])
    names = sorted({name for _, _, facts in EVERY_CELL for name in facts})
    for _ in range(draw(st.integers(0, 4))):
        needs = {}
        for name in draw(st.sets(st.sampled_from(names), max_size=3)):
            values = sorted({f.get(name) for _, _, f in EVERY_CELL}, key=repr)
            needs[name] = draw(st.sets(st.sampled_from(values), min_size=1))
        answer, side = draw(st.sampled_from(OUTCOMES)), draw(st.integers(0, 1))
        for pair, (_, _, facts) in zip(pairs, EVERY_CELL, strict=True):
            if all(facts.get(name) in values for name, values in needs.items()):
                pair[side] = answer
    for number in draw(st.lists(st.integers(0, len(pairs) - 1), max_size=4)):
        pairs[number][1] = draw(st.sampled_from(OUTCOMES))
    return [(one, other) for one, other in pairs]


@hypothesis.given(pairs_with_rules())
@hypothesis.settings(max_examples=15, deadline=None)
def test_the_conditions_hold_exactly_where_the_tables_differ(
    pairs: list[tuple[Outcome, Outcome]],
) -> None:
    found = explained(labelled(pairs))
    assert (found.left, found.left_smallest) == (0, None)
    check_exact(pairs, found)
    again = explained(labelled(pairs))
    assert (again.conditions, again.causes) == (found.conditions, found.causes)


def test_tables_without_any_rule_are_covered_exactly() -> None:
    numbers = random.Random(0)
    pairs = [(numbers.choice(OUTCOMES[:2]), numbers.choice(OUTCOMES[:2])) for _ in EVERY_CELL]
    found = explained(labelled(pairs), most=1000)
    assert found.left == 0
    check_exact(pairs, found)


@hypothesis.given(st.data())
@hypothesis.settings(max_examples=60, deadline=None)
def test_values_are_alike_exactly_where_all_their_cells_are(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    cells = list(itertools.product(*map(range, sizes)))
    whole = array("H", (data.draw(st.integers(0, 300)) % 2 * 299 for _ in cells))
    lookup = dict(zip(cells, whole, strict=True))
    axis = data.draw(st.integers(0, len(sizes) - 1))

    def column(value: int) -> list[int]:
        return [answer for cell, answer in lookup.items() if cell[axis] == value]

    first = alike(whole, sizes, axis)
    for value in range(sizes[axis]):
        assert first[value] == min(v for v in range(sizes[axis]) if column(v) == column(value))
    values = data.draw(
        st.lists(st.integers(0, sizes[axis] - 1), min_size=1, unique=True).map(sorted)
    )
    assert take(whole, sizes, axis, values) == array(
        "H", [answer for cell, answer in lookup.items() if cell[axis] in values]
    )


# --- exact sentences ------------------------------------------------------------------------------


def found_by(rule: Rule) -> Explained:
    return explained(labelled([rule(facts) for _, _, facts in EVERY_CELL]))


def sentences(rule: Rule) -> list[str]:
    return [condition_words(condition) for condition in found_by(rule).conditions]


def test_nothing_differs_where_only_the_words_of_a_refusal_do() -> None:
    found = found_by(lambda _: (Rejected("ValueError", "a"), Rejected("RuntimeError", "b")))
    assert (found.differing, found.conditions, found.causes) == (0, (), ())


def test_an_override_of_explicit_choices_is_one_sentence_over_all_families() -> None:
    def rule(facts: Facts) -> tuple[Outcome, Outcome]:
        chosen = Selected(facts[EXPLICIT] or A)
        return chosen, (Selected(C) if facts[USE_AITER] == "1" and facts[EXPLICIT] else chosen)

    # Asked for C, it gives C: that is no difference, so C is not among them.
    assert sentences(rule) == [
        f"{USE_AITER}=1 and explicit {A} or {B}: expected the explicit one, got {C}"
    ]


def test_all_explicit_choices_that_become_refusals_are_one_sentence() -> None:
    def rule(facts: Facts) -> tuple[Outcome, Outcome]:
        choice = facts[EXPLICIT]
        return Selected(choice or A), Rejected("ValueError", choice) if choice else Selected(A)

    assert sentences(rule) == [
        "an explicit backend is given: expected the explicit one, got a refusal"
    ]


def test_a_constant_answer_joins_cells_where_it_is_the_explicit_one() -> None:
    assert sentences(lambda _: (Selected(A), Selected(B))) == [f"everywhere: expected {A}, got {B}"]


def test_what_holds_for_a_kind_of_request_is_said_of_that_kind() -> None:
    def rule(facts: Facts) -> tuple[Outcome, Outcome]:
        differs = facts["use_mla"] and facts["gfx"] != "gfx1100"
        return Selected(A), Selected(B if differs else A)

    assert sentences(rule) == [f"gfx in gfx90a, gfx942 and use_mla: expected {A}, got {B}"]


def test_a_field_that_another_implies_is_not_told() -> None:
    # Block size 8 is asked for by MLA only.
    def rule(facts: Facts) -> tuple[Outcome, Outcome]:
        return Selected(A), Selected(B if facts["block_size"] == 8 else A)

    assert sentences(rule) == [f"block_size 8: expected {A}, got {B}"]


def test_one_variable_is_one_sentence_whether_it_is_an_axis_or_set_alone() -> None:
    def rule(facts: Facts) -> tuple[Outcome, Outcome]:
        return Selected(A), Selected(B if facts.get(MLA) == "0" else A)

    assert sentences(rule) == [f"{MLA}=0: expected {A}, got {B}"]


def test_the_spellings_of_one_meaning_are_told_once() -> None:
    def rule(facts: Facts) -> tuple[Outcome, Outcome]:
        return Selected(A), Selected(B if facts[USE_AITER] in ("1", "true") else A)

    assert sentences(rule) == [f"{USE_AITER}=1: expected {A}, got {B}"]


def test_a_spelling_that_differs_from_its_meaning_is_told() -> None:
    def rule(facts: Facts) -> tuple[Outcome, Outcome]:
        return Selected(A), Selected(B if facts[USE_AITER] == "true" else A)

    assert sentences(rule) == [f"{USE_AITER}=true: expected {A}, got {B}"]


def test_equal_questions_with_unequal_answers_are_told_apart_by_their_family() -> None:
    def rule(facts: Facts) -> tuple[Outcome, Outcome]:
        return Selected(A), Selected(B if facts["family"] == "variables" else A)

    assert sentences(rule) == [
        f"not use_mla and family variables: expected {A}, got {B}",
        f"use_mla and family variables: expected {A}, got {B}",
    ]
    check_exact([rule(facts) for _, _, facts in EVERY_CELL], found_by(rule))


def test_the_smallest_cell_has_the_fewest_variables_and_is_nearest_to_the_defaults() -> None:
    def rule(facts: Facts) -> tuple[Outcome, Outcome]:
        return Selected(A), Selected(B if facts[USE_AITER] == "1" or facts.get(MLA) == "0" else A)

    found = {condition_words(c).partition(":")[0]: c for c in found_by(rule).conditions}
    assert found.keys() == {f"{USE_AITER}=1", f"{MLA}=0"}
    assert found[f"{USE_AITER}=1"].smallest.place == (0, 1, 0, 2, 0, 0)
    assert found[f"{MLA}=0"].smallest.place == (2, 0, 0, 0, 1, 0, 0)
    assert not any(c.at_defaults for c in found.values())


def test_a_changed_default_comes_first_then_overridden_choices_then_the_larger() -> None:
    def rule(facts: Facts) -> tuple[Outcome, Outcome]:
        if facts[EXPLICIT] == B:
            return Selected(B), Selected(C if facts["gfx"] == "gfx942" else B)
        if facts[USE_AITER] == "1":
            return Selected(A), REFUSED
        new = facts["gfx"] == "gfx1100" and facts[USE_AITER] is None and facts[EXPLICIT] is None
        return Selected(A), Selected(B if new else A)

    found = found_by(rule)
    assert [condition_words(condition) for condition in found.conditions] == [
        f"gfx gfx1100 and {USE_AITER} unset and no explicit backend: expected {A}, got {B}",
        f"gfx gfx942 and explicit {B}: expected the explicit one, got {C}",
        f"{USE_AITER}=1 and no explicit backend or explicit {A} or {C}: expected {A}, got a refusal",
    ]
    assert [condition.at_defaults for condition in found.conditions] == [True, False, False]
    assert [condition.overrides for condition in found.conditions] == [False, True, False]


def test_a_backend_named_and_not_got_is_an_override_in_whatever_company_it_is_told() -> None:
    # No explicit backend and an explicit A are one condition: expected A both times.
    def rule(facts: Facts) -> tuple[Outcome, Outcome]:
        chosen = facts[EXPLICIT] or A
        return Selected(chosen), Selected(B if facts[USE_AITER] == "1" and chosen == A else chosen)

    (condition,) = found_by(rule).conditions
    assert condition_words(condition) == (
        f"{USE_AITER}=1 and no explicit backend or explicit {A}: expected {A}, got {B}"
    )
    assert condition.overrides


def test_conditions_beyond_the_limit_are_counted_and_their_smallest_cell_is_told() -> None:
    numbers = random.Random(0)
    pairs = [(numbers.choice(OUTCOMES), numbers.choice(OUTCOMES)) for _ in EVERY_CELL]
    cut = explained(labelled(pairs), most=5)
    assert len(cut.conditions) <= 5
    uncovered = [
        (family, *place)
        for (family, place, facts), (one, other) in zip(EVERY_CELL, pairs, strict=True)
        if behaviour(one) != behaviour(other)
        and not any(holds(condition, facts) for condition in cut.conditions)
    ]
    assert cut.left == len(uncovered) > 0
    assert cut.left_smallest is not None
    assert cut.left_smallest.place in uncovered
    assert sum(cause.cells for cause in cut.causes) == cut.differing


def test_two_fields_that_refuse_are_two_sentences_and_no_list_of_families() -> None:
    def rule(facts: Facts) -> tuple[Outcome, Outcome]:
        differs = facts["block_size"] == 1 or facts.get(MLA) == "0"
        return Selected(A), REFUSED if differs else Selected(A)

    assert sentences(rule) == [
        f"block_size 1: expected {A}, got a refusal",
        f"{MLA}=0: expected {A}, got a refusal",
    ]


def test_tables_of_another_size_are_refused() -> None:
    (family, *_) = labelled([(Selected(A), Selected(B)) for _ in EVERY_CELL])
    with pytest.raises(ValueError, match="ordinary: 1 codes"):
        explained([replace(family, codes=[0])])


def test_more_changes_than_a_byte_can_number_stay_covered_exactly() -> None:
    requests = tuple(Request(head_size=n) for n in range(1, 301))
    axes = (Axis("gfx", ("gfx942",)), Axis(USE_AITER, (None, "1")), Axis("request", requests))
    pairs: list[tuple[Outcome, Outcome]] = [
        (Selected(A), Selected(f"B{n}") if flag else Selected(A))
        for flag in range(2)
        for n in range(300)
    ]
    found = explained(labelled(pairs, {"many": axes}))
    assert (found.left, found.differing) == (0, 300)
    assert sum(condition.cells for condition in found.conditions) == 300
    assert len({condition.change for condition in found.conditions}) == 300


def test_a_million_cells_in_which_most_flags_say_nothing_come_down_to_one_sentence() -> None:
    flags = tuple(Axis(f"VLLM_F{n}", (None, "0", "1")) for n in range(10))
    axes = (Axis("gfx", ("gfx90a", "gfx942", "gfx950", "gfx1100")), *flags)
    axes = (*axes, Axis(EXPLICIT, (None, A, B, C)), Axis("request", (Request(),)))
    run = bytes([0, 0, 0, 0]) * 3**8
    codes = array("H", [*run, *run, *bytes([0, 1, 1, 1]) * 3**8] * 12)
    assert len(codes) == 944_784
    change = Change(Behaviour("Selected", A), Behaviour("Rejected"))
    found = explained([Labelled("f", axes, codes, [None, change])])
    assert [condition_words(condition) for condition in found.conditions] == [
        f"VLLM_F1=1 and an explicit backend is given: expected {A}, got a refusal"
    ]
