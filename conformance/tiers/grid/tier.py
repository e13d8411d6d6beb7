"""The grid tier: every flag, explicit choice, GPU and state of aiter, slice by slice."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pytest

from pytest_rocm_attn.conformance import adapters
from pytest_rocm_attn.conformance.causes.words import expected_words
from pytest_rocm_attn.conformance.isolation import Subject
from pytest_rocm_attn.conformance.promise.got import CRASHES
from pytest_rocm_attn.conformance.promise.grid.outcomes import got
from pytest_rocm_attn.conformance.promise.verdict import Judgement, Verdict
from pytest_rocm_attn.conformance.report.words import environment_words
from pytest_rocm_attn.conformance.tiers.base import Planned, Tier
from pytest_rocm_attn.conformance.tiers.grid import run as grid_run
from pytest_rocm_attn.conformance.tiers.grid.summary import COUNTS, cell_words, summary, table
from pytest_rocm_attn.conformance.tiers.items import ConformanceItem, request_words
from pytest_rocm_attn.errors import RocmAttnError
from pytest_rocm_attn.gpu import Gpu

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_rocm_attn.conformance.promise.deviations import Deviation
    from pytest_rocm_attn.conformance.promise.grid.outcomes import Behaviour, Table
    from pytest_rocm_attn.conformance.promise.grid.space import Slice
    from pytest_rocm_attn.conformance.promise.rows import Level
    from pytest_rocm_attn.conformance.report.schema import Record, Summary
    from pytest_rocm_attn.conformance.tiers.grid.judge import Finding, Judged
    from pytest_rocm_attn.conformance.tiers.settings import Settings


class NoSuchCellError(RocmAttnError, IndexError):
    """A slice has no cell of the number that was asked for."""


class GridTier(Tier):
    """Node id ``rocm-attn::grid``."""

    asks_selector = True

    @classmethod
    def plan(cls, settings: Settings) -> Iterator[Planned]:
        for part in grid_run.slices(settings):
            yield Planned(part.family.name, SliceItem, Gpu(part.gfx), {"part": part})

    @classmethod
    def summary(cls, records: Sequence[Record]) -> Summary:
        return summary(records)

    @classmethod
    def when_interrupted(cls, settings: Settings) -> list[str]:
        kept = "run again to go on from the answers that were kept"
        kept = "nothing was kept" if settings.fresh else kept
        return [f"grid: interrupted; {kept}"]

    @property
    def run(self) -> grid_run.Run:
        """Both selectors' evaluations, started when first needed."""
        return self.plugin.shared(grid_run.Run, lambda: grid_run.Run(self.plugin, self._compared))

    @property
    def _compared(self) -> grid_run.Comparison:
        reference = Subject(adapters.REFERENCE, pure=True, preload=())
        return grid_run.comparison_of(self.plugin.settings, reference)


class SliceItem(ConformanceItem):
    """One family on one GPU: node id ``rocm-attn::grid::mla[gfx942]``."""

    parent: GridTier
    promised: Level = "required"

    def __init__(self, *, part: Slice, **kwargs: Any) -> None:
        super().__init__(level=self.promised, **kwargs)
        self.part = part
        self.judged: Judged | None = None
        self._answers: tuple[Table, Table | None] | None = None

    def ahead(self) -> None:
        if self.plugin.settings.cell is None:
            self.parent.run.submit([self.part])

    def judge(self) -> Judgement:
        cell = self.plugin.settings.cell
        if cell is not None and cell >= self.part.cells:
            raise NoSuchCellError(
                f"--rocm-attn-cell={cell}: slice {self.part.id} has the cells 0 to"
                f" {self.part.cells - 1}; name the slice that the number belongs to"
            )
        if cell is None:
            self.judged, ours, other = self.parent.run.judge(self.part, self._declares)
        else:
            self.judged, ours, other = self.parent.run.judge_cell(self.part, cell, self._declares)
        self._answers = ours, other
        return self._judgement(self.judged, single=cell is not None)

    def _judgement(self, judged: Judged, *, single: bool) -> Judgement:
        strict = self.plugin.settings.strict
        required = [f for f in judged.findings if f.change.level == "required" or strict]
        open_ones = [finding for finding in required if not finding.change.declared]
        differing = [d for d in judged.differing if d.level == "required" or strict]
        came = tuple(dict.fromkeys(got(difference.got) for difference in differing))
        used = [entry for d in judged.differing if (entry := self._declared(d.rule, d.got))]
        idle = None if single else self.claims(*judged.rules).idle(used)
        undeclared = [d for d in differing if not d.declared]
        known = {
            d: self.known_defect(got(d.got), d.rule) or self.known_defect(got(d.got))
            for d in undeclared
        }
        if None in known.values():
            unmet = [got(d.got) for d in undeclared if known[d] is None]
            unknown = {d.rule for d in undeclared if known[d] is None}
            open_ones = [finding for finding in open_ones if finding.change.rule in unknown]
            crashed = any(each.answer in CRASHES for each in unmet)
            words = words_of(judged, open_ones)
            about = None if single else self.claims(*unknown).idle(used)
            if about is not None:
                words += (
                    f"; the answer of a deviation changed: {about.place} declares {about.accepted}"
                    f" ({about.reason}), but cells give {unmet[0]}"
                )
            came = tuple(dict.fromkeys(unmet))
            return Judgement(Verdict.CRASH if crashed else Verdict.FAIL, words, came)
        if (judged.unanswered and not single) or judged.uncompared:
            budget = f"--rocm-attn-grid-budget={self.plugin.settings.grid_budget:g}"
            words = (
                f"{judged.unanswered:,} of {judged.cells:,} cells were not reached within {budget}"
            )
            if judged.uncompared:
                other = self.parent.run.compared.standard.name
                words = (
                    f"{other} answered {judged.uncompared:,} of {judged.cells:,} cells not in time"
                )
                words += (
                    f" ({budget}, --rocm-attn-timeout={self.plugin.settings.subject.timeout:g})"
                )
            return Judgement(
                Verdict.ERROR,  # neither holds nor fails
                f"not judged: {words}; give it more seconds",
            )
        reached = judged.cells - judged.unanswered
        if judged.unanswerable == reached:
            pytest.skip("not applicable: each of its cells needs more than the mocked platform")
        if self._standard and not judged.compared:
            pytest.skip(f"not applicable: {self._standard} could not answer any of its cells")
        if idle is not None:
            return Judgement(
                Verdict.STALE,
                f"no cell has the answer that {idle.place} declares, {idle.accepted}"
                f" ({idle.reason}); delete that entry or narrow its match",
                came,
            )
        if known:
            stories = "; ".join(dict.fromkeys(one.story for one in known.values() if one))
            words = f"{words_of(judged, open_ones)} ({stories})"
            return Judgement(Verdict.INHERITED, words, came, stories)
        if required:
            reasons = "; ".join(sorted({entry.reason for entry in used}))
            words = f"{words_of(judged, required)} (declared: {reasons})"
            return Judgement(Verdict.DEVIATION, words, came)
        if judged.findings:
            return Judgement(Verdict.ADVISORY, words_of(judged, judged.findings))
        return Judgement(Verdict.PASS)

    # --- deviations -------------------------------------------------------------------------------

    def _declared(self, rule: str, came: Behaviour) -> Deviation | None:
        """Return the entry that accepts an answer: it names the rule that is broken, or the slice."""
        return self.claims(rule).covering(got(came))

    def _declares(self, rule: str, came: Behaviour) -> bool:
        return self._declared(rule, came) is not None

    # --- words ------------------------------------------------------------------------------------

    def reproduce_cell(self, number: int) -> str:
        """Return the command that asks one cell alone and judges it."""
        return self.reproduce(cell=number)

    def reproduce(self, **own: Any) -> str:
        own.setdefault("cell", self.plugin.settings.cell)
        return super().reproduce(**own)

    def story(self) -> list[tuple[str, str]]:
        assert self.judged is not None
        number = self.plugin.settings.cell
        row = self.row
        assert row is not None
        story = [("verdict", row["verdict"])]
        if number is not None:
            cell = self.part.cell(number)
            story += [
                ("flags", environment_words(cell.environ)),
                ("gpu", f"{cell.gpu.gfx}, aiter {cell.gpu.aiter}"),
                ("request", request_words(cell.request)),
            ]
        story += [("expected", row["expect"]["words"]), ("got", row["outcome"]["words"])]
        story.append(("source", row["source"]))
        for finding in self.judged.findings[:_SHOWN]:
            change = finding.change
            story += [(change.level, f"{_finding_words(finding)}; {finding.cells:,} cells")]
            if number is None:
                story += [("smallest", cell_words(self.part.cell(finding.smallest)))]
                story += [("again", self.reproduce_cell(finding.smallest))]
        if len(self.judged.findings) > _SHOWN:
            story.append(("and", f"{len(self.judged.findings) - _SHOWN} more ways to differ"))
        return story

    def known(self) -> dict[str, Any]:
        states = ", ".join(str(value) for value in self.part.axes[0].values)
        return {
            "gpu": {"gfx": self.part.gfx, "aiter": states},
            "expect": {"words": self._expected_words()},
            "source": self._standard or self.plugin.settings.contract.source,
        }

    def fields(self) -> dict[str, Any]:
        assert self.judged is not None
        assert self._answers is not None
        number = self.plugin.settings.cell
        counts = {name: getattr(self.judged, name) for name in COUNTS}
        fields: dict[str, Any] = {
            "outcome": {"kind": "grid", "words": _outcome_words(self.judged)},
            "details": {
                "title": self.part.family.title,
                "counts": counts,
                "findings": [self._finding_data(finding) for finding in self.judged.findings],
                "table": table(self.judged.labelled),
            },
        }
        if number is None:
            seconds, written = self.parent.run.timing(self.part)
            return fields | {"seconds": round(seconds, 3), "environment_written": written}
        cell = self.part.cell(number)
        one, other = (each.outcome(number) if each else None for each in self._answers)
        if other is not None:
            fields["details"]["compared_with"] = str(other)
        return fields | {
            "gpu": {"gfx": cell.gpu.gfx, "aiter": cell.gpu.aiter.value},
            "env": cell.environ,
            "request": asdict(cell.request),
            "expect": {"words": self._expected_at(other)},
            "outcome": {"kind": type(one).__name__.lower(), "words": str(one)},
        }

    def _finding_data(self, finding: Finding) -> dict[str, Any]:
        change = finding.change
        return {
            "condition": _finding_words(finding),
            "level": change.level,
            "rule": change.rule,
            "declared": change.declared,
            "expected": expected_words(change),
            "got": str(change.got),
            "cells": finding.cells,
            "smallest": finding.smallest,
            "smallest_words": cell_words(self.part.cell(finding.smallest)),
            "again": self.reproduce_cell(finding.smallest),
        }

    @property
    def _standard(self) -> str:
        """What the user named to compare with, or ""."""
        settings = self.plugin.settings
        if settings.baseline is not None:
            return settings.baseline.id
        return settings.against.selector if settings.against is not None else ""

    def _expected_words(self) -> str:
        settings = self.plugin.settings
        if self._standard:
            return f"what {self._standard} answers"
        beyond = " and, beyond it, what the reference answers" if not settings.subject.pure else ""
        return f"what contract {settings.contract.id} fixes{beyond}"

    def _expected_at(self, other: object) -> str:
        assert self.judged is not None
        if self.judged.findings:
            return expected_words(self.judged.findings[0].change)
        return self._expected_words() if other is None else str(other)


_SHOWN = 10  # ways to differ in a failure's text


def words_of(judged: Judged, findings: Sequence[Finding]) -> str:
    """Return in words how cells of a slice fall short."""
    more = f" (and {len(findings) - 1} more ways to differ)" if len(findings) > 1 else ""
    cells = sum(finding.cells for finding in findings)
    return f"{cells:,} of {judged.cells:,} cells fall short: {_finding_words(findings[0])}{more}"


def _finding_words(finding: Finding) -> str:
    change = finding.change
    return f"{change.rule}: expected {expected_words(change)}, got {change.got}"


def _outcome_words(judged: Judged) -> str:
    answered = judged.cells - judged.unanswered - judged.unanswerable
    return (
        f"{answered:,} of {judged.cells:,} cells answered; {judged.required:,} differ and"
        f" fail the run, {judged.advisory:,} differ without failing it"
    )
