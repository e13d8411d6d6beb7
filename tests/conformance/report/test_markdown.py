"""The Markdown report, read as GitHub reads it (cmarkgfm is GitHub's own parser)."""

from __future__ import annotations

from dataclasses import asdict
from html.parser import HTMLParser
from typing import Any

import pytest

from pytest_rocm_attn.conformance.report import markdown
from pytest_rocm_attn.request import Request

cmarkgfm = pytest.importorskip("cmarkgfm", reason="cmarkgfm: pip install --group test")


class Page(HTMLParser):
    """What a rendered document consists of: its tags, and the text by tag."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.cells: list[list[str]] = []
        self.code: list[str] = []
        self._open: list[str] = []
        # With raw HTML let through: what GitHub's sanitiser takes away later must not be there.
        self.feed(
            cmarkgfm.github_flavored_markdown_to_html(text, cmarkgfm.Options.CMARK_OPT_UNSAFE)
        )

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        self._open.append(tag)
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")
        if tag == "code":
            self.code.append("")

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "code" in self._open:
            self.code[-1] += data
        if "td" in self._open or "th" in self._open:
            self.cells[-1][-1] += data


OURS = {
    "h1",
    "h2",
    "h3",
    "ol",
    "p",
    "table",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
    "code",
    "pre",
    "ul",
}
OURS |= {"li", "strong", "details", "summary", "blockquote"}


def test_a_shortfall_is_told_with_all_that_is_needed_to_see_it_again(
    record: Any, report: Any
) -> None:
    failed = record(
        id="aiter-is-ignored",
        env={"VLLM_ROCM_USE_AITER": "1"},
        request={"dtype": "float16"},
        verdict="fail",
        outcome={"kind": "selected", "words": "ROCM_AITER_FA"},
        again="python -m pytest --rocm-attn-conformance 'rocm-attn::documented::aiter-is-ignored[gfx942]'",
    )
    page = Page(markdown.render(report(record(), failed)))
    for text in (
        "ours.pick:select (ours 4.5)",
        "gfx942, aiter present",
        "VLLM_ROCM_USE_AITER=1",
        "dtype='float16'",
        "TRITON_ATTN",
        "ROCM_AITER_FA",
        "the handbook, page 3",
    ):
        assert text in page.code
    assert failed["again"] + "\n" in page.code
    assert ["documented", "2", "1", "1"] in page.cells  # items, fail, pass
    assert ["aiter-is-ignored", "fail"] in page.cells


def test_rows_that_pass_take_no_room(record: Any, report: Any) -> None:
    text = markdown.render(report(*(record(id=f"row-{number}") for number in range(500))))
    assert "500 items: 500 pass" in text
    assert len(text) < 1000


def test_gpus_that_fall_short_alike_share_a_story(record: Any, report: Any) -> None:
    rows = [
        record(verdict="fail", gpu={"gfx": gfx, "aiter": "present"}, again=f"again {gfx}")
        for gfx in ("gfx1201", "gfx942")
    ]
    rows.append(record(verdict="fail", gpu={"gfx": "gfx950", "aiter": "absent"}, outcome={}))
    text = markdown.render(report(*rows))
    assert text.count("### fail: `triton-is-the-default`") == 2
    assert "`gfx942, aiter present`, `gfx1201, aiter present`" in text


def test_findings_of_a_grid_slice_are_listed(record: Any, report: Any) -> None:
    finding = {
        "condition": "wherever A=1: expected the explicit one, got ROCM_AITER_FA",
        "level": "required",
        "theme": "",
        "where": "wherever A=1",
        "expected": "the explicit one",
        "got": "ROCM_AITER_FA",
        "cells": 18432,
        "smallest": 17,
        "limits": {},
        "declared": False,
        "again": "rocm-attn explain A=1",
        "smallest_words": "A=1, a plain layer",
    }
    details = {"counts": {"cells": 118432, "required": 18432}, "findings": [finding]}
    text = markdown.render(
        report(record(tier="grid", env=None, request=None, verdict="fail", details=details))
    )
    assert "- counts: `cells=118,432, required=18,432`" in text
    assert (
        "- **`wherever A=1`**; cells `18,432`; expected `the explicit one`; got `ROCM_AITER_FA`;"
        " level `required`; smallest `A=1, a plain layer`; again `rocm-attn explain A=1`\n"
    ) in text


def test_what_the_grid_came_to_is_told_first(
    record: Any, report: Any, summary: dict[str, Any]
) -> None:
    text = markdown.render(report(record(tier="grid", verdict="fail"), summaries=[summary]))
    page = Page(text)
    assert text.index("## Causes") < text.index("## Shortfalls by GPU")
    assert (
        "1. **fail**: `AITER=1 and an explicit backend is given: the explicit one -> ROCM_AITER_FA.`"
        " (18,432 cells)\n   - where: `AITER=1 BACKEND=TRITON_ATTN; gfx942, aiter present; a plain"
        " layer`\n   - why: `explicit-choice-is-never-replaced`\n"
    ) in text
    assert "2. advisory: `block_size 1: the explicit one -> ROCM_AITER_FA.` (18,432 cells)" in text
    assert page.tags.count("ol") == 1
    assert page.tags.count("pre") == 3  # two causes, and the slice itself


def test_gpus_whose_findings_differ_in_the_cell_that_shows_them_share_a_story(
    record: Any, report: Any
) -> None:
    rows = [
        record(
            tier="grid",
            verdict="fail",
            gpu={"gfx": gfx, "aiter": "present"},
            details={
                "findings": [
                    {"where": "A=1", "cells": cells, "smallest_words": gfx, "again": f"again {gfx}"}
                ]
            },
        )
        for gfx, cells in (("gfx942", 3), ("gfx950", 3), ("gfx1201", 4))
    ]
    text = markdown.render(report(*rows))
    assert text.count("### fail:") == 2
    assert "`gfx942, aiter present`, `gfx950, aiter present`" in text


def test_hostile_text_brings_no_markup(hostile: dict[str, Any]) -> None:
    text = markdown.render(hostile, 1_000_000)
    page = Page(text)
    assert set(page.tags) <= OURS
    assert {name for name, _ in page.attributes} <= {"align", "lang", "start"}
    assert page.tags.count("h1") == 1
    assert page.tags.count("h2") == 2 + len(hostile["rows"])  # each row is a cause
    assert page.tags.count("h3") == len(hostile["rows"])
    widths = {len(cells) for cells in page.cells}
    assert widths == {
        5,
        1 + len({row["gpu"]["gfx"] for row in hostile["rows"]}),
    }  # no pipe made a column
    assert any("<script>window.hacked" in code for code in page.code)
    assert not [c for c in text if not (c == "\n" or c.isprintable())]
    assert len(text) < 200_000


@pytest.mark.parametrize("limit", [4_000, 40_000])
def test_a_summary_stays_within_its_limit_and_says_what_is_left_out(
    record: Any, report: Any, limit: int
) -> None:
    rows = [
        record(id=f"row-{number:04}-\N{GREEK SMALL LETTER ALPHA}", verdict="fail")
        for number in range(3000)
    ]
    text = markdown.render(report(*rows), limit)
    assert limit / 4 < len(text.encode()) <= limit
    assert "Left out" in text
    assert "rows of the matrix" in text
    assert set(Page(text).tags) <= OURS
    assert (
        text.count("### ") + int(text.rpartition(" items in full")[0].split()[-1].replace(",", ""))
        == 3000
    )


def test_the_order_in_which_rows_ran_does_not_show(record: Any, report: Any) -> None:
    rows = [
        record(id=f"row-{number}", gpu={"gfx": gfx, "aiter": "present"}, verdict="fail")
        for number in range(5)
        for gfx in ("gfx942", "gfx90a")
    ]
    assert markdown.render(report(*rows)) == markdown.render(report(*reversed(rows)))


SNAPSHOT = """\
# ROCm attention conformance, 3 items: 1 pass, 2 fail

Selector `ours.pick:select (ours 4.5)`, contract `ours` (on the CPU under a mocked ROCm platform; no AMD GPU was used; Python 3.11.7).

| tier | items | fail | pass |
| --- | ---: | ---: | ---: |
| `documented` | 3 | 2 | 1 |

## Causes

1. **fail**: `Default for ordinary layers: TRITON_ATTN -> FLEX_ATTENTION, on every GPU.` (2 items, 2 GPUs)
   - where: `no variables; gfx942, aiter present; a plain layer`
   - why: `the-default: expected TRITON_ATTN (the handbook, page 3)`

   ```sh
   python -m pytest the-default
   ```

## What is selected

No backend is named, and aiter is present; the plainest request of each family; +1: other requests get another answer; bold: some fall short.

| flags | family | `gfx942` | `gfx1201` |
| --- | --- | --- | --- |
| `no variables` | ordinary | **`FLEX_ATTENTION`** | **`FLEX_ATTENTION`** |


## Shortfalls by GPU

| row | `gfx942` | `gfx1201` |
| --- | :---: | :---: |
| `the-default` | **fail** | **fail** |

**fail**: a required promise is broken. An empty square passes or was not asked.

## Items of cause 1

### fail: `the-default`

- GPU: `gfx942, aiter present`, `gfx1201, aiter present`
- flags: `no variables`
- request: `a plain layer`
- expected: `TRITON_ATTN`
- got: `FLEX_ATTENTION`
- source: `the handbook, page 3`

```sh
python -m pytest the-default
```

"""


def test_the_whole_document_of_a_small_run(record: Any, report: Any) -> None:
    flex = {"kind": "selected", "words": "FLEX_ATTENTION", "backend": "FLEX_ATTENTION"}
    rows = [
        record(
            id="the-default",
            gpu={"gfx": gfx, "aiter": "present"},
            verdict="fail",
            outcome=flex,
            again="python -m pytest the-default",
        )
        for gfx in ("gfx942", "gfx1201")
    ]
    mla = record(id="mla", request=asdict(Request(use_mla=True)))
    assert markdown.render(report(*rows, mla)) == SNAPSHOT


def test_a_large_run_stays_a_summary(record: Any, report: Any) -> None:
    rows = [
        record(id=f"row-{number}", verdict="fail", tier="capabilities", message="x" * 500)
        for number in range(500)
    ]
    assert len(markdown.render(report(*rows)).encode()) <= 10_000
