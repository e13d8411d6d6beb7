"""One process that is kept, asked again and again, and looked into."""

from __future__ import annotations

import contextlib
import queue
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.isolation.asking import as_messages, listen
from pytest_rocm_attn.conformance.isolation.processes import WorkerError
from pytest_rocm_attn.conformance.isolation.question import Group, Observation, Question

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_rocm_attn.conformance.isolation.platforms import Platform
    from pytest_rocm_attn.conformance.isolation.processes import WorkerProcess


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
        self,
        platform: Platform,
        process: WorkerProcess,
        timeout: float,
        open_ones: list[Interview],
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
        observations: list[Observation] = []
        start = 0
        if self._fresh and not refresh:
            self._exchange(questions[:1], self._platform.refreshes, observations)
            start = 1
        if not self.over and questions[start:]:
            self._exchange(questions[start:], refresh and self._platform.refreshes, observations)
        return observations

    def _exchange(
        self, questions: Sequence[Question], refresh: bool, observations: list[Observation]
    ) -> None:
        self._fresh = False
        groups: list[tuple[Group, Question]] = []
        for question in questions:
            same = groups and groups[-1][1].environ == question.environ
            group = groups[-1][0] if same else Group(dict(question.environ))
            groups.append((group, question))
        self._send(refresh=refresh, groups=as_messages(groups))
        _, failure = listen(
            self._process,
            questions,
            lambda _, observation: observations.append(observation),
            self._timeout,
            keep=True,
        )
        if failure is not None:
            observations.append(Observation(failure))
            self._ended()

    def _send(self, **message: Any) -> None:
        self._process.send(unset=list(self._platform.environ), more=True, **message)

    def memory(self, **message: Any) -> Any:
        """Look into, or change, what the selector's process remembers: memory.handle()'s answer.

        Raises:
            WorkerError: it does not answer, and the interview is over.
        """
        self._send(memory=message)
        try:
            answer = self._process.receive(self._timeout)
            problem = "" if answer else "ended"
        except queue.Empty:
            answer, problem = None, f"did not answer within {self._timeout:g} s"
        if answer is not None and "remembered" in answer:
            return answer["remembered"]
        if answer is not None:
            problem = f"failed ({answer.get('failed', answer)})"
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
