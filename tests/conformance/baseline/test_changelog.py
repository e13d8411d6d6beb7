"""The changelog between two recordings, as text, Markdown and JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from pytest_rocm_attn import Request
from pytest_rocm_attn.conformance.baseline.baseline import Baseline
from pytest_rocm_attn.conformance.baseline.changelog import Changelog, escaped, render
from pytest_rocm_attn.conformance.promise.grid.space import Axis, Family, Grid
from pytest_rocm_attn.conformance.tiers.grid.cover import Table
from pytest_rocm_attn.flags import EXPLICIT, USE_AITER
from pytest_rocm_attn.outcome import Rejected, Selected

if TYPE_CHECKING:
    from collections.abc import Callable

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


def test_the_text_tells_the_default_first_and_every_change_in_one_line() -> None:
    lines = render(CHANGES, "text").splitlines()
    assert lines[0] == "vllm 1.0 -> vllm 2.0: 52 of 72 cells differ, under 4 conditions."
    assert lines[1] == (
        f"The default of an ordinary layer, with no variable set, changed from {A} to {B} on every"
        " GPU."
    )
    told = [line for line in lines if line[:1].isdigit()]
    assert told == [
        f"1. DEFAULT: no explicit backend and block_size 16: {A} -> {B}",
        f"2. {USE_AITER}=1 and no explicit backend or explicit {A} and block_size 16: {A} -> {B}",
        "3. an explicit backend is given and block_size 1: the explicit one -> a refusal",
        f"4. no explicit backend or explicit {A} and block_size 1: {A} -> a refusal",
    ]
    assert "   12 cells; smallest: no variables, gfx942" in lines
    assert "   after: ValueError: block | size `1`" in lines


def test_the_markdown_escapes_what_markdown_would_read() -> None:
    text = render(CHANGES, "markdown")
    assert text.startswith("## vllm 1.0 to vllm 2.0\n")
    assert "- **Default.** no explicit backend and block\\_size 16: TRITON\\_ATTN -> " in text
    assert "- **Explicit choice overridden.** VLLM\\_ROCM\\_USE\\_AITER=1 and" in text
    assert f"e.g. `{USE_AITER}=1, gfx942`" in text


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


@pytest.mark.parametrize("form", ["text", "markdown"])
def test_what_is_beyond_the_limit_is_counted(form: str) -> None:
    text = render(CHANGES, form, limit=1)
    assert "DEFAULT" in text or "Default" in text
    assert "a refusal" not in text
    assert "3 further conditions of at most 24 cells each are not shown" in text


def test_a_default_that_changed_on_some_gpus_names_them() -> None:
    def partly(cell: Cell) -> Outcome:
        return Selected(B) if cell.gpu.gfx == "gfx90a" and not cell.environ else old(cell)

    text = render(Changelog.between(baseline("1.0", old), baseline("2.0", partly), GRID), "text")
    assert f"changed from {A} to {B} on gfx90a.\n" in text


def test_no_difference_is_said() -> None:
    same = Changelog.between(baseline("1.0", old), baseline("2.0", old), GRID)
    assert render(same, "text") == "vllm 1.0 -> vllm 2.0: no difference in 72 cells.\n"
    assert json.loads(render(same, "json"))["conditions"] == []


def test_markup_in_names_is_shown_as_it_is() -> None:
    assert escaped("<b>|`x_y`*") == "&lt;b>\\|\\`x\\_y\\`\\*"
