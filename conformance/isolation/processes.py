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

from pytest_rocm_attn.conformance.isolation.patience import Patience, pause
from pytest_rocm_attn.errors import RocmAttnError
from pytest_rocm_attn.outcome import Died, TimedOut

_REPLY_LIMIT = 60.0  # seconds for a process of ours to fork or to reap; it does nothing else
_END_LIMIT = 10.0  # seconds for a process that has closed its streams to end by itself


class WorkerError(RocmAttnError, RuntimeError):
    """Our own side of isolation failed; no statement about the selector under test."""


class UnreadableError(WorkerError):
    """A process sent what is not a message, which the selector in it must have done."""


class Conversation:
    """Messages with one process. A thread reads, so that waiting can have a limit anywhere.

    Args:
        pid: of the process.
        read: what it writes.
        write: what it reads.
        connection: what both are streams of, if they are of one.

    Attributes:
        ended: the conversation is over.
    """

    def __init__(
        self,
        pid: int,
        read: IO[bytes],
        write: IO[bytes],
        connection: socket.socket | None = None,
    ) -> None:
        self.pid = pid
        self._read = read
        self._write = write
        self._connection = connection
        self.ended = False
        self._lines: queue.SimpleQueue[bytes | BaseException] = queue.SimpleQueue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    @classmethod
    def over(cls, pid: int, connection: socket.socket) -> Conversation:
        return Conversation(pid, connection.makefile("rb"), connection.makefile("wb"), connection)

    def _listen(self) -> None:
        try:
            for line in self._read:
                self._lines.put(line)
        except OSError:
            pass  # a process that was killed resets the connection: the same as its end
        except BaseException as error:  # noqa: BLE001  whoever waits for a line gets it
            self._lines.put(error)
        self._lines.put(b"")

    def close(self) -> None:
        """Let go of the streams. The process at the other end must be ending, or be on a socket."""
        self.ended = True
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

    def receive(self, limit: float) -> dict[str, Any] | None:
        """Return the next message, or None when the process is gone.

        Args:
            limit: seconds that the process may take for it, as Patience counts them.

        Raises:
            queue.Empty: nothing came within that time.
            WorkerError: what came could not be read.
        """
        with contextlib.suppress(queue.Empty):
            return self.next_message(pause(limit))  # most answers come before a look is worth it
        patience = Patience(self.pid, limit)
        while True:
            with contextlib.suppress(queue.Empty):
                return self.next_message(pause(limit))
            if patience.is_over():
                raise queue.Empty

    def next_message(self, seconds: float) -> dict[str, Any] | None:
        """Return the next message as receive() does; wait for so many seconds on the clock."""
        line = self._lines.get(timeout=seconds)
        if isinstance(line, BaseException):
            raise WorkerError(
                f"what a worker process wrote could not be read: {type(line).__name__}"
            ) from line
        if not line.endswith(b"\n"):
            self._lines.put(b"")  # for whoever asks again
            return None
        try:
            message = json.loads(line)
        except ValueError:
            message = None
        if not isinstance(message, dict):
            raise UnreadableError(
                f"its process sent what is not a message: {line[:80]!r}; does the selector write to"
                " open files that are not its own?"
            )
        if "ours" in message:
            raise WorkerError(
                f"a bug in pytest-rocm-attn; please report it ({message['ours']}, in a worker process)"
            )
        return message


class WorkerProcess(Conversation, abc.ABC):
    """A process that can be talked to, and ended."""

    @abc.abstractmethod
    def end(self, *, kill: bool) -> Died | TimedOut | None:
        """Wait for its end; return how it ended, or None when it ended as it should.

        Args:
            kill: end it; else it is killed only if it does not end by itself for some time, which
                is what is then returned.
        """


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
        with self._lock:
            self._send(message, descriptor)
            return self._reply()

    def reap(self, pid: int) -> Died | TimedOut | None:
        """Wait for the end of a child; kill it if it does not end. Return as WorkerProcess.end does.

        Raises:
            WorkerError: the process that forked it has ended, or does not reply.
        """
        with self._lock:
            self._send({"reap": pid})
            try:
                reply = self._reply(_END_LIMIT)
            except queue.Empty:
                _kill(pid)
                self._reply()
                return TimedOut(_END_LIMIT)
        if "signal" in reply:
            return Died(reply["signal"])
        return Died(None, reply["status"]) if reply["status"] else None

    def _send(self, message: dict[str, Any], descriptor: int | None = None) -> None:
        data = json.dumps(message).encode()
        with contextlib.suppress(OSError):  # its end shows in the missing reply
            if descriptor is None:
                self._connection.sendall(data)
            else:
                socket.send_fds(self._connection, [data], [descriptor])

    def _reply(self, limit: float = 0.0) -> dict[str, Any]:
        """Return the reply. queue.Empty if there is none within a limit that is given."""
        reply = None
        try:
            reply = self._conversation.receive(limit or _REPLY_LIMIT)
        except queue.Empty:
            if limit:
                raise
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
        super().__init__(pid, connection.makefile("rb"), connection.makefile("wb"), connection)
        self.connection = connection
        self._parent = parent

    def end(self, *, kill: bool) -> Died | TimedOut | None:
        if kill:
            _kill(self.pid)
        try:
            return self._parent.reap(self.pid)
        finally:
            self.close()


class SpawnedProcess(WorkerProcess):
    """A process that was not forked by one of ours."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        assert popen.stdin is not None
        assert popen.stdout is not None
        super().__init__(popen.pid, popen.stdout, popen.stdin)
        self._popen = popen

    def end(self, *, kill: bool) -> Died | TimedOut | None:
        if kill:
            kill_all(self._popen)
        with contextlib.suppress(OSError):
            self._write.close()  # the end of its questions
        patience = Patience(self.pid, _END_LIMIT)
        while (code := _ended(self._popen, pause(_END_LIMIT))) is None and not patience.is_over():
            pass
        kill_all(self._popen)  # it, or what it forked, which may go on
        self._popen.wait()
        self.close()
        if code is None:
            return TimedOut(_END_LIMIT)
        if code < 0:
            return Died(-code)
        return Died(None, code) if code else None


def _ended(popen: subprocess.Popen[bytes], seconds: float) -> int | None:
    """Wait for the end of a process; return its exit code, or None if it did not come."""
    try:
        return popen.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def kill_all(popen: subprocess.Popen[bytes]) -> None:
    """Kill a process that leads a session of its own, with all that it forked."""
    if not hasattr(os, "killpg"):
        popen.kill()
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: only zombies are left
        os.killpg(popen.pid, signal.SIGKILL)
