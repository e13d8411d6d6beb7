"""The process that a selector under test runs in, and the processes it forks.

Forks of vLLM read the environment when they are imported, cache what they selected and keep
class-level flags, so a question is put to a process whose state is clean:

    base         imports what is heavy and neutral (torch), then forks
    platform     per GPU and aiter state: enters the mock, imports the selector, then forks
    questions    per environment: sets it, asks, answers, ends

A selector that is a pure function of its arguments (the reference) reads neither platform nor
environment: it needs no mock, and one process answers all.

Where fork is not to be had, one process does all three for one environment. The side that drives
all this is workers.py; both talk in JSON lines (Channel).

A platform process tells which environment variables its imports read, with the values they saw. It
serves another environment as it is when those variables hold the same there, since the imports
would then have run the same. Else the adapter must be able to refresh, or a new process is made.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import socket
import sys
import time
import traceback
from contextlib import contextmanager
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance import adapters
from pytest_rocm_attn.conformance.grid.cells import answer_cells
from pytest_rocm_attn.conformance.refusal import is_refusal
from pytest_rocm_attn.conformance.trace import steps_of
from pytest_rocm_attn.errors import SelectorError
from pytest_rocm_attn.flags import VARIABLES
from pytest_rocm_attn.gpu import Aiter, Gpu
from pytest_rocm_attn.outcome import Crashed, Outcome, Rejected, to_wire
from pytest_rocm_attn.request import Request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

# What a user's shell may hold that would change a row's meaning: every declared variable, and the
# lists of visible devices, which would hide the mocked GPU.
_DEVICE_LISTS = ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
_TRACEBACK_LIMIT = 20_000  # characters: enough for any real one, bounded for a hostile one


class Channel:
    """JSON lines over a pair of binary streams, which only the process that made it may use.

    A selector may fork. Its child must neither answer in its parent's place nor hold the streams
    open, since their end is what tells that the parent has died.
    """

    def __init__(self, read: Any, write: Any) -> None:
        self._read = read
        self._write = write
        self._process = os.getpid()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._close)

    def _close(self) -> None:
        for stream in (self._read, self._write):
            with contextlib.suppress(OSError, ValueError):  # the parent's, whatever their state
                stream.close()

    def _end_a_child_of_the_selectors(self) -> None:
        if os.getpid() != self._process:
            os._exit(0)

    @classmethod
    def over(cls, connection: socket.socket) -> Channel:
        channel = cls(connection.makefile("rb"), connection.makefile("wb"))
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=connection.close)
        return channel

    def send(self, **message: Any) -> None:
        self._end_a_child_of_the_selectors()
        self._write.write(json.dumps(message).encode() + b"\n")
        self._write.flush()

    def receive(self) -> dict[str, Any] | None:
        """Return the next message, or None when the other side is gone."""
        self._end_a_child_of_the_selectors()
        line = self._read.readline()
        return json.loads(line) if line else None


class EnvironmentReads:
    """Which environment variables were read through os.environ, and what each read gave."""

    def __init__(self) -> None:
        self.values: dict[str, str | None] = {}

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record while the block runs. Iterating over the environment reads all declared ones.

        Every other way to look (``in``, ``get``, ``os.getenv``) ends in these two methods.
        """
        kind = type(os.environ)
        get, iterate = kind.__getitem__, kind.__iter__

        def recorded_get(environ: Any, name: str) -> str:
            try:
                value = get(environ, name)
            except KeyError:
                self.values.setdefault(name, None)
                raise
            self.values.setdefault(name, value)
            return value

        def recorded_iterate(environ: Any) -> Iterator[str]:
            for name in VARIABLES:
                environ.get(name)
            return iterate(environ)

        kind.__getitem__ = recorded_get  # type: ignore[method-assign]
        kind.__iter__ = recorded_iterate  # type: ignore[method-assign]
        try:
            yield
        finally:
            kind.__getitem__ = get  # type: ignore[method-assign]
            kind.__iter__ = iterate  # type: ignore[method-assign]


def neutral_environment(keep: Mapping[str, str], *, mocked: bool = True) -> dict[str, str]:
    """Return an environment without any variable that a row may set.

    The lists of visible devices stay where the GPUs are real.
    """
    dropped = VARIABLES.keys() | set(_DEVICE_LISTS if mocked else ())
    return {
        name: value
        for name, value in keep.items()
        if name not in dropped and not name.startswith("VLLM_ROCM_")
    }


def set_environment(wanted: Mapping[str, str]) -> None:
    """Make os.environ equal to wanted."""
    for name in set(os.environ) - set(wanted):
        del os.environ[name]
    for name, value in wanted.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


# --- questions ------------------------------------------------------------------------------------


def ask(
    adapter: adapters.Adapter, request: Request, environ: Mapping[str, str], gpu: Gpu
) -> Outcome:
    """Put one question and return the outcome, whatever the selector does short of dying."""
    return ask_and_keep(adapter, request, environ, gpu)[0]


def ask_and_keep(
    adapter: adapters.Adapter, request: Request, environ: Mapping[str, str], gpu: Gpu
) -> tuple[Outcome, object]:
    """Return the outcome, and what was answered or raised, which may tell how it came about."""
    try:
        return adapter.select(request, environ, gpu), getattr(adapter, "answered", None)
    except BaseException as error:  # noqa: BLE001  SystemExit is an answer of its too
        outcome = outcome_of(error)
        return outcome, error if isinstance(outcome, Rejected) else None


def outcome_of(error: BaseException) -> Rejected | Crashed:
    """Return what an exception of the selector's comes to: a refusal, or a crash."""
    if is_refusal(error):
        return Rejected(type(error).__name__, str(error)[:_TRACEBACK_LIMIT])
    return crashed(error)


def crashed(error: BaseException) -> Crashed:
    """Return the outcome for an exception that is no refusal."""
    text = "".join(traceback.format_exception(error))
    return Crashed(type(error).__name__, text[-_TRACEBACK_LIMIT:])


def answer_questions(
    channel: Channel,
    adapter: adapters.Adapter,
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
        failure = _refresh(adapter)[1] if message["refresh"] else None
        if failure is None:
            _answer_under_one_environment(channel, adapter, group["questions"])
            continue
        for number, *_ in group["questions"]:
            channel.send(answer=number, outcome=to_wire(failure), seconds=0.0, written=[], trace=[])
    channel.send(done=True)


def _refresh(adapter: adapters.Adapter) -> tuple[bool, Crashed | None]:
    """Return whether the adapter refreshed its selector, and how it failed, if it raised."""
    try:
        return bool(adapter.refresh()), None
    except BaseException as error:  # noqa: BLE001  foreign code: a fork's own, or a user's adapter
        return False, crashed(error)


def serve_questions(
    channel: Channel,
    adapter: adapters.Adapter,
    first: Mapping[str, Any] | None,
    base: Mapping[str, str],
) -> None:
    """Answer messages, the first of them at hand, until one says that no more will come."""
    message = first
    while message is not None:
        if "memory" in message:
            from pytest_rocm_attn.conformance import memory

            channel.send(remembered=memory.handle(message["memory"]), done=True)
        elif "cells" in message:
            answer_cells(channel, adapter, message, base)
        else:
            answer_questions(channel, adapter, message, base)
        message = channel.receive() if message.get("more") else None


def _answer_under_one_environment(
    channel: Channel, adapter: adapters.Adapter, questions: Sequence[Any]
) -> None:
    before = dict(os.environ)
    process = os.getpid()
    for number, gfx, aiter, environ, fields, kind, detail in questions:
        gpu, request = Gpu(gfx, Aiter(aiter)), Request(**fields)
        start = time.perf_counter()
        told: object = None
        if kind == "select":
            outcome, told = ask_and_keep(adapter, request, environ, gpu)
        else:
            from pytest_rocm_attn.conformance.capabilities import asking

            outcome = asking.ANSWERS[kind](adapter, request, environ, gpu, detail)
        seconds = time.perf_counter() - start
        trace = steps_of(told)
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
        )


# --- platform -------------------------------------------------------------------------------------


def open_platform(message: Mapping[str, Any]) -> tuple[adapters.Adapter, EnvironmentReads]:
    """Enter the mocked platform, import the selector, and find its adapter."""
    gpu = Gpu(message["gfx"], Aiter(message["aiter"]))
    evidence = message["evidence"]
    neutral = neutral_environment(os.environ, mocked=evidence != "real")
    set_environment(neutral | message["environ"])
    if evidence == "mock":
        from pytest_rocm_attn.mock import mock_rocm

        mock_rocm(gpu, force=True).enter()  # whoever started this process asked for the mock
    reads = EnvironmentReads()
    with reads.recording():
        adapter = adapters.adapt(adapters.load(message["selector"]), message["selector"])
        if message["prepare"]:
            adapter.prepare(gpu)
    return adapter, reads


def platform_ready(channel: Channel, message: Mapping[str, Any]) -> adapters.Adapter | None:
    """Open the platform and say so, or say why it cannot be."""
    try:
        adapter, reads = open_platform(message)
    except SelectorError as error:
        channel.send(unusable=str(error))
    except BaseException as error:  # noqa: BLE001  its import may raise anything, SystemExit too
        outcome = crashed(error)
        channel.send(failed=outcome.traceback, error=outcome.error, message=str(error)[:500])
    else:
        channel.send(
            ready=os.getpid(),
            reads=reads.values,
            refreshes=_refresh(adapter)[0],
            neutral=neutral_modules(message["selector"]),
        )
        return adapter
    return None


def neutral_modules(selector: str) -> list[str]:
    """Return imported modules that every platform would import alike, in the order of import.

    A package is neutral when it has nothing of torch, Triton, the selector's own package or a
    mocked one in any of its modules, so that no part of it can have looked at the platform.
    """
    own = selector.partition(":")[0].partition(".")[0]
    partial = {own, *_PLATFORM_PACKAGES}
    packages: dict[str, list[str]] = {}
    for name, module in list(sys.modules.items()):
        top = name.partition(".")[0]
        packages.setdefault(top, []).append(name)
        values = list(getattr(module, "__dict__", {}).values())
        # The standard library is neutral, also where somebody has patched a function into it.
        if top not in sys.stdlib_module_names and any(_home(value) in partial for value in values):
            partial.add(top)
    return [name for top, names in packages.items() if top not in partial for name in names]


_PLATFORM_PACKAGES = {"torch", "triton", "amdsmi", "aiter", "flash_attn", "functorch", "__main__"}


def _home(value: object) -> str:
    """Return the top-level package that a module, class or function comes from, else ""."""
    if isinstance(value, ModuleType):
        name = value.__dict__.get("__name__", "")
    elif isinstance(value, type | FunctionType):
        name = value.__module__
    else:
        return ""  # anything else may do anything when it is looked at
    return name.partition(".")[0] if isinstance(name, str) else ""


# --- processes ------------------------------------------------------------------------------------


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
    adapter = platform_ready(channel, message)
    if adapter is not None:
        gc.freeze()  # keeps pages shared with the children
        serve_forks(connection, lambda child: _questions_process(child, adapter))


def _questions_process(connection: socket.socket, adapter: adapters.Adapter) -> None:
    channel = Channel.over(connection)
    first = channel.receive()
    unset = first["unset"] if first else ()
    base = {name: text for name, text in os.environ.items() if name not in unset}
    serve_questions(channel, adapter, first, base)


def _quiet_standard_input() -> None:
    """Give the selector an empty standard input."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)


def main(arguments: list[str]) -> int:
    """Run as ``python -m pytest_rocm_attn.conformance.worker fork DESCRIPTOR``, or ``... pipe``."""
    if arguments[0] == "fork":
        connection = socket.socket(fileno=int(arguments[1]))
        channel = Channel.over(connection)
        _quiet_standard_input()
        if (hello := channel.receive()) is not None:
            preload(hello["preload"])
            channel.send(base=os.getpid())
            serve_forks(connection, _platform_process)
        return 0
    channel = Channel(os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb"))
    _quiet_standard_input()
    os.dup2(2, 1)  # what the selector prints goes where its errors go, never into the channel
    hello = channel.receive()
    message = channel.receive() if hello else None
    if hello is None or message is None:
        return 0
    preload(hello["preload"])
    adapter = platform_ready(channel, message)
    base = {name: text for name, text in os.environ.items() if name not in message["environ"]}
    while adapter is not None and (message := channel.receive()) is not None:
        serve_questions(channel, adapter, message, base)
    return 0


def preload(names: Sequence[str]) -> None:
    """Import what every platform would import again, as far as it is there."""
    for name in names:
        # A module that cannot be imported here is imported, or fails, where it is needed.
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    gc.freeze()  # keeps pages shared with the children


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
