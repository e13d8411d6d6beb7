"""The end of the terminal output: the matrix, what fell short, and the totals."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.gpu import known_gpus
from pytest_rocm_attn.request import Request

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pytest

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


def write(out: pytest.TerminalReporter, run: ConformancePlugin) -> None:
    """Write the matrix, a line for each cell that fell short, and the totals."""
    records = run.records
    gpus = [gfx for gfx in known_gpus() if any(r["gpu"]["gfx"] == gfx for r in records)]
    out.section("ROCm attention conformance", sep="=")
    if out.verbosity >= 0:
        _write_matrix(out, records, gpus)
    short = [record for record in records if record["verdict"] != "pass"]
    if short:
        out.section("rows that fell short", sep="-")
    for record in sorted(short, key=lambda r: list(SYMBOLS).index(r["verdict"])):
        out.write(record["verdict"].upper().ljust(10), **_COLOURS[record["verdict"]])
        out.write_line(printable(line_of(record)))
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


def _write_matrix(
    out: pytest.TerminalReporter, records: Sequence[dict[str, Any]], gpus: Sequence[str]
) -> None:
    cells = {(record["id"], record["gpu"]["gfx"]): record["verdict"] for record in records}
    rows = list(dict.fromkeys(sorted((r["level"] != "required", r["id"]) for r in records)))
    level = None
    for is_advisory, row in rows:
        if is_advisory != level:
            level = is_advisory
            out.write_line(
                "  ".join(gpus) + ("  advisory rows" if is_advisory else "  required rows")
            )
        for gfx in gpus:
            verdict = cells.get((row, gfx))
            symbol = SYMBOLS[verdict] if verdict else " "
            out.write(symbol.center(len(gfx)) + "  ", **(_COLOURS[verdict] if verdict else {}))
        out.write_line(row)
    legend = "  ".join(f"{symbol} {verdict}" for verdict, symbol in SYMBOLS.items())
    out.write_line(legend)


def line_of(record: dict[str, Any]) -> str:
    """Return one line that says all about a cell: flags, GPU, request, expected, got, source."""
    flags = " ".join(f"{name}={text!r}" for name, text in record["env"].items()) or "no flags"
    expect = record["expect"]
    expected = expect.get("backend") or "a refusal mentioning " + ", ".join(expect["mentions"])
    return (
        f"{record['id']}[{record['gpu']['gfx']}] | {flags} | aiter {record['gpu']['aiter']}"
        f" | {_request(record)} | expected {expected} | got {record['outcome']['words']} | {record['source']}"
        f" | {record['again']}"
    )


def _request(record: dict[str, Any]) -> str:
    fields = Request(**record["request"]).non_default()
    return ", ".join(f"{name}={value!r}" for name, value in fields.items()) or "plain layer"


def totals_line(records: Sequence[dict[str, Any]], run: ConformancePlugin) -> str:
    """Return the totals by verdict, and how much of the selection was run."""
    counts = Counter(record["verdict"] for record in records)
    total = ", ".join(f"{counts[verdict]} {verdict}" for verdict in SYMBOLS if counts[verdict])
    return (
        f"{len(records)} of {len(run.settings.cells)} cells answered: {total or 'none'}"
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
