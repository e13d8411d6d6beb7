"""The upstream tier: cells of the grid against what the release that a run is judged by answered.

The contract says what a release promises; the recording of that release says what it does. Part of a
run that names no tier, for as long as keeps it within three times the contract's own; cells that
are not reached by then are left out, spread over all of the grid, and counted.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import pytest

from pytest_rocm_attn.conformance.promise.got import CRASHES
from pytest_rocm_attn.conformance.promise.grid.design import standard
from pytest_rocm_attn.conformance.promise.grid.outcomes import got
from pytest_rocm_attn.conformance.promise.verdict import Judgement, Verdict
from pytest_rocm_attn.conformance.tiers.base import Planned
from pytest_rocm_attn.conformance.tiers.grid import run as grid_run
from pytest_rocm_attn.conformance.tiers.grid.judge import Standard
from pytest_rocm_attn.conformance.tiers.grid.summary import summary
from pytest_rocm_attn.conformance.tiers.grid.tier import GridTier, SliceItem, words_of
from pytest_rocm_attn.gpu import Gpu

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_rocm_attn.conformance.promise.grid.space import Slice
    from pytest_rocm_attn.conformance.report.schema import Record, Summary
    from pytest_rocm_attn.conformance.tiers.grid.judge import Judged
    from pytest_rocm_attn.conformance.tiers.settings import Settings

_RATIO = 2.0  # how often the time of what was asked ahead: with that, three times as much


class _Run(grid_run.Run):
    """The cells that this tier compares; the grid tier of the same run has its own."""


class UpstreamTier(GridTier):
    """Node id ``rocm-attn::upstream``."""

    @classmethod
    def plan(cls, settings: Settings) -> Iterator[Planned]:
        for part in _slices(settings):
            yield Planned(part.family.name, ComparedItem, Gpu(part.gfx), {"part": part})

    @classmethod
    def header(cls, settings: Settings) -> list[str]:
        if settings.recorded is None:
            upstream = settings.contract.upstream
            which = f" of {upstream}" if upstream else ""
            return [f"rocm-attn: no recording{which} ships, so cells are not compared with it"]
        cells = sum(part.cells for part in _slices(settings))
        of = f"the recording {settings.recorded.id}"
        return [f"rocm-attn: up to {cells:,} cells of the grid are compared with {of}"]

    @classmethod
    def summary(cls, records: Sequence[Record]) -> Summary:
        found = summary(records)
        counts = [record["details"].get("counts", {}) for record in records]
        cells, reached = (sum(one.get(name, 0) for one in counts) for name in ("cells", "compared"))
        differ = sum(one.get(name, 0) for one in counts for name in ("required", "advisory"))
        lines = []
        if left := cells - reached:
            lines = [
                f"{differ:,} of {reached:,} cells differ from their recording; {left:,} were not"
            ]
            lines[0] += " compared, most for lack of time: --rocm-attn-tier=upstream compares all"
        return {**found, "tier": "upstream", "told": lines}

    @classmethod
    def when_interrupted(cls, settings: Settings) -> list[str]:
        return []

    def start(self) -> None:
        """Have all slices answered that items of this run are about."""
        self.run.submit(self.wanted)
        self.wanted.clear()

    @functools.cached_property
    def wanted(self) -> list[Slice]:
        """The slices of the items that are to be judged, and that were not started."""
        return []

    @property
    def run(self) -> grid_run.Run:
        """Both sides, started when the first slice is judged."""
        return self.plugin.shared(_Run, lambda: _Run(self.plugin, self._comparison()))

    def _comparison(self) -> grid_run.Comparison:
        settings = self.plugin.settings
        assert settings.recorded is not None
        # None if this tier runs alone.
        took = self.plugin.seconds_of_questions()
        return grid_run.Comparison(
            Standard(settings.recorded.id, "observed"),
            settings.recorded,
            _slices(settings),
            settings.grid_budget if took is None else _RATIO * took,
            keep=False,
        )


def _slices(settings: Settings) -> list[Slice]:
    """Return the slices of the contract's GPUs, as far as the run is about them."""
    if settings.recorded is None:
        return []
    gpus = {cell.gpu.gfx for cell in settings.cells}
    return [part for part in standard().slices if part.gfx in gpus]


class ComparedItem(SliceItem):
    """One family on one GPU: node id ``rocm-attn::upstream::mla[gfx942]``."""

    parent: UpstreamTier
    promised = "observed"

    def ahead(self) -> None:
        """Leave the workers to the questions of other tiers; judge() starts all slices at once."""
        self.parent.wanted.append(self.part)

    def judge(self) -> Judgement:
        if self.plugin.settings.cell is None:
            self.parent.start()
        return super().judge()

    def _judgement(self, judged: Judged, *, single: bool) -> Judgement:
        if not judged.compared:
            pytest.skip("none of its cells was reached in time, or can be answered under the mock")
        if not judged.findings:
            return Judgement(Verdict.PASS)
        unmet = [got(one.got) for one in judged.differing if one.level == "required"]
        crashed = any(each.answer in CRASHES for each in unmet)
        fails = Verdict.CRASH if crashed else Verdict.FAIL
        came = tuple(dict.fromkeys(unmet))
        words = words_of(judged, judged.findings)
        return Judgement(fails if unmet else Verdict.DIFFERS, words, came)

    @property
    def _standard(self) -> str:
        recorded = self.plugin.settings.recorded
        return recorded.id if recorded is not None else ""
