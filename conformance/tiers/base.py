"""What all tiers share: the plan, the collectors, and a judged pytest item with its story."""

from __future__ import annotations

import abc
import contextlib
import shlex
import traceback
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar, cast

import pytest

from pytest_rocm_attn import options
from pytest_rocm_attn.citations import linked, pages_linked
from pytest_rocm_attn.conformance.isolation import Question
from pytest_rocm_attn.conformance.promise.verdict import NOTHING, Judgement, Verdict
from pytest_rocm_attn.conformance.report import results
from pytest_rocm_attn.conformance.tiers import TIERS, tier_class
from pytest_rocm_attn.errors import RocmAttnError
from pytest_rocm_attn.request import Request

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from pytest_rocm_attn.conformance.isolation import Observation, Pool
    from pytest_rocm_attn.conformance.promise.contract import Level
    from pytest_rocm_attn.conformance.promise.deviations import Claims
    from pytest_rocm_attn.conformance.report.schema import Declined, Record, Summary
    from pytest_rocm_attn.conformance.tiers.settings import Settings
    from pytest_rocm_attn.gpu import Gpu

ROOT = "rocm-attn"
DEVIATIONS = "deviations"  # the collector of the fork's declarations, which is not a tier
_LONGEST_CAUSE = 1000  # characters


class Closing(Protocol):
    """What a tier's items share."""

    def close(self, *, kill: Callable[[], None]) -> None:
        """Let go of everything; kill ends the processes of the selector under test."""


T = TypeVar("T", bound=Closing)


class Plugin(Protocol):
    """One run of the matrix, as far as tiers know it; run/session.py has it."""

    config: pytest.Config
    settings: Settings

    def planned(self, tier: str) -> Sequence[Planned]:
        """Return the plan of a tier of this run, or of DEVIATIONS."""

    def command(self, **own: Any) -> list[str]:
        """Return the command that repeats the run, with these options of an item's own."""

    def observe(self, question: Question) -> Observation:
        """Return the answer to a question; waits for it."""

    def started_pool(self) -> Pool:
        """Return the workers that ask the selector under test."""

    def shared(self, kind: type[T], make: Callable[[], T]) -> T:
        """Return what all items of a tier share in this process, made when it is first asked for."""

    def count(self, note: str, number: int) -> None:
        """Make a note about a number, which stands for {} in it and is added up over processes."""

    def discard(self, files: Iterable[Path]) -> None:
        """Have files removed when every process of the run has ended and left nothing unfinished."""

    def leave_unfinished(self) -> None:
        """Note that the run ends before its time."""


class Shortfall(Exception):
    """An item fell short; its message is the whole story."""


@dataclass(frozen=True, slots=True)
class Planned:
    """One item of a plan: the whole promise, before pytest makes an item of it.

    Args:
        row_id: the part of the name before the brackets.
        item: the class of the item.
        gpu: the GPU that it is about, or None.
        arguments: what its class takes besides these, by name.
    """

    row_id: str
    item: type[ConformanceItem]
    gpu: Gpu | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def gfx(self) -> str:
        """The target of the GPU, or ""."""
        return self.gpu.gfx if self.gpu is not None else ""

    @property
    def name(self) -> str:
        """What the item is called: "row-id[gfx942]"."""
        return f"{self.row_id}[{self.gfx}]" if self.gfx else self.row_id


class Matrix(pytest.Collector):
    """The root of the matrix: node id ``rocm-attn``."""

    plugin: Plugin

    def collect(self) -> Iterator[Tier]:
        for name in self.plugin.settings.tiers:
            yield tier_class(name).from_parent(self, name=name)
        if self.plugin.settings.deviations is not None:
            from pytest_rocm_attn.conformance.tiers.declared import Declared

            yield Declared.from_parent(self, name=DEVIATIONS)


class Tier(pytest.Collector, abc.ABC):
    """One tier: node id ``rocm-attn::documented``. conformance/tiers/ has a subclass for each.

    Attributes:
        asks_selector: the selector under test is asked, so that it has to be importable.
    """

    asks_selector = False
    parent: Matrix

    @classmethod
    @abc.abstractmethod
    def plan(cls, settings: Settings) -> Iterable[Planned]:
        """Yield all items of the tier, cheaply and in order."""

    @classmethod
    def header(cls, settings: Settings) -> list[str]:
        """Return lines for the head of the run, such as why the tier has no items for it."""
        return []

    @classmethod
    def summary(cls, records: Sequence[Record]) -> Summary | None:
        """Return the result of a run, if a line for each item would say less."""
        return None

    @classmethod
    def when_interrupted(cls, settings: Settings) -> list[str]:
        """Return notes for a run of several processes that was interrupted."""
        return []

    def collect(self) -> Iterator[ConformanceItem]:
        for planned in self.plugin.planned(self.name):
            yield planned.item.from_parent(
                self,
                name=planned.name,
                # The whole id as text, so that pytest splits off the brackets as it does when it
                # reads one back, for --lf and the like.
                nodeid=f"{self.nodeid}::{planned.name}",
                row_id=planned.row_id,
                gpu=planned.gpu,
                **planned.arguments,
            )

    @property
    def plugin(self) -> Plugin:
        """The run that the tier is part of."""
        return self.parent.plugin


def first_question(plan: Sequence[Planned]) -> Question | None:
    """Return a plain question on the first GPU of a plan; None if there is none."""
    gpus = [planned.gpu for planned in plan if planned.gpu is not None]
    return Question.of(gpus[0], {}, Request()) if gpus else None


class ConformanceItem(pytest.Item, abc.ABC):
    """One thing that is judged: node id ``rocm-attn::TIER::ID[GFX]``.

    Args:
        row_id: the part of the name before the brackets.
        level: "required", or "advisory" for what is shown and fails only with --rocm-attn-strict.
        gpu: the GPU it is about, or None.
    """

    parent: Tier

    def __init__(self, *, row_id: str, level: Level, gpu: Gpu | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.row_id = row_id
        self.level: Level = level
        self.gpu = gpu
        self.row: Record | None = None  # once it was judged
        self._fault: Exception | None = None
        self.declined: Declined | None = None
        self.add_marker(f"rocm_attn_{level}")
        self.extra_keyword_matches.add(level)
        if gpu is not None:
            self.extra_keyword_matches.add(gpu.gfx)

    # --- what a tier's items say ------------------------------------------------------------------

    def questions(self) -> Iterable[Question]:
        """Return what the item is sure to ask the selector, so that it can be asked ahead."""
        return ()

    def ahead(self) -> None:
        """Start on what the item is sure to need and questions() does not say."""
        return

    @contextlib.contextmanager
    def asking_ahead(self) -> Iterator[None]:
        """Keep an exception from what is asked ahead until it is this item's turn, and raise it then."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  runtest raises it
            self._fault = error

    @abc.abstractmethod
    def judge(self) -> Judgement:
        """Do what the item is about, and judge it."""

    @abc.abstractmethod
    def known(self) -> dict[str, Any]:
        """Return those fields of Record that are known before the item was judged.

        expect and source at least.
        """

    @abc.abstractmethod
    def fields(self) -> dict[str, Any]:
        """Return those fields of Record that are known once the item was judged: outcome at least."""

    # --- what pytest sees -------------------------------------------------------------------------

    @property
    def plugin(self) -> Plugin:
        """The run that the item is part of."""
        return self.parent.plugin

    def claims(self, *further: str) -> Claims:
        """Return what the fork declares about this item, under its id or a further name."""
        settings = self.plugin.settings
        if settings.deviations is None:
            return NOTHING
        gfx = self.gpu.gfx if self.gpu else ""
        return settings.deviations.about(
            (self.row_id, *further), gfx, self.parent.name, settings.today
        )

    @property
    def evidence(self) -> str:
        """What the item's result rests on, as Record has it; "" while that is not known."""
        return self.plugin.settings.subject.evidence

    def decline(self, backend: str, evidence: str, words: str) -> NoReturn:
        """Skip the item as one that the backend under test does not claim; the report counts it.

        Args:
            backend: its name.
            evidence: the kind that the result would have been.
            words: the backend's reason.
        """
        self.declined = self._declined(backend, evidence, words)
        pytest.skip(f"{backend} declines: {words}")

    def _declined(self, backend: str, evidence: str, words: str) -> Declined:
        return {
            "id": self.row_id,
            "tier": self.parent.name,
            "gfx": self.gpu.gfx if self.gpu else "",
            "backend": backend,
            "evidence": evidence,
            "reason": words,
        }

    def runtest(self) -> None:
        if self._fault is not None:
            raise self._fault
        judgement = self.judge()
        self.row = cast("Record", {**self._record(judgement), **self.fields()})
        if judgement.verdict.fails:
            lines = [f"{label:>9}  {text}" for label, text in self.story()]
            raise Shortfall("\n".join([self.row["message"], *lines]))
        if judgement.verdict is not Verdict.PASS:
            pytest.xfail(f"{judgement.verdict}: {judgement.message}")

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if isinstance(excinfo.value, Shortfall):
            return str(excinfo.value)
        if isinstance(excinfo.value, RocmAttnError) or self.config.getoption("tbstyle") == "auto":
            lines = [cause_of(excinfo.value)]
            lines.append(f"{'again':>9}  {self.reproduce()}")
            if not isinstance(excinfo.value, RocmAttnError | pytest.fail.Exception):
                lines.append(f"{'traceback':>9}  add --tb=long")
            return "\n".join([*lines, *getattr(excinfo.value, "__notes__", ())])
        return super().repr_failure(excinfo)

    def reportinfo(self) -> tuple[os.PathLike[str] | str, int | None, str]:
        return self.parent.name, 0, self.name  # pytest needs a line to report a skip mark

    def story(self) -> list[tuple[str, str]]:
        """Return what a reader must know about this item once it was judged, as (label, text)."""
        row = self.row
        assert row is not None
        story = [("verdict", row["verdict"])]
        if row["env"] is not None:
            story.append(("flags", flags_words(row["env"])))
        if self.gpu is not None:
            story.append(("gpu", f"{self.gpu.gfx}, aiter {self.gpu.aiter}"))
        story += [
            ("expected", row["expect"]["words"]),
            ("got", row["outcome"]["words"]),
            ("source", row["source"]),
            ("again", row["again"]),
        ]
        return story

    # --- what became of it ------------------------------------------------------------------------

    def conclude(self, call: pytest.CallInfo[None], report: pytest.TestReport) -> None:
        """Put on pytest's report of a stage what became of the item, as far as that stage shows."""
        error = call.excinfo.value if call.excinfo is not None else None
        if call.when == "setup":  # of another attempt, perhaps
            self.row = self.declined = None
        if isinstance(error, pytest.skip.Exception) or (
            isinstance(error, pytest.xfail.Exception) and self.row is None
        ):
            plain = self._declined("", self.evidence, (error.msg or "skipped").partition("\n")[0])
            results.attach(report, declined=self.declined or plain)
        elif error is not None and not isinstance(error, Shortfall | pytest.xfail.Exception):
            self.fault(report, cause_of(error))
        elif call.when == "call":
            if self.row is None:
                self.fault(report, "it ended without a verdict")
            else:
                self._attach(report, self.row)

    def fault(self, report: pytest.TestReport, cause: str) -> None:
        """Put on a report that the item could not be judged, or failed after it was.

        Args:
            report: of the stage that failed.
            cause: in one line.
        """
        message = cause if report.when == "call" else f"{report.when} failed: {cause}"
        row = self.row
        if row is None:
            row = self._record(Judgement(Verdict.ERROR))
        elif row["message"]:
            message += f"; before that, {row['verdict']}: {row['message']}"
        outcome = row["outcome"] | {"kind": "error", "words": message}
        verdict = Verdict.ERROR.value
        self._attach(report, {**row, "verdict": verdict, "message": message, "outcome": outcome})

    def _attach(self, report: pytest.TestReport, row: Record) -> None:
        results.attach(report, row=row)
        # What --junitxml shows of a testcase. Texts: xdist carries those from worker to controller.
        told = {
            "rocm_attn_tier": row["tier"],
            "rocm_attn_gpu": self.gpu.gfx if self.gpu else "",
            "rocm_attn_level": row["level"],
            "rocm_attn_verdict": row["verdict"],
            "rocm_attn_again": row["again"],
        }
        others = [(name, value) for name, value in self.user_properties if name not in told]
        self.user_properties = [*others, *told.items()]  # for the stages to come
        report.user_properties = list(self.user_properties)

    def reproduce(self, **own: Any) -> str:
        """Return the command that runs this item alone.

        Args:
            own: options of this item, by name with underscores: they replace the run's.
        """
        tier = self.parent.name
        option = options.BY_NAME["tier"]
        if tier in TIERS and ((tier,) != option.default or self.config.getini(option.ini)):
            own["tier"] = tier
        return shlex.join([*self.plugin.command(**own), self.nodeid])

    def _record(self, judgement: Judgement) -> Record:
        """Return the row of the report except the fields that only judging gives."""
        known = self.known()
        return {
            "id": self.row_id,
            "tier": self.parent.name,
            "level": self.level,
            "gpu": {"gfx": self.gpu.gfx, "aiter": self.gpu.aiter.value} if self.gpu else None,
            "evidence": self.evidence,
            "env": None,
            "request": None,
            "expect": {"words": ""},
            "outcome": {},
            "verdict": judgement.verdict.value,
            "message": pages_linked(judgement.message),
            "seconds": 0.0,
            "environment_written": [],
            "again": self.reproduce(),
            "details": {},
            "fell_short": [{"answer": got.answer, "message": got.message} for got in judgement.got],
            **known,  # type: ignore[typeddict-item]  # a dict of some of the fields
            "source": linked(known["source"]),
        }


def cause_of(error: BaseException) -> str:
    """Return in one line why an item could not be judged."""
    text = " ".join(str(traceback.TracebackException.from_exception(error)).split())
    if not isinstance(error, RocmAttnError | pytest.fail.Exception) or not text:
        text = f"{type(error).__name__}: {text}".removesuffix(": ")
    return text if len(text) <= _LONGEST_CAUSE else f"{text[:_LONGEST_CAUSE]} [cut]"


def flags_words(env: Mapping[str, str]) -> str:
    """Return an environment in words."""
    return " ".join(f"{name}={shlex.quote(text)}" for name, text in env.items()) or "none set"


def request_words(request: Request) -> str:
    """Return a request in words: what differs from a plain one."""
    fields = request.non_default()
    return ", ".join(f"{name}={value!r}" for name, value in fields.items()) or "a plain layer"
