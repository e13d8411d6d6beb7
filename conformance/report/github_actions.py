"""Causes as annotations of GitHub Actions: shown on the fork's file in a pull request.

https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-commands, "Setting an error
message". A step shows ten errors and ten warnings at most.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.promise.verdict import Verdict
from pytest_rocm_attn.conformance.report import explained, words
from pytest_rocm_attn.conformance.report.schema import name_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_rocm_attn.conformance.report.schema import CauseEntry, Record

_MOST = 10  # of each kind
_SHOWN = {Verdict.ADVISORY: "warning", Verdict.DIFFERS: "warning"}
_FRAME = re.compile(r'^  File "(.+?)", line (\d+)', re.MULTILINE)


def lines(
    report: Mapping[str, Any], place: tuple[Path, int] | None, workspace: Path
) -> Iterator[str]:
    """Yield an annotation for each cause that fails, and for each that differs without failing.

    Args:
        report: the JSON report, as plain data.
        place: the file of the selector, and the line at which the function that answered begins;
            None if that is not known. A crash is shown where the fork raised it.
        workspace: the folder of the checkout; what lies elsewhere cannot be annotated.
    """
    counts: dict[str, int] = {}
    by_name = {name_of(row): row for row in report["rows"]}
    for cause in explained.of(report):
        verdict = Verdict(cause["verdict"])
        kind = "error" if verdict.fails else _SHOWN.get(verdict)
        if kind is None:
            continue
        counts[kind] = counts.get(kind, 0) + 1
        if counts[kind] > _MOST:
            continue
        rows = [by_name[name] for name in cause["items"] if name in by_name]
        yield _line(kind, cause, _inside(_raised(rows, workspace) or place, workspace))


def _line(kind: str, cause: CauseEntry, where: tuple[Path, int] | None) -> str:
    title = f"ROCm attention: {cause['verdict']} [{words.count_words(cause)}]"
    properties = {"title": title}
    if where is not None:
        properties = {"file": where[0].as_posix(), "line": str(where[1]), **properties}
    lines = [cause["what"], *(f"{label}: {text}" for label, text in words.cause_lines(cause))]
    shown = ",".join(f"{name}={_escaped(text, ':,')}" for name, text in properties.items())
    return f"::{kind} {shown}::{_escaped(chr(10).join(map(words.one_line, lines)))}"


def _escaped(text: str, more: str = "") -> str:
    for character in f"%\r\n{more}":
        text = text.replace(character, f"%{ord(character):02X}")
    return text


def _raised(rows: Sequence[Record], workspace: Path) -> tuple[Path, int] | None:
    """Return where the fork's own code was when it crashed."""
    for row in rows:
        frames = _FRAME.findall(str(row["outcome"].get("traceback", "")))
        for file, line in reversed(frames):
            if _inside((Path(file), int(line)), workspace) is not None:
                return Path(file), int(line)
    return None


def _inside(place: tuple[Path, int] | None, workspace: Path) -> tuple[Path, int] | None:
    """Return a place with its file relative to the checkout; None if it lies elsewhere."""
    if place is None:
        return None
    file = place[0].resolve()
    root = workspace.resolve()
    return (file.relative_to(root), place[1]) if file.is_relative_to(root) else None
