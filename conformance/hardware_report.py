"""Reports of hardware tests: what ``python -m pytest -m rocm_attn_gpu --rocm-attn-report=FILE`` writes.

Where the matrix does not run, a report named on the command line holds a row for each test that bears a
hardware marker and ran. A test says what it is about by pytest's own record_property: "rocm_attn_backend",
"rocm_attn_evidence" and "rocm_attn_device" (a table, as host.describe() gives it), "rocm_attn_ratio" (its
largest error over its bound).
"""

from __future__ import annotations

import inspect
import shlex
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from pytest_rocm_attn.conformance.machine import first_gpu
from pytest_rocm_attn.conformance.report import json_file, output, terminal
from pytest_rocm_attn.conformance.settings import reports_of
from pytest_rocm_attn.errors import ReportError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from pytest_rocm_attn.conformance.record import Record

TIER = "hardware"
_PREFIX = "rocm_attn_"
_WORDS = {"pass": "passed", "fail": "failed", "crash": "broke down", "advisory": "fell short"}


class HardwareReport:
    """What one run's hardware tests came to.

    Args:
        config: of the run.
        marker: returns the hardware marker that a test bears, or None.
    """

    def __init__(self, config: pytest.Config, marker: Callable[[pytest.Item], str | None]) -> None:
        self.config = config
        self.marker = marker
        self.paths = reports_of(config)
        self.records: list[Record] = []
        self.skipped: Counter[str] = Counter()
        self.planned = 0
        self._error = ""

    def _is_ours(self, item: pytest.Item) -> bool:
        return self.marker(item) is not None

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.planned = sum(map(self._is_ours, session.items))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if not self._is_ours(item) or (call.when != "call" and report.passed):
            return report
        if report.skipped and not hasattr(report, "wasxfail"):
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else "skipped"
            vars(report)["rocm_attn_skipped"] = reason.removeprefix("Skipped: ")
        else:
            vars(report)["rocm_attn"] = self._record(item, call, report)
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        # Under xdist the controller gets here with what its workers sent.
        if (record := getattr(report, "rocm_attn", None)) is not None:
            self.records.append(record)
        if (reason := getattr(report, "rocm_attn_skipped", None)) is not None:
            self.skipped[reason] += 1

    def _record(
        self, item: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport
    ) -> Record:
        told = {
            name.removeprefix(_PREFIX): value
            for name, value in item.user_properties
            if name.startswith(_PREFIX)
        }
        gpu, error = first_gpu(), call.excinfo
        verdict = "pass"
        if hasattr(report, "wasxfail"):
            verdict = "advisory"
        elif error is not None:
            failed = isinstance(error.value, AssertionError | pytest.fail.Exception)
            verdict = "fail" if failed else "crash"
        message = str(error.value) if error is not None else ""
        details = {name: value for name, value in told.items() if name in ("device", "ratio")}
        if "backend" in told:
            details["backend"] = {"name": told["backend"], "spec": ""}
        function = getattr(item, "function", None)
        promise = (inspect.getdoc(function) or item.name).partition("\n")[0]
        return {
            "id": item.nodeid,
            "tier": TIER,
            "level": "advisory" if verdict == "advisory" else "required",
            "gpu": {"gfx": gpu.gfx, "aiter": gpu.aiter.value} if gpu else None,
            "evidence": str(told.get("evidence", "real" if gpu else "")),
            "env": None,
            "request": None,
            "expect": {"words": promise},
            "outcome": {
                "kind": verdict,
                "words": message.partition("\n")[0] or _WORDS[verdict],
                "traceback": report.longreprtext if report.failed else "",
            },
            "verdict": verdict,
            "message": message,
            "source": item.location[0],
            "seconds": round(call.duration, 6),
            "environment_written": [],
            "again": shlex.join(
                ["python", "-m", "pytest", "-m", str(self.marker(item)), item.nodeid]
            ),
            "details": details,
        }

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if hasattr(self.config, "workerinput") or self.config.getoption("collectonly"):
            return
        gpu = first_gpu()
        ran = len(self.records) + self.skipped.total()
        report = json_file.of_rows(
            self.records,
            kind="real" if gpu else "none",
            machine=str(gpu) if gpu else None,
            planned=max(self.planned, ran),  # an xdist controller collects nothing itself
            notes=[f"{count} not run: {reason}" for reason, count in self.skipped.items()],
            contract={"id": "", "title": "", "source": ""},
            selector={"name": "hardware tests", "distribution": None, "version": None},
        )
        try:
            output.write(self.paths, report)
        except ReportError as error:
            self._error = str(error)
            if session.exitstatus == pytest.ExitCode.OK:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.config.getoption("collectonly"):
            return
        terminal.write_evidence(terminalreporter, self.records, [])
        if self._error:
            terminalreporter.write_line(f"ERROR: {self._error}", red=True)
            return
        for path in self.paths:
            terminalreporter.write_line(f"report of {len(self.records)} hardware tests: {path}")
