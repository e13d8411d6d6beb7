"""The summary of a run: findings of many slices as few conditions."""

from __future__ import annotations

from typing import Any

from pytest_rocm_attn.conformance.report.schema import summary_lines
from pytest_rocm_attn.conformance.tiers.grid.summary import Together, summary, together

COUNTS = dict.fromkeys(
    ("cells", "unanswered", "unanswerable", "decided", "compared", "required", "advisory"), 0
)


def record(gfx: str, *findings: dict[str, Any], **counts: int) -> Any:
    details = {"findings": list(findings), "counts": COUNTS | counts}
    return {
        "tier": "grid",
        "id": "family",
        "gpu": {"gfx": gfx, "aiter": "present"},
        "evidence": "mock",
        "details": details,
    }


def finding(where: str, cells: int = 1, **fields: Any) -> dict[str, Any]:
    return {
        "level": "required",
        "rule": "r",
        "theme": "",
        "where": where,
        "expected": "X",
        "got": "Y",
        "cells": cells,
        "limits": {},
        "given": where.split(" and "),
        "named": [],
        "declared": False,
        "again": "pytest ...",
        "distance": 0,
        "smallest_words": "none set",
    } | fields


def words(one: Together, gpus: list[str]) -> str:
    """Return a condition's line, from where on."""
    (line, _) = summary_lines({"tier": "grid", "told": [], "conditions": [one.data(gpus)]})
    return line.partition(" r: ")[2]


def lines(records: list[Any]) -> list[str]:
    return summary_lines(summary(records))


def limit(theme: str, cells: int = 1, **limits: dict[str, list[str]]) -> dict[str, Any]:
    return finding("", cells, theme=theme, limits=limits, level="advisory", got="the backend")


def test_what_several_slices_say_is_said_once_with_the_gpus() -> None:
    records = [
        record("gfx942", finding("A=1", 2)),
        record("gfx1201", finding("A=1", 3)),
        record("gfx950"),
    ]
    (one,) = together(records)
    assert words(one, ["gfx942", "gfx950", "gfx1201"]) == (
        "A=1 on gfx942, gfx1201: expected X, got Y; 5 cells; smallest: none set"
    )
    assert words(one, ["gfx942", "gfx1201"]).startswith("A=1: expected X")


def test_limits_of_one_theme_are_one_sentence() -> None:
    records = [
        record("gfx942", limit("block sizes", FA={"block_size": ["8"]})),
        record(
            "gfx942", limit("block sizes", FA={"block_size": ["1"]}, MLA={"block_size": ["64"]})
        ),
    ]
    (one,) = together(records)
    assert words(one, ["gfx942"]).startswith(
        "block sizes: FA with block_size 1 or 8; MLA with block_size 64: expected X"
    )


def test_there_are_at_most_ten_and_no_cell_is_lost() -> None:
    findings = [finding(f"N={n}", n, got=f"Y{n % 7}", rule=f"r{n % 2}") for n in range(1, 60)]
    findings += [limit(f"theme {n}", FA={"x": [str(n)]}) for n in range(9)]
    records = [record("gfx942", *findings)]
    for most in (10, 2, 60):
        found = together(records, most)
        assert len(found) <= most
        assert sum(one.cells for one in found) == sum(f["cells"] for f in findings)
        assert found[0].finding["level"] == "required"


def test_conditions_with_the_same_answers_say_what_they_have_in_common() -> None:
    findings = [finding(f"A=1 and B={n}", n) for n in range(1, 12)]
    (one,) = together([record("gfx942", *findings)])
    assert words(one, ["gfx942"]).startswith("A=1 (11 conditions): expected X, got Y; 66 cells")


def test_what_stands_for_others_that_have_nothing_in_common_with_it_says_so() -> None:
    findings = [
        finding("A=1", 9, got="Y1", expected="X1", level="advisory", rule="q"),
        finding("B=1", 5, got="Y2", expected="X2", level="advisory", rule="q"),
        limit("t", 3, FA={"x": ["1"]}) | {"rule": "q"},
        finding("C=1", 1),
    ]
    first, others = together([record("gfx942", *findings)], 2)
    assert words(first, ["gfx942"]).startswith("C=1: expected X, got Y; 1 cells")
    found = others.data(["gfx942"])
    assert found["where"] == "A=1 (and 2 other conditions)"
    assert (found["expected"], found["got"]) == ("various answers", "others")
    assert (found["rule"], found["cells"]) == ("q", 17)


def test_what_is_only_shown_is_put_together_before_what_fails() -> None:
    failing = [finding(f"F={n}") for n in range(8)]
    shown = [finding(f"S={n}", level="advisory") for n in range(8)]
    found = together([record("gfx942", *failing, *shown)])
    assert [one.more for one in found] == [0] * 8 + [7]


def test_of_too_many_the_most_important_are_told_and_the_rest_is_one() -> None:
    failing = [finding(f"F=1 and G={n}", n) for n in range(1, 9)]
    shown = [finding(f"S={n}", n, level="advisory", got=f"Y{n}") for n in range(20, 40)]
    found = together([record("gfx942", *failing, *shown)])
    assert len(found) == 10
    assert words(found[0], ["gfx942"]).startswith("F=1 (8 conditions): expected X, got Y; 36 cells")
    assert [one.finding["where"] for one in found[1:9]] == [f"S={n}" for n in range(39, 31, -1)]
    assert found[9].where(["gfx942"]) == "S=31 (and 11 other conditions)"
    assert found[9].cells == sum(range(20, 32))


def test_required_findings_come_first_and_overridden_choices_before_others() -> None:
    first = finding("C", 1, expected="the explicit one", overrides=True)
    records = [record("gfx942", limit("t", 99, FA={"x": ["1"]}), finding("B", 50), first)]
    assert [one.finding["where"] for one in together(records)] == ["C", "B", ""]


def test_what_overrides_more_names_comes_first() -> None:
    one = finding("A", 99, expected="the explicit one", overrides=True, named=["X"])
    both = finding("B", 1, expected="the explicit one", overrides=True, named=["X", "Y"])
    found = together([record("gfx942", one, both)])
    assert [each.finding["where"] for each in found] == ["B", "A"]


def test_what_was_not_reached_is_said() -> None:
    told = lines([record("gfx942", cells=10, unanswered=4, unanswerable=1, uncompared=3)])
    assert told[0].startswith("5 of 10 cells answered in 1 slices")
    assert "4 cells were not reached" in told[1]
    assert "3 cells have no answer to be compared with" in told[2]
    assert "1 cells need more than the mocked platform" in told[3]


def test_the_smallest_cell_of_all_slices_is_told_with_the_command_that_asks_it() -> None:
    far = finding("A=1", distance=200, smallest_words="A=1 B=1", again="pytest far")
    near = finding("A=1", distance=100, smallest_words="A=1", again="pytest near")
    other = finding("C=1 and A=1", distance=100, smallest_words="A=1", again="pytest other")
    records = [record("gfx90a", far, other), record("gfx942", near)]
    told = lines(records)
    assert told[1].endswith("; smallest: A=1")
    assert told[2] == "   pytest near"
    (one,) = together(records, 1)
    assert one.smallest in (near, other)


def test_of_cells_that_are_equally_small_the_one_on_the_usual_gpu_is_told() -> None:
    records = [
        record(gfx, finding("A=1", smallest_words=f"A=1; {gfx}, aiter present; a plain layer"))
        for gfx in ("gfx1030", "gfx942", "gfx90a")
    ]
    (one,) = together(records)
    assert "; gfx942," in one.smallest["smallest_words"]


def test_the_order_in_which_slices_were_run_changes_nothing() -> None:
    records = [
        record(gfx, *(finding(f"{gfx}={n}", n, got=f"Y{n % 3}") for n in range(1, 9)))
        for gfx in ("gfx90a", "gfx942", "gfx1201")
    ]
    assert lines(records) == lines(records[::-1]) == lines([records[1], records[0], records[2]])
