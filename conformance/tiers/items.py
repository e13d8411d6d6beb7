"""A judged pytest item, with its story: what the items of all tiers share."""

from __future__ import annotations

import abc
import contextlib
import shlex
import traceback
from typing import TYPE_CHECKING, Any, NoReturn, cast

import pytest

from pytest_rocm_attn import options
from pytest_rocm_attn.citations import linked, pages_linked
from pytest_rocm_attn.conformance.promise.verdict import NOTHING, Judgement, Verdict, verdict_on
from pytest_rocm_attn.conformance.report import results
from pytest_rocm_attn.conformance.report.schema import record
from pytest_rocm_attn.conformance.report.words import environment_words
from pytest_rocm_attn.conformance.tiers import TIERS
from pytest_rocm_attn.errors import RocmAttnError

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Sequence

    from pytest_rocm_attn.conformance.isolation import Question
    from pytest_rocm_attn.conformance.promise.deviations import Claims
    from pytest_rocm_attn.conformance.promise.got import Got
    from pytest_rocm_attn.conformance.promise.history import KnownDefect
    from pytest_rocm_attn.conformance.promise.rows import Level
    from pytest_rocm_attn.conformance.report.schema import Declined, Record
    from pytest_rocm_attn.conformance.tiers.base import Plugin, Tier
    from pytest_rocm_attn.gpu import Gpu
    from pytest_rocm_attn.request import Request

_LONGEST_CAUSE = 1000  # characters


class Shortfall(Exception):
    """An item fell short; its message is the whole story."""


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
        if judgement.defect:
            self.row["details"] = {**self.row["details"], "defect": judgement.defect}
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
            story.append(("flags", environment_words(row["env"])))
        if self.gpu is not None:
            story.append(("gpu", f"{self.gpu.gfx}, aiter {self.gpu.aiter}"))
        story += [
            ("expected", row["expect"]["words"]),
            ("got", row["outcome"]["words"]),
            ("source", row["source"]),
            ("again", row["again"]),
        ]
        return story

    def judgement_on(self, shortfall: str, got: Sequence[Got] = ()) -> Judgement:
        """Return the judgement on a shortfall, or on that there is none; see verdict_on()."""
        settings, claims = self.plugin.settings, self.claims()
        if shortfall and got and not claims.entries:
            known = [self.known_defect(one) for one in got]
            if None not in known:
                stories = "; ".join(dict.fromkeys(one.story for one in known if one is not None))
                words = f"{shortfall} ({stories})"
                return Judgement(Verdict.INHERITED, words, tuple(dict.fromkeys(got)), stories)
        return verdict_on(shortfall, self.level, got, claims, strict=settings.strict)

    def known_defect(self, got: Got, row_id: str = "") -> KnownDefect | None:
        """Return the known defect of the release that shows in a result.

        Args:
            got: the result.
            row_id: what it is a result of, if it is not the item.
        """
        gfx = self.gpu.gfx if self.gpu else ""
        tier = self.parent.name
        return next(
            (
                one
                for one in self.plugin.settings.contract.defects
                if one.explains(row_id or self.row_id, gfx, got, tier=tier)
            ),
            None,
        )

    # --- its result ------------------------------------------------------------------------------

    def conclude(self, call: pytest.CallInfo[None], report: pytest.TestReport) -> None:
        """Put the item's result on pytest's report of a stage, as far as that stage shows."""
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
        fields = {
            "id": self.row_id,
            "tier": self.parent.name,
            "level": self.level,
            "evidence": self.evidence,
            "message": pages_linked(judgement.message),
            "again": self.reproduce(),
            "fell_short": [{"answer": got.answer, "message": got.message} for got in judgement.got],
            **known,
            "source": linked(known["source"]),
        }
        return record(self.gpu, judgement.verdict, **fields)


def cause_of(error: BaseException) -> str:
    """Return in one line why an item could not be judged."""
    text = " ".join(str(traceback.TracebackException.from_exception(error)).split())
    if not isinstance(error, RocmAttnError | pytest.fail.Exception) or not text:
        text = f"{type(error).__name__}: {text}".removesuffix(": ")
    return text if len(text) <= _LONGEST_CAUSE else f"{text[:_LONGEST_CAUSE]} [cut]"


def request_words(request: Request) -> str:
    """Return a request in words: what differs from a plain one."""
    fields = request.non_default()
    return ", ".join(f"{name}={value!r}" for name, value in fields.items()) or "a plain layer"
