"""The results of a run's items: each that was selected is a row, was declined, or was not run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_rocm_attn.conformance.promise.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_rocm_attn.conformance.report.schema import Declined, Record

_ROW, _DECLINED = "rocm_attn", "rocm_attn_declined"


def attach(
    report: pytest.TestReport, *, row: Record | None = None, declined: Declined | None = None
) -> None:
    """Put the result of an item on pytest's report of a stage, which xdist sends along."""
    vars(report).update({_ROW: row} if row is not None else {_DECLINED: declined})


def row_of(report: object) -> Record | None:
    """Return the row that was put on a report."""
    row: Record | None = getattr(report, _ROW, None)
    return row


def report_teardown(config: pytest.Config, lost: pytest.TestReport) -> None:
    """Report the teardown, which never came, of an item whose xdist worker was lost."""
    report = pytest.TestReport(
        lost.nodeid,
        lost.location,
        keywords={},
        outcome="passed",
        longrepr=None,
        when="teardown",
        user_properties=lost.user_properties,
    )
    vars(report)["node"] = vars(lost)["node"]  # by which --junitxml finds the item
    config.hook.pytest_runtest_logreport(report=report)


class Results:
    """The results of one run, by node id."""

    def __init__(self) -> None:
        self._selected: dict[str, None] = {}
        self._rows: dict[str, Record] = {}
        self._declined: dict[str, Declined] = {}

    def select(self, nodeids: Iterable[str]) -> None:
        """Note items that are to be run."""
        self._selected.update(dict.fromkeys(nodeids))

    def add(self, report: pytest.TestReport) -> None:
        """Take what is on the report of a stage; of two rows of one item the worse one stays."""
        row, declined = row_of(report), getattr(report, _DECLINED, None)
        if row is not None or declined is not None:
            self.select([report.nodeid])
        if row is not None:
            before = self._rows.get(report.nodeid, row)
            worst = Verdict.worst([before["verdict"], row["verdict"]])
            self._rows[report.nodeid] = row if row["verdict"] == worst else before
            self._declined.pop(report.nodeid, None)
        elif declined is not None and report.nodeid not in self._rows:
            self._declined[report.nodeid] = declined

    @property
    def selected(self) -> list[str]:
        """The node ids of all items that were to be run."""
        return list(self._selected)

    @property
    def rows(self) -> list[Record]:
        """A row for each item that has a verdict."""
        return list(self._rows.values())

    @property
    def declined(self) -> list[Declined]:
        """An entry for each item that was skipped, or declined by the backend under test."""
        return list(self._declined.values())

    @property
    def not_run(self) -> list[str]:
        """The node ids of the items that the run ended without."""
        return [n for n in self._selected if n not in self._rows and n not in self._declined]

    def exit_status(self, status: int) -> int:
        """Return the exit status of a run that ended with this one: no success with a bad result.

        pytest itself is content, say, with an item that a conftest marked as an expected failure.
        """
        bad = self.not_run or any(Verdict(row["verdict"]).fails for row in self.rows)
        return pytest.ExitCode.TESTS_FAILED if bad and status == pytest.ExitCode.OK else status
