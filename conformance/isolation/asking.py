"""Putting questions to a process, and taking its answers until it is done or gone."""

from __future__ import annotations

import contextlib
import queue
from typing import TYPE_CHECKING, Any

import msgspec

from pytest_rocm_attn.conformance.isolation import wire
from pytest_rocm_attn.conformance.isolation.platforms import Platform
from pytest_rocm_attn.conformance.isolation.processes import UnreadableError, WorkerError
from pytest_rocm_attn.conformance.isolation.question import Group, Observation, Question
from pytest_rocm_attn.outcome import Crashed, Died, Outcome, TimedOut

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pytest_rocm_attn.conformance.isolation.platforms import Platforms
    from pytest_rocm_attn.conformance.isolation.processes import Process
    from pytest_rocm_attn.gpu import Gpu

    Resolve = Callable[[Question, Observation], None]
    Pairs = Sequence[tuple[Mapping[str, str], Question]]

_LOOK = 0.1  # seconds between two looks at whether a process is stuck


def ask(
    platforms: Platforms,
    platform: Platform,
    groups: Sequence[Group],
    resolve: Resolve,
    *,
    refresh: bool,
) -> None:
    """Ask groups of questions, in one process unless one of them breaks it.

    Args:
        platforms: opens the platform again if its process is gone.
        platform: where they are asked.
        groups: each under its own environment.
        resolve: is given each question with its answer.
        refresh: have the adapter bring the selector up to each environment.
    """
    remaining = [(group.environ, question) for group in groups for question in group.questions]
    while remaining:
        if platform.process.ended:
            platforms.reopen(platform)
        keep = not platform.process.forks
        process = platforms.answering_process(platform)
        timeout = platforms.subject.timeout
        answered, failure = _put(
            process, remaining, resolve, timeout, refresh=refresh, keep=keep, more=False
        )
        after_an_answer, platform.answered = platform.answered, keep and failure is None
        if failure is None:
            return
        if after_an_answer and not answered and isinstance(failure, Died):
            continue  # it ended after its last answer, which is not the fault of the next question
        resolve(remaining[answered][1], Observation(failure))
        remaining = remaining[answered + 1 :]


def _put(
    process: Process,
    pairs: Pairs,
    resolve: Resolve,
    timeout: float,
    *,
    refresh: bool,
    keep: bool,
    more: bool,
) -> tuple[int, Outcome | None]:
    """Put questions to a process, each under its environment.

    Returns:
        How many answers came, and what ended the process before all had come, if anything.
    """
    groups: list[Group] = []
    for environ, question in pairs:
        if not groups or [*groups[-1].environ.items()] != [*environ.items()]:  # in this order
            groups.append(Group(dict(environ)))
        groups[-1].questions.append(question)
    answered = 0

    def heard(reply: Any) -> None:
        nonlocal answered
        wanted = wire.Done if answered == len(pairs) else Observation
        if not isinstance(reply, wanted):
            raise UnreadableError(
                f"its process sent something that is not an answer: {reply!r:.80}"
            )
        if isinstance(reply, Observation):
            resolve(pairs[answered][1], reply)
            answered += 1

    failure = _converse(
        process, wire.AskQuestions(groups, refresh, more), heard, timeout, keep=keep
    )
    return answered, failure if answered < len(pairs) else None


def _converse(
    process: Process,
    message: wire.Message,
    heard: Callable[[Any], None],
    timeout: float,
    *,
    keep: bool,
    stuck: Callable[[int], bool] | None = None,
) -> Outcome | None:
    """Send a message, and hear what comes until all is done.

    Args:
        process: to send it to.
        message: what to do.
        heard: gets each reply, Done included; raises UnreadableError for one that makes no sense.
        timeout: seconds that one reply may take.
        keep: leave the process waiting for more when it is done; else it ends.
        stuck: is asked ten times a second, with the process's number, whether it is to be killed;
            None if only the timeout counts.

    Returns:
        The end of the process, if it ended before it was done; else None.
    """

    def next_reply() -> Any:
        if stuck is None:
            return process.receive(timeout)
        while True:
            with contextlib.suppress(queue.Empty):
                return process.next_message(_LOOK)
            if stuck(process.pid):
                raise queue.Empty

    process.send(message)
    try:
        while True:
            reply = next_reply()
            if reply is None:
                return process.end(kill=False) or Died(None, 0)
            heard(reply)
            if isinstance(reply, wire.Done):
                if not keep:
                    process.end(kill=False)
                return None
    except queue.Empty:
        process.end(kill=True)
        return TimedOut(timeout)
    except UnreadableError as error:
        process.end(kill=True)
        return Crashed(type(error).__name__, f"{type(error).__name__}: {error}")
    except BaseException:  # an interrupt too must leave no process behind
        with contextlib.suppress(WorkerError):
            process.end(kill=True)
        raise


class Interview:
    """One process that answers for as long as it is kept: what it remembers, it goes on remembering.

    Made by Pool.interview. A selector that takes its process down ends it; see ask().

    Args:
        platform: where its questions are.
        process: which answers them, and nobody else's.
        timeout: seconds that one answer may take.
        open_ones: holds this interview until it is over.
    """

    def __init__(
        self, platform: Platform, process: Process, timeout: float, open_ones: list[Interview]
    ) -> None:
        self._platform = platform
        self._process = process
        self._timeout = timeout
        self._open_ones = open_ones
        self._fresh = True
        self.over = False
        platform.interviews += 1
        open_ones.append(self)

    def ask(self, questions: Sequence[Question], *, refresh: bool) -> list[Observation]:
        """Ask questions in order, each under its own environment.

        Args:
            questions: on the platform of the interview.
            refresh: have the adapter bring the selector up to each environment. The very first
                question is asked so in any case, which undoes what preparing may have cached.

        Returns:
            An observation each, unless a question took the process down: then the last one says
            how, those after it were not asked, and the interview is over.
        """
        seen: list[Observation] = []
        first = 1 if self._fresh and not refresh else 0
        for some, anew in ((questions[:first], True), (questions[first:], refresh)):
            if self.over or not some:
                continue
            self._fresh = False
            _, failure = _put(
                self._process,
                [(dict(question.environ), question) for question in some],
                lambda _, observation: seen.append(observation),
                self._timeout,
                refresh=anew and self._platform.refreshes,
                keep=True,
                more=True,
            )
            if failure is not None:
                seen.append(Observation(failure))
            if self._process.ended:
                self._ended()
        return seen

    def memory(self, **asked: Any) -> Any:
        """Look into, or change, what the selector's process remembers: memory.handle()'s answer.

        Raises:
            WorkerError: it does not answer, and the interview is over.
        """
        self._process.send(wire.Recall(asked))
        try:
            answer = self._process.receive(self._timeout)
            problem = "" if answer else "ended"
        except queue.Empty:
            answer, problem = None, f"did not answer within {self._timeout:g} s"
        if isinstance(answer, wire.Remembered) and not answer.failed:
            return answer.answer
        if answer is not None:
            problem = f"failed ({getattr(answer, 'failed', answer)})"
        self.close()  # an answer that comes late would be taken for the next one
        raise WorkerError(f"the selector's process {problem} while its memory was looked at")

    def close(self) -> None:
        """End the process. Safe to call again."""
        if not self.over:
            self._ended()
            with contextlib.suppress(WorkerError):  # what forked it has ended: so has it, killed
                self._process.end(kill=True)

    def _ended(self) -> None:
        self.over = True
        self._platform.interviews -= 1
        self._open_ones.remove(self)


class Bulk:
    """One platform, claimed by Pool.bulk. Has many cells asked at a time; see inside/cells.py.

    Args:
        platforms: opens the platform again if its process is gone.
        gpu: the platform.
        platform: what is kept of it, if anything.
        in_place: one process may answer for all environments, one after the other; else each needs
            one of its own.
        relied_on: refreshing is relied on, so that any import serves every environment.
    """

    def __init__(
        self,
        platforms: Platforms,
        gpu: Gpu,
        platform: Platform | None,
        *,
        in_place: bool,
        relied_on: bool,
    ) -> None:
        self._platforms = platforms
        self._gpu = gpu
        self._platform = platform
        self._relied_on = relied_on
        self.in_place = in_place

    @property
    def reads(self) -> frozenset[str]:
        """The variables that an import of the selector reads, where each needs one of its own."""
        if self._relied_on or self._platform is None:
            return frozenset()
        return frozenset(self._platform.reads)

    def ask(
        self,
        cells: wire.AskCells,
        environ: Mapping[str, str] | None,
        *,
        heard: Callable[[Any], None],
        stuck: Callable[[int], bool],
    ) -> Outcome | None:
        """Have cells asked, in a process of their own if there is fork.

        Args:
            cells: which.
            environ: the one environment that the cells are in; None if in_place.
            heard: is given each message that the process sends on the way.
            stuck: is asked ten times a second, with the process's number, whether it is to be killed.

        Returns:
            The end of the process, or the failure of the import, if it came before all was done; else None.
        """
        platform = self._platform
        if environ is not None and (platform is None or not self._relied_on):
            opened = self._platforms.fitting_or_opened(self._gpu, environ)
            if not isinstance(opened, Platform):
                return opened.outcome
            platform = opened
        assert platform is not None
        if platform.process.ended:
            self._platforms.reopen(platform)
        subject = self._platforms.subject
        return _converse(
            self._platforms.answering_process(platform),
            msgspec.structs.replace(cells, refresh=platform.refreshes and not subject.pure),
            heard,
            subject.timeout,
            keep=not platform.process.forks,
            stuck=stuck,
        )

    def release(self) -> None:
        """End the platform's processes: nothing more will be asked there."""
        self._platforms.release(self._gpu)
