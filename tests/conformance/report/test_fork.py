"""The headline of a run on a fork."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.promise.history import KnownDefect
from pytest_rocm_attn.conformance.report import fork

if TYPE_CHECKING:
    from pytest_rocm_attn.conformance.report.schema import Record

SWITCH = KnownDefect("dead", "Nothing reads the switch", "#7", ("switch",), ("ROCM_ATTN",))


def told(*rows: Record, ran: int | None = None) -> list[str]:
    cells = [(row["id"], row["gpu"]["gfx"]) for row in rows if row["gpu"]]
    return fork.headline(rows[:ran], "vLLM 1.0.0", [SWITCH], cells)


def test_a_fork_without_a_difference_answers_like_its_release(record: Any) -> None:
    rows = [
        record(id="plain", verdict="pass", details={}),
        record(id="switch", verdict="inherited-defect", details={"defect": SWITCH.story}),
    ]
    assert told(*rows) == [
        "Answers like unmodified vLLM 1.0.0 in all 2 items.",
        "Inherits 1 known defect of vLLM 1.0.0 (1 item).",
    ]


def test_differences_are_counted_for_the_causes_name_them(record: Any) -> None:
    rows = [record(id=name, verdict="fail", details={}) for name in "abc"]
    rows.append(record(id="d", verdict="pass", details={}))
    assert told(*rows) == ["Answers like unmodified vLLM 1.0.0 except in 3 of 4 items."]


def test_a_defect_that_does_not_show_is_told_once_all_of_its_items_ran(record: Any) -> None:
    rows = [record(id="plain", verdict="pass", details={})]
    rows.append(record(id="switch", verdict="pass", details={}))
    assert (
        told(*rows)[1]
        == "Does not show a known defect of vLLM 1.0.0: Nothing reads the switch, #7."
    )
    assert len(told(*rows, ran=1)) == 1


def test_own_changes_hold_or_are_lost(record: Any) -> None:
    kept = record(id="plain", verdict="deviation", details={"must_hold": "ROCM_ATTN"})
    lost = record(id="plain", verdict="lost-delta", details={"must_hold": "ROCM_ATTN"})
    assert told(kept)[-1] == "Its own changes that must hold do, in 1 item."
    assert told(kept, lost)[-1] == "Has lost changes of its own that must hold, in 1 item."


def test_other_tiers_say_nothing_of_it(record: Any) -> None:
    assert told(record(tier="grid", verdict="fail")) == []
