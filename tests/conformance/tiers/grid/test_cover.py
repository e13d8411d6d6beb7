"""From two tables to conditions: exactness as a law, then the sentences that users read."""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_rocm_attn import Request
from pytest_rocm_attn.conformance.promise.grid.outcomes import Behaviour, behaviour
from pytest_rocm_attn.conformance.promise.grid.space import Axis
from pytest_rocm_attn.conformance.tiers.grid import boxes
from pytest_rocm_attn.conformance.tiers.grid import cover as cover_module
from pytest_rocm_attn.conformance.tiers.grid.cover import (
    THE_EXPLICIT_ONE,
    VARIOUS,
    Compared,
    Condition,
    Cover,
    Place,
    Table,
    differences,
)
from pytest_rocm_attn.conformance.tiers.grid.quotient import alike, take
from pytest_rocm_attn.conformance.tiers.grid.wording import Given
from pytest_rocm_attn.flags import EXPLICIT, MLA, USE_AITER
from pytest_rocm_attn.outcome import Crashed, Outcome, Rejected, Selected, TimedOut

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


def table(outcomes: Sequence[Outcome]) -> Table:
    distinct = list(dict.fromkeys(outcomes))
    return Table([distinct.index(outcome) for outcome in outcomes], distinct)


def compared(
    pairs: Sequence[tuple[Outcome, Outcome]], families: dict[str, tuple[Axis, ...]] = SMALL
) -> list[Compared]:
    rest = iter(pairs)
    found = []
    for name, axes in families.items():
        mine = list(itertools.islice(rest, len(cells_of(axes))))
        found.append(Compared(name, axes, table([e for e, _ in mine]), table([g for _, g in mine])))
    return found


def holds(condition: Condition, facts: Facts) -> bool:
    """Whether a condition's words are true of a cell, read from the words' values alone."""
    return all(facts.get(given.name) in given.values for given in condition.where)


def check_exact(pairs: Sequence[tuple[Outcome, Outcome]], cover: Cover) -> None:
    assert cover.cells == len(EVERY_CELL)
    counts = [0] * len(cover.conditions)
    differing = 0
    for (_, _, facts), (one, other) in zip(EVERY_CELL, pairs, strict=True):
        differs = behaviour(one) != behaviour(other)
        differing += differs
        true = [n for n, c in enumerate(cover.conditions) if holds(c, facts)]
        assert bool(true) == differs, (facts, one, other)
        for number in true:
            counts[number] += 1
            condition = cover.conditions[number]
            for said, was in ((condition.expected, one), (condition.got, other)):
                if said == THE_EXPLICIT_ONE:
                    said = Behaviour("Selected", facts[EXPLICIT])
                assert said == behaviour(was)
    assert cover.differing == differing
    assert counts == [condition.cells for condition in cover.conditions]
    for condition in cover.conditions:
        (facts,) = [
            facts
            for family, place, facts in EVERY_CELL
            if Place(family, place) == condition.smallest
        ]
        assert holds(condition, facts)


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


@given(pairs_with_rules())
@settings(max_examples=15, deadline=None)
def test_the_conditions_hold_exactly_where_the_tables_differ(
    pairs: list[tuple[Outcome, Outcome]],
) -> None:
    cover = differences(compared(pairs))
    assert (cover.left, cover.left_smallest) == (0, None)
    check_exact(pairs, cover)
    assert differences(compared(pairs)) == cover


def test_tables_without_any_rule_are_covered_exactly() -> None:
    numbers = random.Random(0)
    pairs = [(numbers.choice(OUTCOMES[:2]), numbers.choice(OUTCOMES[:2])) for _ in EVERY_CELL]
    cover = differences(compared(pairs), most=1000)
    assert cover.left == 0
    check_exact(pairs, cover)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_values_are_alike_exactly_where_all_their_cells_are(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    cells = list(itertools.product(*map(range, sizes)))
    whole = bytes(data.draw(st.integers(0, 1)) for _ in cells)
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
    assert take(whole, sizes, axis, values) == bytes(
        answer for cell, answer in lookup.items() if cell[axis] in values
    )


def test_no_box_is_redundant() -> None:
    classes = boxes.Classes(list(itertools.product(range(3), range(3))), [3, 3])
    # Overlapping bars of a cross, as a bitmap of rows.
    found, left = boxes.cover(classes, {"x": 0b010_111_010}, [classes.every])
    assert left == 0
    assert found == {
        ("x", (0b010, 0b111)): 0b000_111_000,
        ("x", (0b111, 0b010)): 0b010_010_010,
    }


# --- sentences ------------------------------------------------------------------------------------


def cover_of(rule: Rule) -> Cover:
    return differences(compared([rule(facts) for _, _, facts in EVERY_CELL]))


def sentences(rule: Rule) -> list[str]:
    return [str(condition) for condition in cover_of(rule).conditions]


def test_nothing_differs_where_only_the_words_of_a_refusal_do() -> None:
    cover = cover_of(lambda _: (Rejected("ValueError", "a"), Rejected("RuntimeError", "b")))
    assert cover == Cover((), len(EVERY_CELL), 0)


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
    check_exact([rule(facts) for _, _, facts in EVERY_CELL], cover_of(rule))


def test_the_smallest_cell_has_the_fewest_variables_and_is_nearest_to_the_defaults() -> None:
    def rule(facts: Facts) -> tuple[Outcome, Outcome]:
        return Selected(A), Selected(B if facts[USE_AITER] == "1" or facts.get(MLA) == "0" else A)

    found = {str(c).partition(":")[0]: c for c in cover_of(rule).conditions}
    assert found.keys() == {f"{USE_AITER}=1", f"{MLA}=0"}
    assert found[f"{USE_AITER}=1"].smallest == Place(0, (1, 0, 2, 0, 0))
    assert found[f"{MLA}=0"].smallest == Place(2, (0, 0, 0, 1, 0, 0))
    assert not any(c.at_defaults for c in found.values())


def test_a_changed_default_comes_first_then_overridden_choices_then_the_larger() -> None:
    def rule(facts: Facts) -> tuple[Outcome, Outcome]:
        if facts[EXPLICIT] == B:
            return Selected(B), Selected(C if facts["gfx"] == "gfx942" else B)
        if facts[USE_AITER] == "1":
            return Selected(A), REFUSED
        new = facts["gfx"] == "gfx1100" and facts[USE_AITER] is None and facts[EXPLICIT] is None
        return Selected(A), Selected(B if new else A)

    cover = cover_of(rule)
    assert [str(condition) for condition in cover.conditions] == [
        f"gfx gfx1100 and {USE_AITER} unset and no explicit backend: expected {A}, got {B}",
        f"gfx gfx942 and explicit {B}: expected the explicit one, got {C}",
        f"{USE_AITER}=1 and no explicit backend or explicit {A} or {C}: expected {A}, got a refusal",
    ]
    assert [condition.at_defaults for condition in cover.conditions] == [True, False, False]
    assert [condition.overrides for condition in cover.conditions] == [False, True, False]


def test_a_backend_named_and_not_got_is_an_override_in_whatever_company_it_is_told() -> None:
    # No explicit backend and an explicit A are one condition: expected A both times.
    def rule(facts: Facts) -> tuple[Outcome, Outcome]:
        chosen = facts[EXPLICIT] or A
        return Selected(chosen), Selected(B if facts[USE_AITER] == "1" and chosen == A else chosen)

    (condition,) = cover_of(rule).conditions
    assert str(condition) == (
        f"{USE_AITER}=1 and no explicit backend or explicit {A}: expected {A}, got {B}"
    )
    assert condition.overrides


def test_conditions_beyond_the_limit_are_counted_and_their_smallest_cell_is_told() -> None:
    numbers = random.Random(0)
    pairs = [(numbers.choice(OUTCOMES), numbers.choice(OUTCOMES)) for _ in EVERY_CELL]
    cut = differences(compared(pairs), most=5)
    assert len(cut.conditions) <= 5
    uncovered = [
        Place(family, place)
        for (family, place, facts), (one, other) in zip(EVERY_CELL, pairs, strict=True)
        if behaviour(one) != behaviour(other)
        and not any(holds(condition, facts) for condition in cut.conditions)
    ]
    assert cut.left == len(uncovered) > 0
    assert cut.left_smallest in uncovered


def test_cells_without_an_answer_differ_in_nothing_and_are_not_counted() -> None:
    (family, *_) = compared([(Selected(A), Selected(B)) for _ in EVERY_CELL])
    half = [0xFFFF if n % 2 else code for n, code in enumerate(family.got.codes)]
    partly = Compared(family.name, family.axes, family.expected, Table(half, family.got.outcomes))
    cover = differences([partly])
    assert (cover.cells, cover.unanswered) == (len(half), len(half) // 2)
    assert cover.differing == len(half) // 2


def test_cells_that_the_mocked_platform_cannot_answer_differ_in_nothing() -> None:
    unanswerable = Crashed("MockError", "MockError: a tensor on device 'cuda'")
    cover = cover_of(lambda _: (Selected(A), unanswerable))
    assert cover == Cover((), len(EVERY_CELL), 0, unanswered=len(EVERY_CELL))
    assert cover_of(lambda _: (Selected(A), Crashed("KeyError", ""))).differing == len(EVERY_CELL)


def test_cells_that_ran_out_of_time_on_both_sides_are_not_alike() -> None:
    cut = TimedOut(1.0)
    assert cover_of(lambda _: (cut, cut)) == Cover(
        (), len(EVERY_CELL), 0, unanswered=len(EVERY_CELL)
    )
    assert cover_of(lambda _: (Selected(A), cut)).differing == len(EVERY_CELL)


def test_two_fields_that_refuse_are_two_sentences_and_no_list_of_families() -> None:
    def rule(facts: Facts) -> tuple[Outcome, Outcome]:
        differs = facts["block_size"] == 1 or facts.get(MLA) == "0"
        return Selected(A), REFUSED if differs else Selected(A)

    assert sentences(rule) == [
        f"block_size 1: expected {A}, got a refusal",
        f"{MLA}=0: expected {A}, got a refusal",
    ]


def test_tables_of_another_size_are_refused() -> None:
    (family, *_) = compared([(Selected(A), Selected(B)) for _ in EVERY_CELL])
    short = Compared(family.name, family.axes, family.expected, Table([0], family.got.outcomes))
    with pytest.raises(ValueError, match="ordinary: 1 codes"):
        differences([short])


def test_more_pairs_of_answers_than_a_byte_can_number_stay_covered_exactly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert cover_module._MOST_PAIRS == 254  # 255 with VARIOUS, and 0 is no difference
    monkeypatch.setattr(cover_module, "_MOST_PAIRS", 20)
    requests = tuple(Request(head_size=n) for n in range(1, 31))
    axes = (Axis("gfx", ("gfx942",)), Axis(USE_AITER, (None, "1")), Axis("request", requests))
    pairs: list[tuple[Outcome, Outcome]] = [
        (Selected(A), Selected(f"B{n}") if flag else Selected(A))
        for flag in range(2)
        for n in range(30)
    ]
    cover = differences(compared(pairs, {"many": axes}))
    assert (cover.left, cover.differing) == (0, 30)
    assert sum(c.cells for c in cover.conditions if c.got == VARIOUS) == 10
    assert sum(c.cells for c in cover.conditions) == 30


def test_a_million_cells_in_which_most_flags_say_nothing_come_down_to_one_sentence() -> None:
    flags = tuple(Axis(f"VLLM_F{n}", (None, "0", "1")) for n in range(10))
    axes = (Axis("gfx", ("gfx90a", "gfx942", "gfx950", "gfx1100")), *flags)
    axes = (*axes, Axis(EXPLICIT, (None, A, B, C)), Axis("request", (Request(),)))
    run = bytes([0, 0, 0, 0]) * 3**8
    codes = (run + run + bytes([0, 3, 3, 3]) * 3**8) * 12
    assert len(codes) == 944_784
    whole = Compared("f", axes, Table(bytes(len(codes)), OUTCOMES), Table(codes, OUTCOMES))
    cover = differences([whole])
    assert [str(condition) for condition in cover.conditions] == [
        f"VLLM_F1=1 and an explicit backend is given: expected {A}, got a refusal"
    ]


@pytest.mark.parametrize(
    ("name", "values", "others", "words"),
    [
        pytest.param(USE_AITER, (None,), ("0", "1"), f"{USE_AITER} unset", id="unset"),
        pytest.param(
            USE_AITER, (None, "0"), ("1",), f"{USE_AITER} unset or 0", id="unset or a value"
        ),
        pytest.param(USE_AITER, ("0", "1"), (None,), f"{USE_AITER} set", id="any value"),
        pytest.param(USE_AITER, ("0",), (None, "1"), f"{USE_AITER}=0", id="one value"),
        pytest.param(USE_AITER, ("1", "true"), ("yes",), f"{USE_AITER}=1", id="one meaning"),
        pytest.param(
            USE_AITER, ("1", "true"), ("TRUE",), f"{USE_AITER}=1 or true", id="not all of it"
        ),
        pytest.param(USE_AITER, ("", " 1"), ("0",), f"{USE_AITER}='' or ' 1'", id="blanks"),
        pytest.param("VLLM_NEW", ("a", "b"), ("c",), "VLLM_NEW=a or b", id="undeclared"),
        pytest.param(EXPLICIT, (None,), (A, B), "no explicit backend", id="none named"),
        pytest.param(EXPLICIT, (A, B), (None,), "an explicit backend is given", id="any named"),
        pytest.param(EXPLICIT, (A,), (None, B), f"explicit {A}", id="one named"),
        pytest.param(
            EXPLICIT, (None, A), (B,), f"no explicit backend or explicit {A}", id="none or"
        ),
        pytest.param(
            EXPLICIT, tuple("ABCDEF"), (None, "G"), "an explicit backend other than G", id="all but"
        ),
        pytest.param("gfx", ("gfx942",), ("gfx90a",), "gfx gfx942", id="one GPU"),
        pytest.param("block_size", (None, 8), (1,), "block_size in none, 8", id="not given"),
        pytest.param(
            "block_size", (1, 2, 3, 4, 5), (6, 7), "block_size other than 6 and 7", id="most"
        ),
        pytest.param("use_mla", (True,), (False,), "use_mla", id="true"),
        pytest.param("use_mla", (False,), (True,), "not use_mla", id="false"),
    ],
)
def test_a_restriction_in_words(
    name: str, values: tuple[Any, ...], others: tuple[Any, ...], words: str
) -> None:
    assert str(Given(name, values, others)) == words
