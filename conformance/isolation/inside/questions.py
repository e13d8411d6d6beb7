"""Answering questions, in a process that has imported the selector."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from pytest_rocm_attn.conformance.adapters import Fills
from pytest_rocm_attn.conformance.isolation import wire
from pytest_rocm_attn.conformance.isolation.inside import naming
from pytest_rocm_attn.conformance.isolation.inside.cells import answer_cells
from pytest_rocm_attn.conformance.isolation.inside.environment import set_environment
from pytest_rocm_attn.conformance.isolation.inside.outcomes import (
    ask_and_keep,
    failed_import,
    refresh,
)
from pytest_rocm_attn.conformance.isolation.inside.trace import steps_of
from pytest_rocm_attn.conformance.isolation.question import Observation
from pytest_rocm_attn.outcome import Crashed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_rocm_attn.conformance.adapters import Adapter
    from pytest_rocm_attn.conformance.isolation.inside.channel import Channel
    from pytest_rocm_attn.conformance.isolation.question import Question


def serve_questions(
    channel: Channel,
    adapter: Adapter,
    first: wire.ToAnswer | None,
    base: Mapping[str, str],
) -> None:
    """Answer messages until one says that no more will come; the first has been read already."""
    message = first
    while message is not None:
        match message:
            case wire.Recall(asked):
                channel.send(_remembered(asked))
            case wire.AskCells():
                answer_cells(channel, adapter, message, base)
            case wire.AskQuestions():
                _answer(channel, adapter, message, base)
        more = isinstance(message, wire.AskQuestions | wire.Recall) and message.more
        message = channel.receive(wire.ToAnswer) if more else None


def _answer(
    channel: Channel, adapter: Adapter, asked: wire.AskQuestions, base: Mapping[str, str]
) -> None:
    """For each environment: set it, ask each question, send each observation.

    There is more than one only for a selector whose refreshing was checked, for a pure function,
    whose questions carry their environment along as an argument, and where what a selector
    remembers from one environment to the next is the question.
    """
    for group in asked.groups:
        for name in group.environ:
            os.environ.pop(name, None)  # so that they stand in the order of the group
        set_environment({**base, **group.environ})
        failure = refresh(adapter)[1] if asked.refresh else None
        for question in group.questions:
            channel.send(Observation(failure) if failure else _observe(adapter, question))
    channel.send(wire.Done())


def _observe(adapter: Adapter, question: Question) -> Observation:
    before = dict(os.environ)
    process = os.getpid()
    start = time.perf_counter()
    came: object = None
    if question.kind == "select":
        environ = dict(question.environ)
        outcome, came = ask_and_keep(adapter, question.request, environ, question.gpu)
    elif question.kind == "named":
        outcome, came = naming.answer(adapter, question)
    else:
        from pytest_rocm_attn.conformance.isolation.inside import capabilities

        outcome = capabilities.answer(adapter, question)
    seconds = time.perf_counter() - start
    if os.getpid() != process:
        os._exit(0)  # the selector forked, and this is its child: the parent answers
    names = before.keys() | os.environ.keys()
    written = tuple(sorted(n for n in names if before.get(n) != os.environ.get(n)))
    if written:
        set_environment(before)
    # A crash has no trace, and an answer has no import behind it that failed.
    crashed = isinstance(outcome, Crashed)
    trace = () if crashed else steps_of(came)
    failed = failed_import(came) if crashed else None
    return Observation(outcome, seconds, written, trace, failed, _dropped(adapter, question))


def _dropped(adapter: Adapter, question: Question) -> tuple[str, ...]:
    """Return the fields of a selection's request that the adapter cannot ask the fork about."""
    if question.kind not in ("select", "named") or not isinstance(adapter, Fills):
        return ()
    try:
        return adapter.not_asked(question.request)
    except Exception:  # noqa: BLE001  foreign code: what it raises is the outcome of the selection
        return ()


def _remembered(asked: Mapping[str, object]) -> wire.Remembered:
    from pytest_rocm_attn.conformance.isolation.inside import memory

    try:
        return wire.Remembered(memory.handle(asked))
    except BaseException as error:  # noqa: BLE001  foreign code: an attribute, a cache's own method
        return wire.Remembered(failed=type(error).__name__)
