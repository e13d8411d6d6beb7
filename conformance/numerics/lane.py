"""The driving side of a numerics worker: start it, ask it, and live through its death."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from typing import TYPE_CHECKING, Any, Self

from pytest_rocm_attn.conformance.numerics.finding import Finding
from pytest_rocm_attn.errors import BackendUnderTestError

if TYPE_CHECKING:
    from types import TracebackType

    from pytest_rocm_attn.conformance.numerics.case import Case

WORKER = "pytest_rocm_attn.conformance.numerics.worker"
START_LIMIT = 300.0  # seconds: torch, triton and a server's own modules have to be imported


class Lane:
    """One worker process for one backend; a new one after a death or a hang.

    Args:
        spec: ``module:object`` or ``file.py:object`` of the backend under test.
        timeout: seconds that one case may take.
        worker: module of the process.
        arguments: what it is given after the spec.
    """

    def __init__(
        self, spec: str, timeout: float, *, worker: str = WORKER, arguments: tuple[str, ...] = ()
    ) -> None:
        self.spec = spec
        self.timeout = timeout
        self._command = [sys.executable, "-m", worker, spec, *arguments]
        self.evidence = ""
        self.allowance = ""  # what the backend said that it does and the cases then allow
        self.device: dict[str, str] = {}  # what it runs on, as host.describe() tells
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        # The backend's own output; its end goes into the message when the worker dies.
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  closed in close()

    def ask(self, case: Case) -> Finding:
        """Return what came of a case.

        Raises:
            BackendUnderTestError: the backend cannot be imported.
        """
        process = self.start()
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # a death is found out by the missing answer
            process.stdin.write(json.dumps(case.to_json()) + "\n")
            process.stdin.flush()
        answer = self._answer(self.timeout)
        if isinstance(answer, Finding):
            return answer
        return Finding(**answer)

    def start(self) -> subprocess.Popen[str]:
        """Return the process, started unless it is there, with `evidence` known.

        Raises:
            BackendUnderTestError: the backend cannot be imported.
        """
        if self._process is not None:
            return self._process
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._output,
            text=True,
            encoding="utf-8",
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,  # so that a hanging compiler dies with it
        )
        self._lines = queue.SimpleQueue()
        threading.Thread(
            target=_forward, args=(self._process.stdout, self._lines), daemon=True
        ).start()
        hello = self._answer(START_LIMIT)
        if isinstance(hello, Finding):
            raise BackendUnderTestError(f"backend {self.spec}: its process {hello.words}")
        if "error" in hello:
            self.close()
            raise BackendUnderTestError(f"backend {self.spec} cannot be imported: {hello['error']}")
        self.evidence = hello["evidence"]
        self.device = hello.get("device", {})
        self.allowance = hello.get("allowance", "")
        return self._process

    def _answer(self, timeout: float) -> dict[str, Any] | Finding:
        """Return the worker's next line, or what happened instead."""
        try:
            line = self._lines.get(timeout=timeout)
        except queue.Empty:
            self._stop()
            return Finding("crashed", f"did not answer within {timeout:g} seconds")
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        assert self._process is not None
        code = self._process.wait()
        self._stop()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
        return Finding("crashed", f"{how}{self._last_words()}")

    def _last_words(self) -> str:
        self._output.seek(0, os.SEEK_END)
        self._output.seek(max(0, self._output.tell() - 2000))
        lines = self._output.read().decode(errors="replace").strip().splitlines()
        return f"; its last words: {lines[-1]}" if lines else ""

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            with contextlib.suppress(OSError):  # a last line that it can no longer take
                process.stdin.close()
        try:
            process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def close(self) -> None:
        """End the worker."""
        self._stop()
        self._output.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Lanes:
    """The lanes of several backends, of which the few that were used last are kept.

    Args:
        timeout: seconds that one case may take.
    """

    most = 3  # each process holds torch, and a GPU's context

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self._lanes: dict[str, Lane] = {}

    def of(self, spec: str) -> Lane:
        """Return the lane of a backend."""
        lane = self._lanes.pop(spec, None)
        if lane is None:
            if len(self._lanes) >= self.most:
                self._lanes.pop(next(iter(self._lanes))).close()
            lane = Lane(spec, self.timeout)
        self._lanes[spec] = lane
        return lane

    def close(self) -> None:
        """End them all."""
        while self._lanes:
            self._lanes.popitem()[1].close()


def _forward(pipe: Any, lines: queue.SimpleQueue[str]) -> None:
    """Pass on lines until the process ends, then an empty one."""
    with pipe:
        for line in pipe:
            lines.put(line)
    lines.put("")
