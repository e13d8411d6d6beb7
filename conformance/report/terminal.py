"""The end of the terminal output: the matrix, what fell short, and the totals."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance import host
from pytest_rocm_attn.conformance.record import column, summary_lines
from pytest_rocm_attn.conformance.report import evidence, words
from pytest_rocm_attn.gpu import known_gpus
from pytest_rocm_attn.request import Request

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pytest

    from pytest_rocm_attn.conformance.record import Record
    from pytest_rocm_attn.conformance.session import ConformancePlugin

SYMBOLS = {
    "pass": ".",
    "fail": "F",
    "crash": "C",
    "stale": "S",
    "deviation": "d",
    "advisory": "a",
}
_COLOURS: dict[str, dict[str, bool]] = {
    "pass": {"green": True},
    "fail": {"red": True, "bold": True},
    "crash": {"red": True, "bold": True},
    "stale": {"red": True, "bold": True},
    "deviation": {"yellow": True},
    "advisory": {"yellow": True},
}
_BY_SEVERITY = ("pass", "deviation", "advisory", "stale", "fail", "crash")


def write(out: pytest.TerminalReporter, run: ConformancePlugin) -> None:
    """Write the matrix, a line for each cell that fell short, and the totals."""
    records = run.records
    out.section("ROCm attention conformance", sep="=")
    if out.verbosity >= 0 and records:
        for tier in run.settings.tiers:
            of_tier = [record for record in records if record["tier"] == tier]
            if of_tier and len(run.settings.tiers) > 1:
                out.section(f"tier {tier}", sep="-")
            _write_matrix(out, of_tier)
        legend = "  ".join(f"{symbol} {verdict}" for verdict, symbol in SYMBOLS.items())
        out.write_line(legend)
    short = [record for record in records if record["verdict"] != "pass"]
    for summary in run.summaries():
        out.section(f"{summary['tier']}: what differs", sep="-")
        for line in summary_lines(summary):
            out.write_line(printable(line))
        short = [record for record in short if record["tier"] != summary["tier"]]
    if short:
        out.section("rows that fell short", sep="-")
    for record in sorted(short, key=lambda r: list(SYMBOLS).index(r["verdict"])):
        out.write(record["verdict"].upper().ljust(10), **_COLOURS[record["verdict"]])
        out.write_line(printable(line_of(record)))
    write_evidence(out, records, run.declined)
    written = sorted({name for record in records for name in record["environment_written"]})
    if written:
        rows = sum(bool(record["environment_written"]) for record in records)
        out.write_line(
            f"The selector wrote to the environment while selecting, in {rows} cells:"
            f" {printable(', '.join(written))}",
            yellow=True,
        )
    for note in run.notes:
        out.write_line(f"note: {note}", yellow=True)
    out.write_line(totals_line(records, run))


def _write_matrix(out: pytest.TerminalReporter, records: Sequence[Record]) -> None:
    """Write a tier's rows against its columns: GPUs, or the kinds of evidence."""
    found = {column(record) for record in records}
    columns = [gfx for gfx in known_gpus() if gfx in found]
    columns += sorted(found - set(columns))
    cells: dict[tuple[str, str], str] = {}
    for record in records:  # where aiter's state tells cells apart, the worst one is shown
        place = record["id"], column(record)
        cells[place] = max(record["verdict"], cells.get(place, "pass"), key=_severity)
    rows = list(dict.fromkeys(sorted((r["level"] != "required", r["id"]) for r in records)))
    level = None
    for is_advisory, row in rows:
        if is_advisory != level:
            level = is_advisory
            out.write_line(
                "  ".join(columns) + ("  advisory rows" if is_advisory else "  required rows")
            )
        for name in columns:
            verdict = cells.get((row, name))
            symbol = SYMBOLS[verdict] if verdict else " "
            out.write(symbol.center(len(name)) + "  ", **(_COLOURS[verdict] if verdict else {}))
        out.write_line(row)


def write_evidence(
    out: pytest.TerminalReporter, records: Sequence[Record], declined: Sequence[dict[str, str]]
) -> None:
    """Write which backend's kernels were tried on which kind of evidence."""
    table = evidence.table(records, declined)
    if not table:
        return
    out.section("backends by evidence", sep="-")
    lines = [("", list(evidence.COLUMNS)), *table]
    widths = [max(map(len, cells)) for cells in zip(*([n, *c] for n, c in lines), strict=True)]
    for name, cells in lines:
        shown = (text.ljust(width) for text, width in zip([name, *cells], widths, strict=True))
        out.write_line(printable("  ".join(shown).rstrip()))
    for device in host.devices_of(record["details"] for record in records):
        out.write_line(printable(f"on {words.device_words({'host': {'devices': [device]}})[0]}"))


def _severity(verdict: str) -> int:
    return _BY_SEVERITY.index(verdict)


def line_of(record: Record) -> str:
    """Return one line that says all about a cell: flags, GPU, request, expected, got, source."""
    parts = [f"{record['id']}[{column(record)}]"]
    if record["env"] is not None:
        parts.append(" ".join(f"{n}={text!r}" for n, text in record["env"].items()) or "no flags")
    if record["gpu"]:
        parts.append(f"aiter {record['gpu']['aiter']}")
    if record["request"] is not None:
        parts.append(_request(record["request"]))
    return " | ".join(
        (
            *parts,
            f"expected {record['expect']['words']}",
            f"got {record['outcome']['words']}",
            record["source"],
            record["again"],
        )
    )


def _request(request: dict[str, Any]) -> str:
    fields = Request(**request).non_default()
    return ", ".join(f"{name}={value!r}" for name, value in fields.items()) or "plain layer"


def totals_line(records: Sequence[Record], run: ConformancePlugin) -> str:
    """Return the totals by verdict, and how much of the selection was run."""
    counts = Counter(record["verdict"] for record in records)
    total = ", ".join(f"{counts[verdict]} {verdict}" for verdict in SYMBOLS if counts[verdict])
    return (
        f"{len(records)} of {run.planned} cells answered: {total or 'none'}"
        f" (contract {run.settings.contract.id}, selector {run.settings.subject.selector})"
    )


def printable(text: str) -> str:
    """Return text safe for one terminal line: control characters shown, length bounded."""
    shown = "".join(_visible(text))
    return shown if len(shown) <= 2000 else shown[:1990] + " [cut]"


def _visible(text: str) -> Iterator[str]:
    for character in text:
        if character == "\n":
            yield " / "
        elif character.isprintable():
            yield character
        else:
            yield character.encode("unicode_escape").decode()
