"""The matrix within a pytest session: collects the items, has them answered, and reports.

Registered by plugin.py when ``--rocm-attn-conformance`` is given. Under xdist the controller checks
the selector and reports, and each worker answers the cells that it is sent.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import time
from typing import TYPE_CHECKING, Any

import pytest

from pytest_rocm_attn import options
from pytest_rocm_attn.conformance.isolation import Pool, WorkerError, probing
from pytest_rocm_attn.conformance.promise.verdict import Verdict
from pytest_rocm_attn.conformance.report import draft, output, results, terminal
from pytest_rocm_attn.conformance.report.notes import Notes
from pytest_rocm_attn.conformance.report.progress import MARK, Progress, beside_pytest
from pytest_rocm_attn.conformance.report.results import Results
from pytest_rocm_attn.conformance.run import header
from pytest_rocm_attn.conformance.run import settings as settings_module
from pytest_rocm_attn.conformance.run.command_line import CommandLine, selects
from pytest_rocm_attn.conformance.run.reports import Reports, content_of
from pytest_rocm_attn.conformance.tiers import TIERS, tier_class
from pytest_rocm_attn.conformance.tiers.base import (
    DEVIATIONS,
    ROOT,
    Matrix,
    Planned,
    Tier,
    first_question,
)
from pytest_rocm_attn.conformance.tiers.declared import Declared, every_item
from pytest_rocm_attn.conformance.tiers.items import ConformanceItem
from pytest_rocm_attn.errors import SelectorError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from concurrent.futures import Future

    from pytest_rocm_attn.conformance.isolation import Observation, Question
    from pytest_rocm_attn.conformance.tiers.base import Closing, T


class ConformancePlugin:
    """One run of the matrix."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.settings = settings_module.read(config)
        self.results = Results()
        self.notes = Notes()
        self._lost: set[str] = set()  # node ids of items whose xdist worker was lost
        self._pool: Pool | None = None
        self._progress: Progress | None = None
        self._described: list[Callable[[], str]] = []
        self._current = ""  # the item that is run
        self._shared: dict[type, Closing] = {}
        self._session: pytest.Session | None = None
        self._asked: tuple[float, list[Future[Observation]]] = 0.0, []
        self._reports = Reports(self.settings.reports)
        self._line = CommandLine(config)
        self._plans = self._make_plans()
        self._known = [
            f"{ROOT}::{tier}::{planned.name}"
            for tier, plan in self._plans.items()
            for planned in plan
        ]
        for wanted in self._line.ids:
            if not any(selects(wanted, nodeid) for nodeid in self._known):
                raise pytest.UsageError(f"no such row: {wanted}.{nearest(wanted, self._known)}")

    def _make_plans(self) -> dict[str, list[Planned]]:
        """Return the items of each tier that runs: the one list that all else is made from."""
        plans = {}
        for tier in self.settings.tiers:
            found = tier_class(tier)
            plans[tier] = list(found.plan(self.settings))
            if not plans[tier] and not found.header(self.settings):  # which may say why
                raise settings_module.nothing_to_run(self.settings, tier)
        return {**plans, DEVIATIONS: list(Declared.plan(self.settings))}

    def planned(self, tier: str) -> list[Planned]:
        """Return the plan of a tier of this run, or of DEVIATIONS."""
        return self._plans[tier]

    @property
    def _is_worker(self) -> bool:
        return hasattr(self.config, "workerinput")

    @property
    def _is_controller(self) -> bool:
        return self.config.pluginmanager.hasplugin("dsession")

    def command(self, **own: Any) -> list[str]:
        """Return the command that repeats this run, as far as verdicts depend on it.

        Args:
            own: options of one item, by name with underscores: they replace the run's.
        """
        return self._line.again(**own)

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        self._line.send(node.workerinput)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        self.notes.take(getattr(node, "workeroutput", {}))

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(
        self, session: pytest.Session, items: list[pytest.Item]
    ) -> None:
        items.extend(session.genitems(self._matrix(session)))

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """Leave out what the command line does not name, so that pytest does not count it."""
        report = yield
        if isinstance(collector, Tier) and report.passed:
            report.result = [item for item in report.result if self._line.names(item.nodeid)]
        return report

    def _matrix(self, session: pytest.Session) -> Matrix:
        matrix = Matrix.from_parent(session, name=ROOT, nodeid=ROOT)
        matrix.plugin = self
        return matrix

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Count the items of a tier that cannot be collected: the run ends without them."""
        if report.failed and report.nodeid.startswith(f"{ROOT}::"):
            lost = [n for n in self._known if selects(report.nodeid, n) and self._line.names(n)]
            self.results.select(lost)
            words = report.longreprtext.strip().splitlines() or ["unknown"]
            self.notes.lines.append(f"{report.nodeid} cannot be collected: {words[-1]}")

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Note what is to be run; an xdist controller collects nothing itself."""
        ours = (item.nodeid for item in session.items if isinstance(item, ConformanceItem))
        self.results.select(ours)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        """Note what an xdist worker has collected; each of them collects the same."""
        self.results.select(nodeid for nodeid in ids if nodeid.startswith(f"{ROOT}::"))

    def pytest_report_header(self) -> list[str]:
        return header.lines(self.settings)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionstart(self, session: pytest.Session) -> None:
        self._session = session
        if not self._is_controller or self.config.getoption("collectonly"):
            return
        try:
            self._probe()  # before any xdist worker is started
        except pytest.UsageError:
            # Nothing is collected, so what -k and the like would leave out counts as well.
            self.results.select(nodeid for nodeid in self._known if self._line.names(nodeid))
            self._finish(session)
            raise
        self._close()

    def _probe(self) -> None:
        """Find out whether the selector can be asked at all.

        Raises:
            pytest.UsageError: it cannot; in one line, which every report has as a note.
        """
        firsts = (
            first_question(self._plans[tier])
            for tier in self.settings.tiers
            if tier_class(tier).asks_selector
        )
        questions = [first for first in firsts if first is not None]
        if not questions:
            return
        if self.settings.machine is None:
            questions += probing(question.gpu.gfx for question in questions)
        self._pool = Pool(self.settings.subject)
        try:
            self._pool.probe(questions)
            if self.settings.against is not None:
                with contextlib.closing(Pool(self.settings.against, lanes=1)) as other:
                    other.probe(questions)
        except (SelectorError, WorkerError) as error:
            self._close()
            self.notes.lines.append(str(error))
            raise pytest.UsageError(str(error)) from None

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> None:
        """Hand out all questions at once, so that lanes stay busy and an environment is asked once.

        An xdist worker learns only one by one what it is to run.
        """
        self._asked = time.monotonic(), []
        if self._is_worker or self.config.getoption("collectonly"):
            return
        if self._is_controller or self.results.selected:
            self._progress = beside_pytest(self.config, self._how_far)
        if self._is_controller:
            return
        if not (items := [item for item in session.items if isinstance(item, ConformanceItem)]):
            return
        self._probe()
        if self._pool is not None:
            questions: list[Question] = []
            for item in items:
                with item.asking_ahead():
                    questions += item.questions()
            self._asked = time.monotonic(), self._pool.submit(questions)
            for item in items:
                with item.asking_ahead():
                    item.ahead()

    def seconds_of_questions(self) -> float | None:
        """Wait until what was asked at the start is answered; return how long that took.

        An xdist worker asks item by item: of its time so far, others' items are a small part.
        """
        start, futures = self._asked
        if self._is_worker and len(self.settings.tiers) > 1:
            return time.monotonic() - start
        if not futures:
            return None
        concurrent.futures.wait(futures)
        return time.monotonic() - start

    def show(self, describe: Callable[[], str]) -> None:
        """Add to what is shown of the run's progress; called from another thread."""
        if describe not in self._described:
            self._described.append(describe)

    def _how_far(self) -> str:
        done = len(self.results.rows) + len(self.results.declined)
        parts = [f"{done:,} of {len(self.results.selected):,} items"]
        parts += [one() for one in self._described]
        parts += [f"at {self._current}"] if self._current else []
        return f"{MARK}{', '.join(parts)}"

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Note what is run, for the progress."""
        self._current = nodeid.removeprefix(f"{ROOT}::")

    def observe(self, question: Question) -> Observation:
        """Return the result of a question; waits for it."""
        (future,) = self.started_pool().submit([question])
        return future.result()

    def started_pool(self) -> Pool:
        """Return the workers that ask the selector under test, started when first needed.

        No property: pytest 8.0 reads every one that a plugin has, in search of fixtures.
        """
        if self._pool is None:
            self._pool = Pool(self.settings.subject)
        return self._pool

    def shared(self, kind: type[T], make: Callable[[], T]) -> T:
        """Return what all items of a tier share in this process, made when it is first asked for.

        It is closed, with a function that ends the pool's processes, when the run ends.
        """
        if kind not in self._shared:
            self._shared[kind] = make()
        found = self._shared[kind]
        assert isinstance(found, kind)
        return found

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if isinstance(item, ConformanceItem):
            item.conclude(call, report)
        return report

    @pytest.hookimpl(optionalhook=True)
    def pytest_handlecrashitem(self, crashitem: str, report: pytest.TestReport) -> None:
        """Put on xdist's report of the item that a lost worker was running what becomes of it."""
        assert self._session is not None
        tiers = self._matrix(self._session).collect()
        items = (item for tier in tiers for item in tier.collect())
        for item in items:
            # xdist adds @ and the name of a group to the id of an item that is in one.
            if item.nodeid in (crashitem, crashitem.rpartition("@")[0]) and isinstance(
                item, ConformanceItem
            ):
                report.when = "call"  # xdist says "???"
                item.fault(report, str(report.longrepr))
                self._lost.add(crashitem)

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: pytest.TestReport) -> Any:
        if report.when != "call" or (row := results.row_of(report)) is None:
            return None
        verdict = Verdict(row["verdict"])
        # Before 8.3, pytest's summary prints a word with its colour as the tuple that it is.
        plain = pytest.version_tuple < (8, 3)
        word = verdict.word if plain else (verdict.word, {verdict.colour: True})
        return verdict.category, verdict.letter, word

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.results.add(report)
        if report.nodeid in self._lost and report.when == "call":
            # --junitxml writes an item's properties when its teardown is reported.
            results.report_teardown(self.config, report)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, None, None]:
        try:
            if self._pool is not None:
                self.notes.lines += self._pool.notes
            self._close()
        finally:  # a fault in closing costs no result, neither here nor in other plugins' reports
            self._finish(session)
            yield

    def _finish(self, session: pytest.Session) -> None:
        if self._is_worker:
            self.notes.send(self.config.workeroutput)  # type: ignore[attr-defined]  # xdist sets it
            return
        interrupted = session.exitstatus == pytest.ExitCode.INTERRUPTED
        if not self.notes.unfinished and not interrupted:
            self.notes.remove_discarded()
        if self.config.getoption("collectonly"):
            return
        if self._is_controller and interrupted:
            # What its workers have to say of it does not come any more.
            for tier in self.settings.tiers:
                self.notes.lines += tier_class(tier).when_interrupted(self.settings)
        self._reports.finish(
            session,
            self.results,
            content_of(self.settings, options.reported(self.config), self.results, self.notes),
            self._write_draft,
        )

    def _write_draft(self) -> None:
        if self.settings.draft is not None:
            rows = [row for row in self.results.rows if row["tier"] in TIERS]
            text = draft.render(rows, every_item(self.settings))
            output.write_draft(self.settings.draft, text)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter
    ) -> Generator[None, None, None]:
        """End with the report's screen, which pytest's own sections do not repeat."""
        if self._reports.content is None:
            return (yield)
        alone = len(self.results.selected) == 1  # then its whole story is what was asked for
        with contextlib.nullcontext() if alone else terminal.untold(terminalreporter):
            yield
        terminal.write(terminalreporter, self._reports.content)
        self._reports.annotate(terminalreporter, self.settings.subject.selector)
        written = self._reports.name_them(terminalreporter, "report")
        if written and self.settings.draft is not None:
            terminalreporter.write_line(
                f"draft of deviations; fill in its reasons and links: {self.settings.draft}"
            )

    def pytest_unconfigure(self) -> None:
        self._close()

    def _close(self) -> None:
        with contextlib.ExitStack() as closing:  # all of it, whatever fails
            closing.callback(self._end_pool)
            if self._progress is not None:
                closing.callback(self._progress.close)
            for shared in self._shared.values():
                closing.callback(shared.close, kill=self._end_pool)
            self._shared.clear()

    def _end_pool(self) -> None:
        if self._pool is not None:
            pool, self._pool = self._pool, None
            pool.close()
