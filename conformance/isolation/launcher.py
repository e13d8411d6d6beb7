"""Starting a subject's worker processes, and ending them all."""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import subprocess
import sys
import tempfile
import threading
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.isolation.processes import (
    Conversation,
    ForkServer,
    SpawnedProcess,
    WorkerError,
    WorkerProcess,
    kill_all,
)
from pytest_rocm_attn.outcome import Died

if TYPE_CHECKING:
    from pytest_rocm_attn.conformance.isolation.question import Subject

_IMPORT_LIMITS = 10  # an import may take this many times as long as one question


class Launcher:
    """Starts processes: forked from a base that has imported what is neutral, or each afresh.

    What they print goes to a log.

    Args:
        subject: the selector under test.
    """

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self.import_limit = subject.timeout * _IMPORT_LIMITS  # seconds
        # Appended to, so that a process that cuts it leaves no hole where the others write on.
        self._log = tempfile.TemporaryFile("a+b")  # noqa: SIM115  closed by close()
        self._popen: list[subprocess.Popen[bytes]] = []
        self._killed = False
        self._spawning = threading.Lock()
        self._base_conversation: Conversation | None = None
        self._base_lock = threading.Lock()
        self._base_ready = False
        self._base_failure = ""
        self._preloaded = False
        if subject.fork:
            self._start_base()

    def start(self) -> WorkerProcess:
        """Return a process in which a platform can be opened.

        Raises:
            WorkerError: the base has ended, or all were killed.
        """
        if self._subject.fork:
            return self._forking_base().fork()
        return SpawnedProcess(self._spawn("pipe", stdin=subprocess.PIPE, stdout=subprocess.PIPE))

    def preload(self, names: list[str]) -> None:
        """Have the base import, once, the neutral modules that the first platform needed."""
        if self._subject.fork and self._subject.preload and not self._preloaded:
            self._preloaded = True
            self._forking_base().request(preload=names)

    def printed(self, limit: int = 4000) -> str:
        """Return the end of what the selector printed so far; at most limit bytes."""
        with contextlib.suppress(ValueError, OSError):
            size = os.fstat(self._log.fileno()).st_size
            tail = os.pread(self._log.fileno(), limit, max(0, size - limit))
            return tail.decode(errors="replace")
        return ""

    def kill(self) -> None:
        """End every process, whatever it is at. No other one starts."""
        with self._spawning:
            self._killed = True
        with contextlib.ExitStack() as steps:  # each is run, whatever the others raise
            for popen in self._popen:
                if popen.returncode is None:  # else its number may be another's by now
                    steps.callback(popen.wait)
                    steps.callback(kill_all, popen)

    def close(self) -> None:
        """Let go of what is left once every process has ended."""
        try:
            if self._base_conversation is not None:
                self._base_conversation.close()
        finally:
            self._log.close()

    def _spawn(self, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        # The caller's import path finds this package the way the caller found it.
        launch = (
            f"import sys; sys.path[:] = {sys.path!r}; "
            "from pytest_rocm_attn.conformance.isolation.inside.main import main; "
            f"sys.exit(main({list(arguments)!r}))"
        )
        with self._spawning:
            if self._killed:
                raise WorkerError("the workers of pytest-rocm-attn were ended")
            popen = subprocess.Popen(
                [sys.executable, "-c", launch],
                stderr=self._log,
                start_new_session=True,  # Ctrl-C is ours to handle; what it forks ends with it
                **options,
            )
            self._popen.append(popen)
        return popen

    def _start_base(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            popen = self._spawn(
                "fork",
                str(theirs.fileno()),
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                pass_fds=(theirs.fileno(),),
            )
        self._base_conversation = Conversation.over(popen.pid, ours)
        self._base = ForkServer(ours, self._base_conversation)
        self._base_conversation.send(preload=list(self._subject.preload))

    def _forking_base(self) -> ForkServer:
        """Return the base process, once it has imported what is neutral."""
        assert self._base_conversation is not None
        with self._base_lock:
            if not self._base_ready and not self._base_failure:
                try:
                    self._base_ready = (
                        self._base_conversation.receive(self.import_limit) is not None
                    )
                    self._base_failure = "" if self._base_ready else self._how_base_ended()
                except queue.Empty:
                    kill_all(self._popen[0])
                    self._base_failure = f"it took longer than {self.import_limit:g} s"
            if not self._base_ready:
                raise WorkerError(self._why_base_failed())
        return self._base

    def _how_base_ended(self) -> str:
        kill_all(self._popen[0])  # it has ended, unless it only closed what it was talked to over
        code = self._popen[0].wait()
        return str(Died(-code) if code < 0 else Died(None, code))

    def _why_base_failed(self) -> str:
        modules = ", ".join(self._subject.preload) or "nothing"
        last = self.printed().strip().rpartition("\n")[2]
        return (
            f"no worker process could start: {self._base_failure} while it imported {modules}; try"
            f" `{sys.executable} -c 'import {modules}'`{f'. Its last words: {last}' if last else ''}"
        )
