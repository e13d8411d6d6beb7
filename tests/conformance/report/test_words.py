"""The result in words: the headline counts each selected item once, and what is green is green."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from pytest_rocm_attn.conformance.promise.verdict import Verdict
from pytest_rocm_attn.conformance.report import (
    explained,
    html_page,
    json_file,
    markdown,
    words,
)


def declined(item: str, backend: str = "", reason: str = "only on Tuesdays") -> dict[str, str]:
    return {
        "id": item,
        "tier": "numerics",
        "gfx": "",
        "backend": backend,
        "evidence": "interpreter",
        "reason": reason,
    }


def rows_of(record: Any, *verdicts: str) -> list[Any]:
    return [record(id=f"row-{n}", verdict=verdict) for n, verdict in enumerate(verdicts)]


@pytest.mark.parametrize(
    ("verdicts", "fields", "headline", "is_good"),
    [
        (("pass", "pass"), {}, "2 items: 2 pass", True),
        (("pass",), {}, "1 item: 1 pass", True),
        (("pass", "advisory", "deviation"), {}, "3 items: 1 pass, 1 deviation, 1 advisory", True),
        (("pass", "error"), {}, "2 items: 1 pass, 1 error", False),
        (("pass", "fail"), {}, "2 items: 1 pass, 1 fail", False),
        (("pass", "crash", "stale"), {}, "3 items: 1 pass, 1 crash, 1 stale", False),
        (("pass",), {"selected": 3}, "3 items: 1 pass, 2 not run", False),
        ((), {"selected": 1, "declined": [declined("a")]}, "1 item: 1 skipped", False),
        (
            ("pass",),
            {"selected": 1_003, "declined": [declined("a", "X"), declined("b")]},
            "1,003 items: 1 pass, 1 declined, 1 skipped, 1,000 not run",
            False,
        ),
        (
            ("pass",),
            {"selected": 2, "declined": [declined("a")]},
            "2 items: 1 pass, 1 skipped",
            True,
        ),
        ((), {"selected": 0}, "no item was selected", False),
    ],
)
def test_the_headline_counts_each_selected_item_once(
    record: Any,
    report: Any,
    verdicts: tuple[str, ...],
    fields: dict[str, Any],
    headline: str,
    is_good: bool,
) -> None:
    done = report(*rows_of(record, *verdicts), **fields)
    assert words.headline(done) == headline
    page = html_page.render(done)
    shown = headline[0].upper() + headline[1:]
    assert f'<p class="result {"good" if is_good else "bad"}">{shown}</p>' in page
    assert headline in markdown.render(done).partition("\n")[0]


def test_items_without_a_verdict_are_listed_by_their_cause(record: Any, report: Any) -> None:
    done = report(
        record(),
        selected=7,
        declined=[
            declined("a", "OURS"),
            declined("b", "OURS"),
            declined("c", reason="needs <hypothesis>"),
        ],
        not_run=["rocm-attn::numerics::d", "rocm-attn::numerics::e", "rocm-attn::numerics::f"],
    )
    assert words.without_verdict(done) == [
        ("declined", "OURS: only on Tuesdays", ["numerics::a", "numerics::b"]),
        ("skipped", "needs <hypothesis>", ["numerics::c"]),
        (
            "not run",
            "the run ended before them",
            ["rocm-attn::numerics::d", "rocm-attn::numerics::e", "rocm-attn::numerics::f"],
        ),
    ]
    text = markdown.render(done)
    assert "- declined: `OURS: only on Tuesdays` (2: `numerics::a`, `numerics::b`)\n" in text
    page = html_page.render(done)
    assert "skipped: needs &lt;hypothesis&gt;" in page
    assert "rocm-attn::numerics::f" in page


def test_an_older_report_that_names_no_items_that_were_not_run_still_counts_them(
    record: Any, report: Any, tmp_path: Path
) -> None:
    older = report(record(), cells_selected=5)
    del older["selected"], older["totals"]
    file = tmp_path / "r.json"
    file.write_text(json_file.render(older))
    loaded = json_file.load(file)
    assert words.headline(loaded) == "5 items: 1 pass, 4 not run"
    assert loaded["totals"] == {"pass": 1}
    assert "cells_selected" not in loaded
    assert "- not run: `the run ended before them`" in markdown.render(loaded)
    assert not words.is_good(loaded)


def test_a_report_survives_being_saved_and_read_back(
    record: Any, report: Any, tmp_path: Path
) -> None:
    done = report(
        *rows_of(record, *Verdict),
        selected=len(Verdict) + 2,
        declined=[declined("a")],
        not_run=["rocm-attn::numerics::b"],
        totals=dict.fromkeys(sorted(Verdict), 1),
        summaries=[],
    )
    done["causes"] = explained.causes_of(done["rows"], [])
    file = tmp_path / "r.json"
    file.write_text(json_file.render(done))
    assert json_file.load(file) == done


@pytest.mark.parametrize("verdict", Verdict)
def test_every_verdict_is_drawn_in_every_format(record: Any, report: Any, verdict: Verdict) -> None:
    done = report(record(verdict=verdict.value))
    page = html_page.render(done)
    style = resources.files("pytest_rocm_attn.conformance.report").joinpath("page", "page.css")
    rules = style.read_text()
    assert f".{verdict} {{ background: var(--{verdict})" in rules
    assert verdict is Verdict.PASS or f".story.is-{verdict} {{" in rules
    assert rules.count(f"--{verdict}: ") == 3  # light, dark and paper
    assert f'"{verdict}":"{verdict.meaning}"' in page
    if verdict is not Verdict.PASS:
        text = markdown.render(done)
        assert f"### {verdict}: `" in text
        assert f"{verdict.meaning}. An empty square" in text


def test_verdicts_differ_in_letter_and_are_in_order() -> None:
    assert len({verdict.letter for verdict in Verdict}) == len(Verdict)
    assert [verdict.fails for verdict in Verdict] == sorted(
        (verdict.fails for verdict in Verdict), reverse=True
    )
    assert Verdict.worst(["pass", "advisory", "error", "crash"]) is Verdict.ERROR
    assert Verdict.worst(["pass", "advisory"]) is Verdict.ADVISORY
