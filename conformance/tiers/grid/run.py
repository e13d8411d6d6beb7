"""The grid within a run: both selectors' evaluations, their cache, progress, and the judging."""

from __future__ import annotations

import time
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_rocm_attn.conformance.isolation import Pool, Question, Subject
from pytest_rocm_attn.conformance.promise.grid.design import standard
from pytest_rocm_attn.conformance.promise.grid.outcomes import Table, normalised
from pytest_rocm_attn.conformance.tiers.grid import cache
from pytest_rocm_attn.conformance.tiers.grid.evaluate import Evaluator
from pytest_rocm_attn.conformance.tiers.grid.judge import Judged, Standard, judge
from pytest_rocm_attn.conformance.tiers.grid.parts import parts_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pytest_rocm_attn.conformance.promise.grid.outcomes import Behaviour
    from pytest_rocm_attn.conformance.promise.grid.space import Slice
    from pytest_rocm_attn.conformance.tiers.base import Plugin
    from pytest_rocm_attn.conformance.tiers.grid.parts import Part, PartTable
    from pytest_rocm_attn.conformance.tiers.settings import Recorded, Settings

    # Whether a deviation accepts an answer that breaks a rule, by its id.
    Declares = Callable[[str, Behaviour], bool]


def slices(settings: Settings) -> list[Slice]:
    """Return the slices that the options select."""
    only = (settings.machine.gpu.gfx,) if settings.machine is not None else settings.gpus
    return [part for part in standard().slices if not only or part.gfx in only]


@dataclass(frozen=True)
class Comparison:
    """What the grid, or a part of it, is compared with.

    Attributes:
        standard: what slices are judged by.
        other: the other selector, or what was recorded of it; None for the rules alone.
        slices: all that may be asked for.
        seconds: that the selector under test may take for all of them.
        keep: answers of a run that is interrupted are there for the next one.
    """

    standard: Standard
    other: Subject | Recorded | None
    slices: Sequence[Slice]
    seconds: float
    keep: bool = True


def comparison_of(settings: Settings, reference: Subject) -> Comparison:
    """Return what the grid is compared with under these options."""
    other: Subject | Recorded | None = settings.against or settings.baseline
    standard = Standard("the-reference", "advisory", settings.grid_rules)
    if settings.against is not None:
        standard = Standard(settings.against.selector, "required")
    elif settings.baseline is not None:
        standard = Standard(settings.baseline.id, "required")
    elif reference != settings.subject:
        other = reference
    return Comparison(standard, other, slices(settings), settings.grid_budget)


class Run:
    """The grid in one process of a run."""

    def __init__(self, plugin: Plugin, compared: Comparison) -> None:
        self._plugin = plugin
        settings = plugin.settings
        self.compared = compared
        self._subject = _Side(plugin, settings.subject, plugin.started_pool(), compared, keep=False)
        self._other: _Side | _Recorded | None = None
        if isinstance(compared.other, Subject):
            self._other = _Side(plugin, compared.other, None, compared, keep=True)
        elif compared.other is not None:
            self._other = _Recorded(compared.other)
        self._left: set[Slice] = set()  # submitted, and not judged
        self._seen = time.monotonic(), 0  # when it was last said how far it is, and the cells then

    @property
    def _sides(self) -> list[_Side]:
        return [side for side in (self._subject, self._other) if isinstance(side, _Side)]

    def submit(self, ahead: Iterable[Slice]) -> None:
        """Start on slices that will be judged later on."""
        wanted = list(ahead)
        self._left.update(wanted)
        for side in self._sides:
            side.evaluator.submit(wanted)
        self._plugin.show(self._how_far)

    def _how_far(self) -> str:
        counts, now = self._subject.evaluator.counts, time.monotonic()
        then, before = self._seen
        self._seen = now, counts.answered
        rate = (counts.answered - before) / max(now - then, 1e-3)
        return (
            f"{counts.answered:,} of {counts.cells:,} cells, {counts.parts_done} of {counts.parts}"
            f" parts, {rate:,.0f} cells/s"
        )

    def judge(self, of: Slice, declares: Declares) -> tuple[Judged, Table, Table | None]:
        """Wait for a slice, and judge it."""
        self._left.add(of)
        got = self._subject.answers(of)
        other = self._other.answers(of) if self._other is not None else None
        self._left.discard(of)
        return judge(of, got, other, self.compared.standard, declares), got, other

    def judge_cell(
        self, of: Slice, number: int, declares: Declares
    ) -> tuple[Judged, Table, Table | None]:
        """Ask one cell alone, as any question is asked, and judge it."""
        got = self._subject.one(of, number)
        other = self._other.one(of, number) if self._other is not None else None
        return judge(of, got, other, self.compared.standard, declares), got, other

    def timing(self, of: Slice) -> tuple[float, list[str]]:
        """Return the seconds that a slice's cells took, and what variables the selector wrote."""
        tables = self._subject.evaluator.tables(of)
        written = set().union(*(table.written for table in tables))
        return sum(table.seconds for table in tables), sorted(written)

    def close(self, *, kill: Callable[[], None]) -> None:
        """Stop; keep for the next run what is not finished.

        Args:
            kill: ends the processes of the selector under test, in case one is stuck.
        """
        counts = self._subject.evaluator.counts
        for side in self._sides:
            side.close(kill)
        # Whoever starts a run again after it has ended wants it run, not remembered.
        self._plugin.notes.discard(self._subject.kept)
        if self._left:
            self._plugin.notes.unfinished = True
            kept = "run again to go on from there" if self._subject.cache else "nothing was kept"
            self._plugin.notes.count(
                f"grid: interrupted with {{}} cells answered; {kept}", counts.answered
            )
        elif counts.from_cache:
            self._plugin.notes.count(
                "grid: {} cells were answered by an earlier run that did not finish;"
                " --rocm-attn-fresh asks them again",
                counts.from_cache,
            )


class _Recorded:
    """A baseline, as the other side."""

    def __init__(self, baseline: Recorded) -> None:
        self._baseline = baseline

    def answers(self, of: Slice) -> Table:
        """Return what was recorded of a slice."""
        table = self._baseline.tables[of.family.name]
        return Table(table.codes[of.first : of.first + of.cells], table.outcomes)

    def one(self, of: Slice, number: int) -> Table:
        """Return what was recorded of a slice: that of one cell is what is looked at."""
        return self.answers(of)


class _Side:
    """One of the two selectors.

    Args:
        plugin: the run.
        subject: the selector.
        pool: its workers; None to start some.
        compared: what is compared, and for how long.
        keep: keep answers also of what was finished, for runs to come.
    """

    def __init__(
        self,
        plugin: Plugin,
        subject: Subject,
        pool: Pool | None,
        compared: Comparison,
        *,
        keep: bool,
    ) -> None:
        self._own = pool is None
        self._pool = pool or Pool(subject, lanes=1)
        self._keep = keep
        self.cache = _cache(plugin, subject) if compared.keep else None
        self._finished: list[Part] = []
        # One of several processes does not know beforehand which slices it will be given.
        workers = int(getattr(plugin.config, "workerinput", {}).get("workercount", 0))
        cells = sum(part.cells for part in compared.slices) // workers if workers else 0
        self.evaluator = Evaluator(
            self._pool,
            budget=compared.seconds,
            only=subject.machine,
            cells=cells,
            load=self._load,
            save=self._save,
            all_at_once=not workers,
        )

    def _load(self, part: Part) -> PartTable | None:
        return self.cache.load(part) if self.cache else None

    def _save(self, part: Part, table: PartTable) -> None:
        if self.cache:
            self.cache.save(part, table)

    def answers(self, of: Slice) -> Table:
        """Return the answers to a slice; waits for them."""
        tables = zip(parts_of(of), self.evaluator.tables(of), strict=True)
        self._finished += [part for part, table in tables if not table.unanswered]
        return self.evaluator.answers(of)

    def one(self, of: Slice, number: int) -> Table:
        """Return the answer to one cell, all others unanswered."""
        cell = of.cell(number)
        (future,) = self._pool.submit([Question.of(cell.gpu, cell.environ, cell.request)])
        codes = array("H", b"\xff\xff" * of.cells)
        codes[number] = 0
        return Table(codes, [normalised(future.result().outcome)])

    @property
    def kept(self) -> list[Path]:
        """Files of the parts that were wholly answered and judged: of no use to runs to come."""
        if self.cache is None or self._keep:
            return []
        return [self.cache.file(part) for part in self._finished]

    def close(self, kill: Callable[[], None]) -> None:
        self.evaluator.close(kill=self._pool.close if self._own else kill)
        if self._own:
            self._pool.close()


def _cache(plugin: Plugin, subject: Subject) -> cache.AnswerCache | None:
    kept = getattr(plugin.config, "cache", None)  # there is none under -p no:cacheprovider
    settings = plugin.settings
    if kept is None or settings.fresh:
        return None
    declared = settings.deviations.entries if settings.deviations is not None else ()
    apart = [*settings.reports, *(Path(entry.file) for entry in declared)]
    if settings.draft is not None:
        apart.append(settings.draft)
    key = cache.fingerprint(subject, standard().digest, apart)
    return cache.AnswerCache(Path(kept.mkdir("rocm-attn-grid")), key) if key else None
