"""The matrix within a pytest session: collects the cells, answers them, and reports.

Registered by plugin.py when ``--rocm-attn-conformance`` is given. Under xdist the controller checks
the selector and reports, and each worker answers the cells that it is sent.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import pytest

from pytest_rocm_attn import options
from pytest_rocm_attn.conformance import settings as settings_module
from pytest_rocm_attn.conformance.items import ConformanceItem
from pytest_rocm_attn.conformance.matrix import ROOT, Matrix
from pytest_rocm_attn.conformance.report import draft, json_file, output, terminal
from pytest_rocm_attn.conformance.tiers import tier_class
from pytest_rocm_attn.conformance.workers import Pool, WorkerError
from pytest_rocm_attn.errors import ReportError, SelectorError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    from pytest_rocm_attn.conformance.record import Record, Summary
    from pytest_rocm_attn.conformance.workers import Observation, Question

_STATUS = {  # verdict -> category, letter, word; the others are pytest's own
    "advisory": ("advisory", "a", ("ADVISORY", {"yellow": True})),
    "deviation": ("deviation", "d", ("DEVIATION", {"yellow": True})),
    "stale": ("failed", "S", ("STALE", {"red": True})),
    "crash": ("failed", "C", ("CRASH", {"red": True})),
}


class Closing(Protocol):
    """What a tier's items share."""

    def close(self, *, kill: Callable[[], None]) -> None:
        """Let go of everything; kill ends the processes of the selector under test."""


T = TypeVar("T", bound=Closing)


class ConformancePlugin:
    """One run of the matrix."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.settings = settings_module.read(config)
        self.records: list[Record] = []
        self.declined: list[dict[str, str]] = []
        self._notes: list[str] = []
        self._counted: Counter[str] = Counter()
        self._discarded: list[str] = []
        self._unfinished = False
        self._pool: Pool | None = None
        self._shared: dict[type, Closing] = {}
        self._report_error: str = ""
        self._ids = self._take_node_ids()
        self._pytest_words, self._given = self._find_command()
        declared = self.settings.deviations.entries if self.settings.deviations else ()
        names = {tier: list(tier_class(tier).names(self.settings)) for tier in self.settings.tiers}
        for tier, found in names.items():
            if not found and not tier_class(tier).header(self.settings):  # which may say why
                raise settings_module.nothing_to_run(self.settings, tier)
        known = [f"{ROOT}::{tier}::{name}" for tier, found in names.items() for name in found]
        self.planned = len(known)
        known += [f"{ROOT}::deviations::line-{entry.line}" for entry in declared]
        for wanted in self._ids:
            if not any(_selects(wanted, nodeid) for nodeid in known):
                raise pytest.UsageError(f"no such row: {wanted}.{nearest(wanted, known)}")

    # --- where we are ----------------------------------------------------------------------------

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
        given = self._given | {name.replace("_", "-"): value for name, value in own.items()}
        start = ["python", "-m", "pytest", "--rocm-attn-conformance"]
        return [*start, *self._pytest_words, *options.words(given)]

    def _take_node_ids(self) -> list[str]:
        """Take node ids of the matrix out of pytest's arguments, and keep it from adding a path."""
        args = list(self.config.args)
        ids = [arg for arg in args if arg == ROOT or arg.startswith(f"{ROOT}::")]
        named_paths = self.config.args_source is pytest.Config.ArgsSource.ARGS
        self.config.args[:] = [arg for arg in args if arg not in ids] if named_paths else []
        if self._is_worker:
            return list(self.config.workerinput["rocm_attn_ids"])  # type: ignore[attr-defined]  # xdist sets it
        return ids

    def _find_command(self) -> tuple[list[str], dict[str, Any]]:
        """Return what a printed command repeats: pytest's own options, and ours by name."""
        if self._is_worker:  # which knows what it is to do, but not how the user said it
            words, given = self.config.workerinput["rocm_attn_command"]  # type: ignore[attr-defined]  # xdist sets it
            return words, given
        paths = self.config.args_source is pytest.Config.ArgsSource.ARGS and bool(self.config.args)
        given = settings_module.repeated(self.config)
        return options.pytest_words(self.config, paths=paths), given

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        node.workerinput["rocm_attn_ids"] = self._ids
        node.workerinput["rocm_attn_command"] = self._pytest_words, self._given

    # --- notes -----------------------------------------------------------------------------------

    @property
    def notes(self) -> list[str]:
        """What is to be said of the run as a whole, of all its processes; each once, in order."""
        told = [text.format(f"{number:,}") for text, number in self._counted.items()]
        return sorted({*self._notes, *told})

    def count(self, note: str, number: int) -> None:
        """Make a note about a number, which stands for {} in it and is added up over processes."""
        self._counted[note] += number

    def discard(self, files: Iterable[Path]) -> None:
        """Have files removed once every process of the run has ended, and left nothing unfinished."""
        self._discarded += map(str, files)

    def leave_unfinished(self) -> None:
        """Note that the run ends before its time: what is kept for the next one stays."""
        self._unfinished = True

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take the notes of an xdist worker that has ended; of one that was killed there are none."""
        told = getattr(node, "workeroutput", {})
        self._notes += told.get("rocm_attn_notes", [])
        self._counted.update(told.get("rocm_attn_counted", {}))
        self._discarded += told.get("rocm_attn_discarded", [])
        self._unfinished |= told.get("rocm_attn_unfinished", True)

    # --- collection ------------------------------------------------------------------------------

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(
        self, session: pytest.Session, items: list[pytest.Item]
    ) -> None:
        matrix = Matrix.from_parent(session, name=ROOT, nodeid=ROOT)
        matrix.plugin = self
        ours = list(session.genitems(matrix))
        if self._ids:
            ours = [item for item in ours if any(_selects(i, item.nodeid) for i in self._ids)]
        items.extend(ours)

    def pytest_report_header(self) -> list[str]:
        contract = self.settings.contract
        required = sum(row.level == "required" for row in contract.rows)
        subject = self.settings.subject
        where = {
            "pure": "a pure function, no mock",
            "mock": "under a mocked ROCm platform",
            "real": "unmocked",
        }[subject.evidence]
        lines = [
            f"rocm-attn: contract {contract.id}"
            + f" ({required} required and {len(contract.rows) - required} advisory rows)",
            f"rocm-attn: selector {subject.selector} ({where})",
            *(
                line
                for tier in self.settings.tiers
                for line in tier_class(tier).header(self.settings)
            ),
        ]
        if declared := self.settings.deviations:
            files = ", ".join(dict.fromkeys(entry.file for entry in declared.entries)) or "empty"
            lines.append(f"rocm-attn: {len(declared.entries)} declared deviations ({files})")
        if machine := self.settings.machine:
            lines.append(
                f"rocm-attn: on this machine's own {machine}, with the {len(self.settings.cells)} cells"
                " of the contract that are about it; --rocm-attn-mock=GFX mocks all of them"
            )
        return lines

    # --- running ---------------------------------------------------------------------------------

    @pytest.hookimpl(trylast=True)
    def pytest_sessionstart(self) -> None:
        if self._is_worker or self.config.getoption("collectonly"):
            return
        firsts = (tier_class(tier).first_question(self.settings) for tier in self.settings.tiers)
        question = next((first for first in firsts if first is not None), None)
        if question is None:
            return
        self._pool = Pool(self.settings.subject)
        try:
            self._pool.probe(question)
        except (SelectorError, WorkerError) as error:
            self._close()
            raise pytest.UsageError(str(error)) from None
        if self._is_controller:
            self._close()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> None:
        """Hand out all questions at once, so that lanes stay busy and an environment is asked once.

        An xdist worker learns only one by one what it is to run.
        """
        if self._pool is not None:
            self._pool.submit(
                question
                for item in session.items
                if isinstance(item, ConformanceItem)
                for question in item.questions()
            )
            for item in session.items:
                if isinstance(item, ConformanceItem):
                    item.ahead()

    def observe(self, question: Question) -> Observation:
        """Return what came of a question; waits for it."""
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
        if isinstance(item, ConformanceItem) and call.when == "call":
            if item.judgement is not None:
                vars(report)["rocm_attn"] = item.record()  # xdist sends it along
            elif item.declined is not None:
                vars(report)["rocm_attn_declined"] = item.declined
        return report

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: pytest.TestReport) -> Any:
        record = getattr(report, "rocm_attn", None)
        return _STATUS.get(record["verdict"]) if record else None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call":
            return
        if record := getattr(report, "rocm_attn", None):
            self.records.append(record)
        if declined := getattr(report, "rocm_attn_declined", None):
            self.declined.append(declined)

    def summaries(self) -> list[Summary]:
        """Return what each tier that is better told as a whole came to."""
        found = []
        for tier in self.settings.tiers:
            of_tier = [record for record in self.records if record["tier"] == tier]
            told = tier_class(tier).summary(of_tier) if of_tier else None
            if told is not None:
                found.append(told)
        return found

    # --- reporting -------------------------------------------------------------------------------

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._pool is not None:
            self._notes += self._pool.notes
        self._close()
        if self._is_worker:
            output_to_controller = self.config.workeroutput  # type: ignore[attr-defined]  # xdist sets it
            output_to_controller["rocm_attn_notes"] = self._notes
            output_to_controller["rocm_attn_counted"] = dict(self._counted)
            output_to_controller["rocm_attn_discarded"] = self._discarded
            output_to_controller["rocm_attn_unfinished"] = self._unfinished
            return
        if not self._unfinished and session.exitstatus != pytest.ExitCode.INTERRUPTED:
            for file in map(Path, self._discarded):
                with contextlib.suppress(OSError):  # others may be in the folder
                    file.unlink(missing_ok=True)
                    file.parent.rmdir()
        if self._is_controller and session.exitstatus == pytest.ExitCode.INTERRUPTED:
            # What its workers have to say of it does not come any more.
            for tier in self.settings.tiers:
                self._notes += tier_class(tier).when_interrupted(self.settings)
        try:
            if self.settings.draft is not None and not self.config.getoption("collectonly"):
                output.write_draft(self.settings.draft, draft.render(self.records))
            if self.settings.reports:
                output.write(self.settings.reports, json_file.content(self))
        except ReportError as error:
            self._report_error = str(error)
            if session.exitstatus == pytest.ExitCode.OK:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.config.getoption("collectonly"):
            return
        terminal.write(terminalreporter, self)
        if self._report_error:
            terminalreporter.write_line(f"ERROR: {self._report_error}", red=True)
            return
        for path in self.settings.reports:
            terminalreporter.write_line(f"report: {path}")
        if self.settings.draft is not None:
            terminalreporter.write_line(
                f"draft of deviations, whose reasons and links are yours to fill in:"
                f" {self.settings.draft}"
            )

    def pytest_unconfigure(self) -> None:
        self._close()

    def _close(self) -> None:
        while self._shared:
            self._shared.popitem()[1].close(kill=self._end_pool)
        self._end_pool()

    def _end_pool(self) -> None:
        if self._pool is not None:
            self._pool.close()
            self._pool = None


def _selects(wanted: str, nodeid: str) -> bool:
    return nodeid == wanted or nodeid.startswith((f"{wanted}::", f"{wanted}["))
