"""Worker processes, as the driving side sees them: how they start, talk and end.

The package worker is the other side of each conversation.
"""

from __future__ import annotations

import abc
import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import threading
from typing import IO, Any

from pytest_rocm_attn.errors import RocmAttnError
from pytest_rocm_attn.outcome import Died

_REPLY_LIMIT = 60.0  # seconds for a process of ours to fork or to reap; it does nothing else


class WorkerError(RocmAttnError, RuntimeError):
    """Our own side of isolation failed; no statement about the selector under test."""


class Conversation:
    """Messages with one process. A thread reads, so that waiting can have a limit anywhere."""

    def __init__(
        self, read: IO[bytes], write: IO[bytes], connection: socket.socket | None = None
    ) -> None:
        self._read = read
        self._write = write
        self._connection = connection
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    @classmethod
    def over(cls, connection: socket.socket) -> Conversation:
        return Conversation(connection.makefile("rb"), connection.makefile("wb"), connection)

    def _listen(self) -> None:
        # A process that was killed resets the connection: the same as its end.
        with contextlib.suppress(OSError):
            for line in self._read:
                self._lines.put(line)
        self._lines.put(b"")

    def close(self) -> None:
        """Let go of the streams. The process at the other end must be ending, or be on a socket."""
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)
        self._listener.join()
        for stream in (self._write, self._read, self._connection):
            if stream is not None:
                with contextlib.suppress(OSError):  # what it never read is nobody's loss
                    stream.close()

    def send(self, **message: Any) -> None:
        # A process that has died shows itself to the reader, with the reason.
        with contextlib.suppress(OSError, ValueError):
            self._write.write(json.dumps(message).encode() + b"\n")
            self._write.flush()

    def receive(self, seconds: float) -> dict[str, Any] | None:
        """Return the next message, or None when the process is gone.

        Raises:
            queue.Empty: nothing came within that time.
        """
        line = self._lines.get(timeout=seconds)
        return json.loads(line) if line.endswith(b"\n") else None


class WorkerProcess(Conversation, abc.ABC):
    """A process that can be talked to, and ended."""

    @abc.abstractmethod
    def end(self, *, kill: bool) -> Died | None:
        """Wait for its end; return how it ended, or None when it ended as it should."""


class ForkServer:
    """The part of a process that forks on request; see worker.main.serve_forks."""

    def __init__(self, connection: socket.socket, conversation: Conversation) -> None:
        self._connection = connection
        self._conversation = conversation
        self._lock = threading.Lock()

    def request(self, descriptor: int | None = None, **message: Any) -> dict[str, Any]:
        """Send a request, with a descriptor where it needs one, and return the reply.

        Raises:
            WorkerError: the process has ended, or does not reply.
        """
        data = json.dumps(message).encode()
        with self._lock:
            try:
                if descriptor is None:
                    self._connection.sendall(data)
                else:
                    socket.send_fds(self._connection, [data], [descriptor])
                reply = self._conversation.receive(_REPLY_LIMIT)
            except (OSError, queue.Empty):
                reply = None
        if reply is None:
            raise WorkerError("a worker process of pytest-rocm-attn ended before its children did")
        return reply

    def fork(self) -> ForkedProcess:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                reply = self.request(theirs.fileno(), fork=True)
            except WorkerError:
                ours.close()
                raise
        return ForkedProcess(ours, reply["pid"], self)


class ForkedProcess(WorkerProcess):
    """A process at the other end of a socket, forked by another one."""

    def __init__(self, connection: socket.socket, pid: int, parent: ForkServer) -> None:
        super().__init__(connection.makefile("rb"), connection.makefile("wb"), connection)
        self.connection = connection
        self._pid = pid
        self._parent = parent

    def end(self, *, kill: bool) -> Died | None:
        if kill:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
        try:
            reply = self._parent.request(reap=self._pid)
        finally:
            self.close()
        if "signal" in reply:
            return Died(reply["signal"])
        return Died(None, reply["status"]) if reply["status"] else None


class SpawnedProcess(WorkerProcess):
    """A process of its own for one platform and environment, where fork is not to be had."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        assert popen.stdin is not None
        assert popen.stdout is not None
        super().__init__(popen.stdout, popen.stdin)
        self._popen = popen

    def end(self, *, kill: bool) -> Died | None:
        if kill:
            kill_all(self._popen)
        with contextlib.suppress(OSError):
            self._write.close()  # the end of its questions
        code = self._popen.wait()
        kill_all(self._popen)  # what it forked, which may go on
        self.close()
        if code < 0:
            return Died(-code)
        return Died(None, code) if code else None


def kill_all(popen: subprocess.Popen[bytes]) -> None:
    """Kill a process that leads a session of its own, with all that it forked."""
    if not hasattr(os, "killpg"):
        popen.kill()
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: only zombies are left
        os.killpg(popen.pid, signal.SIGKILL)
