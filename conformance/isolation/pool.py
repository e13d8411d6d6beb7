"""The pool: which question goes to which process, and when."""

from __future__ import annotations

import contextlib
import os
from concurrent.futures import Future
from typing import TYPE_CHECKING

from pytest_rocm_attn.conformance.isolation.asking import Bulk, Interview, ask
from pytest_rocm_attn.conformance.isolation.launcher import Launcher
from pytest_rocm_attn.conformance.isolation.platforms import Platform, Platforms
from pytest_rocm_attn.conformance.isolation.processes import WorkerError
from pytest_rocm_attn.conformance.isolation.question import (
    Group,
    Observation,
    Question,
    Subject,
    apart,
    by_environment,
)
from pytest_rocm_attn.conformance.isolation.refreshing import Refreshing, Trust
from pytest_rocm_attn.conformance.isolation.scheduler import Scheduler
from pytest_rocm_attn.errors import SelectorError
from pytest_rocm_attn.outcome import Crashed
from pytest_rocm_attn.request import Request

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from pytest_rocm_attn.gpu import Gpu
    from pytest_rocm_attn.outcome import Outcome

_ENOUGH_FAILURES = 3  # environments under which an import is tried before it is given up


class Pool:
    """Asks questions of one subject, in worker processes, on a few lanes.

    Args:
        subject: the selector under test.
        lanes: how many platforms are worked on at a time; 0: as many as there are cores, up to 4.

    Attributes:
        notes: what a user may want to know of how it went, a line each.
    """

    def __init__(self, subject: Subject, lanes: int = 0) -> None:
        self.subject = subject
        self.notes: list[str] = []
        self._launcher = Launcher(subject)
        self._platforms = Platforms(subject, self._launcher, self.notes)
        self._refreshing = Refreshing(self._platforms, self.notes)
        self._interviews: list[Interview] = []
        # The rest changes under _changed.
        self._changed = self._platforms.changed
        self._futures: dict[Question, Future[Observation]] = {}
        self._only_gpu: Gpu | None = None  # stands for all, where the selector is pure
        self._lanes: Scheduler[Question] = Scheduler(
            lanes or min(4, os.cpu_count() or 1),
            self._answer,
            self._fail,
            changed=self._changed,
            busy=self._platforms.busy,
            rank=lambda gpu: gpu not in self._platforms.imported,  # an imported one first
        )

    # --- asking -----------------------------------------------------------------------------------

    def submit(self, questions: Iterable[Question]) -> list[Future[Observation]]:
        """Ask each question once, even if it is submitted again; the futures receive the answers."""
        with self._changed:
            wanted = list(questions)
            new = [q for q in dict.fromkeys(wanted) if q not in self._futures]
            self._futures.update((question, Future()) for question in new)
            self._lanes.submit((self._place(question)[0], question) for question in new)
            return [self._futures[question] for question in wanted]

    def _place(self, question: Question) -> tuple[Gpu, tuple[tuple[str, str], ...]]:
        """Return the platform and the environment of the process that a question needs."""
        if not self.subject.pure:
            return question.gpu, question.environ
        self._only_gpu = self._only_gpu or question.gpu
        return self._only_gpu, ()

    def probe(self, questions: Iterable[Question]) -> None:
        """Check that the selector can be imported, before anything else is asked.

        One question is enough if it is answered, or fails for another reason than an import. Whatever
        else the selector does then, such as end its process, is the outcome of that question.

        Args:
            questions: asked one after the other until one shows it.

        Raises:
            SelectorError: it cannot be imported, or lacks an import for all of them. One line, with
                the remedy.
            WorkerError: no process could be started.
        """
        why = ""
        not_imported: set[Gpu] = set()
        for question in questions:
            gpu, environ = self._place(question)
            if gpu in not_imported:
                continue
            with self._platforms.claimed(gpu):
                problem = self._problem(question, gpu, dict(environ))
            if not problem:
                return
            if self._platforms.unusable:
                raise SelectorError(self._platforms.unusable)
            why = why or problem
            if gpu not in self._platforms.imported:
                not_imported.add(gpu)
        if why:
            raise SelectorError(why)

    def _problem(self, question: Question, gpu: Gpu, environ: dict[str, str]) -> str:
        """Return why a question cannot be asked, or ""."""
        verb, opened = "imported", self._platforms.fitting_or_opened(gpu, environ)
        if isinstance(opened, Platform):
            verb, seen = "asked", self._ask_one(opened, question, environ)
            # A name that a module lacks is the selector's own mistake: a result of each question.
            if seen.failed_import is None or seen.failed_import.found:
                return ""
        else:
            seen = opened
        why = str(seen.outcome)
        if isinstance(seen.outcome, Crashed):
            why = seen.outcome.traceback.strip().rpartition("\n")[2]
        return f"selector {self.subject.selector!r} cannot be {verb}: {why}"

    def _ask_one(
        self, platform: Platform, question: Question, environ: dict[str, str]
    ) -> Observation:
        seen: list[Observation] = []
        group = Group(environ, [question])
        ask(
            self._platforms,
            platform,
            [group],
            lambda _, observation: seen.append(observation),
            refresh=platform.refreshes,
        )
        return seen[0]

    def answers_in_place(self, gpu: Gpu, sample: Sequence[Question]) -> bool:
        """Whether one process may answer for all environments of a platform, one after the other.

        Args:
            gpu: the platform.
            sample: questions there, to find out with; in environments that differ.
        """
        if self.subject.pure:
            return True
        groups = by_environment(sample)
        with self._platforms.claimed(gpu):
            platform = self._platforms.find(gpu) or self._platforms.open_and_keep(
                gpu, groups[0].environ
            )
            if not isinstance(platform, Platform) or not platform.refreshes:
                return False
            return self._refreshing.try_on(platform, groups) is Trust.IN_PLACE

    def interview(self, gpu: Gpu, environ: Mapping[str, str]) -> Interview | Outcome:
        """Start a process that answers on one platform for as long as it is kept.

        Its first question finds the selector as an import under that environment leaves it.

        Returns:
            The interview; or the result of an import that failed.
        """
        place, placed = self._place(Question.of(gpu, environ, Request()))
        with self._platforms.claimed(place):
            opened = self._platform_to_interview(place, dict(placed))
            if not isinstance(opened, Platform):
                return opened.outcome
            process = self._platforms.answering_process(opened)
            return Interview(opened, process, self.subject.timeout, self._interviews)

    def _platform_to_interview(self, gpu: Gpu, environ: dict[str, str]) -> Platform | Observation:
        if not self.subject.fork:
            # The process that answers is the one that imported, so it is not to be shared.
            return self._platforms.open(gpu, environ, prepare=False)
        platform = self._platforms.fitting(gpu, environ)
        if platform is None and self._refreshing.trust in (Trust.FORKED, Trust.IN_PLACE):
            platform = self._platforms.find(gpu)
        return platform or self._platforms.open_and_keep(gpu, environ)

    @contextlib.contextmanager
    def bulk(self, gpu: Gpu, sample: Sequence[Question]) -> Iterator[Bulk | Outcome]:
        """Claim one platform, to be asked very many questions there.

        Args:
            gpu: the platform.
            sample: questions there, to find out with how one environment may follow another; in
                environments that differ.

        Yields:
            What asks; or the result of the import, if three of the sample's environments had the
            same and it failed.
        """
        groups = by_environment(sample)
        with self._platforms.claimed(gpu):
            platform = self._platforms.find(gpu)
            failures: set[Outcome] = set()
            for group in groups[:_ENOUGH_FAILURES]:
                if platform is None:
                    opened = self._platforms.fitting_or_opened(gpu, group.environ)
                    if isinstance(opened, Platform):
                        platform = opened
                    else:
                        failures.add(opened.outcome)
            if platform is None and len(failures) == 1:
                yield failures.pop()
                return
            trust = Trust.NONE
            if self.subject.pure:
                trust = Trust.IN_PLACE
            elif platform is not None and platform.refreshes:
                trust = self._refreshing.try_on(platform, groups)
            yield Bulk(
                self._platforms,
                gpu,
                platform,
                in_place=trust is Trust.IN_PLACE,
                relied_on=trust is not Trust.NONE,
            )

    def printed(self, limit: int = 4000) -> str:
        """Return the end of what the selector printed so far."""
        return self._launcher.printed(limit)

    def close(self) -> None:
        """End every worker. Questions without an answer are cancelled.

        Whatever goes wrong on the way, the rest is ended all the same.

        Raises:
            BaseException: the first of what went wrong.
        """
        with contextlib.ExitStack() as steps:  # run from the last to the first
            steps.callback(self._launcher.close)
            steps.callback(self._platforms.close)
            steps.callback(self._lanes.join)
            steps.callback(self._launcher.kill)
            steps.callback(self._cancel)
            steps.callback(self._lanes.close)
            for interview in list(self._interviews):
                steps.callback(interview.close)

    def _cancel(self) -> None:
        with self._changed:
            for future in self._futures.values():
                future.cancel()

    # --- lanes ------------------------------------------------------------------------------------

    def _answer(self, gpu: Gpu, questions: list[Question]) -> None:
        """Answer the questions of one platform."""
        groups = by_environment(questions, lambda question: self._place(question)[1])
        self._answer_where_it_holds(gpu, groups)
        unanswered = [question for question in questions if not self._futures[question].done()]
        if unanswered:
            self._fail(unanswered, WorkerError(f"{len(unanswered)} questions were not answered"))

    def _fail(self, questions: list[Question], error: WorkerError) -> None:
        for question in questions:
            future = self._futures[question]
            if not future.done():
                failure = WorkerError(str(error))
                if printed := self.printed(2000).strip():  # for who reads on, but not in a report
                    failure.add_note(f"The worker's last output:\n{printed}")
                failure.__cause__ = error.__cause__
                future.set_exception(failure)

    def _answer_where_it_holds(self, gpu: Gpu, groups: list[Group]) -> None:
        """Ask each group in a process in which its environment holds, imports included."""
        own, groups = ([], groups) if self.subject.pure else apart(groups)
        self._answer_each_alone(gpu, own)
        platform = self._platforms.find(gpu)
        prepare = any(one.asks_of_backends for group in groups for one in group.questions)
        while platform is None and groups:
            opened = self._platforms.open_and_keep(gpu, groups[0].environ, prepare=prepare)
            if isinstance(opened, Platform):
                platform = opened
            else:
                self._resolve_all(groups.pop(0), opened)
        if groups and platform is not None and platform.refreshes:
            trust = self._refreshing.try_on(platform, groups)
            if trust in (Trust.IN_PLACE, Trust.FORKED):
                for some in [groups] if trust is Trust.IN_PLACE else [[group] for group in groups]:
                    ask(self._platforms, platform, some, self._resolve, refresh=True)
                return
        for group in groups:
            fitting = self._platforms.fitting_or_opened(gpu, group.environ)
            if isinstance(fitting, Platform):
                # Refreshing undoes what its preparation may have cached; it relies on nothing else.
                refresh = fitting.refreshes
                ask(self._platforms, fitting, [group], self._resolve, refresh=refresh)
            else:
                self._resolve_all(group, fitting)

    def _answer_each_alone(self, gpu: Gpu, groups: list[Group]) -> None:
        """Ask each question in a process of its own, in which nothing else was asked."""
        for group in groups:
            for question in group.questions:
                alone = Group(group.environ, [question])
                opened = self._platforms.imported_under(gpu, group.environ)
                if not isinstance(opened, Platform):
                    self._resolve_all(alone, opened)
                    continue
                # Refreshing undoes what its preparation may have cached.
                ask(self._platforms, opened, [alone], self._resolve, refresh=opened.refreshes)

    def _resolve(self, question: Question, observation: Observation) -> None:
        future = self._futures[question]
        if not future.done():
            future.set_result(observation)

    def _resolve_all(self, group: Group, observation: Observation) -> None:
        for question in group.questions:
            self._resolve(question, observation)
