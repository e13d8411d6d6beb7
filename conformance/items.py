"""What all tiers share: the tier's collector, and a judged pytest item with its story."""

from __future__ import annotations

import abc
import shlex
from typing import TYPE_CHECKING, Any, NoReturn, Self

import pytest

from pytest_rocm_attn import options
from pytest_rocm_attn.conformance.verdict import Judgement, Verdict
from pytest_rocm_attn.errors import RocmAttnError

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping, Sequence

    from pytest_rocm_attn.conformance.contract import Level
    from pytest_rocm_attn.conformance.deviations import Deviation
    from pytest_rocm_attn.conformance.matrix import Matrix
    from pytest_rocm_attn.conformance.record import Record, Summary
    from pytest_rocm_attn.conformance.session import ConformancePlugin
    from pytest_rocm_attn.conformance.settings import Settings
    from pytest_rocm_attn.conformance.workers import Question
    from pytest_rocm_attn.gpu import Gpu
    from pytest_rocm_attn.request import Request


class Shortfall(Exception):
    """An item fell short; its message is the whole story."""


class Tier(pytest.Collector, abc.ABC):
    """One tier: node id ``rocm-attn::documented``. conformance/tiers/ has a subclass for each."""

    parent: Matrix

    @classmethod
    @abc.abstractmethod
    def names(cls, settings: Settings) -> Iterable[str]:
        """Return the names of all items that the tier would collect, cheaply and in order."""

    @classmethod
    def first_question(cls, settings: Settings) -> Question | None:
        """Return a question to find out with, before anything runs, whether the selector imports.

        None where the tier asks no selector.
        """
        return None

    @classmethod
    def header(cls, settings: Settings) -> list[str]:
        """Return lines for the head of the run, such as why the tier has no items for it."""
        return []

    @classmethod
    def summary(cls, records: Sequence[Record]) -> Summary | None:
        """Return what a run came to, where a line for each item would say less."""
        return None

    @classmethod
    def when_interrupted(cls, settings: Settings) -> list[str]:
        """Return what is to be noted of a run of several processes that was interrupted."""
        return []

    @property
    def plugin(self) -> ConformancePlugin:
        """The run that the tier is part of."""
        return self.parent.plugin


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
        self.judgement: Judgement | None = None
        self.declined: dict[str, str] | None = None
        self.add_marker(f"rocm_attn_{level}")
        self.extra_keyword_matches.add(level)
        if gpu is not None:
            self.extra_keyword_matches.add(gpu.gfx)

    @classmethod
    def of(cls, tier: Tier, name: str, **kwargs: Any) -> Self:
        """Return an item of a tier, under the name that the tier's names() gave."""
        # The whole id as text, so that pytest splits off the brackets as it does when it reads one
        # back, for --lf and the like.
        return cls.from_parent(tier, name=name, nodeid=f"{tier.nodeid}::{name}", **kwargs)

    # --- what a tier's items say ------------------------------------------------------------------

    def questions(self) -> Iterable[Question]:
        """Return what the item is sure to ask the selector, so that it can be asked ahead."""
        return ()

    def ahead(self) -> None:
        """Start on what the item is sure to need and questions() does not say."""
        return

    @abc.abstractmethod
    def judge(self) -> Judgement:
        """Do what the item is about, and judge it."""

    @abc.abstractmethod
    def fields(self) -> dict[str, Any]:
        """Return those fields of Record that ``record`` cannot know, once the item was judged.

        expect, outcome and source at least.
        """

    # --- what pytest sees -------------------------------------------------------------------------

    @property
    def plugin(self) -> ConformancePlugin:
        """The run that the item is part of."""
        return self.parent.plugin

    @property
    def deviation(self) -> Deviation | None:
        """What the fork declares about this item."""
        settings = self.plugin.settings
        for entry in settings.deviations.entries if settings.deviations else ():
            covers = entry.covers(self.row_id, self.gpu.gfx if self.gpu else "", self.parent.name)
            if covers and not entry.expired(settings.today):
                return entry
        return None

    def decline(self, backend: str, evidence: str, words: str) -> NoReturn:
        """Skip the item as one that the backend under test does not claim; the report counts it.

        Args:
            backend: its name.
            evidence: the kind that the result would have been.
            words: the backend's reason.
        """
        self.declined = {
            "id": self.row_id,
            "tier": self.parent.name,
            "gfx": self.gpu.gfx if self.gpu else "",
            "backend": backend,
            "evidence": evidence,
            "reason": words,
        }
        pytest.skip(f"{backend} declines: {words}")

    def runtest(self) -> None:
        self.judgement = self.judge()
        record = self.record()
        # What --junitxml shows of a testcase. Texts: xdist carries those from worker to controller.
        self.user_properties += [
            ("rocm_attn_tier", record["tier"]),
            ("rocm_attn_gpu", self.gpu.gfx if self.gpu else ""),
            ("rocm_attn_level", record["level"]),
            ("rocm_attn_verdict", record["verdict"]),
            ("rocm_attn_again", record["again"]),
        ]
        if self.judgement.verdict.fails:
            raise Shortfall(self.judgement.message)
        if self.judgement.verdict is not Verdict.PASS:
            pytest.xfail(f"{self.judgement.verdict}: {self.judgement.message}")

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if isinstance(excinfo.value, Shortfall):
            lines = [str(excinfo.value)]
            return "\n".join(lines + [f"{label:>9}  {text}" for label, text in self.story()])
        if isinstance(excinfo.value, RocmAttnError):
            return str(excinfo.value)
        return super().repr_failure(excinfo)

    def reportinfo(self) -> tuple[os.PathLike[str] | str, int | None, str]:
        return self.parent.name, None, self.name

    def story(self) -> list[tuple[str, str]]:
        """Return what a reader must know about this item, as (label, text)."""
        record = self.record()
        story = [("verdict", record["verdict"])]
        if record["env"] is not None:
            story.append(("flags", flags_words(record["env"])))
        if self.gpu is not None:
            story.append(("gpu", f"{self.gpu.gfx}, aiter {self.gpu.aiter}"))
        story += [
            ("expected", record["expect"]["words"]),
            ("got", record["outcome"]["words"]),
            ("source", record["source"]),
            ("again", record["again"]),
        ]
        return story

    def reproduce(self, **own: Any) -> str:
        """Return the command that runs this item alone.

        Args:
            own: options of this item, by name with underscores: they replace the run's.
        """
        tier = self.parent.name
        option = options.BY_NAME["tier"]
        if (tier,) != option.default or self.config.getini(option.ini):
            own["tier"] = tier
        return shlex.join([*self.plugin.command(**own), self.nodeid])

    def record(self) -> Record:
        """Return the row of the report."""
        assert self.judgement is not None
        return {
            "id": self.row_id,
            "tier": self.parent.name,
            "level": self.level,
            "gpu": {"gfx": self.gpu.gfx, "aiter": self.gpu.aiter.value} if self.gpu else None,
            "evidence": self.plugin.settings.subject.evidence,
            "env": None,
            "request": None,
            "verdict": self.judgement.verdict.value,
            "message": self.judgement.message,
            "seconds": 0.0,
            "environment_written": [],
            "again": self.reproduce(),
            "details": {},
            **self.fields(),  # type: ignore[typeddict-item]  # a dict of the fields left over
        }


def flags_words(env: Mapping[str, str]) -> str:
    """Return an environment in words."""
    return " ".join(f"{name}={shlex.quote(text)}" for name, text in env.items()) or "none set"


def request_words(request: Request) -> str:
    """Return a request in words: what differs from a plain one."""
    fields = request.non_default()
    return ", ".join(f"{name}={value!r}" for name, value in fields.items()) or "a plain layer"
