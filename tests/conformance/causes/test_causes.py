"""From differing cells with typed attributes to causes, and the sentences about them."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest

from pytest_rocm_attn.conformance.causes.cause import Explained
from pytest_rocm_attn.conformance.causes.causes import explain
from pytest_rocm_attn.conformance.causes.cells import Cells
from pytest_rocm_attn.conformance.causes.conditions import Change
from pytest_rocm_attn.conformance.causes.words import LONGEST, sentence
from pytest_rocm_attn.conformance.promise.grid.outcomes import Behaviour

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

A, B, FA = "TRITON_ATTN", "ROCM_ATTN", "ROCM_AITER_FA"
CHOICE, MASTER, MHA = (
    *("VLLM_ATTENTION_BACKEND", "VLLM_ROCM_USE_AITER"),
    "VLLM_ROCM_USE_AITER_MHA",
)
REFUSED = Behaviour("Rejected")
AXES: dict[str, Sequence[Any]] = {
    "gfx": ("gfx90a", "gfx942", "gfx1100"),
    "aiter": ("present", "absent"),
    MASTER: (None, "0", "1"),
    MHA: (None, "0"),
    CHOICE: (None, A, B, FA),
    "use_mla": (False, True),
    "has_sink": (False, True),
    "block_size": (16, 1, 8, 64),
}
ROWS = [dict(zip(AXES, values, strict=True)) for values in itertools.product(*AXES.values())]

Facts = dict[str, Any]


def selected(name: str) -> Behaviour:
    return Behaviour("Selected", name)


def found_by(
    differs: Callable[[Facts], tuple[Behaviour, Behaviour] | None],
    rows: Sequence[Facts] = ROWS,
    level: str = "",
    rule: str = "",
) -> Explained:
    """Explain rows that differ as a rule says."""
    labels: dict[Change, int] = {}
    for number, row in enumerate(rows):
        pair = differs(row)
        if pair is not None and pair[0] != pair[1]:
            named = Behaviour("Selected", row[CHOICE]) if row.get(CHOICE) else None
            one, other = (
                Behaviour("Selected", "the explicit one") if answer == named else answer
                for answer in pair
            )
            change = Change(one, other, level, rule)
            labels[change] = labels.get(change, 0) | 1 << number
    return explain(Cells.of_rows(rows), labels)


def sentences(differs: Callable[[Facts], tuple[Behaviour, Behaviour] | None]) -> list[str]:
    return [sentence(cause) for cause in found_by(differs).causes]


def test_a_default_that_changed_is_one_sentence_with_its_exceptions() -> None:
    def rule(row: Facts) -> tuple[Behaviour, Behaviour] | None:
        spared = row["has_sink"] or row["block_size"] in (1, 8) or row[MASTER] == "1"
        changed = row[CHOICE] is None and not row["use_mla"] and not spared
        return (selected(A), selected(B)) if changed else None

    (said,) = sentences(rule)
    assert said == (
        f"Default for ordinary layers: {A} -> {B}, on every GPU, except block size 1 or 8, sinks,"
        " AITER=1."
    )


def test_what_is_about_some_gpus_names_them() -> None:
    def rule(row: Facts) -> tuple[Behaviour, Behaviour] | None:
        changed = row[CHOICE] is None and row[MASTER] == "1" and row["gfx"] == "gfx90a"
        return (selected(FA), selected(A)) if changed else None

    assert sentences(rule) == [f"AITER=1: {FA} -> {A}, on gfx90a."]


def test_backends_that_are_named_and_refused_are_one_cause_whichever_they_are() -> None:
    def rule(row: Facts) -> tuple[Behaviour, Behaviour] | None:
        return (selected(row[CHOICE]), REFUSED) if row[CHOICE] else None

    assert sentences(rule) == ["a backend named: the named one -> a refusal."]


def test_a_limit_is_one_cause_whether_the_backend_is_named_or_not() -> None:
    def rule(row: Facts) -> tuple[Behaviour, Behaviour] | None:
        return (selected(row[CHOICE] or A), REFUSED) if row["block_size"] == 8 else None

    (cause,) = found_by(rule).causes
    assert (cause.theme, cause.cells, cause.precision) == ("block_size", len(ROWS) // 4, 1.0)
    assert cause.backends == (A, B, FA)
    assert sentence(cause) == (
        f"Default for all layers with block size 8: {A}, {B} or {FA} -> a refusal, on every GPU."
    )


def test_a_crash_in_one_place_is_one_cause_whatever_the_answer_was() -> None:
    crash = Behaviour("Crashed", "RuntimeError")

    def rule(row: Facts) -> tuple[Behaviour, Behaviour] | None:
        was = selected(row[CHOICE] or A) if row["block_size"] != 1 else REFUSED
        return (was, crash) if row["aiter"] == "absent" else None

    assert sentences(rule) == ["aiter absent: any answer -> a crash (RuntimeError), on every GPU."]


def test_causes_come_in_the_order_of_who_meets_them() -> None:
    def rule(row: Facts) -> tuple[Behaviour, Behaviour] | None:
        if row[CHOICE]:
            return (selected(row[CHOICE]), REFUSED) if row[CHOICE] == B else None
        if row[MASTER] == "1":
            return (selected(FA), selected(B)) if row[MHA] == "0" else (selected(FA), selected(A))
        return (selected(A), selected(B)) if row["gfx"] == "gfx1100" else None

    causes = found_by(rule).causes
    assert [cause.met for cause in causes] == [0, 1, 2, 3]
    assert [sentence(cause) for cause in causes] == [
        f"Default for all layers: {A} -> {B}, on gfx1100, except AITER=1.",
        f"AITER=1: {FA} -> {A}, except AITER_MHA=0.",
        f"{B} named: the named one -> a refusal.",
        f"AITER=1 and AITER_MHA=0: {FA} -> {B}.",
    ]


def test_the_smallest_cell_of_a_cause_is_one_that_its_sentence_is_about() -> None:
    def rule(row: Facts) -> tuple[Behaviour, Behaviour] | None:
        few = row == ROWS[0]  # one cell with nothing set, which the clauses leave out
        return (selected(A), selected(B)) if few or row[MASTER] == "1" else None

    (cause,) = found_by(rule).causes
    assert cause.cells == len(ROWS) // 3 + 1
    assert [given.name for given in cause.where] == [MASTER]
    assert ROWS[cause.smallest.place[0]][MASTER] == "1"


def test_required_differences_come_first_and_rules_are_kept_apart() -> None:
    def shown(row: Facts) -> tuple[Behaviour, Behaviour] | None:
        return (selected(A), selected(B)) if row[CHOICE] is None else None

    cells = Cells.of_rows(ROWS)
    half = [sum(1 << n for n, row in enumerate(ROWS) if row["use_mla"] == mla) for mla in (0, 1)]
    every = {
        Change(selected(A), selected(B), level, rule): bits
        for (level, rule), bits in zip(
            (("advisory", "one"), ("required", "other")), half, strict=True
        )
    }
    causes = explain(cells, every).causes
    assert [(cause.change.level, cause.change.rule) for cause in causes] == [
        ("required", "other"),
        ("advisory", "one"),
    ]
    assert found_by(shown, level="required", rule="r").causes[0].change.rule == "r"


def test_rows_of_a_list_may_lack_attributes() -> None:
    rows: list[Facts] = [
        {"gfx": gfx, MASTER: flag} | ({"block_size": 8} if flag else {})
        for gfx in ("gfx90a", "gfx942")
        for flag in (None, "1")
    ]

    def rule(row: Facts) -> tuple[Behaviour, Behaviour] | None:
        return (selected(A), selected(B)) if row[MASTER] else None

    (cause,) = found_by(rule, rows).causes
    assert (cause.cells, cause.precision, cause.everywhere) == (2, 1.0, True)


@pytest.mark.parametrize("seed", range(5))
def test_every_sentence_is_short(seed: int) -> None:
    def rule(row: Facts) -> tuple[Behaviour, Behaviour] | None:
        odd = sum(map(len, map(str, row.values()))) * (seed + 3) % 11
        return (selected(FA), selected(f"ROCM_AITER_BACKEND_{odd}")) if odd < 3 else None

    causes = found_by(rule).causes
    assert causes
    for cause in causes:
        assert len(sentence(cause)) <= LONGEST
        assert len(sentence(cause, 60)) <= 60
