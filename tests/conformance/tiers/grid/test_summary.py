"""The summary of a run: the slices' cells together, as causes and as conditions."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.causes.conditions import Change
from pytest_rocm_attn.conformance.promise.grid.design import standard
from pytest_rocm_attn.conformance.promise.grid.outcomes import Behaviour
from pytest_rocm_attn.conformance.tiers.grid.labels import Labelled, with_named
from pytest_rocm_attn.conformance.tiers.grid.summary import COUNTS, MOST, summary, table
from pytest_rocm_attn.flags import EXPLICIT, USE_AITER

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_rocm_attn.conformance.promise.grid.space import Cell

A, B = Behaviour("Selected", "TRITON_ATTN"), Behaviour("Selected", "ROCM_ATTN")


def record(slice_id: str, rule: Callable[[Cell], Change | None], **counts: int) -> Any:
    """Return the record of a slice, as a report has it after JSON."""
    of = standard().slice(slice_id)
    changes: list[Change | None] = [None]
    codes = []
    for number in range(of.cells):
        cell = of.cell(number)
        change = rule(cell)
        change = change and with_named(change, cell.environ.get(EXPLICIT))
        if change not in changes:
            changes.append(change)
        codes.append(changes.index(change))
    details = {
        "counts": dict.fromkeys(COUNTS, 0) | {"cells": of.cells} | counts,
        "table": table(Labelled(of.family.name, of.axes, codes, changes)),
    }
    row = {
        "tier": "grid",
        "id": of.family.name,
        "gpu": {"gfx": of.gfx, "aiter": "present, absent"},
        "again": f"python -m pytest 'rocm-attn::grid::{slice_id}'",
        "details": details,
    }
    return json.loads(json.dumps(row))


def with_aiter(cell: Cell) -> Change | None:
    return Change(A, B, "required", "r") if cell.environ.get(USE_AITER) == "1" else None


def test_what_several_slices_and_families_say_is_one_cause() -> None:
    slices = ("attention-types[gfx942]", "attention-types[gfx90a]", "aiter-states[gfx942]")
    found = summary([record(name, with_aiter) for name in slices])
    cells = sum(
        with_aiter(part.cell(number)) is not None
        for part in map(standard().slice, slices)
        for number in range(part.cells)
    )
    (one,) = found["conditions"]
    assert (one["level"], one["rule"], one["cells"]) == ("required", "r", cells)
    assert (one["expected"], one["got"]) == ("TRITON_ATTN", "ROCM_ATTN")
    assert one["where"].startswith("AITER=1")
    (cause,) = found["causes"]
    assert cause["families"] == ["attention-types", "aiter-states"]
    assert cause["gpus"] == ["gfx90a", "gfx942"]


def test_a_smallest_cell_is_told_with_the_command_that_asks_it() -> None:
    found = summary([record("attention-types[gfx942]", with_aiter)])
    (one,) = found["conditions"]
    assert (one["level"], one["rule"], one["where"][:7]) == ("required", "r", "AITER=1")
    of = standard().slice("attention-types[gfx942]")
    number = int(one["again"].rpartition("=")[2])
    assert one["again"].endswith(f"'rocm-attn::grid::{of.id}' --rocm-attn-cell={number}")
    assert of.cell(number).environ == {USE_AITER: "1"}
    assert one["smallest"].startswith(f"{USE_AITER}=1; gfx942, aiter present; ")


def test_every_condition_is_there_exactly() -> None:
    found = summary([record("attention-types[gfx942]", with_aiter)])
    (exact,) = found["exact"]
    assert exact["where"] == [{"name": USE_AITER, "values": ["1"], "others": [None]}]
    assert exact["cells"] == found["causes"][0]["cells"]
    assert found["causes"][0]["conditions"] == [0]


def test_what_is_declared_is_kept_apart_and_comes_last() -> None:
    def rule(cell: Cell) -> Change | None:
        declared = cell.request.attn_type == "encoder"
        return Change(A, B, "required", "r", declared=declared)

    found = summary([record("attention-types[gfx942]", rule)])
    assert [one["level"] for one in found["conditions"]] == ["required", "declared"]


def test_a_rule_that_is_broken_by_known_defects_alone_is_shown_as_inherited() -> None:
    inheriting, failing = (
        record(name, with_aiter, required=7)
        for name in ("attention-types[gfx942]", "attention-types[gfx90a]")
    )
    finding = {"rule": "r", "level": "required"}
    for row, verdict in ((inheriting, "inherited-defect"), (failing, "fail")):
        row["verdict"] = verdict
        row["details"]["findings"] = [finding]
    alone, both = summary([inheriting]), summary([inheriting, failing])
    for found, level in ((alone, "inherited"), (both, "required")):
        assert [one["level"] for one in found["conditions"]] == [level]
        assert [one["level"] for one in found["causes"]] == [level]
    assert (
        "0 differ and fail the run, 7 are known defects of the release, 0 differ"
        in alone["told"][0]
    )
    assert (
        "7 differ and fail the run, 7 are known defects of the release, 0 differ" in both["told"][0]
    )


def test_there_are_at_most_ten_and_no_cell_is_lost() -> None:
    def rule(cell: Cell) -> Change | None:
        name = cell.environ.get(EXPLICIT, "none")
        kind = cell.request.attn_type
        answer = Behaviour("Selected", f"{name[-3:]}_{kind}")
        return Change(A, answer, "advisory", name)  # changes of several rules stay apart

    found = summary([record("attention-types[gfx942]", rule)])
    assert len(found["conditions"]) == MOST < len(found["causes"])
    cells = standard().slice("attention-types[gfx942]").cells
    assert sum(cause["cells"] for cause in found["causes"]) == cells
    hidden = len(found["causes"]) - MOST
    assert any(line.startswith(f"{hidden} further causes, of ") for line in found["told"])


def test_what_was_not_reached_is_said() -> None:
    counts = {"unanswered": 4, "unanswerable": 1, "uncompared": 3}
    found = summary([record("attention-types[gfx942]", lambda cell: None, **counts)])
    told = found["told"]
    assert told[0].startswith("2,683 of 2,688 cells answered in 1 slices")
    assert "4 cells were not reached" in told[1]
    assert "3 cells have no answer to be compared with" in told[2]
    assert "1 cells need more than the mocked platform" in told[3]


def test_the_order_in_which_slices_were_run_changes_nothing() -> None:
    records = [
        record(f"attention-types[{gfx}]", with_aiter) for gfx in ("gfx90a", "gfx942", "gfx1201")
    ]
    assert summary(records) == summary(records[::-1])
