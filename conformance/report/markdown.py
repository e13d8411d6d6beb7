"""The report as Markdown, made for a CI job's summary. A pure function of the JSON report's data.

It starts from causes, is short enough to be read, and says what it leaves out. Whatever came from outside (names, messages, values) is shown in code spans
whose fence is longer than any run of backticks within, so that no markup in it takes effect.
"""

from __future__ import annotations

import re
from collections import Counter
from itertools import groupby
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.promise.verdict import Verdict
from pytest_rocm_attn.conformance.report import evidence, explained, selected, words
from pytest_rocm_attn.conformance.report.schema import column, name_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from pytest_rocm_attn.conformance.report.schema import CauseEntry, Record

LIMIT = 10_000  # bytes: what is read of a job's summary; the HTML and JSON reports hold the rest
_MOST_NAMES = 5  # of items that share a cause
_CUT = 600  # characters of one value
_TAIL = 2_000  # bytes kept free for what must be said at the end
_MATRIX_SHARE = 0.4  # of the room, at most, so that the stories have the rest


def render(report: Mapping[str, Any], limit: int = LIMIT) -> str:
    """Return the Markdown document.

    Args:
        report: the JSON report, as plain data.
        limit: bytes of UTF-8 that the document may take; at least some 4,000.
    """
    rows = words.in_order(report["rows"])
    page = _Page(limit - _TAIL)
    page.add(_head(report, rows))
    causes = explained.of(report)
    short = [row for row in rows if row["verdict"] != "pass"]
    matrix = _matrix(short, words.columns_of(short)) if short else []
    # Kept for the names of what fell short, however long the causes are.
    kept = min(sum(len(line.encode()) for line in matrix), int(page.room * _MATRIX_SHARE))
    page.room -= kept
    if causes:
        page.add("## Causes\n\n")
    for number, cause in enumerate(causes, start=1):
        page.add(_cause(number, cause), "causes")
    for summary in words.summaries_of(report):
        page.add(_told(summary))
    _add_selected(page, rows)
    if table := evidence.table(rows, report.get("declined") or ()):
        page.add(_evidence(table))
    for device in words.device_words(report):
        page.add(f"- Kernels ran on {code(device)}.\n")
    for line in words.compared_with_upstream(report):
        page.add(f"- {code(line)}\n")
    page.add("\n")
    page.room += kept
    if short:
        floor = page.room - kept
        for line in matrix:
            page.add(line, "rows of the matrix", share=page.room - floor)
        page.add("\n" + _legend(short) + "\n\n")
    _add_without_verdict(page, report)
    for note in report.get("notes") or ():
        page.add(f"> note: {code(str(note))}\n")
    for number, cause in enumerate(causes, start=1):
        names = set(cause["items"])
        members = [row for row in short if name_of(row) in names]
        short = [row for row in short if row not in members]
        _add_stories(page, f"Items of cause {number}", members)
    _add_stories(page, "Other items", short)
    return page.text()


class _Page:
    """A document with a limit; a block is added whole or counted as left out."""

    def __init__(self, room: int) -> None:
        self._blocks: list[str] = []
        self.room = room
        self._left_out: Counter[str] = Counter()

    def add(self, block: str, kind: str = "parts", share: int | None = None) -> bool:
        size = len(block.encode())
        if size > self.room or (share is not None and size > share):
            self._left_out[kind] += 1
            return False
        self.room -= size
        self._blocks.append(block)
        return True

    def text(self) -> str:
        if self._left_out:
            what = ", ".join(f"{count:,} {kind}" for kind, count in self._left_out.items())
            self._blocks.append(f"\nLeft out, to stay within the size of a summary: {what}.")
            self._blocks.append(" The JSON and HTML reports hold all of it.\n")
        return "".join(self._blocks)


def _head(report: Mapping[str, Any], rows: Sequence[Record]) -> str:
    contract = str((report.get("contract") or {}).get("id") or "")
    subject = f"Selector {code(words.subject_words(report))}, contract {code(contract)}"
    if not contract:  # no selector was judged
        subject = code(words.subject_words(report))
    lines = [
        f"# ROCm attention conformance, {words.headline(report)}",
        "",
        f"{subject} ({_host(report)}).",
        "",
    ]
    present = [v for v in Verdict if any(row["verdict"] == v for row in rows)]
    if rows:
        lines.append("| tier | items | " + " | ".join(present) + " |")
        lines.append("| --- | ---: |" + " ---: |" * len(present))
    for tier, members in groupby(rows, key=lambda row: str(row["tier"])):
        counts = Counter(row["verdict"] for row in members)
        numbers = [f"{counts.total():,}", *(f"{counts[verdict]:,}" for verdict in present)]
        lines.append(f"| {cell(tier)} | " + " | ".join(numbers) + " |")
    return "\n".join(lines) + "\n\n"


def _evidence(table: Sequence[tuple[str, Sequence[str]]]) -> str:
    lines = ["## Backends by evidence", "", f"| backend | {' | '.join(evidence.COLUMNS)} |"]
    lines.append("| --- |" + " --- |" * len(evidence.COLUMNS))
    lines += (f"| {cell(name)} | {' | '.join(cells)} |" for name, cells in table)
    meanings = (f"*{kind}*: {words.KERNEL_EVIDENCE[kind]}" for kind in evidence.COLUMNS)
    return "\n".join([*lines, "", f"{'; '.join(meanings)}.", "", ""])


def _cause(number: int, cause: CauseEntry) -> str:
    """Return a cause: its sentence, and the example with its command if it makes the run fail."""
    verdict = Verdict(cause["verdict"])
    count = words.count_words(cause)
    lines = [f"{number}. {_mark(verdict)}: {code(cause['what'])} ({count})"]
    if cause["also"]:
        lines.append(f"   - also: {'; '.join(map(code, cause['also'][:_MOST_NAMES]))}")
    for label, text in words.cause_lines(cause):
        if label == "show":
            lines += ["", *(f"   {line}" for line in _fenced(text, "sh"))]
        else:
            lines.append(f"   - {label}: {code(text)}")
    return "\n".join([*lines, "", ""])


def _told(summary: Mapping[str, Any]) -> str:
    return "".join(f"{code(summary['tier'])}: {code(told)}\n\n" for told in summary["told"])


def _add_selected(page: _Page, rows: Sequence[Record]) -> None:
    """Add the table of what is selected; a square in bold falls short."""
    gpus, lines = selected.table(rows)
    if not lines:
        return
    heads = " | ".join(map(cell, gpus))
    page.add(
        "## What is selected\n\nNo backend is named, and aiter is present; the plainest request of each"
        " family; +1: other requests get another answer; bold: some fall short.\n\n"
        f"| flags | family | {heads} |\n| --- | --- |" + " --- |" * len(gpus) + "\n"
    )
    for line in lines:
        squares = " | ".join(map(_square, line.squares))
        page.add(
            f"| {cell(line.flags)} | {line.family} | {squares} |\n", "rows of what is selected"
        )
    page.add("\n")


def _square(square: selected.Square) -> str:
    if not square.text:
        return ""
    text = cell(square.text) + (f" +{square.others}" if square.others else "")
    return text if square.right else f"**{text}**"


def _host(report: Mapping[str, Any]) -> str:
    text = words.host_words(report)
    return text if re.fullmatch(r"[\w ,;:.']+", text, re.ASCII) else code(text)


def _matrix(short: Sequence[Record], columns: Sequence[str]) -> list[str]:
    """Return the lines of the rows that fell short times GPUs; those that fail first."""
    heads = map(cell, columns)
    title = "## Shortfalls by GPU\n\n| row | "
    lines = [title + " | ".join(heads) + " |\n| --- |" + " :---: |" * len(columns) + "\n"]
    by_row: dict[tuple[str, str], dict[str, set[str]]] = {}
    for record in short:
        cells = by_row.setdefault((record["tier"], record["id"]), {})
        cells.setdefault(column(record), set()).add(record["verdict"])

    def badness(item: tuple[tuple[str, str], dict[str, set[str]]]) -> int:
        return min(Verdict.worst(verdicts).severity for verdicts in item[1].values())

    for (_, row), cells in sorted(by_row.items(), key=badness):
        marks = (_mark(Verdict.worst(cells[name])) if name in cells else "" for name in columns)
        lines.append(f"| {cell(row)} | " + " | ".join(marks) + " |\n")
    return lines


def _mark(verdict: Verdict) -> str:
    return f"**{verdict}**" if verdict.fails else verdict


def _legend(short: Iterable[Record]) -> str:
    present = {record["verdict"] for record in short}
    parts = [f"{_mark(v)}: {v.meaning}" for v in Verdict if v in present]
    return "; ".join(parts) + ". An empty square passes or was not asked."


def _add_stories(page: _Page, title: str, records: Sequence[Record]) -> None:
    """Add one story per row and way of falling short; the GPUs on which it is so share it."""
    stories: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        stories.setdefault(_plot(record), []).append(record)
    head = f"## {title}\n\n"
    for members in sorted(stories.values(), key=lambda ms: Verdict(ms[0]["verdict"]).severity):
        if page.add(head + _story(members), "items in full (or several of one row)"):
            head = ""


def _add_without_verdict(page: _Page, report: Mapping[str, Any]) -> None:
    """Add the items without a verdict, by their cause."""
    found = words.without_verdict(report)
    if found:
        page.add("## Without a verdict\n\n")
    for kind, why, names in found:
        more = ", ..." if len(names) > _MOST_NAMES else ""
        shown = ", ".join(map(code, names[:_MOST_NAMES]))
        page.add(f"- {kind}: {code(why)} ({len(names):,}: {shown}{more})\n", "causes")
    if found:
        page.add("\n")


def _plot(record: Record) -> tuple[Any, ...]:
    """Return what must be equal for records to share one story."""
    return (
        record["tier"],
        record["id"],
        record["verdict"],
        words.flags_words(record),
        words.request_words(record),
        words.expected_words(record),
        words.got_words(record),
        words.findings_alike(record),
        repr({k: v for k, v in record["details"].items() if k != "findings"}),
    )


def _story(members: Sequence[Record]) -> str:
    first = members[0]
    where = ", ".join(dict.fromkeys(code(words.gpu_words(m)) for m in members if m["gpu"]))
    lines = [f"### {first['verdict']}: {code(first['id'])}", ""]
    lines += [f"- {label}: {text}" for label, text in _facts(first, where) if text]
    for finding in words.findings_of(first):
        lines.append(f"- {_finding(finding)}")
    if first["again"]:
        lines += ["", *_fenced(first["again"], "sh")]
    if traceback := str(first["outcome"].get("traceback", "")):
        # The end of a traceback says most.
        shown = traceback if len(traceback) <= 2_000 else "[cut]\n" + traceback[-2_000:]
        lines += [
            "",
            "<details><summary>traceback</summary>",
            "",
            *_fenced(shown),
            "",
            "</details>",
        ]
    return "\n".join(lines) + "\n\n"


def _facts(record: Record, where: str) -> Iterator[tuple[str, str]]:
    yield "GPU", where
    for label, text in words.facts_of(record):
        if label not in ("GPU", "again"):
            yield label, code(text)
    for label, text in words.details_words(record["details"]):
        yield _label(label), code(text)


def _finding(finding: Mapping[str, Any]) -> str:
    where, facts = words.finding_words(finding)
    told = [f"{_label(label)} {code(text)}" for label, text in facts]
    return "; ".join((f"**{code(where)}**", *told))


def _label(text: str) -> str:
    """Return one of our own field names as it is, and anything else as code."""
    return text if re.fullmatch(r"[\w ]+", text, re.ASCII) else code(text)


def code(text: str) -> str:
    """Return text as a code span that stands in a table, a list or a heading; "" stays empty.

    Control characters are made visible, newlines become slashes, a long text is cut.
    """
    shown = words.one_line(str(text), _CUT)
    if not shown:
        return ""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    pad = " " if shown[0] == "`" or shown[-1] == "`" else ""
    return f"{fence}{pad}{shown}{pad}{fence}"


def cell(text: str) -> str:
    """Return text as code that stands in a table, where a pipe ends the cell even within code.

    A backslash before the pipe is not enough: the text may have one of its own.
    """
    if "|" not in text:
        return code(text)
    shown = words.one_line(text, _CUT)
    escaped = re.sub(r"[!-/:-@[-`{-~]", lambda match: f"&#{ord(match[0])};", shown)
    return f"<code>{escaped}</code>"


def _fenced(text: str, language: str = "") -> list[str]:
    shown = words.visible(words.cut(text, 4_000))
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    return [fence + language, *shown.splitlines(), fence]
