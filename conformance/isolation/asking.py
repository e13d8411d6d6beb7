"""Putting questions to a process, and taking its answers until it is done or gone."""

from __future__ import annotations

import contextlib
import queue
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.isolation.processes import UnreadableError, WorkerError
from pytest_rocm_attn.conformance.isolation.question import (
    FailedImport,
    Group,
    Observation,
    Question,
)
from pytest_rocm_attn.outcome import Crashed, Died, Outcome, TimedOut, from_wire

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pytest_rocm_attn.conformance.isolation.platforms import Platform, Platforms
    from pytest_rocm_attn.conformance.isolation.processes import WorkerProcess

    Resolve = Callable[[Question, Observation], None]


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
        platforms: opens the platform again where its process is gone.
        platform: where they are asked.
        groups: each under its own environment.
        resolve: is given each question with what came of it.
        refresh: have the adapter bring the selector up to each environment.
    """
    remaining = [(group, question) for group in groups for question in group.questions]
    while remaining:
        if platform.process.ended:
            platforms.reopen(platform)
        process = platforms.answering_process(platform)
        process.send(unset=list(platform.environ), refresh=refresh, groups=as_messages(remaining))
        questions = [question for _, question in remaining]
        answered, failure = listen(
            process, questions, resolve, platforms.subject.timeout, keep=not platform.forks
        )
        if failure is None:
            platform.answered = not platform.forks
            return
        if platform.answered and not answered and isinstance(failure, Died):
            # It ended after its last answer, which is not the fault of the next question.
            platform.answered = False
            continue
        platform.answered = False
        resolve(questions[answered], Observation(failure))
        remaining = remaining[answered + 1 :]


def listen(
    process: WorkerProcess,
    questions: Sequence[Question],
    resolve: Resolve,
    timeout: float,
    *,
    keep: bool,
) -> tuple[int, Outcome | None]:
    """Take answers until done; return how many came and what ended the process early, if anything.

    Args:
        process: which was asked.
        questions: in the order in which they are answered.
        resolve: is given each with its answer.
        timeout: seconds that one answer may take.
        keep: leave the process waiting for more when it is done.
    """
    answered = 0
    try:
        while True:
            message = process.receive(timeout)
            if message is None:
                died = process.end(kill=False) or Died(None, 0)
                return answered, None if answered == len(questions) else died
            if "done" in message and answered == len(questions):
                if not keep:
                    process.end(kill=False)
                return answered, None
            observation = _observation(message)
            resolve(questions[answered], observation)
            answered += 1
    except queue.Empty:
        process.end(kill=True)
        return answered, TimedOut(timeout)
    except UnreadableError as error:
        process.end(kill=True)
        return answered, Crashed(type(error).__name__, f"{type(error).__name__}: {error}")
    except BaseException:
        with contextlib.suppress(WorkerError):
            process.end(kill=True)
        raise


def _observation(message: Mapping[str, Any]) -> Observation:
    """Return the observation that a message carries.

    Raises:
        UnreadableError: it carries none, so that the selector must have sent it.
    """
    try:
        return Observation(
            from_wire(message["outcome"]),
            message["seconds"],
            tuple(message["written"]),
            tuple(map(tuple, message["trace"])),
            FailedImport(*failed) if (failed := message.get("failed_import")) else None,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UnreadableError(f"its process sent what is not an answer: {message!r:.80}") from error


def as_messages(remaining: Sequence[tuple[Group, Question]]) -> list[dict[str, Any]]:
    """Return questions as plain data, those of one environment together."""
    messages: list[dict[str, Any]] = []
    last: Group | None = None
    for number, (group, question) in enumerate(remaining):
        if group is not last:
            messages.append({"environ": group.environ, "questions": []})
            last = group
        messages[-1]["questions"].append(
            (
                number,
                question.gpu.gfx,
                question.gpu.aiter.value,
                question.gpu.amdsmi.value,
                dict(question.environ),
                question.request.non_default(),
                question.kind,
                question.detail,
            )
        )
    return messages
