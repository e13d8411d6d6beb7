"""Asking the selector under test, question by question, as fast as it can honestly be done."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from typing import TYPE_CHECKING

from pytest_rocm_attn.conformance.isolation import Interview, Observation, Question
from pytest_rocm_attn.flags import EXPLICIT, MHA, UNIFIED, USE_AITER
from pytest_rocm_attn.outcome import Rejected, Selected
from pytest_rocm_attn.request import Request

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_rocm_attn.conformance.isolation import Pool
    from pytest_rocm_attn.gpu import Gpu
    from pytest_rocm_attn.outcome import Outcome

_KEPT = 2  # processes kept open: a GPU with aiter, and the same GPU without
_SAMPLE: tuple[dict[str, str], ...] = (
    {},
    {USE_AITER: "1"},
    {USE_AITER: "1", MHA: "0"},
    {USE_AITER: "1", UNIFIED: "1"},
    {EXPLICIT: "ROCM_ATTN"},
)


class Asker:
    """Gives the answer that a process in a clean state would give. Remembers each.

    If the selector was found to answer for all environments in one process as it does in a
    process each (Pool.answers_in_place), one process per platform is kept and asked.

    Args:
        pool: the workers.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._answers: dict[Question, Observation] = {}
        self._kept: OrderedDict[Gpu, Interview] = OrderedDict()
        self._changing: OrderedDict[Gpu, Interview] = OrderedDict()  # for sequences
        self._in_place: dict[Gpu, bool] = {}
        self._distrusted = False
        self.start_tally()

    def __call__(self, *questions: Question) -> list[Observation]:
        """Return the observation of each question."""
        if open_ := [question for question in questions if question not in self._answers]:
            for question, seen in zip(open_, self._ask(open_), strict=True):
                self._answers[question] = seen
        return self.tallied([self._answers[question] for question in questions])

    def warm(self, *gpus: Gpu) -> None:
        """Have the selector imported on platforms before a search, whose time it is not part of."""
        for gpu in gpus:
            self._answers_in_place(gpu)
            self(Question.of(gpu, {}, Request()))
        self.start_tally()

    def start_tally(self) -> None:
        """Start to note what was answered; see only_failures and unanswered."""
        self._answered = False
        self.unanswered = 0  # questions that got neither a selection nor a refusal
        self._failure = ""

    @property
    def only_failures(self) -> str:
        """The last failure, when questions were asked and none got a selection or a refusal."""
        return "" if self._answered else self._failure

    def tallied(self, observations: list[Observation]) -> list[Observation]:
        """Return the observations, noted for only_failures and unanswered."""
        for seen in observations:
            if isinstance(seen.outcome, Selected | Rejected):
                self._answered = True
            else:
                self._failure = str(seen.outcome)
                self.unanswered += 1
        return observations

    def certain(self, *questions: Question) -> list[Observation]:
        """Return the observation of each question from a process that answers nothing else."""
        return self.tallied([self._pool.submit([question])[0].result() for question in questions])

    def distrust(self) -> None:
        """Keep no process any more: one was found to answer differently from a clean one."""
        self._distrusted = True
        self._answers.clear()
        self.close()

    def interview(self, gpu: Gpu, environ: Mapping[str, str]) -> Interview | Outcome:
        """Start a process whose state is clean, as Pool.interview does."""
        return self._noted(self._pool.interview(gpu, environ))

    def _noted(self, started: Interview | Outcome) -> Interview | Outcome:
        if not isinstance(started, Interview):
            self._failure = str(started)
        return started

    def begin(self, gpu: Gpu, environ: Mapping[str, str]) -> tuple[Interview, bool] | Outcome:
        """Return a process that begins in a clean state, and whether its first question refreshes.

        If refreshing was found to clean a process, it is one that is kept for this use; any
        other is for the caller to close.
        """
        if not self._distrusted and self._answers_in_place(gpu):
            kept = self._noted(self._keep(self._changing, gpu))
            return (kept, True) if isinstance(kept, Interview) else kept
        started = self.interview(gpu, environ)
        return (started, False) if isinstance(started, Interview) else started

    @property
    def selector(self) -> str:
        """The selector under test, as it was named."""
        return self._pool.subject.selector

    def close(self) -> None:
        """End the processes that are kept."""
        for kept in (self._kept, self._changing):
            while kept:
                kept.popitem()[1].close()

    def _ask(self, questions: Sequence[Question]) -> list[Observation]:
        if self._distrusted or not all(self._answers_in_place(q.gpu) for q in questions):
            return [future.result() for future in self._pool.submit(questions)]
        runs = itertools.groupby(questions, key=lambda question: question.gpu)
        return [seen for _, run in runs for seen in self._ask_kept(list(run))]

    def _ask_kept(self, questions: Sequence[Question]) -> list[Observation]:
        """Ask questions of one platform in the process that is kept for it."""
        seen: list[Observation] = []
        while len(seen) < len(questions):
            interview = self._keep(self._kept, questions[0].gpu)
            if not isinstance(interview, Interview):
                return [Observation(interview)] * len(questions)
            seen += interview.ask(questions[len(seen) :], refresh=True)
        return seen

    def _answers_in_place(self, gpu: Gpu) -> bool:
        if gpu not in self._in_place:
            requests = (Request(), Request(use_mla=True))
            sample = [Question.of(gpu, env, request) for env in _SAMPLE for request in requests]
            self._in_place[gpu] = self._pool.answers_in_place(gpu, sample)
        return self._in_place[gpu]

    def _keep(self, kept: OrderedDict[Gpu, Interview], gpu: Gpu) -> Interview | Outcome:
        process = kept.pop(gpu, None)
        if process is None or process.over:
            started = self._pool.interview(gpu, {})
            if not isinstance(started, Interview):
                return started
            process = started
        kept[gpu] = process  # the one used last stands last
        if len(kept) > _KEPT:
            kept.popitem(last=False)[1].close()
        return process
