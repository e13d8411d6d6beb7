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
_MOST_ROWS = 40  # of a matrix; of a larger one only those that have something to say are shown
_QUIET = (Verdict.PASS, Verdict.INHERITED, Verdict.DIFFERS, Verdict.ADVICE, Verdict.CAUGHT_UP)
_BY_GPU = ("documented",)  # tiers whose items differ by GPU alone if their ids do not


def write(out: pytest.TerminalReporter, report: Mapping[str, Any]) -> None:
    """Write a report: the matrix, a line for each item that fell short, and the totals."""
    rows: Sequence[Record] = report["rows"]
    out.section("ROCm attention conformance", sep="=")
    if out.verbosity >= 0 and rows:
        tiers = dict.fromkeys(row["tier"] for row in rows)
        for tier in tiers:
            if len(tiers) > 1:
                out.section(f"tier {tier}", sep="-")
            _write_matrix(
                out, [row for row in rows if row["tier"] == tier], every=out.verbosity > 0
            )
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
    for alike in _alike(sorted(short, key=lambda row: Verdict(row["verdict"]).severity)):
        verdict = Verdict(alike[0]["verdict"])
        out.write(f"{verdict.upper():<9} ", **_markup(verdict))
        out.write_line(printable(line_of(alike[0], alike[1:])))
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
    for line in words.compared_with_upstream(report):
        out.write_line(printable(line))
    contract, selector = report["contract"]["id"], report["selector"]["name"]
    out.write_line(f"{words.headline(report)} (contract {contract}, selector {selector})")


def _markup(verdict: Verdict) -> dict[str, bool]:
    return {verdict.colour: True, "bold": verdict.fails}


def _alike(rows: Sequence[Record]) -> list[list[Record]]:
    """Return rows in groups of those that fall short alike: by one known defect, or on several GPUs."""
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for row in rows:
        defect = row["details"].get("defect")
        mild = not Verdict(row["verdict"]).fails
        own = row["id"], words.got_words(row), column(row) if row["tier"] not in _BY_GPU else ""
        groups.setdefault((row["verdict"], defect) if defect and mild else own, []).append(row)
    return list(groups.values())


def _write_matrix(out: pytest.TerminalReporter, rows: Sequence[Record], *, every: bool) -> None:
    """Write a tier's rows against its columns: GPUs, or the kinds of evidence.

    Args:
        out: where to.
        rows: of one tier.
        every: write the rows too that say nothing but what is as promised or listed below.
    """
    columns = words.columns_of(rows)
    squares: dict[tuple[str, str], list[str]] = {}
    for row in rows:  # the state of aiter tells some apart: the worst one is shown
        squares.setdefault((row["id"], column(row)), []).append(row["verdict"])
    names = list(dict.fromkeys(sorted((row["level"] != "required", row["id"]) for row in rows)))
    if not every and len(names) > _MOST_ROWS:
        speaking = {row["id"] for row in rows if row["verdict"] not in _QUIET}
        shown = [(is_advisory, name) for is_advisory, name in names if name in speaking]
        out.write_line(
            f"{len(names) - len(shown)} of {len(names)} rows are not shown: as promised, or listed"
            " below (-v shows them)"
        )
        names = shown
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


def line_of(row: Record, others: Sequence[Record] = ()) -> str:
    """Return one line that says all about an item: flags, GPU, request, expected, got, source.

    Args:
        row: the item.
        others: items that fall short alike, of which only the names are shown.
    """
    if defect := row["details"].get("defect"):
        names = words.names_of((row, *others))
        shown = ", ".join(names[:_MOST_NAMES]) + (", ..." if len(names) > _MOST_NAMES else "")
        count = 1 + len(others)
        items = f"{count} item" + ("s" if count > 1 else "")
        return f"{defect} | {items}: {shown} | {row['again']}"
    columns = ", ".join(dict.fromkeys(map(column, (row, *others))))
    parts = [f"{row['id']}[{columns}]" if row["gpu"] or row["evidence"] else row["id"]]
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
