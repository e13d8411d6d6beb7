"""The reports of one run: made when it ends, written, and named on the terminal."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import pytest

from pytest_rocm_attn.conformance.report import output
from pytest_rocm_attn.errors import ReportError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from pytest_rocm_attn.conformance.report.results import Results


class Reports:
    """The reports of one run.

    Args:
        paths: where they go.

    Attributes:
        content: of all of them, as plain data; None before the end of the run.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths
        self.content: dict[str, Any] | None = None
        self._error = ""

    def finish(
        self,
        session: pytest.Session,
        results: Results,
        content: dict[str, Any],
        *others: Callable[[], None],
    ) -> None:
        """Write the reports, and give the session the exit status that the results make.

        Args:
            session: ends.
            results: of its items.
            content: of the reports.
            others: write something else, and raise ReportError if they cannot.
        """
        session.exitstatus = results.exit_status(session.exitstatus)
        self.content = content
        errors = []
        own: Callable[[], None] = functools.partial(output.write, self.paths, content)
        for write in (*others, own):
            try:
                write()
            except ReportError as error:
                errors.append(str(error))
        self._error = "; ".join(errors)
        if errors and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def name_them(self, terminalreporter: pytest.TerminalReporter, what: str) -> bool:
        """Name the reports on the terminal, or what went wrong; return whether all were written."""
        if self._error:
            terminalreporter.write_line(f"ERROR: {self._error}", red=True)
            return False
        for path in self.paths:
            terminalreporter.write_line(f"{what}: {path}")
        return True
