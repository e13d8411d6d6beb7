"""Judging slices: what differs, at which level, and how it is told."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

import pytest

from pytest_rocm_attn import Crashed, Died, Rejected, Request, Selected, TimedOut, Unrecognised
from pytest_rocm_attn.conformance.causes.words import condition_words, expected_words
from pytest_rocm_attn.conformance.isolation.inside.cells import UNANSWERED
from pytest_rocm_attn.conformance.promise.grid.outcomes import Table
from pytest_rocm_attn.conformance.promise.grid.rules import Expect, Rule
from pytest_rocm_attn.conformance.promise.grid.space import Axis, Cell, Family, Slice
from pytest_rocm_attn.conformance.tiers.grid.judge import Judged, Standard, judge
from pytest_rocm_attn.conformance.tiers.grid.labels import explained

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_rocm_attn.outcome import Outcome

NAME, FLAG = "VLLM_ATTENTION_BACKEND", "VLLM_ROCM_USE_AITER"
PLAIN, SMALL, SINKS = Request(), Request(block_size=8), Request(has_sink=True)
REQUESTS = (PLAIN, SMALL, Request(block_size=64), SINKS)


def a_slice() -> Slice:
    family = Family(
        "small",
        "",
        (
            Axis("gfx", ("gfx942",)),
            Axis("aiter", ("present", "absent")),
            Axis(FLAG, (None, "1")),
            Axis(NAME, (None, "TRITON_ATTN", "ROCM_AITER_FA")),
            Axis("request", REQUESTS),
        ),
    )
    return next(family.slices())


def answers(of: Slice, select: Callable[[Cell], Outcome | None]) -> Table:
    outcomes: list[Outcome] = []
    codes = array("H")
    for number in range(of.cells):
        outcome = select(of.cell(number))
        if outcome is not None and outcome not in outcomes:
            outcomes.append(outcome)
        codes.append(UNANSWERED if outcome is None else outcomes.index(outcome))
    return Table(codes, outcomes)


def plain(cell: Cell) -> Outcome:
    """A selector: what is named, else FA with the flag, else TRITON_ATTN."""
    fallback = "ROCM_AITER_FA" if FLAG in cell.environ else "TRITON_ATTN"
    return Selected(cell.environ.get(NAME, fallback))


def compare(
    got: Callable[[Cell], Outcome | None],
    other: Callable[[Cell], Outcome | None] | None,
    level: str = "advisory",
    rules: tuple[Rule, ...] = (),
) -> Judged:
    of = a_slice()
    others = answers(of, other) if other else None
    return judge(of, answers(of, got), others, Standard("the-other", level, rules))


def test_selectors_that_answer_alike_have_no_findings() -> None:
    judged = compare(plain, plain)
    assert (judged.cells, judged.compared, judged.findings) == (48, 48, [])
    assert (judged.required, judged.advisory, judged.unanswered) == (0, 0, 0)


def test_two_refusals_agree_whatever_their_words() -> None:
    judged = compare(lambda c: Rejected("ValueError", "a"), lambda c: Rejected("RuntimeError", "b"))
    assert not judged.findings


@pytest.mark.parametrize(
    "outcome", [Crashed("KeyError", "KeyError"), TimedOut(1), Died(9), Unrecognised("None")]
)
def test_what_is_no_answer_agrees_with_nothing_and_always_fails(outcome: Outcome) -> None:
    for other in (plain, lambda c: outcome, lambda c: Rejected("ValueError", "")):
        judged = compare(lambda c: outcome, other)
        assert judged.required == judged.crashed == judged.cells
        assert {finding.change.level for finding in judged.findings} == {"required"}


def test_a_crash_that_the_baseline_has_too_is_no_news() -> None:
    crash = Crashed("KeyError", "KeyError")
    assert not compare(lambda c: crash, lambda c: crash, "required").findings


def test_what_the_mock_cannot_answer_is_counted_and_not_judged() -> None:
    judged = compare(lambda c: Crashed("MockError", "needs a GPU"), plain)
    assert (judged.unanswerable, judged.findings) == (48, [])


def test_cells_that_were_not_reached_are_counted_and_not_judged() -> None:
    judged = compare(lambda c: None if FLAG in c.environ else plain(c), plain)
    assert (judged.unanswered, judged.compared, judged.findings) == (24, 24, [])


NO_ANSWERS: dict[str, Outcome | None] = {"not reached": None, "cut short": TimedOut(1)}


@pytest.mark.parametrize("missing", NO_ANSWERS.values(), ids=NO_ANSWERS.keys())
@pytest.mark.parametrize("level", ["required", "advisory"])
def test_what_the_other_selector_did_not_answer_is_not_compared_and_does_not_agree(
    missing: Outcome | None, level: str
) -> None:
    def partly(cell: Cell) -> Outcome | None:
        return missing if FLAG in cell.environ else plain(cell)

    judged = compare(plain, partly, level)
    assert (judged.compared, judged.uncompared, judged.findings) == (24, 24, [])
    # What is no answer is wrong whatever it would have been compared with, and agrees with nothing.
    for failure in (Crashed("KeyError", "KeyError"), TimedOut(1)):

        def fails(cell: Cell, failure: Outcome = failure) -> Outcome:
            return failure

        judged = compare(fails, lambda c: missing, level)
        assert (judged.compared, judged.uncompared, judged.required) == (0, 48, 48)


def test_a_cell_beyond_what_a_baseline_has_is_not_compared() -> None:
    of = a_slice()
    full = answers(of, plain)
    holes = array("H", [9 if number % 2 else code for number, code in enumerate(full.codes)])
    judged = judge(of, full, Table(holes, full.outcomes), Standard("a-baseline", "required"))
    assert (judged.compared, judged.uncompared, judged.findings) == (24, 24, [])


def test_what_the_mock_could_not_answer_for_the_other_selector_is_not_compared() -> None:
    unanswerable = Crashed("MockError", "needs a GPU")
    judged = compare(plain, lambda c: unanswerable, "required")
    assert (judged.compared, judged.uncompared, judged.findings) == (0, 0, [])
    judged = compare(lambda c: Died(9), lambda c: unanswerable, "required")
    assert (judged.compared, judged.required) == (0, 48)


def conditions(judged: Judged) -> list[str]:
    return [condition_words(one) for one in explained([judged.labelled]).conditions]


def test_an_overridden_choice_is_told_by_the_environment() -> None:
    def overriding(cell: Cell) -> Outcome:
        return Selected("ROCM_AITER_FA") if FLAG in cell.environ else plain(cell)

    judged = compare(overriding, plain, "required")
    (finding,) = judged.findings
    assert conditions(judged) == [
        f"{FLAG}=1 and explicit TRITON_ATTN: expected the explicit one, got ROCM_AITER_FA"
    ]
    assert expected_words(finding.change) == "the explicit one"
    assert finding.cells == 8
    cell = a_slice().cell(finding.smallest)
    assert cell.environ == {FLAG: "1", NAME: "TRITON_ATTN"}
    assert (cell.request, cell.gpu.aiter) == (PLAIN, "present")


def limited(cell: Cell) -> Outcome:
    """A selector that refuses what FA cannot serve, and block sizes that are too small."""
    selected = plain(cell)
    assert isinstance(selected, Selected)
    aiter = selected.backend == "ROCM_AITER_FA"
    if aiter and (cell.gpu.aiter == "absent" or cell.request.has_sink):
        return Rejected("ValueError", "no")
    return Rejected("ValueError", "no") if cell.request.block_size == 8 else selected


def test_what_a_backend_cannot_serve_is_told_by_what_it_is() -> None:
    judged = compare(plain, limited)
    found = explained([judged.labelled])
    (cause,) = found.causes  # what is taken though it should be refused, by three parts
    assert {part.theme: set(part.backends) for part in cause.parts} == {
        "aiter": {"ROCM_AITER_FA"},
        "block_size": {"ROCM_AITER_FA", "TRITON_ATTN"},
        "has_sink": {"ROCM_AITER_FA"},
    }
    assert sum(cause.cells for cause in found.causes) == judged.advisory
    assert {str(cause.change.expected) for cause in found.causes} == {"a refusal"}


def test_what_a_selector_refuses_though_it_should_not_is_told_by_what_it_is() -> None:
    found = explained([compare(limited, plain, "required").labelled])
    assert {str(cause.change.got) for cause in found.causes} == {"a refusal"}
    parts = [part for cause in found.causes for part in cause.parts or (cause,)]
    assert {part.theme for part in parts} == {"aiter", "block_size", "has_sink"}


def test_a_limit_is_not_read_into_what_a_plain_layer_gets_as_well() -> None:
    def no_fa(cell: Cell) -> Outcome:
        fa = plain(cell) == Selected("ROCM_AITER_FA")
        return Rejected("ValueError", "no") if fa else plain(cell)

    found = explained([compare(plain, no_fa).labelled])
    assert len(found.causes) == 2
    for cause in found.causes:
        assert cause.theme == ""
        assert {given.name for given in cause.where} <= {FLAG, NAME}
        assert cause.precision == 1.0


NAMED = Rule(
    "named-wins",
    "s",
    "required",
    Expect(named=True, rejects=True),
    ("TRITON_ATTN", "ROCM_AITER_FA"),
    {},
    (),
    (),
    {},
)


def test_a_rule_decides_before_any_other_selector() -> None:
    def overriding(cell: Cell) -> Outcome:
        return Selected("ROCM_AITER_FA") if FLAG in cell.environ else plain(cell)

    judged = compare(overriding, overriding, rules=(NAMED,))
    (finding,) = judged.findings
    assert (judged.decided, judged.required) == (32, 8)
    assert (finding.change.level, finding.change.rule) == ("required", "named-wins")
    assert expected_words(finding.change) == "the explicit one or a refusal"


def test_where_a_rule_is_kept_a_difference_is_only_shown() -> None:
    judged = compare(limited, plain, rules=(NAMED,))
    assert judged.required == 0
    assert judged.advisory == sum(finding.cells for finding in judged.findings) > 0


def test_rules_judge_without_any_other_selector() -> None:
    judged = compare(plain, None, rules=(NAMED,))
    assert (judged.decided, judged.compared, judged.findings) == (32, 0, [])
    assert compare(lambda c: Selected("FLEX_ATTENTION"), None, rules=(NAMED,)).required == 32


def test_every_differing_cell_is_in_a_finding() -> None:
    def odd(cell: Cell) -> Outcome:
        number = len(cell.environ) + (cell.request.block_size or 0) + cell.request.has_sink
        return Selected("FLEX_ATTENTION") if number % 3 == 0 else limited(cell)

    judged = compare(odd, plain, "required")
    of = a_slice()
    differing = sum(odd(of.cell(n)) != plain(of.cell(n)) for n in range(of.cells))
    assert judged.required == differing
    assert sum(finding.cells for finding in judged.findings) == differing
    found = explained([judged.labelled])
    assert (found.differing, found.left) == (differing, 0)


NO_FA = Rule("never-fa", "s", "required", Expect(never=("ROCM_AITER_FA",)), (), {}, (), (), {})


def test_each_finding_tells_what_its_own_rule_expects() -> None:
    def other(cell: Cell) -> Outcome:
        return Rejected("ValueError", "no") if NAME in cell.environ else Selected("ROCM_ATTN")

    judged = compare(lambda cell: Selected("ROCM_AITER_FA"), other, rules=(NO_FA,))
    found = [one.change for one in judged.findings]
    assert {(one.rule, expected_words(one), str(one.got)) for one in found} == {
        ("never-fa", "anything but ROCM_AITER_FA", "ROCM_AITER_FA"),
        ("the-other", "a refusal", "ROCM_AITER_FA"),
        ("the-other", "a refusal", "the explicit one"),
    }


def test_a_rule_that_would_take_other_backends_expects_no_refusal() -> None:
    def with_sinks(cell: Cell) -> Outcome:
        fa = cell.request.has_sink and NAME not in cell.environ
        return Selected("ROCM_AITER_FA" if fa else "TRITON_ATTN")

    judged = compare(with_sinks, None, rules=(NO_FA,))
    (finding,) = judged.findings
    assert expected_words(finding.change) == "anything but ROCM_AITER_FA"
    assert conditions(judged) == [
        "no explicit backend and has_sink: expected anything but ROCM_AITER_FA, got ROCM_AITER_FA"
    ]


def test_a_value_that_one_kind_of_request_is_served_with_is_told_as_any_other() -> None:
    def no_sinks_but_for_mla(cell: Cell) -> Outcome:
        asked = cell.request
        fa = plain(cell) == Selected("ROCM_AITER_FA")
        return Rejected("E", "") if fa and asked.has_sink and not asked.use_mla else plain(cell)

    family = Family(
        "small",
        "",
        (
            Axis("gfx", ("gfx942",)),
            Axis("aiter", ("present",)),
            Axis(NAME, (None, "ROCM_AITER_FA")),
            Axis("request", (PLAIN, SINKS, Request(use_mla=True, has_sink=True))),
        ),
    )
    of = next(family.slices())
    judged = judge(
        of, answers(of, plain), answers(of, no_sinks_but_for_mla), Standard("s", "advisory")
    )
    (cause,) = explained([judged.labelled]).causes
    assert (cause.theme, cause.backends) == ("has_sink", ("ROCM_AITER_FA",))
