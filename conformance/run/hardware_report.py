"""Reports of hardware tests: what ``python -m pytest -m rocm_attn_gpu --rocm-attn-report=FILE`` writes.

If the matrix does not run, a report named on the command line holds a row for each test that bears a
hardware marker and ran, and lists those that were skipped or not reached. A test says what it is about by pytest's own record_property: "rocm_attn_backend",
"rocm_attn_evidence" and "rocm_attn_device" (a table, from host.describe()), "rocm_attn_ratio" (its
largest error over its bound).
"""

from __future__ import annotations

import functools
import inspect
import os
import shlex
from typing import TYPE_CHECKING, Any

import pytest

from pytest_rocm_attn import options
from pytest_rocm_attn.conformance.isolation.machine import Machine, first_gpu
from pytest_rocm_attn.conformance.promise.verdict import Verdict
from pytest_rocm_attn.conformance.report import json_file, results, terminal, words
from pytest_rocm_attn.conformance.report.results import Results
from pytest_rocm_attn.conformance.report.schema import record
from pytest_rocm_attn.conformance.run.reports import Reports
from pytest_rocm_attn.conformance.run.settings import reports_of
from pytest_rocm_attn.conformance.tiers.items import cause_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from pytest_rocm_attn.conformance.report.schema import Declined, Record

TIER = "hardware"
_PREFIX = "rocm_attn_"
_WORDS = {
    Verdict.PASS: "passed",
    Verdict.FAIL: "failed",
    Verdict.CRASH: "broke down",
    Verdict.ADVISORY: "fell short",
    Verdict.ERROR: "could not be judged",
}
_ROW = pytest.StashKey["Record"]()  # of an item, after its call


class HardwareReport:
    """The results of one run's hardware tests.

    Args:
        config: of the run.
        marker: returns the hardware marker that a test bears, or None.
    """

    def __init__(self, config: pytest.Config, marker: Callable[[pytest.Item], str | None]) -> None:
        self.config = config
        self.marker = marker
        self.reports = Reports(reports_of(config))
        self.results = Results()
        self._lost: list[pytest.TestReport] = []

    def _is_ours(self, item: pytest.Item) -> bool:
        return self.marker(item) is not None

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.results.select(item.nodeid for item in session.items if self._is_ours(item))

    @functools.cached_property
    def _machine(self) -> Machine | None:
        """The real GPU; asked for once, because that runs rocminfo."""
        return first_gpu()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if not self._is_ours(item) or (call.when != "call" and report.passed):
            return report
        if report.skipped and not hasattr(report, "wasxfail"):
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else "skipped"
            results.attach(report, declined=_skipped(item.nodeid, reason))
        else:
            results.attach(report, row=self._record(item, call, report))
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        # Under xdist the controller gets here with what its workers sent.
        self.results.add(report)

    # --- xdist: the controller knows neither the items nor their markers --------------------------

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Learn from a worker that has ended which items are hardware tests."""
        self.results.select(getattr(node, "workeroutput", {}).get("rocm_attn_selected", ()))

    @pytest.hookimpl(optionalhook=True)
    def pytest_handlecrashitem(self, report: pytest.TestReport) -> None:
        """Keep xdist's report of the item that a lost worker was running."""
        self._lost.append(report)

    def _add_lost(self) -> None:
        known = self.results.selected  # empty if no worker lived to send it
        for report in self._lost:
            if report.nodeid in known or not known:
                words = str(report.longrepr)
                row = self._row(
                    report.nodeid,
                    Verdict.ERROR,
                    words,
                    source=report.location[0],
                    again=self._again(report.nodeid),
                )
                results.attach(report, row=row)
                self.results.add(report)

    # --- rows -------------------------------------------------------------------------------------

    def _record(
        self, item: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport
    ) -> Record:
        told = {
            name.removeprefix(_PREFIX): value
            for name, value in item.user_properties
            if name.startswith(_PREFIX)
        }
        error = call.excinfo
        verdict = Verdict.PASS
        if hasattr(report, "wasxfail"):
            verdict = Verdict.ADVISORY
        elif error is not None:
            failed = isinstance(error.value, AssertionError | pytest.fail.Exception)
            verdict = Verdict.FAIL if failed else Verdict.CRASH
        message = str(error.value) if error is not None else ""
        if call.when != "call" and error is not None:
            verdict, message = Verdict.ERROR, f"{call.when} failed: {cause_of(error.value)}"
            if (before := item.stash.get(_ROW, None)) is not None and before["message"]:
                message += f"; before that, {before['verdict']}: {before['message']}"
        details = {name: value for name, value in told.items() if name in ("device", "ratio")}
        if "backend" in told:
            details["backend"] = {"name": told["backend"], "spec": ""}
        function = getattr(item, "function", None)
        promise = (inspect.getdoc(function) or item.name).partition("\n")[0]
        row = self._row(
            item.nodeid,
            verdict,
            message,
            expect={"words": promise},
            source=item.location[0],
            again=self._again(
                item.nodeid, *filter(None, (self._emulate,)), "-m", str(self.marker(item))
            ),
            traceback=report.longreprtext if report.failed else "",
            seconds=round(call.duration, 6),
            details=details,
            **({"evidence": str(told["evidence"])} if "evidence" in told else {}),
        )
        item.stash[_ROW] = row
        return row

    @property
    def _emulate(self) -> str:
        """The option that has this run's GPU emulated, or nothing."""
        given = options.value(self.config, "emulate")
        return f"{options.BY_NAME['emulate'].flag}={given}" if given else ""

    def _again(self, nodeid: str, *given: str) -> str:
        """Return the command that runs one test, from the folder that pytest was started in."""
        path, colons, name = nodeid.partition("::")  # the path is from pytest's root folder
        here = os.path.relpath(self.config.rootpath / path, self.config.invocation_params.dir)
        return shlex.join(["python", "-m", "pytest", *given, f"{here}{colons}{name}"])

    def _row(
        self,
        nodeid: str,
        verdict: Verdict,
        message: str,
        *,
        traceback: str = "",
        **fields: Any,
    ) -> Record:
        machine = self._machine
        fields.setdefault("evidence", "real" if machine else "emulated" if self._emulate else "")
        return record(
            machine.gpu if machine else None,
            verdict,
            id=nodeid,
            tier=TIER,
            level="advisory" if verdict is Verdict.ADVISORY else "required",
            message=message,
            outcome={
                "kind": verdict.value,
                "words": message.partition("\n")[0] or _WORDS[verdict],
                "traceback": traceback,
            },
            **fields,
        )

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if hasattr(self.config, "workerinput"):
            self.config.workeroutput["rocm_attn_selected"] = self.results.selected  # type: ignore[attr-defined]  # xdist sets it
            return
        if self.config.getoption("collectonly"):
            return
        self._add_lost()
        gpu = self._machine
        content = json_file.of_results(
            self.results,
            kind="real" if gpu else "none",
            machine=str(gpu) if gpu else None,
            contract={"id": "", "title": "", "source": ""},
            selector={"name": "hardware tests", "distribution": None, "version": None},
        )
        self.reports.finish(session, self.results, content)

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if (content := self.reports.content) is not None:
            terminal.write_evidence(terminalreporter, content)
            self.reports.name_them(terminalreporter, f"hardware tests, {words.headline(content)}")


def _skipped(nodeid: str, reason: str) -> Declined:
    return {
        "id": nodeid,
        "tier": TIER,
        "gfx": "",
        "backend": "",
        "evidence": "",
        "reason": reason.removeprefix("Skipped: "),
    }
