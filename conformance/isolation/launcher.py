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

from pytest_rocm_attn.conformance.isolation import wire
from pytest_rocm_attn.conformance.isolation.processes import Process, SpawnedProcess, WorkerError

if TYPE_CHECKING:
    from pytest_rocm_attn.conformance.isolation.question import Subject

_IMPORT_LIMITS = 10  # an import may take this many times as long as one question


class Launcher:
    """Starts processes: forked from a base that has imported what is neutral, or each from the beginning.

    What they print goes to a log.

    Args:
        subject: the selector under test.
    """

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self.import_limit = subject.timeout * _IMPORT_LIMITS  # seconds
        # Appended to, so that a process that cuts it leaves no hole where the others write on.
        self._log = tempfile.TemporaryFile("a+b")  # noqa: SIM115  closed by close()
        self._spawned: list[SpawnedProcess] = []
        self._killed = False
        self._spawning = threading.Lock()
        self._base: SpawnedProcess | None = None
        self._base_lock = threading.Lock()
        self._base_ready = False
        self._base_failure = ""
        self._preloaded = False
        if subject.fork:
            ours, theirs = socket.socketpair()
            with theirs:
                descriptor = theirs.fileno()
                self._base = self._spawn(
                    ("fork", str(descriptor)),
                    ours,
                    stdin=subprocess.DEVNULL,
                    stdout=self._log,
                    pass_fds=(descriptor,),
                )
            self._base.send(wire.Preload(list(subject.preload)))

    def start(self) -> Process:
        """Return a process in which a platform can be opened.

        Raises:
            WorkerError: the base has ended, or all were killed.
        """
        if self._base is not None:
            return self._forking(self._base).fork()
        return self._spawn(("pipe",), None, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def preload(self, names: list[str]) -> None:
        """Have the base import, once, the neutral modules that the first platform needed."""
        if self._base is not None and self._subject.preload and not self._preloaded:
            self._preloaded = True
            self._forking(self._base).preload(names)

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
            for process in self._spawned:
                steps.callback(process.kill_and_wait)

    def close(self) -> None:
        """Let go of what is left once every process has ended."""
        try:
            if self._base is not None:
                self._base.close()
        finally:
            self._log.close()

    def _spawn(
        self, arguments: tuple[str, ...], connection: socket.socket | None, **options: Any
    ) -> SpawnedProcess:
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
            process = SpawnedProcess(popen, connection)
            self._spawned.append(process)
        return process

    def _forking(self, base: SpawnedProcess) -> SpawnedProcess:
        """Return the base process, once it has imported what is neutral."""
        with self._base_lock:
            if not self._base_ready and not self._base_failure:
                try:
                    self._base_ready = base.receive(self.import_limit) is not None
                    if not self._base_ready:
                        self._base_failure = str(base.end(kill=False) or "it ended")
                except queue.Empty:
                    base.kill()
                    self._base_failure = f"it took longer than {self.import_limit:g} s"
            if not self._base_ready:
                modules = ", ".join(self._subject.preload) or "nothing"
                last = self.printed().strip().rpartition("\n")[2]
                raise WorkerError(
                    f"no worker process could start: {self._base_failure} while it imported"
                    f" {modules}; try `{sys.executable} -c 'import {modules}'`"
                    f"{f'. Its last words: {last}' if last else ''}"
                )
        return base
