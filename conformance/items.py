"""Conformance cells as ordinary pytest items."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pytest

from pytest_rocm_attn.conformance.contract import ExpectBackend
from pytest_rocm_attn.conformance.verdict import Judgement, Verdict, judge
from pytest_rocm_attn.conformance.workers import Observation, Question, WorkerError

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from pytest_rocm_attn.conformance.contract import Cell, Row
    from pytest_rocm_attn.conformance.deviations import Deviation
    from pytest_rocm_attn.conformance.session import ConformancePlugin

ROOT = "rocm-attn"


class Shortfall(Exception):
    """A cell fell short; its message is the whole story."""


class Matrix(pytest.Collector):
    """The root of the matrix: node id ``rocm-attn``."""

    plugin: ConformancePlugin

    def collect(self) -> Iterator[Tier | Declared]:
        for name in self.plugin.settings.tiers:
            yield Tier.from_parent(self, name=name)
        if self.plugin.settings.deviations is not None:
            yield Declared.from_parent(self, name="deviations")


class Tier(pytest.Collector):
    """One tier: node id ``rocm-attn::documented``."""

    parent: Matrix

    def collect(self) -> Iterator[CellItem]:
        for cell in self.parent.plugin.settings.cells:
            # The whole id as text, so that pytest splits off the brackets as it does when it reads
            # one back, for --lf and the like.
            nodeid = f"{self.nodeid}::{cell.id}"
            yield CellItem.from_parent(self, name=cell.id, nodeid=nodeid, cell=cell)


class CellItem(pytest.Item):
    """One row on one GPU: node id ``rocm-attn::documented::row-id[gfx942]``."""

    def __init__(self, *, cell: Cell, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.cell = cell
        self.plugin: ConformancePlugin = self.parent.parent.plugin  # type: ignore[union-attr]
        self.observation: Observation | None = None
        self.judgement: Judgement | None = None
        self.add_marker(cell.row.level)
        self.extra_keyword_matches.update((cell.gpu.gfx, cell.row.level))

    @property
    def question(self) -> Question:
        """What the selector is asked."""
        return Question.of(self.cell.gpu, self.cell.row.env, self.cell.row.request)

    @property
    def deviation(self) -> Deviation | None:
        """What the fork declares about this cell."""
        settings = self.plugin.settings
        for entry in settings.deviations.entries if settings.deviations else ():
            covers = entry.covers(self.cell.row.id, self.cell.gpu.gfx)
            if covers and not entry.expired(settings.today):
                return entry
        return None

    def runtest(self) -> None:
        self.observation = self.plugin.observe(self.question)
        self.judgement = judge(
            self.cell.row,
            self.observation.outcome,
            self.deviation,
            strict=self.plugin.settings.strict,
        )
        verdict = self.judgement.verdict
        if verdict.fails:
            raise Shortfall(self.judgement.message)
        if verdict is not Verdict.PASS:
            pytest.xfail(f"{verdict}: {self.judgement.message}")

    def repr_failure(
        self,
        excinfo: pytest.ExceptionInfo[BaseException],
        style: Any = None,
    ) -> Any:
        if isinstance(excinfo.value, Shortfall):
            lines = [str(excinfo.value)]
            return "\n".join(lines + [f"{label:>9}  {text}" for label, text in self.story()])
        if isinstance(excinfo.value, WorkerError):
            return str(excinfo.value)
        return super().repr_failure(excinfo)

    def reportinfo(self) -> tuple[os.PathLike[str] | str, int | None, str]:
        return self.cell.row.file, None, f"{self.cell.id}"

    def story(self) -> list[tuple[str, str]]:
        """Return what a reader must know about this cell, as (label, text)."""
        row = self.cell.row
        assert self.observation is not None
        assert self.judgement is not None
        story: list[tuple[str, str]] = [
            ("verdict", self.judgement.verdict.value),
            ("flags", flags_words(row)),
            ("gpu", f"{self.cell.gpu.gfx}, aiter {self.cell.gpu.aiter}"),
            ("request", request_words(row)),
            ("expected", str(row.expect)),
            ("got", str(self.observation.outcome)),
            ("source", row.source),
            ("again", self.reproduce()),
        ]
        if row.note:
            story.insert(-1, ("note", row.note))
        return story

    def reproduce(self) -> str:
        """Return the command that runs this cell alone."""
        return shlex.join([*self.plugin.command, self.nodeid])

    def record(self) -> dict[str, Any]:
        """Return the row of the JSON report (design.md section 7)."""
        assert self.observation is not None
        assert self.judgement is not None
        row = self.cell.row
        return {
            "id": row.id,
            "tier": self.parent.name,  # type: ignore[union-attr]
            "level": row.level,
            "gpu": {"gfx": self.cell.gpu.gfx, "aiter": self.cell.gpu.aiter.value},
            "env": dict(row.env),
            "request": asdict(row.request),
            "expect": expect_record(row),
            "outcome": outcome_record(self.observation),
            "verdict": self.judgement.verdict.value,
            "message": self.judgement.message,
            "source": row.source,
            "seconds": round(self.observation.seconds, 6),
            "environment_written": list(self.observation.written),
            "again": self.reproduce(),
        }


class Declared(pytest.Collector):
    """The fork's declarations themselves: node id ``rocm-attn::deviations``."""

    parent: Matrix

    def collect(self) -> Iterator[DeviationItem]:
        declared = self.parent.plugin.settings.deviations
        assert declared is not None
        for entry in declared.entries:
            yield DeviationItem.from_parent(self, name=f"line-{entry.line}", entry=entry)


class DeviationItem(pytest.Item):
    """One entry of the deviations file: fails when it has expired, or matches no row."""

    def __init__(self, *, entry: Deviation, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.entry = entry
        self.plugin: ConformancePlugin = self.parent.parent.plugin  # type: ignore[union-attr]

    def runtest(self) -> None:
        settings = self.plugin.settings
        where = f"{self.entry.file}:{self.entry.line}"
        if self.entry.expired(settings.today):
            raise Shortfall(
                f"{where}: this deviation expired on {self.entry.until} and covers nothing any more"
                f" ({self.entry.reason}, {self.entry.link}); mend the fork, or set a later date"
            )
        cells = [cell for row in settings.contract.rows for cell in row.cells()]
        if not any(self.entry.covers(cell.row.id, cell.gpu.gfx) for cell in cells):
            patterns = ", ".join(map(repr, self.entry.match))
            raise Shortfall(
                f"{where}: {patterns} matches no row of contract {settings.contract.id}; delete the"
                " entry, or correct its match"
            )

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if isinstance(excinfo.value, Shortfall):
            return str(excinfo.value)
        return super().repr_failure(excinfo)

    def reportinfo(self) -> tuple[os.PathLike[str] | str, int | None, str]:
        return self.entry.file, self.entry.line - 1, f"deviation at line {self.entry.line}"


def flags_words(row: Row) -> str:
    """Return a row's environment in words."""
    return " ".join(f"{name}={shlex.quote(text)}" for name, text in row.env.items()) or "none set"


def request_words(row: Row) -> str:
    """Return a row's request in words: what differs from a plain one."""
    fields = row.request.non_default()
    return ", ".join(f"{name}={value!r}" for name, value in fields.items()) or "a plain layer"


def expect_record(row: Row) -> dict[str, Any]:
    """Return an expectation as the contract's TOML spells it."""
    if isinstance(row.expect, ExpectBackend):
        return {"backend": row.expect.backend}
    return {"rejects": True, "mentions": list(row.expect.mentions)}


def outcome_record(observation: Observation) -> dict[str, Any]:
    """Return an outcome as plain data: its kind, itself in words, and its fields."""
    outcome = observation.outcome
    return {"kind": type(outcome).__name__.lower(), "words": str(outcome), **asdict(outcome)}
