"""The reports of one run: made when it ends, written, and named on the terminal."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_rocm_attn.citations import linked
from pytest_rocm_attn.conformance.adapters import checkout
from pytest_rocm_attn.conformance.promise.verdict import Verdict
from pytest_rocm_attn.conformance.report import fork, github_actions, json_file, origin, output
from pytest_rocm_attn.conformance.tiers import tier_class
from pytest_rocm_attn.errors import ReportError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_rocm_attn.conformance.report.notes import Notes
    from pytest_rocm_attn.conformance.report.results import Results
    from pytest_rocm_attn.conformance.report.schema import Summary
    from pytest_rocm_attn.conformance.tiers.settings import Settings


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

    def annotate(self, terminalreporter: pytest.TerminalReporter, selector: str) -> None:
        """Show the causes on the fork's file, if GitHub Actions runs this and reads what is printed."""
        if os.environ.get("GITHUB_ACTIONS") != "true" or self.content is None:
            return
        workspace = Path(os.environ.get("GITHUB_WORKSPACE") or Path.cwd())
        place = checkout.place_here(selector)
        for line in github_actions.lines(self.content, place, workspace):
            terminalreporter.write_line(line)

    def name_them(self, terminalreporter: pytest.TerminalReporter, what: str) -> bool:
        """Name the reports on the terminal, or what went wrong; return whether all were written."""
        if self._error:
            terminalreporter.write_line(f"ERROR: {self._error}", red=True)
            return False
        for path in self.paths:
            terminalreporter.write_line(f"{what}: {path}")
        return True


def content_of(
    settings: Settings, reported: dict[str, Any], results: Results, notes: Notes
) -> dict[str, Any]:
    """Return the report of a run of the matrix, as plain data.

    Args:
        settings: of the run.
        reported: the options that a report lists.
        results: of its items.
        notes: for the reader.
    """
    subject, contract = settings.subject, settings.contract
    machine = settings.machine
    summaries = _summaries(settings, results)
    return json_file.of_results(
        results,
        kind=subject.evidence,
        machine=str(machine) if machine else None,
        notes=notes.texts(),
        summaries=summaries,
        contract={
            "id": contract.id,
            "title": contract.title,
            "source": linked(contract.source),
            **_compared_with_upstream(settings, results, summaries),
        },
        selector=origin.of(subject.selector),
        settings=reported,
    )


def _compared_with_upstream(
    settings: Settings, results: Results, summaries: Sequence[Summary]
) -> dict[str, Any]:
    """Return the release that the selector is judged by, and how it differs from that one."""
    contract = settings.contract
    if contract.upstream is None:
        return {}
    told: list[str] = []
    if contract.upstream.inherited:
        cells = ((cell.row.id, cell.gpu.gfx) for cell in settings.cells)
        told = fork.headline(
            results.rows, str(contract.upstream), contract.defects, cells, summaries
        )
    return {"upstream": {"release": str(contract.upstream), "told": told}}


def _summaries(settings: Settings, results: Results) -> list[Summary]:
    """Return the result of each tier that reports better as a whole, of what it has looked at."""
    found = []
    # An item that failed before it looked at anything has no details.
    rows = results.rows
    judged = [row for row in rows if row["verdict"] != Verdict.ERROR or row["details"]]
    for tier in settings.tiers:
        of_tier = [row for row in judged if row["tier"] == tier]
        told = tier_class(tier).summary(of_tier) if of_tier else None
        if told is not None:
            found.append(told)
    return found
