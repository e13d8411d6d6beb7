"""The report as one HTML page that needs nothing but itself. A pure function of the JSON report's data.

The page is drawn in the browser (page/page.js) from JSON that stands in it. Its policy allows no
request, no other script, and no text that becomes markup. Texts stand in the JSON once each, and the
whole is bounded: see ``_fitting``.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import string
from collections import Counter
from html import escape
from importlib import resources
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.promise.verdict import Verdict
from pytest_rocm_attn.conformance.report import evidence, words
from pytest_rocm_attn.conformance.report.schema import column

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pytest_rocm_attn.conformance.report.schema import Record

LIMIT = 4_500_000  # bytes of the page
_MOST_BACKENDS = 100  # of the table by evidence
_MOST_CONDITIONS = 20  # of a summary; the grid's has ten
_MOST_CAUSES, _MOST_NAMES = 30, 5  # of items without a verdict; of their names
_CUTS = (20_000, 4_000, 1_000, 250)  # characters of one text, the first that fits
_FAMILIES = ("ordinary", "MLA", "sparse MLA", "sinks", "sliding window", "fp8 KV cache")
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
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src '{_digest(script)}'",
            f"style-src '{_digest(style)}'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
        )
    )
    headline = words.headline(report)
    tool = report.get("tool") or {}
    page = {
        "policy": policy,
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
    page["summaries"] = "".join(map(_summary, words.summaries_of(report)))
    page["without"] = _without_verdict(report)
    fixed = template.substitute(page, notes="", data="")
    size = len(fixed.encode())
    told = [*words.compared_with_upstream(report), *(report.get("notes") or ())]
    notes = [words.cut(str(note), 2_000) for note in told[:50]]
    data, left_out = _fitting(report["rows"], limit - size - sum(len(n) * 6 + 99 for n in notes))
    notes += left_out
    return template.substitute(
        page,
        notes="".join(f'<p class="note">{_escaped(note)}</p>' for note in notes),
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


def _summary(summary: Mapping[str, Any]) -> str:
    """Return a tier's summary, with its conditions, as a section."""
    name = _escaped(summary["tier"])
    told = "".join(f"<p>{_escaped(text)}</p>" for text in summary["told"][:_MOST_CONDITIONS])
    conditions = "".join(map(_condition, summary["conditions"][:_MOST_CONDITIONS]))
    return (
        f'<section class="summary" aria-label="{name}: what differs">'
        f'<h2>{name}: what differs</h2>{told}<ol class="conditions">{conditions}</ol></section>'
    )


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


def _condition(one: Mapping[str, Any]) -> str:
    verdict = {"required": "fail", "declared": "deviation"}.get(one["level"], "advisory")
    facts = [("smallest", f"<code>{_escaped(one['smallest'])}</code>")] if one["smallest"] else []
    if one["again"]:
        again = f'<div class="command"><code>{_escaped(one["again"])}</code></div>'
        facts.append(("again", again))
    return (
        f'<li class="story is-{verdict}"><div class="bar">'
        f'<span class="mark {verdict}">{verdict}</span>'
        f'<strong class="code">{_escaped(one["where"])}</strong>'
        f'<span class="count">{one["cells"]:,} cells</span></div>'
        f"<p>expected <code>{_escaped(one['expected'])}</code>, got"
        f" <code>{_escaped(one['got'])}</code>"
        f' <span class="count">(by {_escaped(one["rule"])})</span></p><dl class="facts">'
        + "".join(f"<dt>{label}</dt><dd>{text}</dd>" for label, text in facts)
        + "</dl></li>"
    )


def _fitting(rows: Iterable[Record], room: int) -> tuple[str, list[str]]:
    """Return the page's data as JSON of at most room bytes, and in words what it leaves out.

    First long texts are cut; then what is peculiar to items that pass goes, then those items
    themselves, and last items that fell short, the worst staying longest.
    """
    ordered = words.in_order(rows)
    for cut in _CUTS:
        data = _json(_data(ordered, cut))
        if len(data) <= room:
            return data, [] if cut == _CUTS[0] else [_cut_note(cut)]
    short = [row for row in ordered if row["verdict"] != "pass"]
    bare = [row if row["verdict"] != "pass" else _bare(row) for row in ordered]
    data = _json(_data(bare, _CUTS[-1]))
    if len(data) <= room:
        return data, [_cut_note(_CUTS[-1]), "Details of items that pass are left out, for size."]
    short.sort(key=lambda row: Verdict(row["verdict"]).severity)
    kept = len(short)
    while len(data := _json(_data(words.in_order(short[:kept]), _CUTS[-1]))) > room and kept:
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
        "families": [*(f for f in _FAMILIES if f in found), *sorted(found - set(_FAMILIES))],
        "rows": drawn,
        "strings": list(numbers),
    }


def _texts(row: Record) -> tuple[str, ...]:
    expected, got = words.expected_words(row), words.got_words(row)
    told = f"expected {expected}, got {got}"
    untold = "" if row["request"] is not None else "Not about one decision, so there is none."
    return (
        *(row["tier"], row["id"], column(row), row["verdict"], row["level"], words.gpu_words(row)),
        *(words.flags_words(row), words.request_words(row), words.family(row), expected, got),
        *("" if row["message"] == told else row["message"], row["source"], row["evidence"]),
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


def _json(data: Mapping[str, Any]) -> str:
    """Return JSON in ASCII that may stand within a script element."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _escaped(text: str) -> str:
    return escape(words.visible(words.cut(text, 2_000)).replace("\n", " / "))


@functools.cache
def _asset(name: str) -> str:
    folder = resources.files("pytest_rocm_attn.conformance.report")
    return folder.joinpath("page", name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
