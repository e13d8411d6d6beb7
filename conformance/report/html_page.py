"""The report as one HTML page that needs nothing but itself. A pure function of the JSON report's data.

The page is drawn in the browser (page/page.js) from JSON that stands in it. Its policy allows no
request, no other script, and no text that becomes markup. Texts stand in the JSON once each, and the
whole is bounded: see ``_fitting``.
"""

from __future__ import annotations

import functools
import re
import string
from collections import Counter
from html import escape
from importlib import resources
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pytest_rocm_attn import web_page
from pytest_rocm_attn.conformance.promise.verdict import Verdict
from pytest_rocm_attn.conformance.report import evidence, explained, selected, words
from pytest_rocm_attn.conformance.report.schema import column

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pytest_rocm_attn.conformance.report.schema import CauseEntry, Record

LIMIT = 4_500_000  # bytes of the page
_MOST_BACKENDS = 100  # of the table by evidence
_MOST_CAUSES, _MOST_NAMES = 30, 5  # that are listed; of their names
_MOST_ITEMS, _MOST_LINES = 400, 100  # of a cause; of the table of what is selected
_CUTS = (20_000, 4_000, 1_000, 250)  # characters of one text, the first that fits
_FIELDS = (
    *("tier", "id", "column", "verdict", "level", "gpu", "flags", "request", "family", "expected"),
    *("got", "message", "source", "evidence", "seconds", "written", "again", "tally", "untold"),
)


def render(report: Mapping[str, Any], limit: int = LIMIT) -> str:
    """Return the page.

    Args:
        report: the JSON report, as plain data.
        limit: bytes that the page may take; at least some 60,000, which the empty page takes.
    """
    style, script = _asset("page.css"), _asset("page.js")
    headline = words.headline(report)
    tool = report.get("tool") or {}
    page = {
        "policy": web_page.content_policy(style, script),
        "title": _escaped(f"{headline} - {words.subject_words(report)}"),
        "style": style,
        "script": script,
        "headline": _escaped(headline[0].upper() + headline[1:]),
        "colour": "good" if words.is_good(report) else "bad",
        "facts": "".join(
            f"<dt>{label}</dt><dd>{_escaped(text)}</dd>" for label, text in _facts(report) if text
        ),
        "tool": _escaped(" ".join(str(tool[k]) for k in ("name", "version") if tool.get(k))),
    }
    # $-substitution never looks into what it puts in, so no text can break out of its place.
    template = string.Template(_asset("page.html"))
    page["evidence"] = _evidence(report)
    page["causes"] = _causes(report)
    page["selected"] = _selected(report)
    page["without"] = _without_verdict(report)
    fixed = template.substitute(page, notes="", data="")
    size = len(fixed.encode())
    texts = [*words.compared_with_upstream(report), *(report.get("notes") or ())]
    notes = [words.cut(str(note), 2_000) for note in texts[:50]]
    data, left_out = _fitting(report["rows"], limit - size - sum(len(n) * 6 + 99 for n in notes))
    notes += left_out
    return template.substitute(
        page,
        notes="".join(f'<p class="note">{_broken(_escaped(note))}</p>' for note in notes),
        data=data,
    )


def _facts(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    contract = report.get("contract") or {}
    counts = Counter(row["verdict"] for row in report["rows"])
    titles = [str(contract[key]) for key in ("id", "title") if contract.get(key)]
    return [
        ("Selector" if contract.get("id") else "Subject", words.subject_words(report)),
        ("Contract", ": ".join(titles)),
        ("Evidence", words.host_words(report)),
        ("Devices", "; ".join(words.device_words(report))),
        ("Totals", ", ".join(f"{counts[v]:,} {v}" for v in Verdict if counts[v])),
    ]


def _evidence(report: Mapping[str, Any]) -> str:
    """Return the table of backends by evidence as a section; "" if no kernel was tried."""
    table = evidence.table(report["rows"], report.get("declined") or ())
    if not table:
        return ""
    heads = "".join(f'<th scope="col">{kind}</th>' for kind in evidence.COLUMNS)
    lines = (
        f'<tr><th scope="row">{_escaped(name)}</th>'
        + "".join(f"<td>{text}</td>" for text in cells)
        + "</tr>"
        for name, cells in table[:_MOST_BACKENDS]
    )
    meanings = "; ".join(f"{kind}: {words.KERNEL_EVIDENCE[kind]}" for kind in evidence.COLUMNS)
    return (
        '<section aria-labelledby="evidence-title"><h2 id="evidence-title">Backends by evidence</h2>'
        '<div class="evidence" tabindex="0" role="region" aria-labelledby="evidence-title"><table>'
        f"<thead><tr><td></td>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
        f"<p>{_escaped(meanings)}.</p></section>"
    )


def _causes(report: Mapping[str, Any]) -> str:
    """Return the causes as a section; each opens the list of its items, which lead to their story."""
    causes = explained.of(report)
    texts = [text for summary in words.summaries_of(report) for text in summary["told"]]
    if not causes and not texts:
        return ""
    listed = "".join(map(_cause, causes[:_MOST_CAUSES]))
    more = len(causes) - _MOST_CAUSES
    listed += f"<li>and {more:,} more causes, in the JSON report</li>" if more > 0 else ""
    return (
        '<section class="summary" aria-labelledby="causes-title"><h2 id="causes-title">Causes</h2>'
        + "".join(f"<p>{_escaped(text)}</p>" for text in texts[:_MOST_CAUSES])
        + f'<ol class="conditions">{listed}</ol></section>'
    )


def _cause(cause: CauseEntry) -> str:
    verdict = Verdict(cause["verdict"])
    also = [("also", text) for text in cause["also"][:_MOST_NAMES]]
    facts = "".join(
        f"<dt>{label}</dt><dd>{_command(text) if label == 'show' else _linked(text)}</dd>"
        for label, text in (*words.cause_lines(cause), *also)
    )
    return (
        f'<li class="story is-{verdict}"><div class="bar">'
        f'<span class="mark {verdict}">{verdict}</span>'
        f"<strong>{_broken(_escaped(cause['what']))}</strong>"
        f'<span class="count">{words.count_words(cause)}</span></div>'
        f'<dl class="facts">{facts}</dl>{_items(cause)}</li>'
    )


def _items(cause: CauseEntry) -> str:
    """Return the list of a cause's items, closed; each is a link to its story below."""
    if not cause["items"]:
        return ""
    shown = cause["items"][:_MOST_ITEMS]
    links = "".join(
        f'<li><a class="code" href="#{escape(quote(words.visible(words.cut(name, 2_000)), safe=""))}">'
        f"{_broken(_escaped(name.partition('::')[2]))}</a></li>"
        for name in shown
    )
    more = len(cause["items"]) - len(shown)
    links += f"<li>and {more:,} more, below</li>" if more else ""
    return (
        f"<details><summary>{words.count_words(cause)}</summary>"
        f'<ul class="members">{links}</ul></details>'
    )


def _command(text: str) -> str:
    return f'<div class="command"><code>{_broken(_escaped(text))}</code></div>'


def _linked(text: str) -> str:
    """Return text in which an address is a link."""
    parts = re.split(r"(https://[^\s,;)]+)", words.one_line(text))
    return "".join(
        f'<a href="{escape(part)}" target="_blank" rel="noopener noreferrer">{_broken(escape(part))}</a>'
        if number % 2
        else _broken(escape(part))
        for number, part in enumerate(parts)
    )


def _broken(markup: str) -> str:
    """Return escaped text that may be broken after a joint of a name, not in its words or numbers."""
    return re.sub(r"(?<=\w)(::|[-_/=\]]|[.,](?!\d))(?=\w)", r"\1<wbr>", markup)


def _selected(report: Mapping[str, Any]) -> str:
    """Return the table of what is selected as a section; "" if no selection was asked."""
    gpus, lines = selected.table(report["rows"])
    if not lines:
        return ""
    heads = "".join(f'<th scope="col">{_escaped(gpu)}</th>' for gpu in gpus)
    body = "".join(
        f'<tr><th scope="row">{_broken(_escaped(line.flags))}<br><span class="count">'
        f"{_escaped(line.family)}</span></th>{''.join(map(_square, line.squares))}</tr>"
        for line in lines[:_MOST_LINES]
    )
    return (
        '<section aria-labelledby="selected-title"><h2 id="selected-title">What is selected</h2>'
        "<p>No backend is named, and aiter is present. The plainest request of each family; +1: other"
        " requests get another answer; marked: some fall short.</p>"
        '<div class="evidence selected" tabindex="0" role="region" aria-label="Backends">'
        f"<table><thead><tr><td></td>{heads}</tr></thead><tbody>{body}</tbody></table></div></section>"
    )


def _square(square: selected.Square) -> str:
    if not square.text:
        return "<td></td>"
    others = f" +{square.others}" if square.others else ""
    wrong = "" if square.right else ' class="wrong"'
    return f"<td{wrong}>{_broken(_escaped(square.text))}{others}</td>"


def _without_verdict(report: Mapping[str, Any]) -> str:
    """Return the items without a verdict, by their cause, as a section; "" for none."""
    found = words.without_verdict(report)
    listed = "".join(
        f"<li>{kind}: {_escaped(why)}"
        f' <span class="count">({len(names):,}: {_escaped(", ".join(names[:_MOST_NAMES]))}'
        f"{', ...' if len(names) > _MOST_NAMES else ''})</span></li>"
        for kind, why, names in found[:_MOST_CAUSES]
    )
    more = len(found) - _MOST_CAUSES
    listed += f"<li>and {more:,} more causes, in the JSON report</li>" if more > 0 else ""
    return (
        f'<section class="without"><h2>Without a verdict</h2><ul>{listed}</ul></section>'
        if found
        else ""
    )


def _fitting(rows: Iterable[Record], room: int) -> tuple[str, list[str]]:
    """Return the page's data as JSON of at most room bytes, and in words what it leaves out.

    First long texts are cut; then what is peculiar to items that pass goes, then those items
    themselves, and last items that fell short, the worst staying longest.
    """
    ordered = words.in_order(rows)
    for cut in _CUTS:
        data = web_page.embedded(_data(ordered, cut))
        if len(data) <= room:
            return data, [] if cut == _CUTS[0] else [_cut_note(cut)]
    short = [row for row in ordered if row["verdict"] != "pass"]
    bare = [row if row["verdict"] != "pass" else _bare(row) for row in ordered]
    data = web_page.embedded(_data(bare, _CUTS[-1]))
    if len(data) <= room:
        return data, [_cut_note(_CUTS[-1]), "Details of items that pass are left out, for size."]
    short.sort(key=lambda row: Verdict(row["verdict"]).severity)
    kept = len(short)
    while (
        len(data := web_page.embedded(_data(words.in_order(short[:kept]), _CUTS[-1]))) > room
        and kept
    ):
        kept = min(kept - 1, kept * room * 19 // (len(data) * 20))
    dropped = [f"{len(ordered) - len(short):,} items that pass"]
    if kept < len(short):
        dropped.append(f"{len(short) - kept:,} that fell short")
    return data, [
        _cut_note(_CUTS[-1]),
        f"Left out, for size: {' and '.join(dropped)}. The JSON report holds all of them.",
    ]


def _cut_note(cut: int) -> str:
    return (
        f"Texts of more than {cut:,} characters are cut, for size; the JSON report has them whole."
    )


def _bare(row: Record) -> Record:
    return {**row, "details": {}, "again": "", "source": "", "message": ""}


def _data(rows: Sequence[Record], cut: int) -> dict[str, Any]:
    """Return what page.js draws, every text by its number in ``strings``."""
    numbers: dict[str, int] = {}

    def number(text: str) -> int:
        return numbers.setdefault(words.visible(words.cut(text, cut)), len(numbers))

    def pairs(labelled: Iterable[tuple[str, str]]) -> list[list[int]]:
        return [[number(label), number(text)] for label, text in labelled]

    found = {words.family(row) for row in rows} - {""}
    columns = [words.visible(words.cut(name, cut)) for name in words.columns_of(rows)]
    drawn = [
        [
            *(number(text) for text in _texts(row)),
            pairs(_details(row)),
            [pairs(_finding(finding)) for finding in words.findings_of(row)],
            [[number(str(part)) for part in step] for step in row["outcome"].get("trace") or ()],
        ]
        for row in rows
    ]
    return {
        "fields": _FIELDS,
        "letters": {v: v.letter for v in Verdict} | {Verdict.PASS: "\N{MIDDLE DOT}"},
        "meanings": {v: v.meaning for v in Verdict},
        "columns": columns,
        "families": [
            *(f for f in words.FAMILIES if f in found),
            *sorted(found - set(words.FAMILIES)),
        ],
        "rows": drawn,
        "strings": list(numbers),
    }


def _texts(row: Record) -> tuple[str, ...]:
    expected, got = words.expected_words(row), words.got_words(row)
    answers = f"expected {expected}, got {got}"
    untold = "" if row["request"] is not None else "Not about one decision, so there is none."
    return (
        *(row["tier"], row["id"], column(row), row["verdict"], row["level"], words.gpu_words(row)),
        *(words.flags_words(row), words.request_words(row), words.family(row), expected, got),
        *("" if row["message"] == answers else row["message"], row["source"], row["evidence"]),
        *(f"{row['seconds']:.6f}" if row["seconds"] else "", ", ".join(row["environment_written"])),
        *(row["again"], _tally(row), untold),
    )


def _tally(row: Record) -> str:
    """Return how many of a slice's cells have it the verdict that its square shows; "" elsewhere."""
    counts = row["details"].get("counts")
    if not isinstance(counts, dict) or not isinstance(counts.get("cells"), int):
        return ""
    total = counts["cells"]
    short = counts.get("advisory" if row["verdict"] == "advisory" else "required")
    if not total or not short or not isinstance(short, int):
        return ""
    return f"{short:,}" if short < 10_000 else f"{short / total:.1%}"


def _details(row: Record) -> list[tuple[str, str]]:
    traceback = str(row["outcome"].get("traceback") or "")
    rest = words.details_words(row["details"])
    return [("traceback", traceback), *rest] if traceback else rest


def _finding(finding: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return a finding as (label, text), where its cells are first."""
    where, facts = words.finding_words(finding)
    return [("where", where), *facts]


def _escaped(text: str) -> str:
    return escape(words.one_line(text))


@functools.cache
def _asset(name: str) -> str:
    folder = resources.files("pytest_rocm_attn.conformance.report")
    return folder.joinpath("page", name).read_text(encoding="utf-8")
