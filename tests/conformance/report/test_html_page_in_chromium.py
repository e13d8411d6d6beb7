"""The HTML page as a reader meets it, in headless Chromium. Slow; skipped where there is none."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_rocm_attn.conformance.report import html_page

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Page

    Open = Callable[..., Page]
    Check = Callable[[Page], list[str]]

pytestmark = pytest.mark.slow

GPUS = ("gfx90a", "gfx942", "gfx950", "gfx1100", "gfx1201")


@pytest.fixture
def show(open_page: Open, tmp_path: Path) -> Open:
    """A function that opens a report's page, and fails the test for any error or request."""

    def show(report: dict[str, Any], fragment: str = "", **options: Any) -> Page:
        path = tmp_path / "report.html"
        path.write_text(html_page.render(report))
        return open_page(path, fragment, **options)

    return show


@pytest.fixture
def sample(record: Any, report: Any, summary: dict[str, Any]) -> dict[str, Any]:
    """A report with every verdict, two tiers, a summary, findings, a trace and a traceback."""
    rows = [
        record(
            id=name,
            gpu={"gfx": gfx, "aiter": "present"},
            env=env,
            request=request,
            outcome={
                "kind": "selected",
                "words": got,
                "backend": got,
                "trace": [["rule", "yes", "why", "where"]],
            },
            verdict="pass" if got == "TRITON_ATTN" else verdict,
            again=f"pytest again {name} {gfx}",
        )
        for name, env, request, got, verdict in (
            ("default", {}, {}, "TRITON_ATTN", "pass"),
            ("aiter-is-ignored", {"VLLM_ROCM_USE_AITER": "1"}, {}, "ROCM_AITER_FA", "fail"),
            ("mla", {"VLLM_ROCM_USE_AITER": "1"}, {"use_mla": True}, "TRITON_MLA", "advisory"),
            ("named", {"VLLM_ATTENTION_BACKEND": "ROCM_ATTN"}, {}, "ROCM_ATTN", "deviation"),
            ("old", {"VLLM_USE_V1": "0"}, {}, "ROCM_ATTN", "stale"),
        )
        for gfx in GPUS
    ]
    crash = {"kind": "crashed", "words": "crash: KeyError", "traceback": "Traceback\n  KeyError: 1"}
    rows.append(record(id="breaks", env={"A": "1"}, outcome=crash, verdict="crash"))
    finding = {
        "condition": "differs wherever VLLM_ROCM_USE_AITER=1",
        "cells": 18_432,
        "expected": "the explicit one",
        "got": "ROCM_AITER_FA",
        "smallest": "VLLM_ROCM_USE_AITER=1",
        "again": "pytest smallest",
    }
    for gfx in GPUS:
        details = {"counts": {"cells": 118_432, "required": 18_432}, "findings": [finding]}
        rows.append(
            record(
                id="ordinary",
                tier="grid",
                gpu={"gfx": gfx, "aiter": "present"},
                env=None,
                request=None,
                verdict="fail",
                details=details,
            )
        )
    made: dict[str, Any] = report(*rows, summaries=[summary])
    return made


def test_each_cause_of_a_summary_has_its_command_to_copy(
    show: Open, sample: dict[str, Any], summary: dict[str, Any]
) -> None:
    page = show(sample)
    for one in summary["conditions"]:
        shown = page.locator(".conditions > li", has_text=f"{one['where']}: ")
        button = shown.get_by_role("button", name="Copy the command")
        button.click()
        # The clipboard answers when it does.
        button.filter(has_text=re.compile("^(Copied|Selected)$")).wait_for()
        if button.inner_text() == "Selected":
            assert page.evaluate("getSelection().toString()") == one["again"]


def test_a_cause_opens_the_list_of_its_items_which_lead_to_their_stories(
    show: Open, sample: dict[str, Any]
) -> None:
    page = show(sample)
    cause = page.locator(".conditions > li", has_text="aiter-is-ignored: expected TRITON_ATTN")
    links = cause.locator("details a")
    assert not links.first.is_visible()
    cause.locator("summary").click()
    assert links.count() == 2 * len(GPUS)  # AITER is ignored for MLA layers too: one cause
    links.filter(has_text="aiter-is-ignored[gfx942]").click()
    page.wait_for_selector("#detail-title")
    assert page.locator("#detail h2").inner_text() == "aiter-is-ignored[gfx942]"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_no_name_breaks_inside_a_word_and_no_scroller_lies_in_a_scroller(
    show: Open, sample: dict[str, Any], broken_words: Check, scheme: str
) -> None:
    sample["rows"] += [
        row
        | {
            "id": "with-aiter-and-unified-attention-switched-on-the-unified-backend-is-selected",
            "env": {
                "VLLM_ROCM_USE_AITER_UNIFIED_ATTENTION": "1",
                "VLLM_V1_USE_PREFILL_DECODE_ATTENTION": "1",
            },
        }
        for row in sample["rows"][5:10]
    ]
    sample["notes"] = ["Nobody reads VLLM_ROCM_USE_AITER_UNIFIED_ATTENTION in vllm-project/vllm."]
    window = {"width": 360, "height": 800}
    page = show(sample, "#aiter-is-ignored[gfx942]", viewport=window, color_scheme=scheme)
    assert page.locator("#detail").is_visible()
    for summary in page.locator(".conditions summary").all():
        summary.evaluate("node => { node.parentNode.open = true; }")
    assert broken_words(page) == []
    assert page.evaluate(NESTED_SCROLLERS) == []
    page.get_by_role("button", name="Close").click()
    assert broken_words(page) == []
    assert page.evaluate(NESTED_SCROLLERS) == []
    page.get_by_role("button", name="By row").first.click()
    assert broken_words(page) == []
    assert page.evaluate(NESTED_SCROLLERS) == []


# The window scrolls down; what scrolls down within it, or in another scroller, catches the finger.
NESTED_SCROLLERS = """() => {
  const scrolls = (node, down) => {
    const style = getComputedStyle(node);
    const auto = /auto|scroll/.test(down ? style.overflowY : style.overflowX);
    return auto && (down ? node.scrollHeight > node.clientHeight + 1 : node.scrollWidth > node.clientWidth + 1);
  };
  const all = [...document.body.querySelectorAll("*")].filter((node) => node.checkVisibility());
  const scrollers = all.filter((node) => scrolls(node, true) || scrolls(node, false));
  return scrollers
    .filter((node) => scrollers.some((outer) => outer !== node && outer.contains(node))
      || (scrolls(node, true) && getComputedStyle(node).position !== "fixed"))
    .map((node) => node.id || node.className);
}"""


def test_a_square_opens_its_story_and_escape_leads_back(show: Open, sample: dict[str, Any]) -> None:
    page = show(sample)
    square = page.get_by_role("button", name="VLLM_ROCM_USE_AITER=1, ordinary, gfx942: fail")
    square.click()
    detail = page.locator("#detail")
    for text in (
        *("aiter-is-ignored[gfx942]", "VLLM_ROCM_USE_AITER=1", "gfx942, aiter present"),
        *("TRITON_ATTN", "ROCM_AITER_FA", "the handbook, page 3"),
        *("pytest again aiter-is-ignored gfx942", "rule", "why", "where"),
    ):
        assert text in detail.inner_text()
    assert page.evaluate("document.activeElement.id") == "detail-title"
    assert page.evaluate("location.hash") == "#aiter-is-ignored[gfx942]"
    page.keyboard.press("Escape")
    assert detail.is_hidden()
    assert square.evaluate("node => node === document.activeElement")
    assert page.evaluate("location.hash") == ""


def test_a_deep_link_opens_its_cell_even_past_a_filter(show: Open, sample: dict[str, Any]) -> None:
    page = show(sample, "#mla[gfx1201]?verdict=fail")
    assert page.locator("#detail h2").inner_text() == "mla[gfx1201]"
    assert page.locator("#shown").inner_text() == "31 of 31 items shown"
    page.evaluate("location.hash = '#grid::ordinary[gfx90a]'")
    page.wait_for_function("document.querySelector('#detail-title').textContent[0] === 'o'")
    assert "18,432" in page.locator("#detail").inner_text()


def test_a_crash_shows_its_traceback(show: Open, sample: dict[str, Any]) -> None:
    page = show(sample, "#breaks[gfx942]")
    assert page.locator("#detail pre").inner_text() == "Traceback\n  KeyError: 1"


def test_filters_narrow_the_page_and_stand_in_the_address(
    show: Open, sample: dict[str, Any]
) -> None:
    page = show(sample)
    shown = page.locator("#shown")
    page.get_by_role("button", name="fail 10", exact=True).click()
    assert shown.inner_text() == "10 of 31 items shown"
    page.get_by_role("button", name="gfx942 7", exact=True).click()
    page.get_by_role("button", name="documented 26", exact=True).click()
    page.get_by_label("Text to look for").fill("AITER_fa ignored")
    assert shown.inner_text() == "1 of 31 items shown"
    assert page.locator(".story h3").all_inner_texts() == ["aiter-is-ignored"]
    fragment = page.evaluate("location.hash")
    again = show(sample, fragment)
    assert again.locator("#shown").inner_text() == "1 of 31 items shown"
    again.get_by_role("button", name="Show all").click()
    assert again.locator("#shown").inner_text() == "31 of 31 items shown"
    again.get_by_label("Text to look for").fill("no such text")
    assert "No item passes this filter" in again.locator("#matrix").inner_text()


def test_the_keyboard_alone_reaches_and_reads_every_cell(
    show: Open, sample: dict[str, Any]
) -> None:
    page = show(sample)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    stops = []
    for _ in range(40):
        page.keyboard.press("Tab")
        stops.append(page.evaluate("document.activeElement.className"))
        if "cell" in stops[-1]:
            break
    assert stops[0] == ""  # the search field
    assert "cell" in stops[-1]
    assert page.evaluate("document.activeElement.title") == "no variables, ordinary, gfx90a: pass"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    label = page.evaluate("document.activeElement.title")
    # Past the row below, which has a cell for gfx942 alone, to the next one with a cell for gfx90a.
    assert label.endswith(", ordinary, gfx942: deviation")
    page.keyboard.press("End")
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    assert page.locator("#detail").is_visible()
    page.keyboard.press("Escape")
    assert "cell" in page.evaluate("document.activeElement.className")
    page.keyboard.press("Tab")  # one stop for the whole table: the next one is the next table's
    assert "cell" in page.evaluate("document.activeElement.className")
    assert "ordinary[" in page.evaluate("document.activeElement.title")


def test_next_walks_through_all_that_falls_short(show: Open, sample: dict[str, Any]) -> None:
    page = show(sample, "#breaks[gfx942]")  # the worst comes first
    seen = [page.locator("#detail h2").inner_text()]
    following = page.get_by_role("button", name="Next shortfall")
    while following.is_enabled():
        following.click()
        seen.append(page.locator("#detail h2").inner_text())
    assert len(seen) == len(set(seen)) == 26


def test_headers_name_rows_and_columns(show: Open, sample: dict[str, Any]) -> None:
    page = show(sample)
    page.get_by_role("button", name="By row").click()
    table = page.get_by_role("grid").first
    assert table.get_by_role("columnheader").all_inner_texts() == ["row", *GPUS]
    assert "aiter-is-ignored" in table.get_by_role("rowheader").all_inner_texts()
    assert page.get_by_role("grid").count() == 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1300])
def test_nothing_is_wider_than_the_window(
    show: Open, hostile: dict[str, Any], sample: dict[str, Any], width: int, scheme: str
) -> None:
    for content in (sample, hostile):
        page = show(content, viewport={"width": width, "height": 800}, color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.get_by_role("button", name="By row").first.click()
        page.locator(".cell").first.click()
        assert page.locator("#detail").is_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        overflow = page.locator("#detail").evaluate("node => node.scrollWidth - node.clientWidth")
        assert overflow <= 0


def test_a_story_that_covers_a_small_window_takes_the_page_behind_it_away(
    show: Open, sample: dict[str, Any]
) -> None:
    page = show(sample, "#default[gfx942]", viewport={"width": 360, "height": 800})
    box = page.locator("#detail").bounding_box()
    assert box
    assert (box["x"], box["width"]) == (0, 360)
    assert page.evaluate("document.querySelector('main').inert")
    page.get_by_role("button", name="Close").click()
    assert not page.evaluate("document.querySelector('main').inert")


def test_hostile_text_does_nothing(show: Open, hostile: dict[str, Any]) -> None:
    page = show(hostile)
    for button in page.locator(".where button").all():
        button.click()
        assert page.locator("#detail").is_visible()
    assert page.evaluate("window.hacked") is None
    assert page.locator("main img, main a:not([href^='#']), aside a, main script").count() == 0
    assert "<script>window.hacked = 1</script>" in page.locator("#stories").inner_text()


def test_paper_holds_what_the_screen_asks_for(show: Open, sample: dict[str, Any]) -> None:
    page = show(sample, "#default[gfx942]")
    page.emulate_media(media="print")
    assert page.locator("#detail").is_hidden()
    assert page.locator("#filter").is_hidden()
    assert page.locator(".story").first.is_visible()
    assert "pytest again aiter-is-ignored gfx90a" in page.locator("#stories").inner_text()
    assert (
        page.locator(".scroll").first.evaluate("node => getComputedStyle(node).overflow")
        == "visible"
    )
    pdf = page.pdf(format="A4")
    assert pdf.startswith(b"%PDF")


def test_the_page_of_a_full_grid_is_small_and_opens_at_once(
    show: Open, record: Any, report: Any, sample: dict[str, Any]
) -> None:
    """A million cells in slices, with ten findings each, beside the whole documented tier."""
    grid = []
    findings = next(row for row in sample["rows"] if row["tier"] == "grid")["details"]["findings"]
    for number in range(200):
        for gfx in GPUS:
            of_slice = [
                finding | {"condition": f"{finding['condition']}, {gfx}, slice {number}, {part}"}
                for finding in findings
                for part in range(10)
            ]
            details = {"counts": {"cells": 1_000, "required": 100}, "findings": of_slice}
            row = record(
                id=f"family-{number}", tier="grid", gpu={"gfx": gfx, "aiter": "present"}, env=None
            )
            grid.append(row | {"request": None, "verdict": "fail", "details": details})
    documented = [
        record(id=f"row-{number}", gpu={"gfx": gfx, "aiter": "present"}, env={"FLAG": str(number)})
        for number in range(220)
        for gfx in GPUS
    ]
    everything = report(*grid, *documented)
    assert len(html_page.render(everything).encode()) < 5_000_000
    drawn = []
    for _ in range(3):  # the best: this machine may have other work
        page = show(everything)
        drawn.append(page.evaluate("Number(document.documentElement.dataset.ready)"))
        assert page.locator("#shown").inner_text() == "2,100 of 2,100 items shown"
    print(f"{len(html_page.render(everything)):,} bytes, drawn after {sorted(drawn)} ms")
    assert min(drawn) < 2_000


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1300])
def test_axe_finds_nothing(
    show: Open, sample: dict[str, Any], violations: Check, width: int, scheme: str
) -> None:
    for fragment in ("", "#aiter-is-ignored[gfx942]", "#breaks[gfx942]", "#grid::ordinary[gfx942]"):
        page = show(
            sample,
            fragment,
            viewport={"width": width, "height": 800},
            color_scheme=scheme,
            bypass_csp=True,  # axe is put into the page, which its policy forbids
        )
        assert violations(page) == []
