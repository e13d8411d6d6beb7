"""Worker processes, as the driving side sees them: how they start, talk, fork and end.

inside/ is the other side of each conversation.
"""

from __future__ import annotations

import abc
import contextlib
import os
import queue
import signal
import socket
import subprocess
import threading
from typing import IO, Any

from pytest_rocm_attn.conformance.isolation import wire
from pytest_rocm_attn.conformance.isolation.patience import Patience, pause
from pytest_rocm_attn.errors import RocmAttnError
from pytest_rocm_attn.outcome import Outcome, TimedOut, ended_with

_REPLY_LIMIT = 60.0  # seconds for our own process to fork or to reap; it does nothing else
_END_LIMIT = 10.0  # seconds for a process that has closed its streams to end by itself


class WorkerError(RocmAttnError, RuntimeError):
    """Our own side of isolation failed; no statement about the selector under test."""


class UnreadableError(WorkerError):
    """A process sent what is not a message, which the selector in it must have done."""


class Process(abc.ABC):
    """A process that this package started. A thread reads what it sends, so that waiting can have a limit anywhere.

    Args:
        pid: of the process.
        read: what it writes.
        write: what it reads.
        connection: what both are streams of, if they are of one; over one it can be asked to fork.
        replies: the class, or union, of what it sends.

    Attributes:
        ended: the conversation is over.
        forks: it can be asked to fork.
    """

    def __init__(
        self,
        pid: int,
        read: IO[bytes],
        write: IO[bytes],
        connection: socket.socket | None = None,
        *,
        replies: Any = wire.Reply,
    ) -> None:
        self.pid = pid
        self.ended = False
        self.forks = connection is not None
        self._read = read
        self._write = write
        self._connection = connection
        self._replies = replies
        self._forking = threading.Lock()
        self._lines: queue.SimpleQueue[bytes | BaseException] = queue.SimpleQueue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

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

    @abc.abstractmethod
    def end(self, *, kill: bool) -> Outcome | None:
        """Wait for its end; return how it ended, or None when it ended as it should.

        Args:
            kill: end it; else it is killed only if it does not end by itself for some time, which
                is what is then returned.
        """

    # --- messages ---------------------------------------------------------------------------------

    def send(self, message: object) -> None:
        # A process that has died shows itself to the reader, with the reason.
        with contextlib.suppress(OSError, ValueError):
            self._write.write(wire.encode(message))
            self._write.flush()

    def receive(self, limit: float) -> Any:
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

    def next_message(self, seconds: float) -> Any:
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
            message = wire.decode(line, self._replies)
        except ValueError as error:
            raise UnreadableError(
                f"its process sent what is not a message: {line[:80]!r}; does the selector write to"
                " open files that are not its own?"
            ) from error
        if isinstance(message, wire.Ours):
            raise WorkerError(
                f"a bug in pytest-rocm-attn; please report it ({message.words}, in a worker process)"
            )
        return message

    # --- forking: see inside.main.serve_forks -----------------------------------------------------

    def fork(self) -> ForkedProcess:
        """Return a fork of the process.

        Raises:
            WorkerError: the process has ended, or does not reply.
        """
        ours, theirs = socket.socketpair()
        with theirs, self._forking:
            self._request(wire.ForkChild(), theirs.fileno())
            try:
                return ForkedProcess(ours, self._reply().pid, self)
            except WorkerError:
                ours.close()
                raise

    def preload(self, names: list[str]) -> None:
        """Import the modules that all forks would import. Raises what fork() raises."""
        with self._forking:
            self._request(wire.Preload(names))
            self._reply()

    def reap(self, pid: int) -> Outcome | None:
        """Wait for the end of a fork; kill it if it does not end. Return as end() does.

        Raises:
            WorkerError: this process has ended, or does not reply.
        """
        with self._forking:
            self._request(wire.Reap(pid))
            try:
                how: Outcome | None = self._reply(_END_LIMIT).how
            except queue.Empty:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                self._reply()
                return TimedOut(_END_LIMIT)
            return how

    def _request(self, message: wire.Message, *descriptors: int) -> None:
        assert self._connection is not None
        with contextlib.suppress(OSError):  # its end shows in the missing reply
            if descriptors:
                socket.send_fds(self._connection, [wire.encode(message)], descriptors)
            else:
                self._connection.sendall(wire.encode(message))

    def _reply(self, limit: float = 0.0) -> Any:
        """Return the reply. queue.Empty if there is none within a limit that is given."""
        reply = None
        try:
            reply = self.receive(limit or _REPLY_LIMIT)
        except queue.Empty:
            if limit:
                raise
        if reply is None:
            raise WorkerError("a worker process of pytest-rocm-attn ended before its children did")
        return reply


class ForkedProcess(Process):
    """A process at the other end of a socket, forked by another one."""

    def __init__(self, connection: socket.socket, pid: int, parent: Process) -> None:
        super().__init__(pid, connection.makefile("rb"), connection.makefile("wb"), connection)
        self._parent = parent

    def end(self, *, kill: bool) -> Outcome | None:
        if kill:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        try:
            return self._parent.reap(self.pid)
        finally:
            self.close()


class SpawnedProcess(Process):
    """A process that was not forked by one of our own, and leads a session of its own.

    Args:
        popen: the process.
        connection: what it talks over; None for its standard streams.
        replies: as of Process.
    """

    def __init__(
        self,
        popen: subprocess.Popen[bytes],
        connection: socket.socket | None = None,
        *,
        replies: Any = wire.Reply,
    ) -> None:
        if connection is not None:
            read: Any = connection.makefile("rb")
            write: Any = connection.makefile("wb")
        else:
            read, write = popen.stdout, popen.stdin
        super().__init__(popen.pid, read, write, connection, replies=replies)
        self._popen = popen

    def kill(self) -> None:
        """Kill it with all that it forked."""
        if not hasattr(os, "killpg"):
            self._popen.kill()
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: only zombies left
            os.killpg(self.pid, signal.SIGKILL)

    def kill_and_wait(self) -> None:
        """Kill it unless it has ended: its number may be another's by now."""
        if self._popen.returncode is None:
            self.kill()
            self._popen.wait()

    def end(self, *, kill: bool) -> Outcome | None:
        if kill:
            self.kill()
        with contextlib.suppress(OSError):
            self._write.close()  # the end of its questions
        patience = Patience(self.pid, _END_LIMIT)
        while (code := self._code(pause(_END_LIMIT))) is None and not patience.is_over():
            pass
        self.kill()  # it, or what it forked, which may go on
        self._popen.wait()
        self.close()
        return TimedOut(_END_LIMIT) if code is None else ended_with(code)

    def _code(self, seconds: float) -> int | None:
        """Wait for its end; return its exit code, or None if it did not come."""
        try:
            return self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
