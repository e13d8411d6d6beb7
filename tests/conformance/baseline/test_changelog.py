"""The changelog between two recordings, as text, Markdown and JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from pytest_rocm_attn import Request
from pytest_rocm_attn.conformance.baseline.baseline import Baseline
from pytest_rocm_attn.conformance.baseline.changelog import Changelog, escaped, render
from pytest_rocm_attn.conformance.promise.grid.outcomes import Table
from pytest_rocm_attn.conformance.promise.grid.space import Axis, Family, Grid
from pytest_rocm_attn.flags import EXPLICIT, USE_AITER
from pytest_rocm_attn.outcome import Crashed, Rejected, Selected, TimedOut

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_rocm_attn.conformance.promise.grid.space import Cell
    from pytest_rocm_attn.outcome import Outcome

A, B = "TRITON_ATTN", "ROCM_ATTN"
GRID = Grid(
    "small-1",
    (
        Family(
            "one",
            "a family",
            (
                Axis("gfx", ("gfx90a", "gfx942")),
                Axis("aiter", ("present", "absent")),
                Axis(USE_AITER, (None, "0", "1")),
                Axis(EXPLICIT, (None, A, B)),
                Axis("request", (Request(), Request(block_size=1))),
            ),
        ),
    ),
)


def baseline(version: str, answer: Callable[[Cell], Outcome]) -> Baseline:
    (family,) = GRID.families
    outcomes = [answer(family.cell(number)) for number in range(family.cells)]
    distinct = list(dict.fromkeys(outcomes))
    table = Table([distinct.index(outcome) for outcome in outcomes], distinct)
    return Baseline(
        id=f"vllm-{version}",
        selector="m:o",
        distribution="vllm",
        version=version,
        tool="0.1",
        grid=GRID.name,
        grid_digest=GRID.digest,
        tables={"one": table},
    )


def old(cell: Cell) -> Outcome:
    return Selected(cell.environ.get(EXPLICIT, A))


def new(cell: Cell) -> Outcome:
    if cell.request.block_size == 1:
        return Rejected("ValueError", "block | size `1`")
    if cell.environ.get(USE_AITER) == "1":
        return Selected(B)
    return Selected(cell.environ.get(EXPLICIT, B))


CHANGES = Changelog.between(baseline("1.0", old), baseline("2.0", new), GRID)


def test_the_text_tells_causes_in_the_order_of_who_meets_them() -> None:
    lines = render(CHANGES, "text").splitlines()
    assert lines == [
        "vllm 1.0 -> vllm 2.0: 52 of 72 cells differ (3 causes).",
        f"1. Default for all layers: {A} -> {B}, on every GPU, except block size 1.",
        "   12 cells; e.g. no variables, gfx942",
        f"2. Default for all layers with block size 1: {A} or {B} -> a refusal, on every GPU.",
        "   36 cells; e.g. no variables, gfx942, block_size=1",
        f"3. AITER=1 and {A} named: {A} -> {B}, except block size 1.",
        f"   4 cells; e.g. {USE_AITER}=1 VLLM_ATTENTION_BACKEND={A}, gfx942",
    ]


def test_the_full_text_has_every_condition_exactly() -> None:
    told = [line for line in render(CHANGES, "text", full=True).splitlines()[8:] if line]
    assert [line for line in told if line[:1].isdigit()] == [
        f"1. DEFAULT: no explicit backend and block_size 16: {A} -> {B}",
        f"2. {USE_AITER}=1 and no explicit backend or explicit {A} and block_size 16: {A} -> {B}",
        "3. an explicit backend is given and block_size 1: the explicit one -> a refusal",
        f"4. no explicit backend or explicit {A} and block_size 1: {A} -> a refusal",
    ]
    assert "   12 cells; smallest: no variables, gfx942" in told
    assert "   after: ValueError: block | size `1`" in told


def test_the_markdown_escapes_what_markdown_would_read() -> None:
    text = render(CHANGES, "markdown")
    assert text.startswith("## vllm 1.0 to vllm 2.0\n")
    assert "- Default for all layers: TRITON\\_ATTN -> ROCM\\_ATTN, on every GPU" in text
    assert f"e.g. `{USE_AITER}=1 VLLM_ATTENTION_BACKEND={A}, gfx942`" in text
    assert "block\\_size 16" in render(CHANGES, "markdown", full=True)


def test_the_json_holds_every_condition_with_its_smallest_cell() -> None:
    found = json.loads(render(CHANGES, "json", limit=1))
    assert found["schema"] == 1
    assert (found["before"]["id"], found["after"]["id"]) == ("vllm-1.0", "vllm-2.0")
    assert (found["cells"], found["differing"], len(found["conditions"])) == (72, 52, 4)
    assert found["defaults"] == [
        {
            "kind": "an ordinary layer",
            "before": A,
            "after": B,
            "gpus": ["gfx90a", "gfx942"],
            "everywhere": True,
        }
    ]
    first = found["conditions"][0]
    assert (first["before"], first["after"], first["default"]) == (A, B, True)
    assert first["where"][0] == {"name": EXPLICIT, "values": [None], "others": [A, B]}
    assert first["smallest"] == {
        "environ": {},
        "gpu": {"gfx": "gfx942", "aiter": "present"},
        "request": {},
        "before": A,
        "after": B,
    }
    assert found["left"] == {"cells": 0, "smallest": None}
    assert sum(cause["cells"] for cause in found["causes"]) == 52
    (default, *_) = found["causes"]
    assert (default["before"], default["after"], default["met"]) == (A, B, 0)
    assert default["except"] == [{"name": "block_size", "values": [1], "others": [16]}]
    assert default["source"] is None


@pytest.mark.parametrize("form", ["text", "markdown"])
def test_what_is_beyond_the_limit_is_counted(form: str) -> None:
    text = render(CHANGES, form, limit=1)
    assert "Default" in text
    assert "a refusal" not in text
    assert "2 further causes are not shown (40 cells)" in text
    assert "not shown" not in render(CHANGES, form, limit=0)


def test_a_default_that_changed_on_some_gpus_names_them() -> None:
    def partly(cell: Cell) -> Outcome:
        return Selected(B) if cell.gpu.gfx == "gfx90a" and not cell.environ else old(cell)

    text = render(Changelog.between(baseline("1.0", old), baseline("2.0", partly), GRID), "text")
    assert f"1. Default for all layers: {A} -> {B}, on gfx90a, except AITER=0 or 1.\n" in text


def without_answers(of: Baseline, codes: Sequence[int], outcome: Outcome) -> Baseline:
    table = of.tables["one"]
    return replace(of, tables={"one": Table(codes, [*table.outcomes, outcome])})


def test_cells_without_an_answer_differ_in_nothing_and_are_counted() -> None:
    after = baseline("2.0", lambda cell: Selected("FLEX_ATTENTION"))
    codes = [0xFFFF if n % 2 else code for n, code in enumerate(after.tables["one"].codes)]
    partly = without_answers(after, codes, Selected(A))
    found = Changelog.between(baseline("1.0", old), partly, GRID)
    assert (found.found.differing, found.unanswered) == (36, 36)
    assert "36 cells were not compared" in render(found, "text")


@pytest.mark.parametrize(
    ("outcome", "on_both_sides", "differing"),
    [
        pytest.param(Crashed("MockError", "a tensor on 'cuda'"), False, 0, id="beyond the mock"),
        pytest.param(Crashed("KeyError", ""), False, 72, id="a crash"),
        pytest.param(TimedOut(1.0), True, 0, id="out of time on both sides"),
        pytest.param(TimedOut(1.0), False, 72, id="out of time on one"),
    ],
)
def test_what_is_no_answer_is_compared_only_if_it_says_something(
    outcome: Outcome, on_both_sides: bool, differing: int
) -> None:
    before = baseline("1.0", (lambda cell: outcome) if on_both_sides else old)
    found = Changelog.between(before, baseline("2.0", lambda cell: outcome), GRID)
    assert (found.found.differing, found.unanswered) == (differing, 72 - differing)


def test_no_difference_is_said() -> None:
    same = Changelog.between(baseline("1.0", old), baseline("2.0", old), GRID)
    assert render(same, "text") == "vllm 1.0 -> vllm 2.0: no difference in 72 cells.\n"
    assert json.loads(render(same, "json"))["conditions"] == []


def test_markup_in_names_is_shown_as_it_is() -> None:
    assert escaped("<b>|`x_y`*") == "&lt;b>\\|\\`x\\_y\\`\\*"
