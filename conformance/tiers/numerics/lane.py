"""The driving side of a worker: start it, ask it, and live through its death."""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
import tempfile
from typing import IO, TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.isolation.processes import SpawnedProcess, UnreadableError
from pytest_rocm_attn.conformance.promise.got import CRASH, DIED, TIMEOUT
from pytest_rocm_attn.conformance.tiers.numerics.case import Result
from pytest_rocm_attn.errors import BackendUnderTestError
from pytest_rocm_attn.outcome import Died

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_rocm_attn.conformance.tiers.numerics.case import Case

WORKER = "pytest_rocm_attn.conformance.tiers.numerics.worker"
START_LIMIT = 300.0  # seconds: torch, triton and a server's own modules have to be imported


class Lane:
    """One worker process for one backend, or several of one module in turn; a new one after a death or a hang.

    Args:
        spec: ``module:object`` or ``file.py:object`` of the backend under test.
        timeout: seconds that one case may take, as isolation.patience counts them.
        arguments: what it does; see worker.py. Default: it solves the cases.
        worker: module of the process.
        path: folders before all others of its import path.

    Attributes:
        evidence: on what its results rest; known once it was started, as what follows is.
        allowance: what the backend said that it does and the cases then allow.
        device: what it runs on, from host.describe().
    """

    def __init__(
        self,
        spec: str,
        timeout: float,
        *arguments: str,
        worker: str = WORKER,
        path: Sequence[str] = (),
    ) -> None:
        self.spec = spec
        self.timeout = timeout
        self._command = [sys.executable, "-m", worker], [*(arguments or ("run",))]
        self._path = (*path, *sys.path)
        self.evidence = ""
        self.allowance = ""
        self.device: dict[str, str] = {}
        self._process: SpawnedProcess | None = None
        self._ready = ""  # the backend that the process solves cases with
        # The backend's own output; its end goes into the message when the worker dies.
        self._output: IO[bytes] | None = None
        # Why backends cannot be started: they are not tried again.
        self._failures: dict[str, str] = {}

    def ask(self, case: Case) -> Result:
        """Return the result of a case.

        Raises:
            BackendUnderTestError: the backend cannot be started.
        """
        process = self.start()
        process.send(case.to_json())
        answer = self._answer(process, self.timeout)
        return answer if isinstance(answer, Result) else Result(**answer)

    def start(self) -> SpawnedProcess:
        """Return the process, started unless it is there, with `evidence` known.

        Raises:
            BackendUnderTestError: the backend cannot be started, now or when it was first tried.
        """
        process = self._process
        if process is not None and self._ready == self.spec:
            return process
        if self.spec not in self._failures:
            if process is None:
                process = self._process = self._spawned()
            else:
                process.send({"backend": self.spec})
            hello = self._answer(process, START_LIMIT)
            if isinstance(hello, dict) and "error" not in hello:
                self._ready = self.spec
                self.evidence = hello["evidence"]
                self.device = hello.get("device", {})
                self.allowance = hello.get("allowance", "")
                return process
            why = hello.words if isinstance(hello, Result) else hello["error"]
            self._failures[self.spec] = f"backend {self.spec} cannot be imported: {why}"
            self.close()
        raise BackendUnderTestError(self._failures[self.spec])

    def _spawned(self) -> SpawnedProcess:
        """Return a new process, which starts with this backend."""
        python, arguments = self._command
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  closed in close()
        popen = subprocess.Popen(
            [*python, self.spec, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._output,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, self._path))},
            start_new_session=True,  # so that a hanging compiler dies with it
        )
        return SpawnedProcess(popen, replies=dict)

    def _answer(self, process: SpawnedProcess, timeout: float) -> dict[str, Any] | Result:
        """Return the worker's next message, or what happened instead, with the worker ended."""
        end = ""
        try:
            message: dict[str, Any] | None = process.receive(timeout)
            if message is not None:
                return message
            end = str(process.end(kill=False) or Died(None, 0))
            words, answer = end + self._last_words(), DIED
        except queue.Empty:
            words, answer = f"no answer within {timeout:g} s", TIMEOUT
            self.close(hurry=True)
        except UnreadableError as error:
            words, answer = str(error), CRASH
        self.close()
        return Result("crashed", words, answer=answer, error=end)

    def _last_words(self) -> str:
        assert self._output is not None
        self._output.seek(0, os.SEEK_END)
        self._output.seek(max(0, self._output.tell() - 2000))
        lines = self._output.read().decode(errors="replace").strip().splitlines()
        return f"; its last words: {lines[-1]}" if lines else ""

    def close(self, *, hurry: bool = False) -> None:
        """End the worker, if there is one. Another one is started when the next case comes.

        Args:
            hurry: kill it, as it does not answer.
        """
        process, self._process = self._process, None
        output, self._output = self._output, None
        try:
            if process is not None and not process.ended:
                process.end(kill=hurry)
        finally:
            if output is not None:
                output.close()


class Lanes:
    """The lanes of several backends, of which the few that were used last keep their process.

    Args:
        timeout: seconds that one case may take.
        most: how many processes are kept; each holds torch, and a GPU's context or a compiler.
        worker: module of the processes.
    """

    def __init__(self, timeout: float, *, most: int = 3, worker: str = WORKER) -> None:
        self.timeout = timeout
        self.most = most
        self._worker = worker
        self._lanes: dict[tuple[str, ...], Lane] = {}  # the one used last stands last

    def of(self, spec: str, *arguments: str) -> Lane:
        """Return the lane of a backend, and of what its process does; emulated backends of one module share it."""
        # Machine code that is emulated is checked access by access: what one backend does cannot harm the next.
        home = spec.rpartition(":")[0] if arguments[:1] == ("emulate",) else spec
        key = (home, *arguments)
        lane = self._lanes.pop(key, None)
        if lane is None:
            lane = Lane(spec, self.timeout, *arguments, worker=self._worker)
        lane.spec = spec
        for other in list(self._lanes.values())[: max(0, len(self._lanes) + 1 - self.most)]:
            other.close()
        self._lanes[key] = lane
        return lane

    def close(self) -> None:
        """End them all, whatever goes wrong with one."""
        with contextlib.ExitStack() as steps:
            for lane in self._lanes.values():
                steps.callback(lane.close)
