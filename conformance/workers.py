"""The driving side of isolation: questions in, observations out, from worker processes.

worker.py says which processes there are. A Pool runs a few lanes (threads); each lane works on one
platform at a time, so that a platform's selector is imported once, and asks all questions of one
environment in one forked process. A crash, a hang or a signal is the outcome of the question that
caused it; the questions after it go to a fresh process.
"""

from __future__ import annotations

import contextlib
import enum
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.errors import RocmAttnError, SelectorError
from pytest_rocm_attn.outcome import Crashed, Died, Outcome, TimedOut, from_wire
from pytest_rocm_attn.request import Request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from pytest_rocm_attn.conformance.trace import Step
    from pytest_rocm_attn.gpu import Gpu

_IMPORT_LIMITS = 10  # an import may take this many times as long as one question
_SAMPLE = 8  # environments that refreshing in place is tried on
_SAMPLE_OF_IMPORTS = 3  # the same, where each is an import of its own
PLAIN = Request()
_OPEN_PLATFORMS = 4  # imported selectors kept at a time; vLLM takes about 400 MB, mostly shared


class WorkerError(RocmAttnError, RuntimeError):
    """Our own side of isolation failed; no statement about the selector under test."""


@dataclass(frozen=True, slots=True)
class Question:
    """One request, put to the selector on one platform under one environment.

    Args:
        gpu: the platform.
        environ: the variables that are set, as sorted pairs.
        request: what the layer needs.
        kind: "select" for which backend; the other kinds are those of capabilities/asking.py, and
            are answered with Told, or as a selection is where there was none.
        detail: what the kind needs to know beside, as text.
    """

    gpu: Gpu
    environ: tuple[tuple[str, str], ...]
    request: Request
    kind: str = "select"
    detail: str = ""

    @classmethod
    def of(
        cls,
        gpu: Gpu,
        environ: Mapping[str, str],
        request: Request,
        kind: str = "select",
        detail: str = "",
    ) -> Question:
        return cls(gpu, tuple(sorted(environ.items())), request, kind, detail)


@dataclass(frozen=True, slots=True)
class Observation:
    """What came of a question.

    Attributes:
        outcome: what the selector did.
        seconds: how long it took; 0 when it never answered.
        written: environment variables that it set, changed or removed while answering.
        trace: how it came to the answer, where it says so.
    """

    outcome: Outcome
    seconds: float = 0.0
    written: tuple[str, ...] = ()
    trace: tuple[Step, ...] = ()


@dataclass(frozen=True, slots=True)
class Subject:
    """The selector under test, and what its process needs.

    Args:
        selector: ``module:object`` or ``file.py:object``.
        pure: it reads nothing but its arguments, so it needs neither mocked platform nor an
            environment of its own.
        preload: neutral modules worth importing once, before anything forks.
        timeout: seconds that one answer may take.
        fork: fork processes; False starts each one afresh, as where fork is not to be had.
        machine: the real GPU to select on, unmocked; None mocks each question's own.
    """

    selector: str
    pure: bool = False
    preload: tuple[str, ...] = ("torch",)
    timeout: float = 30.0
    fork: bool = hasattr(os, "fork") and hasattr(socket, "send_fds")
    machine: Gpu | None = None

    @property
    def evidence(self) -> str:
        """What its answers rest on, as reports name it."""
        return "pure" if self.pure else "mock" if self.machine is None else "real"


class _Conversation:
    """Messages with one process. A thread reads, so that waiting can have a limit anywhere."""

    def __init__(self, read: Any, write: Any, connection: socket.socket | None = None) -> None:
        self._read = read
        self._write = write
        self._connection = connection
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        with contextlib.suppress(
            OSError
        ):  # reset by a process that was killed: the same as its end
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


class _Process(_Conversation):
    """A process at the other end of a socket, forked by another one."""

    def __init__(self, connection: socket.socket, pid: int, parent: _ForkServer) -> None:
        super().__init__(connection.makefile("rb"), connection.makefile("wb"), connection)
        self.connection = connection
        self.pid = pid
        self._parent = parent

    def end(self, *, kill: bool) -> Died | None:
        """Wait for its end; return how it ended, or None when it ended as it should."""
        if kill:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        try:
            reply = self._parent.request(reap=self.pid)
        finally:
            self.close()
        if "signal" in reply:
            return Died(reply["signal"])
        return Died(None, reply["status"]) if reply["status"] else None


class _ForkServer:
    """The part of a process that forks on request; see worker.serve_forks."""

    def __init__(self, connection: socket.socket, conversation: _Conversation) -> None:
        self._connection = connection
        self._conversation = conversation
        self._lock = threading.Lock()

    def request(self, descriptor: int | None = None, **message: Any) -> dict[str, Any]:
        data = json.dumps(message).encode()
        with self._lock:
            try:
                if descriptor is None:
                    self._connection.sendall(data)
                else:
                    socket.send_fds(self._connection, [data], [descriptor])
                reply = self._conversation.receive(60.0)
            except (OSError, queue.Empty):
                reply = None
        if reply is None:
            raise WorkerError("a worker process of pytest-rocm-attn ended before its children did")
        return reply

    def fork(self) -> _Process:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                reply = self.request(theirs.fileno(), fork=True)
            except WorkerError:
                ours.close()
                raise
        return _Process(ours, reply["pid"], self)


@dataclass
class _Platform:
    """A process that has imported the selector on one platform, and can be asked."""

    gpu: Gpu  # for a pure selector, that of the first question
    environ: dict[str, str]  # what it was imported under
    reads: dict[str, str | None]
    refreshes: bool
    process: Any
    interviews: int = 0  # open ones, for which it has to stay

    def serves(self, environ: Mapping[str, str]) -> bool:
        """Whether its imports would have run the same under another environment."""
        return all(environ.get(name) == self.environ.get(name) for name in self._relevant(environ))

    def distance(self, environ: Mapping[str, str]) -> int:
        """How many variables that its imports read differ in another environment."""
        return sum(environ.get(name) != self.environ.get(name) for name in self._relevant(environ))

    def _relevant(self, environ: Mapping[str, str]) -> set[str]:
        return (environ.keys() | self.environ.keys()) & self.reads.keys()


@dataclass
class _Group:
    """Open questions that one process may answer: those of one environment, unless pure."""

    environ: dict[str, str]
    questions: list[Question] = field(default_factory=list)


class _Trust(enum.Enum):
    """How far an adapter's refresh() can stand in for a fresh import."""

    UNKNOWN = "not tried yet"
    NONE = "not at all"
    FORKED = "in a process for each environment"
    IN_PLACE = "in one process for all environments"


class Pool:
    """Asks questions of one subject, in worker processes, on a few lanes.

    Args:
        subject: the selector under test.
        lanes: how many platforms are worked on at a time.
    """

    def __init__(self, subject: Subject, lanes: int = 0) -> None:
        self.subject = subject
        self.notes: list[str] = []
        # Appended to, so that a process that cuts it leaves no hole where the others write on.
        self._log = tempfile.TemporaryFile("a+b")  # noqa: SIM115  closed by close()
        self._futures: dict[Question, Future[Observation]] = {}
        self._waiting: dict[Gpu, dict[tuple[tuple[str, str], ...], _Group]] = {}
        self._only_gpu: Gpu | None = None  # stands for all, where the selector is pure
        self._busy: set[Gpu] = set()
        self._platforms: list[_Platform] = []  # least recently used first
        self._changed = threading.Condition()
        self._trust_lock = threading.Lock()
        self._trust = _Trust.UNKNOWN
        self._compared_in_place = False
        self._closed = False
        self._interviews: list[Interview] = []
        self._base: _ForkServer | None = None
        self._popen: list[subprocess.Popen[bytes]] = []
        if subject.fork:
            self._start_base()
        self._threads = [
            threading.Thread(target=self._lane, daemon=True)
            for _ in range(lanes or min(4, os.cpu_count() or 1))
        ]
        for thread in self._threads:
            thread.start()

    # --- asking -----------------------------------------------------------------------------------

    def submit(self, questions: Iterable[Question]) -> list[Future[Observation]]:
        """Ask each question, once however often it is submitted; answers come in the futures."""
        futures = []
        with self._changed:
            for question in questions:
                if question not in self._futures:
                    self._futures[question] = Future()
                    gpu, environ = self._place(question)
                    groups = self._waiting.setdefault(gpu, {})
                    group = groups.setdefault(environ, _Group(dict(environ)))
                    group.questions.append(question)
                futures.append(self._futures[question])
            self._changed.notify_all()
        return futures

    def _place(self, question: Question) -> tuple[Gpu, tuple[tuple[str, str], ...]]:
        """Return the platform and the environment of the process that a question needs."""
        if not self.subject.pure:
            return question.gpu, question.environ
        self._only_gpu = self._only_gpu or question.gpu
        return self._only_gpu, ()

    def probe(self, question: Question) -> None:
        """Import the selector on the question's platform, and keep it for the questions to come.

        Raises:
            SelectorError: it cannot be imported, or is no selector. One line.
        """
        gpu, environ = self._place(question)
        opened = self._open(gpu, dict(environ), prepare=True)
        if isinstance(opened, Crashed):
            last = opened.traceback.strip().rpartition("\n")[2]
            raise SelectorError(f"selector {self.subject.selector!r} cannot be imported: {last}")
        if isinstance(opened, SelectorError):
            raise opened
        if not isinstance(opened, _Platform):
            raise SelectorError(f"selector {self.subject.selector!r} cannot be imported: {opened}")
        with self._changed:
            self._platforms.append(opened)

    def answers_in_place(self, gpu: Gpu, sample: Sequence[Question]) -> bool:
        """Whether one process may answer for all environments of a platform, one after the other.

        Args:
            gpu: the platform.
            sample: questions there, to find out with; in environments that differ.
        """
        if self.subject.pure:
            return True
        groups: dict[tuple[tuple[str, str], ...], _Group] = {}
        for question in sample:
            group = groups.setdefault(question.environ, _Group(dict(question.environ)))
            group.questions.append(question)
        with self._claimed(gpu):
            platform = self._find(gpu) or self._open_and_keep(gpu, next(iter(groups.values())))
            if not isinstance(platform, _Platform) or not platform.refreshes:
                return False
            trust = self._trust_in_refreshing(platform, list(groups.values()))
            return trust is _Trust.IN_PLACE

    def interview(self, gpu: Gpu, environ: Mapping[str, str]) -> Interview | Outcome:
        """Start a process that answers on one platform for as long as it is kept.

        Its first question finds the selector as an import under that environment leaves it.

        Returns:
            The interview; or what the import came to, where the selector cannot be imported.
        """
        place, placed = self._place(Question.of(gpu, environ, PLAIN))
        group = _Group(dict(placed))
        with self._claimed(place):
            platform = self._fitting(place, group)
            if platform is None and self._trust in (_Trust.FORKED, _Trust.IN_PLACE):
                platform = self._find(place)
            if not self.subject.fork:
                # The process that answers is the one that imported, so it is not to be shared.
                own = self._open(place, group.environ, prepare=False)
                if isinstance(own, SelectorError):
                    return Crashed(type(own).__name__, f"{type(own).__name__}: {own}")
                return Interview(self, own, own.process) if isinstance(own, _Platform) else own
            opened = platform or self._open_and_keep(place, group)
            if not isinstance(opened, _Platform):
                return opened
            return Interview(self, opened, opened.process.fork())

    @contextlib.contextmanager
    def bulk(self, gpu: Gpu, sample: Sequence[Question]) -> Iterator[Bulk | Outcome]:
        """Claim one platform, to be asked very many questions there.

        Args:
            gpu: the platform.
            sample: questions there, to find out with how one environment may follow another; in
                environments that differ.

        Yields:
            What asks; or what the import came to, where it came to the same under three of the
            sample's environments.
        """
        groups: dict[tuple[tuple[str, str], ...], _Group] = {}
        for question in sample:
            group = groups.setdefault(question.environ, _Group(dict(question.environ)))
            group.questions.append(question)
        with self._claimed(gpu):
            failures: list[Outcome] = []
            platform = self._find(gpu)
            for group in list(groups.values())[:3]:
                platform = platform or self._fitting_or_failure(gpu, group, failures)
            if platform is None and len(set(failures)) == 1:
                yield failures[0]
                return
            trust = _Trust.NONE
            if self.subject.pure:
                trust = _Trust.IN_PLACE
            elif platform is not None and platform.refreshes:
                trust = self._trust_in_refreshing(platform, list(groups.values()))
            yield Bulk(self, gpu, platform, trust)

    def _fitting_or_failure(
        self, gpu: Gpu, group: _Group, failures: list[Outcome]
    ) -> _Platform | None:
        opened = self._fitting(gpu, group) or self._open_and_keep(gpu, group)
        if isinstance(opened, _Platform):
            return opened
        failures.append(opened)
        return None

    @contextlib.contextmanager
    def _claimed(self, gpu: Gpu) -> Iterator[None]:
        """Keep the lanes off one platform while the block runs."""
        with self._changed:
            self._changed.wait_for(lambda: gpu not in self._busy)
            self._busy.add(gpu)
        try:
            yield
        finally:
            with self._changed:
                self._busy.discard(gpu)
                self._changed.notify_all()

    def close(self) -> None:
        """End every worker. Questions without an answer are cancelled."""
        for interview in list(self._interviews):
            interview.close()
        with self._changed:
            self._closed = True
            for future in self._futures.values():
                future.cancel()
            self._changed.notify_all()
        for popen in self._popen:
            if popen.returncode is None:  # else its number may be another's by now
                _kill(popen)
                popen.wait()
        for thread in self._threads:
            thread.join()
        for platform in self._platforms:
            conversation = platform.process.process if self.subject.fork else platform.process
            conversation.close()
        if self.subject.fork:
            self._base_conversation.close()
        self._log.close()

    def printed(self, limit: int = 4000) -> str:
        """Return the end of what the selector printed so far."""
        with contextlib.suppress(ValueError, OSError):
            size = os.fstat(self._log.fileno()).st_size
            return os.pread(self._log.fileno(), limit, max(0, size - limit)).decode(
                errors="replace"
            )
        return ""

    # --- lanes ------------------------------------------------------------------------------------

    def _lane(self) -> None:
        while True:
            with self._changed:
                gpu = None
                while not self._closed and (gpu := self._next_gpu()) is None:
                    self._changed.wait()
                if self._closed or gpu is None:
                    return
                self._busy.add(gpu)
                groups = list(self._waiting.pop(gpu).values())
            try:
                self._answer(gpu, groups)
            finally:
                with self._changed:
                    self._busy.discard(gpu)
                    self._changed.notify_all()

    def _next_gpu(self) -> Gpu | None:
        """Return a platform with open questions that no lane works on; an imported one first."""
        free = [gpu for gpu in self._waiting if gpu not in self._busy]
        imported = {platform.gpu for platform in self._platforms}
        return min(free, key=lambda gpu: gpu not in imported, default=None)

    def _answer(self, gpu: Gpu, groups: list[_Group]) -> None:
        """Answer the questions of one platform; never leaves one without an answer."""
        problem = "a lane of pytest-rocm-attn ended early, which is a bug of ours; please report it"
        try:
            self._answer_where_it_holds(gpu, groups)
        except (WorkerError, OSError, queue.Empty) as error:
            problem = str(error)
        finally:  # also where a bug of ours ends the lane: whoever waits must not wait for ever
            for question in (question for group in groups for question in group.questions):
                future = self._futures[question]
                if not future.done():
                    future.set_exception(WorkerError(f"{problem}{self._tail()}"))

    def _answer_where_it_holds(self, gpu: Gpu, groups: list[_Group]) -> None:
        """Ask each group in a process in which its environment holds, imports included."""
        platform = self._find(gpu) or self._open_and_keep(gpu, groups[0])
        if not isinstance(platform, _Platform):
            for question in groups[0].questions:
                self._resolve(question, Observation(platform))
            return self._answer_where_it_holds(gpu, groups[1:]) if groups[1:] else None
        if platform.refreshes:
            trust = self._trust_in_refreshing(platform, groups)
            if trust is _Trust.IN_PLACE:
                return self._ask(platform, groups, refresh=True)
            if trust is _Trust.FORKED:
                for group in groups:
                    self._ask(platform, [group], refresh=True)
                return None
        for group in groups:
            fitting = self._fitting(gpu, group) or self._open_and_keep(gpu, group)
            if isinstance(fitting, _Platform):
                # Refreshing undoes what its preparation may have cached; it relies on nothing else.
                self._ask(fitting, [group], refresh=fitting.refreshes)
            else:
                for question in group.questions:
                    self._resolve(question, Observation(fitting))
        return None

    def _tail(self) -> str:
        printed = self.printed(2000).strip()
        return f"; the worker's last output:\n{printed}" if printed else ""

    def _resolve(self, question: Question, observation: Observation) -> None:
        future = self._futures[question]
        if not future.done():
            future.set_result(observation)

    # --- platforms --------------------------------------------------------------------------------

    def _find(self, gpu: Gpu) -> _Platform | None:
        with self._changed:
            found = next((p for p in self._platforms if p.gpu == gpu), None)
        return self._used(found) if found else None

    def _fitting(self, gpu: Gpu, group: _Group) -> _Platform | None:
        """Return a platform whose imports would have run the same under the group's environment."""
        with self._changed:
            mine = [platform for platform in self._platforms if platform.gpu == gpu]
        fitting = next((p for p in mine if self.subject.pure or p.serves(group.environ)), None)
        return self._used(fitting) if fitting else None

    def _open_and_keep(self, gpu: Gpu, group: _Group) -> _Platform | Outcome:
        opened = self._open(gpu, group.environ, prepare=True)
        if isinstance(opened, SelectorError):
            return Crashed(type(opened).__name__, f"{type(opened).__name__}: {opened}")
        return self._used(opened) if isinstance(opened, _Platform) else opened

    def _used(self, platform: _Platform) -> _Platform:
        """Note a platform as used last, and end the ones longest unused when there are too many."""
        with self._changed:
            if platform in self._platforms:
                self._platforms.remove(platform)
            self._platforms.append(platform)
            spare = [p for p in self._platforms if p.gpu not in self._busy or p.gpu == platform.gpu]
            spare = [p for p in spare[:-1] if not p.interviews]
            excess = spare[: max(0, len(self._platforms) - _OPEN_PLATFORMS)]
            for old in excess:
                self._platforms.remove(old)
        for old in excess:
            self._end(old)
        return platform

    # --- refreshing -------------------------------------------------------------------------------

    def _trust_in_refreshing(self, platform: _Platform, groups: list[_Group]) -> _Trust:
        """How far an adapter's refresh() can stand in for a fresh import. Tried once, honestly.

        On the first platform, the environment that differs most from the imported one is also asked
        after a fresh import, and a sample of environments is asked in one process, one after the
        other, and also in a process each. Where the answers differ, the slower way is taken.
        """
        with self._trust_lock:
            if self._trust is _Trust.UNKNOWN:
                farthest = max(groups, key=lambda group: platform.distance(group.environ))
                self._trust = self._compare_with_fresh_import(platform, farthest)
            if self._trust is _Trust.FORKED and not self._compared_in_place and len(groups) > 1:
                self._compared_in_place = True
                step = max(1, len(groups) // _SAMPLE)
                self._trust = self._compare_in_place(platform, groups[::step])
            return self._trust

    def _compare_with_fresh_import(self, platform: _Platform, group: _Group) -> _Trust:
        refreshed = self._collect(platform, [group], refresh=True)
        fresh = self._open(platform.gpu, group.environ, prepare=False)
        if isinstance(fresh, _Platform):
            imported = self._collect(fresh, [group], refresh=False)
            self._end(fresh)
            if refreshed == imported:
                return _Trust.FORKED
        self.notes.append(
            "refreshing the imported selector gave other answers than importing it afresh, so each"
            " environment got an import of its own, which is slower"
        )
        return _Trust.NONE

    def _compare_in_place(self, platform: _Platform, sample: list[_Group]) -> _Trust:
        if not self.subject.fork:
            sample = sample[:_SAMPLE_OF_IMPORTS]
        together = self._collect(platform, sample, refresh=True)
        if together == [out for group in sample for out in self._collect_alone(platform, group)]:
            return _Trust.IN_PLACE
        self.notes.append(
            "the selector remembers answers from one environment to the next even after a refresh,"
            " so each environment got a process of its own"
        )
        return _Trust.FORKED if self.subject.fork else _Trust.NONE

    def _collect_alone(self, platform: _Platform, group: _Group) -> list[Outcome]:
        """Ask a group in a process that answers nothing else."""
        if self.subject.fork:
            return self._collect(platform, [group], refresh=True)
        opened = self._open(platform.gpu, group.environ, prepare=False)
        if not isinstance(opened, _Platform):
            return []  # equal to no answers
        outcomes = self._collect(opened, [group], refresh=False)
        self._end(opened)
        return outcomes

    def _collect(
        self, platform: _Platform, groups: list[_Group], *, refresh: bool
    ) -> list[Outcome]:
        outcomes: dict[Question, Outcome] = {}
        self._ask(
            platform,
            groups,
            refresh=refresh,
            resolve=lambda question, observation: outcomes.update({question: observation.outcome}),
        )
        return [outcomes[question] for group in groups for question in group.questions]

    # --- processes --------------------------------------------------------------------------------

    def _hello(self) -> dict[str, Any]:
        return {"preload": list(self.subject.preload)}

    def _start(self, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        # The caller's import path finds this package the way the caller found it.
        launch = (
            f"import sys; sys.path[:] = {sys.path!r}; "
            "from pytest_rocm_attn.conformance import worker; "
            f"sys.exit(worker.main({list(arguments)!r}))"
        )
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
            self._start(
                "fork",
                str(theirs.fileno()),
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                pass_fds=(theirs.fileno(),),
            )
        conversation = _Conversation(ours.makefile("rb"), ours.makefile("wb"), ours)
        conversation.send(**self._hello())
        self._base = _ForkServer(ours, conversation)
        self._base_ready = False
        self._preloaded = False
        self._base_conversation = conversation
        self._base_lock = threading.Lock()

    def _forking_base(self) -> _ForkServer:
        """Return the base process, once it has imported what is neutral."""
        assert self._base is not None
        with self._base_lock:
            if not self._base_ready:
                if self._base_conversation.receive(self._import_limit) is None:
                    raise WorkerError("the worker process of pytest-rocm-attn did not start")
                self._base_ready = True
        return self._base

    def _preload(self, names: list[str]) -> None:
        """Have the base import, once, the neutral modules that the first platform needed."""
        if self.subject.fork and self.subject.preload and not self._preloaded:
            self._preloaded = True
            self._forking_base().request(preload=names)

    @property
    def _import_limit(self) -> float:
        return self.subject.timeout * _IMPORT_LIMITS

    def _open(
        self, gpu: Gpu, environ: dict[str, str], *, prepare: bool
    ) -> _Platform | Outcome | SelectorError:
        """Import the selector on a platform under an environment."""
        if self.subject.machine not in (None, gpu) and not self.subject.pure:
            raise WorkerError(
                f"{gpu.gfx} with aiter {gpu.aiter} was asked about, unmocked, on a real"
                f" {self.subject.machine.gfx} with aiter {self.subject.machine.aiter}"
            )
        process: Any = self._forking_base().fork() if self.subject.fork else _PipeProcess(self)
        process.send(
            gfx=gpu.gfx,
            aiter=gpu.aiter.value,
            environ=environ,
            evidence=self.subject.evidence,
            selector=self.subject.selector,
            prepare=prepare,
        )
        try:
            message = process.receive(self._import_limit)
        except queue.Empty:
            process.end(kill=True)
            return TimedOut(self._import_limit)
        if message is not None and "ready" in message:
            server: Any = process
            if self.subject.fork:
                server = _ForkServer(process.connection, process)
                server.process = process
            self._preload(message["neutral"])
            return _Platform(gpu, environ, message["reads"], message["refreshes"], server)
        died = process.end(kill=False)
        if message is None:
            return died or Died(None, 0)
        if "unusable" in message:
            return SelectorError(message["unusable"])
        return Crashed(message["error"], message["failed"])

    def _end(self, platform: _Platform) -> None:
        process = platform.process.process if self.subject.fork else platform.process
        process.end(kill=True)

    def _ask(
        self,
        platform: _Platform,
        groups: Sequence[_Group],
        *,
        refresh: bool,
        resolve: Any = None,
    ) -> None:
        """Ask groups of questions, in one process unless one of them breaks it."""
        resolve = resolve or self._resolve
        remaining = [(group, question) for group in groups for question in group.questions]
        while remaining:
            process = platform.process.fork() if self.subject.fork else platform.process
            process.send(
                unset=list(platform.environ), refresh=refresh, groups=_as_messages(remaining)
            )
            answered, failure = self._listen(process, [q for _, q in remaining], resolve)
            if failure is None:
                return
            resolve(remaining[answered][1], Observation(failure))
            remaining = remaining[answered + 1 :]
            if not self.subject.fork:
                reopened = self._open(platform.gpu, platform.environ, prepare=True)
                if not isinstance(reopened, _Platform):
                    raise WorkerError(f"the selector's process could not be restarted: {reopened}")
                platform.process = reopened.process

    def _listen(
        self, process: Any, questions: Sequence[Question], resolve: Any, *, keep: bool = False
    ) -> tuple[int, Outcome | None]:
        """Take answers until done; return how many came and what ended it early, if anything.

        A process that was forked for these questions alone is ended, unless it is to be kept.
        """
        answered = 0
        while True:
            try:
                message = process.receive(self.subject.timeout)
            except queue.Empty:
                process.end(kill=True)
                return answered, TimedOut(self.subject.timeout)
            if message is None:
                died = process.end(kill=False) or Died(None, 0)
                if answered == len(questions):
                    return answered, None
                return answered, died
            if "done" in message:
                if self.subject.fork and not keep:
                    process.end(kill=False)
                return answered, None
            resolve(
                questions[answered],
                Observation(
                    from_wire(message["outcome"]),
                    message["seconds"],
                    tuple(message["written"]),
                    tuple(map(tuple, message["trace"])),
                ),
            )
            answered += 1


class Interview:
    """One process that answers for as long as it is kept: what it remembers, it goes on remembering.

    Made by Pool.interview. A selector that takes its process down ends it; see ask().
    """

    def __init__(self, pool: Pool, platform: _Platform, process: Any) -> None:
        self._pool = pool
        self._platform = platform
        self._process = process
        self._fresh = True
        self.over = False
        platform.interviews += 1
        pool._interviews.append(self)

    def ask(self, questions: Sequence[Question], *, refresh: bool) -> list[Observation]:
        """Ask questions in order, each under its own environment.

        Args:
            questions: on the platform of the interview.
            refresh: have the adapter bring the selector up to each environment. The very first
                question is asked so in any case, which undoes what preparing may have cached.

        Returns:
            An observation each, unless a question took the process down: then the last one says
            how, those after it were not asked, and the interview is over.
        """
        observations: list[Observation] = []
        start = 0
        if self._fresh and not refresh:
            self._exchange(questions[:1], self._platform.refreshes, observations)
            start = 1
        if not self.over and questions[start:]:
            self._exchange(questions[start:], refresh and self._platform.refreshes, observations)
        return observations

    def _exchange(
        self, questions: Sequence[Question], refresh: bool, observations: list[Observation]
    ) -> None:
        self._fresh = False
        groups: list[tuple[_Group, Question]] = []
        for question in questions:
            same = groups and groups[-1][1].environ == question.environ
            group = groups[-1][0] if same else _Group(dict(question.environ))
            groups.append((group, question))
        unset = list(self._platform.environ)
        self._process.send(unset=unset, refresh=refresh, groups=_as_messages(groups), more=True)
        _, failure = self._pool._listen(
            self._process,
            questions,
            lambda _, observation: observations.append(observation),
            keep=True,
        )
        if failure is not None:
            observations.append(Observation(failure))
            self._ended()

    def memory(self, **message: Any) -> Any:
        """Look into, or change, what the selector's process remembers: memory.handle()'s answer."""
        self._process.send(unset=list(self._platform.environ), memory=message, more=True)
        try:
            answer = self._process.receive(self._pool.subject.timeout)
        except queue.Empty:
            answer = None
        if answer is None:
            raise WorkerError("the selector's process ended while its memory was looked at")
        return answer["remembered"]

    def close(self) -> None:
        """End the process. Safe to call again."""
        if not self.over:
            self._ended()
            self._process.end(kill=True)

    def _ended(self) -> None:
        self.over = True
        self._platform.interviews -= 1
        self._pool._interviews.remove(self)


class Bulk:
    """One platform, claimed by Pool.bulk. Has many cells asked at a time; see grid/cells.py.

    Attributes:
        in_place: one process may answer for all environments, one after the other; else each needs
            one of its own.
    """

    def __init__(self, pool: Pool, gpu: Gpu, platform: _Platform | None, trust: _Trust) -> None:
        self._pool = pool
        self._gpu = gpu
        self._platform = platform
        self._trust = trust
        self.in_place = trust is _Trust.IN_PLACE

    @property
    def reads(self) -> frozenset[str]:
        """The variables that an import of the selector reads, where each needs one of its own."""
        if self._trust is not _Trust.NONE or self._platform is None:
            return frozenset()
        return frozenset(self._platform.reads)

    def ask(
        self,
        cells: Mapping[str, Any],
        environ: Mapping[str, str] | None,
        *,
        heard: Callable[[dict[str, Any]], None],
        stuck: Callable[[], bool],
    ) -> Outcome | None:
        """Have cells asked, in a process of their own where there is fork.

        Args:
            cells: what grid.cells.answer_cells takes.
            environ: the one environment that the cells are in; None where in_place.
            heard: is given each message that the process sends on the way.
            stuck: is asked ten times a second whether it is to be killed.

        Returns:
            What became of the process, or of the import, before it had done all; else None.
        """
        platform = self._platform if environ is None else self._holding(environ)
        if not isinstance(platform, _Platform):
            return platform
        pool = self._pool
        process = platform.process.fork() if pool.subject.fork else platform.process
        refresh = platform.refreshes and not pool.subject.pure
        process.send(unset=list(platform.environ), refresh=refresh, cells=cells)
        failure: Outcome | None = None
        while True:
            try:
                message = process.receive(0.1)
            except queue.Empty:
                if not stuck():
                    continue
                process.end(kill=True)
                failure = TimedOut(pool.subject.timeout)
                break
            if message is None:
                failure = process.end(kill=False) or Died(None, 0)
                break
            heard(message)
            if "done" in message:
                if pool.subject.fork:
                    process.end(kill=False)
                return None
        if not pool.subject.fork:
            reopened = pool._open(platform.gpu, platform.environ, prepare=True)
            if not isinstance(reopened, _Platform):
                raise WorkerError(f"the selector's process could not be restarted: {reopened}")
            platform.process = reopened.process
        return failure

    def _holding(self, environ: Mapping[str, str]) -> _Platform | Outcome:
        """Return a platform that an environment holds in, imports included."""
        if self._platform is not None and self._trust is not _Trust.NONE:
            return self._platform
        group = _Group(dict(environ))
        return self._pool._fitting(self._gpu, group) or self._pool._open_and_keep(self._gpu, group)

    def release(self) -> None:
        """End the platform's processes: nothing more will be asked there."""
        pool = self._pool
        with pool._changed:
            mine = [p for p in pool._platforms if p.gpu == self._gpu and not p.interviews]
            pool._platforms = [p for p in pool._platforms if p not in mine]
        for platform in mine:
            pool._end(platform)


def _as_messages(remaining: Sequence[tuple[_Group, Question]]) -> list[dict[str, Any]]:
    """Return questions as plain data, those of one environment together."""
    messages: list[dict[str, Any]] = []
    last: _Group | None = None
    for number, (group, question) in enumerate(remaining):
        if group is not last:
            messages.append({"environ": group.environ, "questions": []})
            last = group
        messages[-1]["questions"].append(
            (
                number,
                question.gpu.gfx,
                question.gpu.aiter.value,
                dict(question.environ),
                question.request.non_default(),
                question.kind,
                question.detail,
            )
        )
    return messages


def _kill(popen: subprocess.Popen[bytes]) -> None:
    """Kill a process that we started, with all that it forked."""
    if not hasattr(os, "killpg"):
        popen.kill()
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: only zombies are left
        os.killpg(popen.pid, signal.SIGKILL)


class _PipeProcess(_Conversation):
    """A process of its own for one platform and environment, where fork is not to be had."""

    def __init__(self, pool: Pool) -> None:
        self._popen = pool._start("pipe", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        super().__init__(self._popen.stdout, self._popen.stdin)
        self.send(**pool._hello())

    def end(self, *, kill: bool) -> Died | None:
        if kill:
            _kill(self._popen)
        with contextlib.suppress(OSError):
            self._write.close()  # the end of its questions
        code = self._popen.wait()
        _kill(self._popen)  # what it forked, which may go on
        self.close()
        if code < 0:
            return Died(-code)
        return Died(None, code) if code else None
