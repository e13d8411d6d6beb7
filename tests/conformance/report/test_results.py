"""What became of each item: of two results of one item the worse stays, and none is left out."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_rocm_attn.conformance.report import results
from pytest_rocm_attn.conformance.report.results import Results


def report(nodeid: str, *, verdict: str = "", reason: str = "") -> pytest.TestReport:
    found = pytest.TestReport(nodeid, (nodeid, 0, nodeid), {}, "passed", None, "call")
    row: Any = {"id": nodeid, "verdict": verdict}
    entry: Any = {"id": nodeid, "reason": reason}
    if verdict:
        results.attach(found, row=row)
    if reason:
        results.attach(found, declined=entry)
    return found


@pytest.mark.parametrize(
    ("verdicts", "stays"),
    [
        (("pass", "error"), "error"),
        (("error", "pass"), "error"),
        (("fail", "error"), "error"),
        (("advisory", "pass"), "advisory"),
    ],
)
def test_of_two_rows_of_one_item_the_worse_stays(verdicts: tuple[str, str], stays: str) -> None:
    found = Results()
    for verdict in verdicts:
        found.add(report("a", verdict=verdict))
    assert [row["verdict"] for row in found.rows] == [stays]
    assert found.selected == ["a"]


@pytest.mark.parametrize("skipped_first", [True, False])
def test_an_item_that_was_skipped_and_then_failed_is_a_row(skipped_first: bool) -> None:
    found = Results()
    both = [report("a", reason="no"), report("a", verdict="error")]
    for one in both if skipped_first else reversed(both):
        found.add(one)
    assert (len(found.rows), found.declined, found.not_run) == (1, [], [])


def test_each_selected_item_is_counted_once() -> None:
    found = Results()
    found.select(["a", "b", "c", "d"])
    found.select(["a", "b", "c", "d"])  # another xdist worker's
    found.add(report("a", verdict="pass"))
    found.add(report("b", reason="no"))
    found.add(report("c"))  # a stage that says nothing
    assert len(found.rows) + len(found.declined) + len(found.not_run) == len(found.selected) == 4
    assert found.not_run == ["c", "d"]


@pytest.mark.parametrize(
    ("verdict", "selected", "before", "after"),
    [
        ("pass", ["a"], 0, 0),
        ("advisory", ["a"], 0, 0),
        ("fail", ["a"], 0, 1),
        ("pass", ["a", "b"], 0, 1),
        ("pass", ["a", "b"], 2, 2),
        ("pass", ["a"], 5, 5),
    ],
)
def test_a_run_with_a_bad_result_does_not_end_well(
    verdict: str, selected: list[str], before: int, after: int
) -> None:
    found = Results()
    found.select(selected)
    found.add(report("a", verdict=verdict))
    assert found.exit_status(before) == after
