"""The end of the terminal output: the matrix, what fell short, and the totals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.promise.verdict import Verdict
from pytest_rocm_attn.conformance.report import evidence, words
from pytest_rocm_attn.conformance.report.schema import column, summary_lines

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pytest

    from pytest_rocm_attn.conformance.report.schema import Record

_MOST_NAMES = 3  # of items that share a cause


def write(out: pytest.TerminalReporter, report: Mapping[str, Any]) -> None:
    """Write a report: the matrix, a line for each item that fell short, and the totals."""
    rows: Sequence[Record] = report["rows"]
    out.section("ROCm attention conformance", sep="=")
    if out.verbosity >= 0 and rows:
        tiers = dict.fromkeys(row["tier"] for row in rows)
        for tier in tiers:
            if len(tiers) > 1:
                out.section(f"tier {tier}", sep="-")
            _write_matrix(out, [row for row in rows if row["tier"] == tier])
        out.write_line("  ".join(f"{v.letter} {v}" for v in reversed(Verdict)))
    short = [row for row in rows if row["verdict"] != Verdict.PASS]
    for summary in report["summaries"]:
        out.section(f"{summary['tier']}: what differs", sep="-")
        for line in summary_lines(summary):
            out.write_line(printable(line))
        # An item that could not be judged is in no summary.
        short = [
            row
            for row in short
            if row["tier"] != summary["tier"] or row["verdict"] == Verdict.ERROR
        ]
    if short:
        out.section("what fell short", sep="-")
    for row in sorted(short, key=lambda row: Verdict(row["verdict"]).severity):
        verdict = Verdict(row["verdict"])
        out.write(verdict.upper().ljust(10), **_markup(verdict))
        out.write_line(printable(line_of(row)))
    for kind, why, names in words.without_verdict(report):
        shown = ", ".join(names[:_MOST_NAMES]) + (", ..." if len(names) > _MOST_NAMES else "")
        out.write_line(printable(f"{kind} [{len(names):,}] {why}: {shown}"), yellow=True)
    write_evidence(out, report)
    written = sorted({name for row in rows for name in row["environment_written"]})
    if written:
        items = sum(bool(row["environment_written"]) for row in rows)
        out.write_line(
            f"The selector wrote to the environment while selecting, in {items} items:"
            f" {printable(', '.join(written))}",
            yellow=True,
        )
    for note in report["notes"]:
        out.write_line(f"note: {note}", yellow=True)
    contract, selector = report["contract"]["id"], report["selector"]["name"]
    out.write_line(f"{words.headline(report)} (contract {contract}, selector {selector})")


def _markup(verdict: Verdict) -> dict[str, bool]:
    return {verdict.colour: True, "bold": verdict.fails}


def _write_matrix(out: pytest.TerminalReporter, rows: Sequence[Record]) -> None:
    """Write a tier's rows against its columns: GPUs, or the kinds of evidence."""
    columns = words.columns_of(rows)
    squares: dict[tuple[str, str], list[str]] = {}
    for row in rows:  # the state of aiter tells some apart: the worst one is shown
        squares.setdefault((row["id"], column(row)), []).append(row["verdict"])
    names = list(dict.fromkeys(sorted((row["level"] != "required", row["id"]) for row in rows)))
    level = None
    for is_advisory, name in names:
        if is_advisory != level:
            level = is_advisory
            out.write_line(
                "  ".join(columns) + ("  advisory rows" if is_advisory else "  required rows")
            )
        for head in columns:
            if found := squares.get((name, head)):
                worst = Verdict.worst(found)
                out.write(worst.letter.center(len(head)) + "  ", **_markup(worst))
            else:
                out.write(" ".center(len(head)) + "  ")
        out.write_line(printable(name))


def write_evidence(out: pytest.TerminalReporter, report: Mapping[str, Any]) -> None:
    """Write which backend's kernels were tried on which kind of evidence."""
    table = evidence.table(report["rows"], report["declined"])
    if not table:
        return
    out.section("backends by evidence", sep="-")
    lines = [("", list(evidence.COLUMNS)), *table]
    widths = [max(map(len, cells)) for cells in zip(*([n, *c] for n, c in lines), strict=True)]
    for name, cells in lines:
        shown = (text.ljust(width) for text, width in zip([name, *cells], widths, strict=True))
        out.write_line(printable("  ".join(shown).rstrip()))
    for device in words.device_words(report):
        out.write_line(printable(f"on {device}"))


def line_of(row: Record) -> str:
    """Return one line that says all about an item: flags, GPU, request, expected, got, source."""
    parts = [f"{row['id']}[{column(row)}]" if row["gpu"] or row["evidence"] else row["id"]]
    if row["env"] is not None:
        parts.append(" ".join(f"{n}={text!r}" for n, text in row["env"].items()) or "no flags")
    if row["gpu"]:
        parts.append(f"aiter {row['gpu']['aiter']}")
    parts.append(words.request_words(row))
    expected = words.expected_words(row)
    parts.append(f"expected {expected}" if expected else "")
    parts += [f"got {words.got_words(row)}", row["source"], row["again"]]
    return " | ".join(part for part in parts if part)


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
