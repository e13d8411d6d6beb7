"""The pool: which question goes to which process, and when."""

from __future__ import annotations

import contextlib
import os
from concurrent.futures import Future
from typing import TYPE_CHECKING

from pytest_rocm_attn.conformance.isolation.asking import ask
from pytest_rocm_attn.conformance.isolation.bulk import Bulk
from pytest_rocm_attn.conformance.isolation.interview import Interview
from pytest_rocm_attn.conformance.isolation.lanes import Lanes
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
from pytest_rocm_attn.errors import SelectorError
from pytest_rocm_attn.outcome import Crashed
from pytest_rocm_attn.request import Request

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from pytest_rocm_attn.gpu import Gpu
    from pytest_rocm_attn.outcome import Outcome

_PLAIN = Request()
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
        self._platforms = Platforms(subject, self._launcher)
        self._refreshing = Refreshing(self._platforms, self.notes)
        self._interviews: list[Interview] = []
        # The rest changes under _changed.
        self._changed = self._platforms.changed
        self._futures: dict[Question, Future[Observation]] = {}
        self._only_gpu: Gpu | None = None  # stands for all, where the selector is pure
        self._lanes: Lanes[Question] = Lanes(
            lanes or min(4, os.cpu_count() or 1),
            self._answer,
            self._fail,
            changed=self._changed,
            busy=self._platforms.busy,
            rank=lambda gpu: gpu not in self._platforms.imported,  # an imported one first
        )

    # --- asking -----------------------------------------------------------------------------------

    def submit(self, questions: Iterable[Question]) -> list[Future[Observation]]:
        """Ask each question, once however often it is submitted; answers come in the futures."""
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
        """Make sure that the selector can be asked at all, before anything else is asked.

        It can once it is imported for one of the questions and then fails, if it does, for another
        reason than an import. What else it does when it is asked, such as end its process, is the
        outcome of that question.

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
        kept = self._platforms.fitting(gpu, environ)
        opened = kept or self._platforms.open_or_fail(gpu, environ, prepare=True)
        verb = "imported"
        if isinstance(opened, Platform):
            self._platforms.keep(opened)
            observations: list[Observation] = []
            ask(
                self._platforms,
                opened,
                [Group(environ, [question])],
                lambda _, observation: observations.append(observation),
                refresh=opened.refreshes,
            )
            (seen,) = observations
            if seen.failed_import is None:
                return ""
            verb = "asked"
        else:
            seen = opened
        why = str(seen.outcome)
        if isinstance(seen.outcome, Crashed):
            why = seen.outcome.traceback.strip().rpartition("\n")[2]
        cure = ""
        if seen.failed_import is not None:
            mocked = self.subject.evidence == "mock"
            cure = seen.failed_import.cure(self._package, mocked=mocked)
        cure = f"; {cure}" if cure else ""
        return f"selector {self.subject.selector!r} cannot be {verb}: {why}{cure}"

    @property
    def _package(self) -> str:
        """The package that the selector is in; "" for a file."""
        place = self.subject.selector.rpartition(":")[0]
        return "" if place.endswith(".py") else place.partition(".")[0]

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
            The interview; or what the import came to, where the selector cannot be imported.
        """
        place, placed = self._place(Question.of(gpu, environ, _PLAIN))
        with self._platforms.claimed(place):
            opened = self._platform_to_interview(place, dict(placed))
            if not isinstance(opened, Platform):
                return opened
            process = self._platforms.answering_process(opened)
            return Interview(opened, process, self.subject.timeout, self._interviews)

    def _platform_to_interview(self, gpu: Gpu, environ: dict[str, str]) -> Platform | Outcome:
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
            What asks; or what the import came to, where it came to the same under three of the
            sample's environments.
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
                        failures.add(opened)
            if platform is None and len(failures) == 1:
                yield failures.pop()
                return
            trust = Trust.NONE
            if self.subject.pure:
                trust = Trust.IN_PLACE
            elif platform is not None and platform.refreshes:
                trust = self._refreshing.try_on(platform, groups)
            yield Bulk(self._platforms, gpu, platform, trust)

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
        groups: dict[tuple[tuple[str, str], ...], Group] = {}
        for question in questions:
            environ = self._place(question)[1]
            groups.setdefault(environ, Group(dict(environ))).questions.append(question)
        self._answer_where_it_holds(gpu, list(groups.values()))
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
        platform = self._platforms.find(gpu)
        while platform is None:
            opened = self._platforms.open_and_keep(gpu, groups[0].environ)
            if isinstance(opened, Platform):
                platform = opened
            else:
                self._resolve_all(groups[0], opened)
                groups = groups[1:]
                if not groups:
                    return
        if platform.refreshes:
            imported, others = apart(groups)
            trust = self._refreshing.try_on(platform, others) if others else Trust.UNKNOWN
            if trust is Trust.IN_PLACE:
                self._ask(platform, others, refresh=True)
            elif trust is Trust.FORKED:
                for group in others:
                    self._ask(platform, [group], refresh=True)
            if trust is not Trust.NONE:
                groups = imported
        for group in groups:
            fitting = self._platforms.fitting_or_opened(gpu, group.environ)
            if isinstance(fitting, Platform):
                # Refreshing undoes what its preparation may have cached; it relies on nothing else.
                self._ask(fitting, [group], refresh=fitting.refreshes)
            else:
                self._resolve_all(group, fitting)

    def _ask(self, platform: Platform, groups: Sequence[Group], *, refresh: bool) -> None:
        ask(self._platforms, platform, groups, self._resolve, refresh=refresh)

    def _resolve(self, question: Question, observation: Observation) -> None:
        future = self._futures[question]
        if not future.done():
            future.set_result(observation)

    def _resolve_all(self, group: Group, outcome: Outcome) -> None:
        for question in group.questions:
            self._resolve(question, Observation(outcome))
