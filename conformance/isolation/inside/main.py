"""The processes: one that forks on request, or one that does everything over its own pipes."""

from __future__ import annotations

import gc
import os
import socket
import traceback
from typing import TYPE_CHECKING

from pytest_rocm_attn.conformance.isolation import wire
from pytest_rocm_attn.conformance.isolation.inside.channel import Channel
from pytest_rocm_attn.conformance.isolation.inside.neutral import preload
from pytest_rocm_attn.conformance.isolation.inside.platform import platform_ready
from pytest_rocm_attn.conformance.isolation.inside.questions import serve_questions
from pytest_rocm_attn.outcome import ended_with

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_rocm_attn.conformance.adapters import Adapter


def serve_forks(connection: socket.socket, handle: Callable[[socket.socket], None]) -> None:
    """Fork on request, each child talking over the descriptor that came with the request.

    Ends when the other side is gone.
    """
    while True:
        try:
            data, descriptors, _, _ = socket.recv_fds(connection, 1 << 20, 1)
        except ConnectionError:
            return
        if not data:
            return
        reply: wire.Message
        match wire.decode(data, wire.ToFork):
            case wire.Preload(names):
                preload(names)
                reply = wire.Done()
            case wire.Reap(pid):
                _, status = os.waitpid(pid, 0)
                reply = wire.Reaped(ended_with(os.waitstatus_to_exitcode(status)))
            case wire.ForkChild():
                child = os.fork()
                if child == 0:
                    connection.close()
                    _run_child(descriptors[0], handle)
                os.close(descriptors[0])
                reply = wire.Forked(child)
        connection.sendall(wire.encode(reply))


def _run_child(descriptor: int, handle: Callable[[socket.socket], None]) -> None:
    status = 70  # EX_SOFTWARE: our own code failed
    try:
        handle(socket.socket(fileno=descriptor))
        status = 0
    except ConnectionError:
        status = 0  # the driving side has gone: nobody to tell
    except BaseException:  # noqa: BLE001  a child must never return into the parent's code
        traceback.print_exc()
    finally:
        os._exit(status)  # never run the parent's exit handlers in a child


def _platform_process(connection: socket.socket) -> None:
    channel = Channel.over(connection)
    wanted = channel.receive(wire.Open)
    if wanted is None:
        return
    with channel.reporting():
        adapter = platform_ready(channel, wanted)
    if adapter is not None:
        gc.freeze()  # keeps pages shared with the children
        serve_forks(connection, lambda child: _questions_process(child, adapter, wanted))


def _questions_process(connection: socket.socket, adapter: Adapter, opened: wire.Open) -> None:
    channel = Channel.over(connection)
    base = _base(opened)
    first = channel.receive(wire.ToAnswer)
    with channel.reporting():
        serve_questions(channel, adapter, first, base)


def _base(opened: wire.Open) -> dict[str, str]:
    """Return the environment without any variable that a question sets."""
    return {name: text for name, text in os.environ.items() if name not in opened.environ}


def _quiet_standard_input() -> None:
    """Give the selector an empty standard input."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)


def main(arguments: list[str]) -> int:
    """Run a worker, as ``fork DESCRIPTOR`` or as ``pipe``; return its exit status."""
    if arguments[0] == "fork":
        connection = socket.socket(fileno=int(arguments[1]))
        channel = Channel.over(connection)
        _quiet_standard_input()
        if (hello := channel.receive(wire.Preload)) is not None:
            preload(hello.names)
            channel.send(wire.Done())
            serve_forks(connection, _platform_process)
        return 0
    channel = Channel(os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb"))
    _quiet_standard_input()
    os.dup2(2, 1)  # what the selector prints goes where its errors go, never into the channel
    if (wanted := channel.receive(wire.Open)) is None:
        return 0
    with channel.reporting():
        adapter = platform_ready(channel, wanted)
    base = _base(wanted)
    while adapter is not None and (message := channel.receive(wire.ToAnswer)) is not None:
        with channel.reporting():
            serve_questions(channel, adapter, message, base)
    return 0
