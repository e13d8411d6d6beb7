"""Writing reports: which format a suffix means, and that a run's results are not lost on the way."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.promise import deviations
from pytest_rocm_attn.conformance.report import html_page, json_file, markdown, whole_file
from pytest_rocm_attn.errors import DeviationsError, ReportError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    Report = Mapping[str, Any]


FORMATS: dict[str, Callable[[Report], str]] = {
    ".json": json_file.render,
    ".html": html_page.render,
    ".md": markdown.render,
}


NOTHING_FAILED = "# Drafted by pytest-rocm-attn: nothing failed, and nothing is declared.\n"


def check(path: Path, given: str, suffixes: Collection[str] = FORMATS) -> None:
    """Find out before a run what would keep a report from being written after it.

    Args:
        path: where the report is to go.
        given: the same as the user spelled it, for the message.
        suffixes: those that there is a format for.

    Raises:
        ReportError: an unknown suffix, no such folder, or one that cannot be written to.
    """
    if path.suffix not in suffixes:
        raise ReportError(
            f"{given}: the suffix chooses the format, and {path.suffix!r} is unknown;"
            f" use {', '.join(suffixes)}"
        )
    if not path.parent.is_dir():
        raise ReportError(f"{given}: {path.parent} is not a folder")
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ReportError(f"{given}: {path} cannot be written")


def write(paths: Iterable[Path], report: Report) -> None:
    """Write a report to each path, in the format of its suffix; each whole or not at all.

    Raises:
        ReportError: some cannot be written; the others are. The message names the file that holds
            the results instead.
    """
    troubles = []
    for path in paths:
        try:
            whole_file.write(path, FORMATS[path.suffix](report).encode())
        except OSError as error:
            troubles.append(f"report {path} cannot be written: {error.strerror or error}")
    if troubles:
        raise ReportError("; ".join(troubles) + _rescue(json_file.render(report)))


def write_draft(path: Path, text: str) -> None:
    """Write a draft of deviations to a new file, or below the comments of one that declares nothing.

    Raises:
        ReportError: somebody has added entries since the run began, or it cannot be written.
    """
    try:
        before = path.read_text("utf-8") if path.exists() else ""
        if before and deviations.load(path).entries:
            raise ReportError(f"draft {path}: it has entries by now; run again with another path")
        if before and not text:
            return
        gap = "\n" * (2 - before.endswith("\n")) if before.strip() else ""
        whole_file.write(path, f"{before if gap else ''}{gap}{text or NOTHING_FAILED}".encode())
    except (OSError, DeviationsError) as error:
        words = (isinstance(error, OSError) and error.strerror) or error
        raise ReportError(
            f"draft {path} cannot be written: {words}; run again with another path"
        ) from None


def _rescue(text: str) -> str:
    try:
        descriptor, name = tempfile.mkstemp(prefix="rocm-attn-report-", suffix=".json")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError:
        return "; the results are in the terminal output only"
    return f"; make it from the results with `rocm-attn report` from {name}"
