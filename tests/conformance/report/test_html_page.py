"""The HTML page as text: what stands in it, what its policy is, how large it may be."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import asdict
from html.parser import HTMLParser
from typing import Any

import pytest

from pytest_rocm_attn.conformance.report import html_page
from pytest_rocm_attn.request import Request


class Page(HTMLParser):
    """The page's elements, the text of its scripts and styles, and the data that it draws."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag
        self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.texts[self._inside][-1] += data

    @property
    def data(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.texts["script"][0])
        return found

    def rows(self) -> list[dict[str, str]]:
        """Return the rows as the script reads them."""
        strings, fields = self.data["strings"], self.data["fields"]
        return [
            {field: strings[number] for field, number in zip(fields, row, strict=False)}
            for row in self.data["rows"]
        ]


def sources(policy: str, directive: str) -> list[str]:
    (found,) = (part.split()[1:] for part in policy.split("; ") if part.startswith(directive + " "))
    return found


def test_the_policy_allows_this_script_and_style_and_nothing_else(record: Any, report: Any) -> None:
    page = Page(html_page.render(report(record())))
    (policy,) = (
        attributes["content"] or ""
        for tag, attributes in page.tags
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert sources(policy, "default-src") == ["'none'"]
    for tag in ("script", "style"):
        digest = base64.b64encode(hashlib.sha256(page.texts[tag][-1].encode()).digest()).decode()
        assert sources(policy, f"{tag}-src") == [f"'sha256-{digest}'"]
    assert "require-trusted-types-for 'script'" in policy


def test_the_page_names_nothing_outside_itself(record: Any, report: Any) -> None:
    page = Page(html_page.render(report(record())))
    for _, attributes in page.tags:
        for name in ("src", "href", "action", "style", "onclick"):
            assert (attributes.get(name) or "#").startswith(("#", "data:,"))
    assert "url(" not in page.texts["style"][0]
    assert "@import" not in page.texts["style"][0]


def test_the_head_says_what_was_tested_and_on_which_evidence(record: Any, report: Any) -> None:
    page = Page(html_page.render(report(record(), record(id="b", verdict="crash"))))
    assert page.texts["p"][0] == "2 items: 1 pass, 1 crash"
    assert "ours.pick:select (ours 4.5)" in page.texts["dd"]
    assert any("no AMD GPU was used" in text for text in page.texts["dd"])
    assert "1 crash, 1 pass" in page.texts["dd"]


def test_kernels_that_were_interpreted_are_not_said_to_have_run_on_a_gpu(
    record: Any, report: Any
) -> None:
    kernel = record(tier="numerics", gpu=None, evidence="interpreter", env=None)
    (told,) = (t for t in Page(html_page.render(report(kernel))).texts["dd"] if "Python" in t)
    assert told == "kernels: Triton's interpreter on the CPU; Python 3.11.7"
    (told,) = (
        t for t in Page(html_page.render(report(kernel, record()))).texts["dd"] if "Python" in t
    )
    assert told.startswith("on the CPU under a mocked ROCm platform; no AMD GPU was used; kernels:")


def test_the_data_holds_each_cell_and_each_text_once(record: Any, report: Any) -> None:
    rows = [record(id=f"row-{number}", env={"A": "1"}) for number in range(9)]
    page = Page(html_page.render(report(*rows)))
    assert [row["id"] for row in page.rows()] == [row["id"] for row in rows]
    assert {row["flags"] for row in page.rows()} == {"A=1"}
    assert len(set(page.data["strings"])) == len(page.data["strings"])


def test_hostile_text_stays_within_its_place(hostile: dict[str, Any]) -> None:
    text = html_page.render(hostile)
    page = Page(text)
    assert [tag for tag, _ in page.tags if tag in ("script", "style", "img")] == [
        *("style", "script", "script")
    ]
    assert text.isascii()
    data = re.search(r'id="data">(.*?)</script>', text)
    assert data
    assert not re.search("[<>&]", data[1])
    assert any("<script>window.hacked = 1</script>" in row["message"] for row in page.rows())
    traces = [step for row in page.data["rows"] for step in row[-1]]
    assert len(traces) == len(hostile["rows"]) // 2  # the other half have a traceback in its place
    assert any("<script>window.hacked = 1" in page.data["strings"][n] for t in traces for n in t)
    assert not [
        c for row in page.rows() for c in row["message"] if not (c.isprintable() or c == "\n")
    ]


def test_a_long_text_is_cut_and_says_so(hostile: dict[str, Any]) -> None:
    row = max(Page(html_page.render(hostile)).rows(), key=lambda row: len(row["message"]))
    assert row["message"].startswith("x" * 20_000)
    assert row["message"].endswith("[cut, 100,000 characters]")


@pytest.mark.parametrize(
    ("rows", "size", "words"),
    [
        (30, 20_000, "more than 4,000 characters are cut"),
        (150, 4_000, "more than 1,000 characters are cut"),
        (1500, 100, "items that pass are left out"),
        (3000, 10, "600 items that pass and"),
    ],
)
def test_a_page_stays_within_its_limit_and_says_what_is_left_out(
    record: Any, report: Any, rows: int, size: int, words: str
) -> None:
    cells = [
        record(
            id=f"row-{number:05}",
            verdict="pass" if number % 5 else "fail",
            message=f"{number} " + "m" * size,
            again=f"again {number}",
            source=f"source {number}",
        )
        for number in range(rows)
    ]
    if rows == 3000:
        cells = [
            cell | {"verdict": "fail" if cell["verdict"] == "pass" else "pass"} for cell in cells
        ]
    limit = 300_000
    text = html_page.render(report(*cells), limit)
    assert limit / 3 < len(text.encode()) <= limit
    page = Page(text)
    assert any(words in note for note in page.texts["p"])
    failing = sum(cell["verdict"] == "fail" for cell in cells)
    kept = sum(row["verdict"] == "fail" for row in page.rows())
    assert kept == failing or (rows == 3000 and f"{failing - kept:,} that fell short" in text)


def test_the_order_in_which_rows_ran_does_not_show(record: Any, report: Any) -> None:
    rows = [
        record(id=f"row-{number}", gpu={"gfx": gfx, "aiter": "present"}, verdict="fail")
        for number in range(5)
        for gfx in ("gfx942", "gfx90a")
    ]
    assert html_page.render(report(*rows)) == html_page.render(report(*reversed(rows)))


def test_a_slice_of_the_grid_shows_how_much_of_it_has_its_verdict(record: Any, report: Any) -> None:
    few = {"cells": 100, "required": 4, "advisory": 6}
    rows = [
        record(tier="grid", id="a", verdict="fail", details={"counts": few}),
        record(tier="grid", id="b", verdict="advisory", details={"counts": few | {"required": 0}}),
        record(
            tier="grid",
            id="c",
            verdict="fail",
            details={"counts": {"cells": 100_000, "required": 25_000}},
        ),
        record(tier="grid", id="d", details={"counts": {"cells": 100_000, "required": 0}}),
    ]
    page = Page(html_page.render(report(*rows)))
    assert [row["tally"] for row in page.rows()] == ["4", "6", "25.0%", ""]


def test_what_the_grid_came_to_stands_in_the_page_before_the_matrix(
    record: Any, report: Any, summary: dict[str, Any]
) -> None:
    text = html_page.render(report(record(tier="grid", verdict="fail"), summaries=[summary]))
    page = Page(text)
    assert summary["told"][0] in page.texts["p"]
    plain = text.replace("<wbr>", "")
    for one in summary["conditions"]:
        assert f"<strong>{one['where']}: the explicit one -&gt; ROCM_AITER_FA.</strong>" in plain
    again = summary["conditions"][0]["again"].replace("'", "&#x27;")
    assert plain.count(f'<div class="command"><code>{again}</code></div>') == 2
    assert "18,432 cells" in page.texts["span"]
    assert text.index(">Causes<") < text.index(">Matrix<")
    assert "1 item: 1 fail" in "".join(page.texts["p"])
    assert ">Causes<" not in html_page.render(report(record()))


def test_the_page_starts_from_causes_and_what_is_selected(record: Any, report: Any) -> None:
    flex = {"kind": "selected", "words": "FLEX_ATTENTION", "backend": "FLEX_ATTENTION"}
    row = record(id="the-default", verdict="fail", outcome=flex, again="pytest again")
    mla = record(id="mla", request=asdict(Request(use_mla=True)))
    selector = {"name": "v:R", "distribution": "vllm", "version": "0.33.0", "commit": "4ba787ec9"}
    done = report(row, mla, selector=selector | {"date": "2026-11-01"})
    page = html_page.render(done)
    assert "<dd>v:R (vllm 0.33.0, commit 4ba787ec9, 2026-11-01)</dd>" in page
    start, end = page.index('<section class="summary"'), page.index("<noscript>")
    assert page[start:end].replace("<wbr>", "").replace("\n", "") == SNAPSHOT.replace("\n", "")


SNAPSHOT = """\
<section class="summary" aria-labelledby="causes-title"><h2 id="causes-title">Causes</h2>
<ol class="conditions"><li class="story is-fail"><div class="bar"><span class="mark fail">fail</span>
<strong>Default for ordinary layers: TRITON_ATTN -&gt; FLEX_ATTENTION, on gfx942.</strong>
<span class="count">1 item</span></div><dl class="facts">
<dt>where</dt><dd>no variables; gfx942, aiter present; a plain layer</dd>
<dt>why</dt><dd>the-default: expected TRITON_ATTN (the handbook, page 3)</dd>
<dt>show</dt><dd><div class="command"><code>pytest again</code></div></dd></dl>
<details><summary>1 item</summary><ul class="members">
<li><a class="code" href="#documented%3A%3Athe-default%5Bgfx942%5D">the-default[gfx942]</a></li>
</ul></details></li></ol></section>
<section aria-labelledby="selected-title"><h2 id="selected-title">What is selected</h2>
<p>No backend is named, and aiter is present. The plainest request of each family; +1: other requests get another answer; marked: some fall short.</p>
<div class="evidence selected" tabindex="0" role="region" aria-label="Backends"><table>
<thead><tr><td></td><th scope="col">gfx942</th></tr></thead><tbody>
<tr><th scope="row">no variables<br><span class="count">ordinary</span></th><td class="wrong">FLEX_ATTENTION</td></tr>
<tr><th scope="row">no variables<br><span class="count">MLA</span></th><td>TRITON_ATTN</td></tr>
</tbody></table></div></section>"""
