"""The end of the terminal output: one screen that starts from causes; more of it with -v and -vv."""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.promise.verdict import Verdict
from pytest_rocm_attn.conformance.report import evidence, explained, results, words
from pytest_rocm_attn.conformance.report.schema import column

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pytest

    from pytest_rocm_attn.conformance.report.schema import CauseEntry, Record

_MOST_NAMES = 3  # of items that share a cause
_MOST_CAUSES = 12
_BY_GPU = ("documented",)  # tiers whose items differ by GPU alone if their ids do not


def write(out: pytest.TerminalReporter, report: Mapping[str, Any]) -> None:
    """Write a report: the headline, then causes; if nothing falls short, a line for each family.

    With -v, each item that falls short follows in a line; with -vv, also the matrix.
    """
    rows: Sequence[Record] = report["rows"]
    contract, selector = report["contract"]["id"], words.subject_words(report)
    out.section("ROCm attention conformance", sep="=")
    head = f"{words.headline(report)} (contract {contract}, selector {selector})"
    out.write_line(printable(head), bold=True, **{_colour(report): True})
    for line in words.compared_with_upstream(report):
        out.write_line(printable(line))
    causes = explained.of(report)
    _write_causes(out, causes)
    if not causes and out.verbosity >= 0:
        _write_families(out, rows)
    for summary in report["summaries"]:
        for line in summary["told"]:
            out.write_line(printable(line))
    for kind, why, names in words.without_verdict(report):
        shown = ", ".join(names[:_MOST_NAMES]) + (", ..." if len(names) > _MOST_NAMES else "")
        out.write_line(printable(f"{kind} [{len(names):,}] {why}: {shown}"), yellow=True)
    if out.verbosity >= 2:
        _write_matrices(out, rows)
    if out.verbosity >= 1:
        _write_items(out, rows)
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
        out.write_line(printable(f"note: {note}"), yellow=True)


@contextlib.contextmanager
def untold(out: pytest.TerminalReporter) -> Iterator[None]:
    """Keep our items out of pytest's FAILURES, ERRORS and short summary, unless they are asked for.

    A style of traceback asks for the first two, -rf for the last.
    """
    if out.config.option.tbstyle != "auto":
        yield
        return
    args = map(str, out.config.invocation_params.args)
    listed = {char for arg in args if arg.startswith("-r") for char in arg[2:]}
    before = dict(out.stats)
    for category, char in (("failed", "f"), ("error", "E")):
        for report in before.get(category, ()):
            if results.row_of(report) is not None:
                report._pdbshown = True  # pytest's word for what its sections need not show
        if listed.isdisjoint((char, "a", "A")):
            out.stats[category] = [
                one for one in before.get(category, ()) if results.row_of(one) is None
            ]
    try:
        yield
    finally:
        out.stats.update({name: before[name] for name in ("failed", "error") if name in before})


def _colour(report: Mapping[str, Any]) -> str:
    return "green" if words.is_good(report) else "red"


def _markup(verdict: Verdict) -> dict[str, bool]:
    return {verdict.colour: True, "bold": verdict.fails}


# --- causes ---------------------------------------------------------------------------------------


def _write_causes(out: pytest.TerminalReporter, causes: Sequence[CauseEntry]) -> None:
    shown = causes if out.verbosity >= 1 else causes[:_MOST_CAUSES]
    for cause in shown:
        verdict = Verdict(cause["verdict"])
        out.write(f"{verdict.upper():<9} ", **_markup(verdict))
        out.write_line(printable(f"{cause['what']} [{words.count_words(cause)}]"))
        for label, text in words.cause_lines(cause):
            out.write_line(f"  {label:<7}" + printable(text))
    if hidden := causes[len(shown) :]:
        failing = sum(Verdict(cause["verdict"]).fails for cause in hidden)
        items = ", ".join(
            f"{count:,} {unit}s"
            for unit, count in sorted(_counted(hidden).items(), key=lambda pair: pair[0])
        )
        out.write_line(
            f"{len(hidden)} more causes of {items}, {failing} of them failing: -v or a report"
            " (--rocm-attn-report=FILE.html) shows them"
        )


def _counted(causes: Sequence[CauseEntry]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for cause in causes:
        counts[cause["unit"]] += cause["count"]
    return counts


# --- items ----------------------------------------------------------------------------------------


def _write_families(out: pytest.TerminalReporter, rows: Sequence[Record]) -> None:
    lines = words.families_of(rows)
    width = max((len(name) for name, _ in lines), default=0)
    for name, counts in lines:
        out.write_line(printable(f"{name:<{width}}  {words.tally(counts)}"))


def _write_items(out: pytest.TerminalReporter, rows: Sequence[Record]) -> None:
    """Write a line for each item that fell short, the worst first."""
    short = [row for row in rows if row["verdict"] != Verdict.PASS]
    if short:
        out.section("what fell short", sep="-")
    for alike in _alike(sorted(short, key=lambda row: Verdict(row["verdict"]).severity)):
        verdict = Verdict(alike[0]["verdict"])
        out.write(f"{verdict.upper():<9} ", **_markup(verdict))
        out.write_line(printable(line_of(alike[0], alike[1:])))


def _alike(rows: Sequence[Record]) -> list[list[Record]]:
    """Return rows in groups of those that fall short alike: by one known defect, or on several GPUs."""
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for row in rows:
        defect = row["details"].get("defect")
        mild = not Verdict(row["verdict"]).fails
        own = row["id"], words.got_words(row), column(row) if row["tier"] not in _BY_GPU else ""
        groups.setdefault((row["verdict"], defect) if defect and mild else own, []).append(row)
    return list(groups.values())


def line_of(row: Record, others: Sequence[Record] = ()) -> str:
    """Return one line that says all about an item: flags, GPU, request, expected, got, source.

    Args:
        row: the item.
        others: items that fall short alike, of which only the names are shown.
    """
    names = words.names_of((row, *others))
    shown = ", ".join(names[:_MOST_NAMES]) + (", ..." if len(names) > _MOST_NAMES else "")
    if defect := row["details"].get("defect"):
        count = 1 + len(others)
        items = f"{count} item" + ("s" if count > 1 else "")
        return f"{defect} | {items}: {shown} | {row['again']}"
    facts = words.facts_of(row)
    parts = [f"{label} {text}" if label in ("expected", "got") else text for label, text in facts]
    return " | ".join(part for part in (shown, *parts) if part)


def _write_matrices(out: pytest.TerminalReporter, rows: Sequence[Record]) -> None:
    tiers = dict.fromkeys(row["tier"] for row in rows)
    for tier in tiers:
        if len(tiers) > 1:
            out.section(f"tier {tier}", sep="-")
        _write_matrix(out, [row for row in rows if row["tier"] == tier])
    if tiers:
        out.write_line("  ".join(f"{v.letter} {v}" for v in reversed(Verdict)))


def _write_matrix(out: pytest.TerminalReporter, rows: Sequence[Record]) -> None:
    """Write a tier's rows against its columns: GPUs, or the kinds of evidence."""
    columns = words.columns_of(rows)
    squares: dict[tuple[str, str], list[str]] = {}
    for row in rows:  # the state of aiter tells some apart: the worst one is shown
        squares.setdefault((row["id"], column(row)), []).append(row["verdict"])
    names = list(dict.fromkeys(sorted((row["level"] != "required", row["id"]) for row in rows)))
    levels = {row["level"] for row in rows}
    others = "advisory" if levels <= {"required", "advisory"} else "other"
    level = None
    for is_advisory, name in names:
        if is_advisory != level:
            level = is_advisory
            out.write_line(
                "  ".join(columns) + (f"  {others} rows" if is_advisory else "  required rows")
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
    lines = [["", *evidence.COLUMNS], *(list(map(printable, [n, *cells])) for n, cells in table)]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    for cells in lines:
        shown = (text.ljust(width) for text, width in zip(cells, widths, strict=True))
        out.write_line("  ".join(shown).rstrip())
    for device in words.device_words(report):
        out.write_line(printable(f"on {device}"))


def printable(text: str) -> str:
    """Return text safe for one terminal line: control characters shown, length bounded."""
    return words.one_line(text)
