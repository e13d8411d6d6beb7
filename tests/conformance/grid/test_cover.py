"""From two tables to conditions: exactness as a law, then the sentences that users read."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_rocm_attn.conformance.grid import boxes, quotient
from pytest_rocm_attn.conformance.grid.cover import (
    THE_EXPLICIT_ONE,
    VARIOUS,
    Condition,
    Cover,
    Table,
    differences,
)
from pytest_rocm_attn.conformance.grid.outcomes import Behaviour, behaviour
from pytest_rocm_attn.conformance.grid.wording import Dimension, constraints
from pytest_rocm_attn.outcome import Outcome, Rejected, Selected

NAMES = ("A", "B", "C")
OUTCOMES: tuple[Outcome, ...] = (
    *map(Selected, NAMES),
    Rejected("ValueError", "no"),
    Rejected("ValueError", "not this"),
)


def backend(name: str) -> Behaviour:
    return Behaviour("Selected", name)


EXPLICIT = Dimension("explicit", (None, *NAMES), "explicit")
GPU = Dimension("gfx", ("gfx90a", "gfx942", "gfx950", "gfx1100"), "gpu")
AITER = Dimension("AITER", (None, "0", "1"), "flag")
MHA = Dimension("MHA", (None, "0"), "flag")
REQUESTS = [(mla, block) for mla in (False, True) for block in (16, 1, 8) if mla or block != 8]
REQUEST = Dimension(
    "request",
    tuple(REQUESTS),
    "record",
    facets=(
        ("use_mla", tuple(mla for mla, _ in REQUESTS)),
        ("block_size", tuple(block for _, block in REQUESTS)),
    ),
)
AXES = (GPU, AITER, MHA, EXPLICIT, REQUEST)
CELLS = list(itertools.product(*(range(len(axis.values)) for axis in AXES)))


def holds(condition: Condition, axes: tuple[Dimension, ...], cell: tuple[int, ...]) -> bool:
    """Whether a condition's words are true of a cell, read from the words' values alone."""
    facts: dict[str, Any] = {}
    for axis, value in zip(axes, cell, strict=True):
        facts[axis.name] = axis.values[value]
        facts.update({name: of_records[value] for name, of_records in axis.facets})
    return all(facts[given.name] in given.values for given in condition.where)


def check_exact(
    axes: tuple[Dimension, ...], expected: list[Outcome], got: list[Outcome], cover: Cover
) -> None:
    cells = list(itertools.product(*(range(len(axis.values)) for axis in axes)))
    assert cover.cells == len(cells)
    counts = [0] * len(cover.conditions)
    differing = 0
    for cell, one, other in zip(cells, expected, got, strict=True):
        differs = behaviour(one) != behaviour(other)
        differing += differs
        true = [n for n, c in enumerate(cover.conditions) if holds(c, axes, cell)]
        assert bool(true) == differs, (cell, one, other)
        for number in true:
            counts[number] += 1
            condition = cover.conditions[number]
            explicit = next(
                (a.values[v] for a, v in zip(axes, cell, strict=True) if a.kind == "explicit"), None
            )
            for said, was in ((condition.expected, one), (condition.got, other)):
                if said == THE_EXPLICIT_ONE:
                    said = backend(str(explicit))
                assert said in (VARIOUS, behaviour(was))
    assert cover.differing == differing
    assert counts == [condition.cells for condition in cover.conditions]
    for condition in cover.conditions:
        assert holds(condition, axes, condition.smallest)


@st.composite
def structured_tables(draw: st.DrawFn) -> tuple[list[Outcome], list[Outcome]]:
    """Tables with rules in them, as selectors give, and some noise."""
    expected: list[Outcome] = [
        Selected(str(EXPLICIT.values[cell[3]])) if cell[3] else Selected("A") for cell in CELLS
    ]
    got = list(expected)
    for _ in range(draw(st.integers(0, 4))):
        sets = [draw(st.sets(st.integers(0, len(axis.values) - 1), min_size=1)) for axis in AXES]
        answer = draw(st.sampled_from(OUTCOMES))
        table = draw(st.sampled_from((expected, got)))
        for number, cell in enumerate(CELLS):
            if all(value in values for value, values in zip(cell, sets, strict=True)):
                table[number] = answer
    for number in draw(st.lists(st.integers(0, len(CELLS) - 1), max_size=4)):
        got[number] = draw(st.sampled_from(OUTCOMES))
    return expected, got


def table(outcomes: list[Outcome]) -> Table:
    distinct = list(dict.fromkeys(outcomes))
    return Table([distinct.index(outcome) for outcome in outcomes], distinct)


@given(structured_tables())
@settings(max_examples=30, deadline=None)
def test_the_conditions_hold_exactly_where_the_tables_differ(
    tables: tuple[list[Outcome], list[Outcome]],
) -> None:
    expected, got = tables
    cover = differences(AXES, table(expected), table(got))
    assert (cover.left, cover.left_smallest) == (0, None)
    check_exact(AXES, expected, got, cover)
    assert differences(AXES, table(expected), table(got)) == cover


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_boxes_cover_any_labelled_cells_exactly(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    space = boxes.Space(sizes)
    bits = st.integers(0, (1 << space.cells) - 1)
    labels = {name: data.draw(bits) for name in "xy"}
    found, left = boxes.cover(space, labels)
    covered = 0
    for label, box in found:
        assert space.bits(box)
        assert not space.bits(box) & ~labels[label]
        covered |= space.bits(box)
    assert covered == labels["x"] | labels["y"]
    assert left == 0
    for number in range(len(found)):
        rest = 0
        for _, box in found[:number] + found[number + 1 :]:
            rest |= space.bits(box)
        assert rest != covered  # none is redundant


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_collapsed_table_says_the_same_of_every_cell(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    cells = list(itertools.product(*(range(size) for size in sizes)))
    # Few values and a function of a few coordinates only: there is something to merge.
    matters = data.draw(st.sets(st.sampled_from(range(len(sizes)))))
    answers: dict[tuple[int, ...], int] = {}
    for cell in cells:
        key = tuple(cell[axis] // 2 for axis in sorted(matters))
        if key not in answers:
            answers[key] = data.draw(st.integers(0, 2))
    whole = bytes(answers[tuple(cell[axis] // 2 for axis in sorted(matters))] for cell in cells)
    smaller, classes = quotient.collapse(whole, sizes)
    new_sizes = [len(of_axis) for of_axis in classes]
    assert all(new_sizes[axis] == 1 for axis in range(len(sizes)) if axis not in matters)
    lookup = dict(zip(itertools.product(*map(range, new_sizes)), smaller, strict=True))
    class_of = [{v: n for n, values in enumerate(c) for v in values} for c in classes]
    for cell, answer in zip(cells, whole, strict=True):
        there = tuple(class_of[axis][value] for axis, value in enumerate(cell))
        assert lookup[there] == answer
    again, _ = quotient.collapse(smaller, new_sizes)
    assert again == smaller


def test_collapsing_leaves_kept_axes_alone() -> None:
    smaller, classes = quotient.collapse(bytes(12), [2, 3, 2], keep={1})
    assert smaller == bytes(3)
    assert classes == [((0, 1),), ((0,), (1,), (2,)), ((0, 1),)]


# --- sentences ------------------------------------------------------------------------------------


def tables_of(rule: Any) -> tuple[Table, Table]:
    """Tables from a rule over cells by name: (gfx, aiter, mha, explicit, mla, block) -> pair."""
    pairs = []
    for cell in CELLS:
        gfx, aiter, mha, explicit, (mla, block) = (
            axis.values[value] for axis, value in zip(AXES, cell, strict=True)
        )
        pairs.append(rule(gfx=gfx, aiter=aiter, mha=mha, explicit=explicit, mla=mla, block=block))
    return table([one for one, _ in pairs]), table([other for _, other in pairs])


def sentences(rule: Any) -> list[str]:
    return [str(condition) for condition in differences(AXES, *tables_of(rule)).conditions]


def test_nothing_differs_gives_no_condition() -> None:
    same = tables_of(lambda **_: (Rejected("ValueError", "a"), Rejected("RuntimeError", "b")))
    assert differences(AXES, *same) == Cover((), len(CELLS), 0)


def test_an_override_of_explicit_choices_is_one_sentence() -> None:
    def rule(*, aiter: str | None, explicit: str | None, **_: object) -> tuple[Outcome, Outcome]:
        chosen = Selected(explicit or "A")
        return chosen, (Selected("C") if aiter == "1" and explicit else chosen)

    # Asked for C, it gives C: that is no difference, so C is not among them.
    assert sentences(rule) == ["AITER=1 and explicit A or B: expected the explicit one, got C"]


def test_all_explicit_choices_that_become_refusals_are_one_sentence() -> None:
    def rule(*, explicit: str | None, **_: object) -> tuple[Outcome, Outcome]:
        return Selected(explicit or "A"), (
            Rejected("ValueError", f"no {explicit}") if explicit else Selected("A")
        )

    assert sentences(rule) == [
        "an explicit backend is given: expected the explicit one, got a refusal"
    ]


def test_a_constant_answer_joins_cells_where_it_is_the_explicit_one() -> None:
    def rule(**_: object) -> tuple[Outcome, Outcome]:
        return Selected("A"), Selected("B")

    assert sentences(rule) == ["everywhere: expected A, got B"]


def test_a_request_is_told_by_the_fields_that_matter() -> None:
    def rule(*, gfx: str, mla: bool, block: int, **_: object) -> tuple[Outcome, Outcome]:
        differs = mla and block != 16 and gfx != "gfx1100"
        return Selected("A"), Selected("B" if differs else "A")

    assert sentences(rule) == [
        "gfx in gfx90a, gfx942, gfx950 and use_mla and block_size in 1, 8: expected A, got B"
    ]


def test_a_field_that_the_others_imply_is_not_told() -> None:
    # Block size 8 is asked for with MLA only.
    def rule(*, block: int, **_: object) -> tuple[Outcome, Outcome]:
        return Selected("A"), Selected("B" if block == 8 else "A")

    assert sentences(rule) == ["block_size=8: expected A, got B"]


def test_the_smallest_cell_has_the_fewest_flags_and_is_nearest_to_the_defaults() -> None:
    def rule(*, aiter: str | None, mha: str | None, **_: object) -> tuple[Outcome, Outcome]:
        return Selected("A"), Selected("B" if aiter == "1" or mha == "0" else "A")

    cover = differences(AXES, *tables_of(rule))
    assert [str(c).partition(":")[0] for c in cover.conditions] == ["MHA=0", "AITER=1"]
    assert [c.smallest for c in cover.conditions] == [(0, 0, 1, 0, 0), (0, 2, 0, 0, 0)]
    assert not any(c.at_defaults for c in cover.conditions)


def test_a_changed_default_comes_first_then_overridden_choices_then_the_larger() -> None:
    def rule(
        *, gfx: str, aiter: str | None, explicit: str | None, mla: bool, **_: object
    ) -> tuple[Outcome, Outcome]:
        if explicit == "B":
            return Selected("B"), Selected("C" if gfx == "gfx942" else "B")
        if aiter == "1":
            return Selected("A"), Rejected("ValueError", "no")
        new_default = gfx == "gfx1100" and aiter is None and explicit is None and not mla
        return Selected("A"), Selected("B" if new_default else "A")

    cover = differences(AXES, *tables_of(rule))
    assert [str(condition) for condition in cover.conditions] == [
        "gfx gfx1100 and AITER unset and no explicit backend and not use_mla: expected A, got B",
        "gfx gfx942 and explicit B: expected the explicit one, got C",
        "AITER=1 and no explicit backend or explicit A or C: expected A, got a refusal",
    ]
    assert [condition.at_defaults for condition in cover.conditions] == [True, False, False]


def test_conditions_beyond_the_limit_are_counted_and_their_smallest_cell_is_told() -> None:
    numbers = random.Random(0)
    expected, got = (
        table([numbers.choice(OUTCOMES) for _ in CELLS]),
        table([numbers.choice(OUTCOMES) for _ in CELLS]),
    )
    whole = differences(AXES, expected, got, most=1000)
    assert whole.left == 0
    cut = differences(AXES, expected, got, most=5)
    assert len(cut.conditions) == 5
    assert cut.left_smallest is not None
    covered = {
        cell for cell in CELLS for condition in cut.conditions if holds(condition, AXES, cell)
    }
    assert cut.left == whole.differing - len(covered)
    assert cut.left_smallest not in covered


def test_more_pairs_of_answers_than_a_byte_can_number_stay_covered_exactly() -> None:
    axes = (Dimension("n", tuple(range(400)), "choice"), AITER)
    expected: list[Outcome] = [Selected("A")] * 1200
    got: list[Outcome] = [
        Selected(f"B{n}") if flag == 2 else Selected("A") for n in range(400) for flag in range(3)
    ]
    cover = differences(axes, table(expected), table(got), most=400)
    check_exact(axes, expected, got, cover)
    assert any(condition.got == VARIOUS for condition in cover.conditions)


@pytest.mark.parametrize(
    ("dimension", "chosen", "words"),
    [
        pytest.param(AITER, [0], "AITER unset", id="unset"),
        pytest.param(AITER, [0, 1], "AITER unset or 0", id="unset or a value"),
        pytest.param(AITER, [1, 2], "AITER set", id="any value"),
        pytest.param(AITER, [1], "AITER=0", id="one value"),
        pytest.param(MHA, [1], "MHA=0", id="the only value"),
        pytest.param(EXPLICIT, [0], "no explicit backend", id="none named"),
        pytest.param(EXPLICIT, [1, 2, 3], "an explicit backend is given", id="any named"),
        pytest.param(EXPLICIT, [2], "explicit B", id="one named"),
        pytest.param(EXPLICIT, [0, 1], "no explicit backend or explicit A", id="none or one"),
        pytest.param(
            Dimension("explicit", (None, *"ABCDEFG"), "explicit"),
            [1, 2, 3, 4, 5, 7],
            "an explicit backend other than F",
            id="all named but one",
        ),
        pytest.param(GPU, [1], "gfx gfx942", id="one GPU"),
        pytest.param(
            Dimension("block_size", tuple(range(9)), "choice"),
            [0, 1, 2, 3, 4, 6, 8],
            "block_size other than 5 and 7",
            id="most values",
        ),
        pytest.param(Dimension("V", (None, "", "x"), "flag"), [1], "V=''", id="an empty text"),
    ],
)
def test_a_set_of_values_in_words(dimension: Dimension, chosen: list[int], words: str) -> None:
    (given_,) = constraints(dimension, chosen)
    assert str(given_) == words


def test_a_million_cells_in_which_most_flags_say_nothing_come_down_to_one_sentence() -> None:
    flags = tuple(Dimension(f"F{n}", (None, "0", "1"), "flag") for n in range(10))
    axes = (GPU, *flags, EXPLICIT)
    each = [
        (3 if f1 == 2 and explicit else 0)
        for _ in range(4)
        for _ in range(3)
        for f1 in range(3)
        for _ in range(3**8)
        for explicit in range(4)
    ]
    cover = differences(
        axes, Table(bytes(len(each)), OUTCOMES), Table(bytes(each), OUTCOMES), most=10
    )
    assert len(each) == 944_784
    assert [str(condition) for condition in cover.conditions] == [
        "F1=1 and an explicit backend is given: expected A, got a refusal"
    ]
