"""Answering questions, in a process that has imported the selector."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.isolation.inside.cells import answer_cells
from pytest_rocm_attn.conformance.isolation.inside.environment import set_environment
from pytest_rocm_attn.conformance.isolation.inside.outcomes import (
    ask_and_keep,
    failed_import,
    refresh,
)
from pytest_rocm_attn.conformance.isolation.inside.trace import steps_of
from pytest_rocm_attn.gpu import Aiter, Amdsmi, Gpu
from pytest_rocm_attn.outcome import Crashed, to_wire
from pytest_rocm_attn.request import Request

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_rocm_attn.conformance.adapters import Adapter
    from pytest_rocm_attn.conformance.isolation.inside.channel import Channel


def answer_questions(
    channel: Channel,
    adapter: Adapter,
    message: Mapping[str, Any],
    base: Mapping[str, str],
) -> None:
    """For each environment of the message: set it, ask each question, send each outcome.

    There is more than one only for a selector whose refreshing was checked, for a pure function,
    whose questions carry their environment along as an argument, and where what a selector
    remembers from one environment to the next is the question.

    Args:
        channel: where the answers go.
        adapter: the selector.
        message: environments with their questions, and whether to refresh before each.
        base: the environment without any variable that a question sets.
    """
    for group in message["groups"]:
        for name in group["environ"]:
            os.environ.pop(name, None)  # set anew, so that they stand in the order of the group
        set_environment(base | group["environ"])
        failure = refresh(adapter)[1] if message["refresh"] else None
        if failure is None:
            _answer_under_one_environment(channel, adapter, group["questions"])
            continue
        for number, *_ in group["questions"]:
            channel.send(answer=number, outcome=to_wire(failure), seconds=0.0, written=[], trace=[])
    channel.send(done=True)


def serve_questions(
    channel: Channel,
    adapter: Adapter,
    first: Mapping[str, Any] | None,
    base: Mapping[str, str],
) -> None:
    """Answer messages, the first of them at hand, until one says that no more will come."""
    message = first
    while message is not None:
        if "memory" in message:
            channel.send(**_memory(message["memory"]))
        elif "cells" in message:
            answer_cells(channel, adapter, message, base)
        else:
            answer_questions(channel, adapter, message, base)
        message = channel.receive() if message.get("more") else None


def _memory(message: Mapping[str, Any]) -> dict[str, Any]:
    from pytest_rocm_attn.conformance.isolation.inside import memory

    try:
        return {"remembered": memory.handle(message)}
    except BaseException as error:  # noqa: BLE001  foreign code: an attribute, a cache's own method
        return {"failed": type(error).__name__}


def _answer_under_one_environment(
    channel: Channel, adapter: Adapter, questions: Sequence[Any]
) -> None:
    before = dict(os.environ)
    process = os.getpid()
    for number, gfx, aiter, amdsmi, environ, fields, kind, detail in questions:
        gpu, request = Gpu(gfx, Aiter(aiter), Amdsmi(amdsmi)), Request(**fields)
        start = time.perf_counter()
        told: object = None
        if kind == "select":
            outcome, told = ask_and_keep(adapter, request, environ, gpu)
        else:
            from pytest_rocm_attn.conformance.isolation.inside import capabilities as asking

            outcome = asking.ANSWERS[kind](adapter, request, environ, gpu, detail)
        seconds = time.perf_counter() - start
        # A crash has no trace, and an answer has no import behind it that failed.
        trace = () if isinstance(outcome, Crashed) else steps_of(told)
        failed = failed_import(told) if isinstance(outcome, Crashed) else None
        if os.getpid() != process:
            os._exit(0)  # the selector forked, and this is its child: the parent answers
        written = sorted(
            name
            for name in before.keys() | os.environ.keys()
            if before.get(name) != os.environ.get(name)
        )
        if written:
            set_environment(before)
        channel.send(
            answer=number,
            outcome=to_wire(outcome),
            seconds=seconds,
            written=written,
            trace=trace,
            failed_import=failed,
        )
