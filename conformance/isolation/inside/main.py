"""The processes: one that forks on request, or one that does everything over its own pipes."""

from __future__ import annotations

import gc
import json
import os
import socket
import traceback
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.isolation.inside.channel import Channel
from pytest_rocm_attn.conformance.isolation.inside.neutral import preload
from pytest_rocm_attn.conformance.isolation.inside.platform import platform_ready
from pytest_rocm_attn.conformance.isolation.inside.questions import serve_questions

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_rocm_attn.conformance.adapters import Adapter


def serve_forks(connection: socket.socket, handle: Callable[[socket.socket], None]) -> None:
    """Fork on request, each child talking over the descriptor that came with the request.

    Requests are "fork" with a descriptor, "reap" for the end of a child, and "preload" for modules
    that its children would all import. Ends when the other side is gone.
    """
    while True:
        try:
            data, descriptors, _, _ = socket.recv_fds(connection, 1 << 20, 1)
        except ConnectionError:
            return
        if not data:
            return
        request = json.loads(data)
        if "preload" in request:
            preload(request["preload"])
            reply: dict[str, Any] = {}
        elif "reap" in request:
            _, status = os.waitpid(request["reap"], 0)
            code = os.waitstatus_to_exitcode(status)
            reply = {"signal": -code} if code < 0 else {"status": code}
        else:
            child = os.fork()
            if child == 0:
                connection.close()
                _run_child(descriptors[0], handle)
            os.close(descriptors[0])
            reply = {"pid": child}
        connection.sendall(json.dumps(reply).encode() + b"\n")


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
    message = channel.receive()
    if message is None:
        return
    with channel.reporting():
        adapter = platform_ready(channel, message)
    if adapter is not None:
        gc.freeze()  # keeps pages shared with the children
        serve_forks(connection, lambda child: _questions_process(child, adapter))


def _questions_process(connection: socket.socket, adapter: Adapter) -> None:
    channel = Channel.over(connection)
    first = channel.receive()
    unset = first["unset"] if first else ()
    base = {name: text for name, text in os.environ.items() if name not in unset}
    with channel.reporting():
        serve_questions(channel, adapter, first, base)


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
        if (hello := channel.receive()) is not None:
            preload(hello["preload"])
            channel.send(ready=True)
            serve_forks(connection, _platform_process)
        return 0
    channel = Channel(os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb"))
    _quiet_standard_input()
    os.dup2(2, 1)  # what the selector prints goes where its errors go, never into the channel
    if (message := channel.receive()) is None:
        return 0
    with channel.reporting():
        adapter = platform_ready(channel, message)
    base = {name: text for name, text in os.environ.items() if name not in message["environ"]}
    while adapter is not None and (message := channel.receive()) is not None:
        with channel.reporting():
            serve_questions(channel, adapter, message, base)
    return 0
