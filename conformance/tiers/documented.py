"""The documented tier: the contract's rows, each on each of its GPUs."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pytest

from pytest_rocm_attn.citations import linked
from pytest_rocm_attn.conformance.isolation import Observation, Question
from pytest_rocm_attn.conformance.promise.rows import (
    ExpectBackend,
    ExpectNever,
    ExpectRefusal,
    ExpectServed,
)
from pytest_rocm_attn.conformance.promise.verdict import judge
from pytest_rocm_attn.conformance.report.schema import outcome_fields
from pytest_rocm_attn.conformance.tiers.base import Planned, Tier
from pytest_rocm_attn.conformance.tiers.items import ConformanceItem, request_words
from pytest_rocm_attn.outcome import Told

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from pytest_rocm_attn.conformance.promise.rows import Row, RowOnGpu
    from pytest_rocm_attn.conformance.promise.verdict import Judgement
    from pytest_rocm_attn.conformance.tiers.settings import Settings


class DocumentedTier(Tier):
    """Node id ``rocm-attn::documented``."""

    asks_selector = True

    @classmethod
    def plan(cls, settings: Settings) -> Iterator[Planned]:
        for cell in settings.cells:
            yield Planned(cell.row.id, CellItem, cell.gpu, {"cell": cell})


class CellItem(ConformanceItem):
    """One row on one GPU: node id ``rocm-attn::documented::row-id[gfx942]``."""

    def __init__(self, *, cell: RowOnGpu, **kwargs: Any) -> None:
        super().__init__(level=cell.row.level, **kwargs)
        self.cell = cell
        self.observation: Observation | None = None

    def questions(self) -> list[Question]:
        return [_question(self.cell)]

    def judge(self) -> Judgement:
        settings = self.plugin.settings
        self.observation = self.plugin.observe(_question(self.cell))
        outcome = self.observation.outcome
        if isinstance(outcome, Told):
            pytest.skip(str(outcome.data["inapplicable"]))
        return judge(
            self.cell.row,
            outcome,
            self.claims(),
            strict=settings.strict,
            defects=settings.contract.defects,
            gfx=self.cell.gpu.gfx,
        )

    def reportinfo(self) -> tuple[os.PathLike[str] | str, int | None, str]:
        return self.cell.row.file, 0, self.name

    def story(self) -> list[tuple[str, str]]:
        row = self.cell.row
        story = super().story()
        before_expected = [label for label, _ in story].index("expected")
        story.insert(before_expected, ("request", request_words(row.request)))
        if row.named is not None and str(row.named):
            story.insert(before_expected, ("named", str(row.named)))
        if row.note:
            story.insert(-1, ("note", linked(row.note)))
        if self.observation is not None and self.observation.dropped:
            story.insert(-1, ("not asked", ", ".join(self.observation.dropped)))
        return story

    def known(self) -> dict[str, Any]:
        row = self.cell.row
        return {
            "env": dict(row.env),
            "request": asdict(row.request),
            "named": asdict(row.named) if row.named is not None else None,
            "expect": _expectation(row),
            "source": row.source,
            "details": {
                name: text
                for name, text in (("named", str(row.named or "")), ("note", linked(row.note)))
                if text
            },
        }

    def _compared_with_upstream(self) -> dict[str, Any]:
        """Return that the item keeps a change that must hold, if it does."""
        kept = next((entry for entry in self.claims().entries if entry.must_hold), None)
        return {"must_hold": kept.accepted} if kept else {}

    def fields(self) -> dict[str, Any]:
        assert self.observation is not None
        failed = self.observation.failed_import
        dropped = ", ".join(self.observation.dropped)
        not_asked = {"not asked": dropped} if dropped else {}
        return {
            "details": self.known()["details"] | self._compared_with_upstream() | not_asked,
            "outcome": outcome_fields(self.observation.outcome)
            | {"trace": [list(step) for step in self.observation.trace]}
            | ({"failed_import": failed.module} if failed else {}),
            "seconds": round(self.observation.seconds, 6),
            "environment_written": list(self.observation.written),
        }


def _question(cell: RowOnGpu) -> Question:
    row = cell.row
    if row.named is None:
        return Question.of(cell.gpu, row.env, row.request)
    return Question.of(cell.gpu, row.env, row.request, "named", row.named.to_text())


def _expectation(row: Row) -> dict[str, Any]:
    """Return an expectation as the contract's TOML spells it, and in words."""
    words = str(row.expect)
    match row.expect:
        case ExpectBackend(backend):
            return {"words": words, "backend": backend}
        case ExpectNever(backends):
            return {"words": words, "never": list(backends)}
        case ExpectServed():
            return {"words": words, "served": True}
        case ExpectRefusal(mentions, reasons):
            given = {"mentions": list(mentions), "reasons": [str(one) for one in reasons]}
            return {"words": words, "rejects": True} | {k: v for k, v in given.items() if v}
