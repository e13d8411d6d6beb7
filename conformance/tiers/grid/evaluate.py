"""Bulk evaluation: the outcome of every cell of some slices, as codes.

The unit of work is a part: a slice with one state of aiter, which is one mocked platform. Lanes
(threads) take platform by platform, so that the selector is imported once on each; the cells of a
part are asked by one process where refreshing the selector was checked, else by one process for
each environment. What becomes of a process is the outcome of the cell it was at; the others go on.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
import time
from array import array
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.isolation import Bulk, Question, WorkerError, wire
from pytest_rocm_attn.conformance.isolation.inside.cells import (
    UNANSWERED,
    SharedCodes,
    scattered,
)
from pytest_rocm_attn.conformance.isolation.patience import Patience
from pytest_rocm_attn.conformance.isolation.processes import UnreadableError
from pytest_rocm_attn.conformance.isolation.scheduler import Scheduler
from pytest_rocm_attn.conformance.promise.grid.outcomes import (
    UNANSWERABLE,
    OutcomeCodes,
    Table,
)
from pytest_rocm_attn.conformance.tiers.grid.parts import Part, PartTable, parts_of
from pytest_rocm_attn.gpu import Gpu
from pytest_rocm_attn.outcome import Crashed, Died
from pytest_rocm_attn.request import Request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pytest_rocm_attn.conformance.isolation import Pool
    from pytest_rocm_attn.conformance.promise.grid.space import Slice
    from pytest_rocm_attn.outcome import Outcome

_PATIENCE = 2.0  # seconds for a lane to stop by itself
_SAVE_SECONDS = 2.0  # between two times that what there is of a part is kept
_SAMPLED = 12  # environments of a platform that in-place answers are tried on first


@dataclass
class Counts:
    """How far an evaluation is: what a progress display needs."""

    cells: int = 0
    answered: int = 0
    from_cache: int = 0
    parts: int = 0
    parts_done: int = 0


class Evaluator:
    """Answers slices, from a pool's workers, on a few lanes.

    Args:
        pool: the selector.
        budget: seconds for all cells that are ever submitted; what is not reached by then stays
            UNANSWERED. Each part has the share that its cells have, and what others left over.
        cells: how many cells will be submitted in all; 0 for those that are when it is needed.
        lanes: how many platforms are worked on at a time.
        only: the one platform that can be asked, if nothing is mocked; None for all.
        load: returns what is known of a part already, or None.
        save: is given each part when it is left, complete or not, and now and then before that.
        all_at_once: every slice of a platform is submitted together, so that what has imported the
            selector there is not needed when they are done; else the pool keeps some of these.
    """

    def __init__(
        self,
        pool: Pool,
        *,
        budget: float,
        cells: int = 0,
        lanes: int = 2,
        only: Gpu | None = None,
        load: Callable[[Part], PartTable | None] = lambda part: None,
        save: Callable[[Part, PartTable], None] = lambda part, table: None,
        all_at_once: bool = True,
    ) -> None:
        self.counts = Counts()
        self._cells = cells
        self._pool = pool
        self._budget = budget
        self._only = only
        self._load = load
        self._save = save
        self._all_at_once = all_at_once
        self._start = time.monotonic()
        self._begun = 0  # cells of all parts that were begun, or known, so far
        self._futures: dict[Part, Future[PartTable]] = {}
        self._changed = threading.Condition()
        self._folder = Path(tempfile.mkdtemp(prefix="rocm-attn-grid-"))
        self._lanes: Scheduler[Part] = Scheduler(
            lanes, self._answer, self._fail, changed=self._changed, busy=set()
        )

    def submit(self, slices: Iterable[Slice]) -> None:
        """Have slices answered; a slice that is submitted again is not asked again."""
        with self._changed:
            parts = [part for each in slices for part in parts_of(each)]
            new = [part for part in dict.fromkeys(parts) if part not in self._futures]
            self._futures.update((part, Future()) for part in new)
            self.counts.parts += len(new)
            self.counts.cells += sum(part.cells for part in new)
            self._lanes.submit((part.gpu, part) for part in new)

    def tables(self, of: Slice) -> list[PartTable]:
        """Return the tables of a slice's parts, in order; waits for them."""
        self.submit([of])
        return [self._futures[part].result() for part in parts_of(of)]

    def answers(self, of: Slice) -> Table:
        """Return the outcomes of a slice's cells; waits for them."""
        codes = array("H")
        numbers = OutcomeCodes()
        for table in self.tables(of):
            new = [numbers.code(outcome) for outcome in table.outcomes]
            codes.extend(code if code == UNANSWERED else new[code] for code in table.codes)
        return Table(codes, numbers.outcomes)

    def close(self, *, kill: Callable[[], None]) -> None:
        """Stop at once, saving what there is of the parts that are worked on.

        Args:
            kill: ends the pool's processes, for lanes that wait for one that does not answer.
        """
        with contextlib.ExitStack() as steps:  # run from the last to the first, whatever they raise
            steps.callback(shutil.rmtree, self._folder, ignore_errors=True)
            steps.callback(self._cancel)
            self._lanes.close()
            if not self._lanes.join(_PATIENCE):
                steps.callback(self._lanes.join)
                steps.callback(kill)

    def _cancel(self) -> None:
        for future in self._futures.values():
            future.cancel()

    # --- lanes ------------------------------------------------------------------------------------

    def _fail(self, parts: list[Part], error: WorkerError) -> None:
        for part in parts:
            if not self._futures[part].done():
                self._futures[part].set_exception(error)
                with self._changed:
                    self.counts.parts_done += 1

    def _answer(self, gpu: Gpu, parts: Sequence[Part]) -> None:
        tables = {part: self._load(part) or PartTable.empty(part.cells) for part in parts}
        for part, table in list(tables.items()):
            known = part.cells - table.unanswered
            with self._changed:
                self.counts.from_cache += known
                self.counts.answered += known
                self._begun += part.cells if known == part.cells else 0
            if known == part.cells:
                self._resolve(part, tables.pop(part))
        if not tables:
            return
        if self._only not in (None, gpu):
            reason = f"this machine is {self._only}, unmocked, and not {gpu}"
            for part, table in tables.items():
                self._fill(table, Crashed(UNANSWERABLE, reason))
                self._resolve(part, table)
            return
        if self._over():
            for part, table in tables.items():
                self._resolve(part, table)
            return
        with self._pool.bulk(gpu, _sample(gpu, list(tables))) as bulk:
            if not isinstance(bulk, Bulk):
                for part, table in tables.items():
                    self._fill(table, bulk)
                    self._save(part, table)
                    self._resolve(part, table)
                return
            for part, table in tables.items():
                if self._lanes.closed:
                    return
                try:
                    _Answering(self, bulk, part, table).run()
                finally:
                    self._save(part, table)
                if self._lanes.closed and table.unanswered:
                    return
                self._resolve(part, table)
            if self._all_at_once:
                bulk.release()

    def _resolve(self, part: Part, table: PartTable) -> None:
        with self._changed:
            self.counts.parts_done += 1
        self._futures[part].set_result(table)

    def _fill(self, table: PartTable, outcome: Outcome) -> None:
        """Give an outcome to all cells that have none."""
        code = table.code(outcome)
        with self._changed:
            self.counts.answered += table.unanswered
        table.codes = array("H", (code if c == UNANSWERED else c for c in table.codes))

    def _over(self) -> bool:
        return time.monotonic() > self._start + self._budget

    def share(self, cells: int) -> float:
        """Return the seconds that a part of so many cells may take: its part of what is left."""
        with self._changed:
            left = max(cells, (self._cells or self.counts.cells) - self._begun)
            self._begun += cells
        seconds = self._start + self._budget - time.monotonic()
        return seconds * min(1.0, self._lanes.count * cells / left)


class _Answering:
    """One part being answered."""

    def __init__(self, evaluator: Evaluator, bulk: Bulk, part: Part, table: PartTable) -> None:
        self._evaluator = evaluator
        self._bulk = bulk
        self._part = part
        self._table = table
        self._end = time.monotonic() + evaluator.share(part.cells)
        self._file = str(evaluator._folder / f"{part.id}.codes")
        self._shared = SharedCodes(self._file, part.cells)
        self._shared.codes[:] = memoryview(table.codes)
        self._counted = part.cells - table.unanswered
        self._at = -1
        self._patience: Patience | None = None  # with the cell that the process is at
        self._saved = time.monotonic()

    def run(self) -> None:
        start = time.monotonic()
        try:
            if self._bulk.in_place:
                self._ask(None, None)
            else:
                for number in self._order():
                    if self._out_of_time():
                        break
                    self._ask([number], self._part.enumeration.environ(number))
        finally:
            self._table.codes = self._heard_codes()
            self._count(self._part.cells - self._table.unanswered)
            self._table.seconds += time.monotonic() - start
            self._shared.close()
            Path(self._file).unlink(missing_ok=True)

    def _order(self) -> list[int]:
        """Return the environments, those together that one import serves."""
        numbers = list(scattered(self._part.enumeration.environments))
        if reads := self._bulk.reads:
            groups: dict[tuple[tuple[str, str], ...], list[int]] = {}
            for number in numbers:
                environ = self._part.enumeration.environ(number)
                seen = tuple((name, text) for name, text in environ.items() if name in reads)
                groups.setdefault(seen, []).append(number)
            numbers = [number for group in groups.values() for number in group]
        return numbers

    def _out_of_time(self) -> bool:
        return self._evaluator._lanes.closed or time.monotonic() > self._end

    def _ask(self, environments: list[int] | None, environ: dict[str, str] | None) -> None:
        """Ask until every cell of these environments has a code, or the time is over."""
        requests = len(self._part.enumeration.requests)
        fallen, again = -1, False
        while not self._out_of_time():
            if environments is not None:
                first = environments[0] * requests
                if UNANSWERED not in self._shared.codes[first : first + requests].tolist():
                    return
            self._shared.current = -1
            self._patience = None
            failure = self._bulk.ask(
                self._message(environments), environ, heard=self._heard, stuck=self._stuck
            )
            if failure is None or self._evaluator._lanes.closed:
                return
            # The next process numbers its outcomes from those that were received.
            self._shared.codes[:] = memoryview(self._heard_codes())
            cell = self._shared.current
            if cell < 0 and isinstance(failure, Died) and not again:
                again = True  # it may have ended after its last answer; no cell was asked since
                continue
            if cell < 0 or cell == fallen:
                # It was the import, or the beginning before any cell, and would be again.
                self._give_all(environments, failure)
                return
            fallen = cell
            if self._shared.codes[cell] == UNANSWERED:
                self._shared.codes[cell] = self._table.code(failure)

    def _give_all(self, environments: list[int] | None, outcome: Outcome) -> None:
        code = self._table.code(outcome)
        requests = len(self._part.enumeration.requests)
        if environments is None:
            cells: Iterable[int] = range(self._part.cells)
        else:
            cells = range(environments[0] * requests, (environments[0] + 1) * requests)
        for cell in cells:
            if self._shared.codes[cell] == UNANSWERED:
                self._shared.codes[cell] = code

    def _message(self, environments: list[int] | None) -> wire.AskCells:
        return wire.AskCells(
            file=self._file,
            axes=[axis.data() for axis in self._part.slice.axes[1:]],
            gpu=self._part.gpu,
            environments=environments,
            pure=self._evaluator._pool.subject.pure,
            seconds=max(0.0, self._end - time.monotonic()),
            outcomes=self._table.outcomes,
        )

    def _heard(self, message: Any) -> None:
        match message:
            case wire.Numbered(outcome):  # the next number, in the form that is kept
                self._table.outcomes.append(outcome)
            case wire.Done(written):
                self._table.written.update(written)
            case _:
                raise UnreadableError(f"its process sent no outcome: {message!r:.80}")

    def _stuck(self, pid: int) -> bool:
        """Note how far the process is; return whether it is to be killed."""
        now = time.monotonic()
        current = self._shared.current
        if self._patience is None or current != self._at:
            limit = self._evaluator._pool.subject.timeout
            self._at, self._patience = current, Patience(pid, limit)
        if self._bulk.in_place:
            answered = self._part.cells - array("H", self._shared.codes.tobytes()).count(UNANSWERED)
            self._count(answered)
        if now - self._saved > _SAVE_SECONDS:
            self._save()
        return self._evaluator._lanes.closed or self._patience.is_over()

    def _save(self) -> None:
        """Keep what there is so far, in case this process is killed."""
        self._evaluator._save(self._part, replace(self._table, codes=self._heard_codes()))
        self._saved = time.monotonic()

    def _heard_codes(self) -> array[int]:
        """Return the codes whose outcome was received: a process may write one before it is."""
        known = len(self._table.outcomes)
        return array("H", (c if c < known else UNANSWERED for c in self._shared.codes))

    def _count(self, answered: int) -> None:
        with self._evaluator._changed:
            self._evaluator.counts.answered += answered - self._counted
        self._counted = answered


def _sample(gpu: Gpu, parts: Sequence[Part]) -> list[Question]:
    """Return some questions of these parts; the first have an empty environment."""
    questions = [Question.of(gpu, {}, Request()), Question.of(gpu, {}, Request(use_mla=True))]
    each = max(1, _SAMPLED // len(parts))
    for part in parts:
        cells = part.enumeration
        # Not the beginning, which has the switches unset; spread, as the answering itself is.
        for number in list(scattered(cells.environments))[1 : each + 1]:
            environ = cells.environ(number)
            for request in (cells.requests[0], cells.requests[-1]):
                questions.append(Question.of(gpu, environ, request))
    return list(dict.fromkeys(questions))
