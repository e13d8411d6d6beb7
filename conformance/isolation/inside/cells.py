"""The process side of bulk evaluation: many cells asked in one process, outcomes as codes.

The driving side (evaluate.py) describes a part of a slice by its axes; this side enumerates the
cells itself. Codes go into a file that both sides map, so that whatever becomes of this process,
the answers up to that moment are there, and so is the number of the cell it was working on. What a
code means is sent over the channel before the code is written.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import logging
import math
import mmap
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pytest_rocm_attn.conformance.isolation import wire
from pytest_rocm_attn.conformance.isolation.inside.environment import set_environment
from pytest_rocm_attn.conformance.isolation.inside.outcomes import outcome_of, refresh
from pytest_rocm_attn.conformance.isolation.inside.refusal import text_of
from pytest_rocm_attn.conformance.promise.grid.outcomes import OutcomeCodes
from pytest_rocm_attn.conformance.promise.grid.space import Axis, environment_of
from pytest_rocm_attn.outcome import Crashed, Outcome, Rejected, Unrecognised
from pytest_rocm_attn.request import Request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import CodeType, TracebackType

    from pytest_rocm_attn.conformance.adapters import Adapter
    from pytest_rocm_attn.conformance.isolation.inside.channel import Channel

UNANSWERED = 0xFFFF
# Distinct outcomes that are kept apart in one part; a selector that says something new each time
# must not fill the memory with it.
MOST_OUTCOMES = 4000
_MOST_PRINTED = 1_000_000  # bytes of the log that what a selector prints goes to
_HEADER = 8


class SharedCodes:
    """A code for each cell, in a file that two processes map.

    Attributes:
        codes: UNANSWERED if there is none yet.
    """

    def __init__(self, path: str, cells: int = 0) -> None:
        """Map a file; make it, with this many cells, where cells is given."""
        if cells:
            Path(path).write_bytes(bytes(_HEADER) + b"\xff\xff" * cells)
        with open(path, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self._view = memoryview(self._map)
        self._current = self._view[:_HEADER].cast("Q")
        self.codes: memoryview[int] = self._view[_HEADER:].cast("H")

    @property
    def current(self) -> int:
        """The cell that is being asked; -1 before the first."""
        return self._current[0] - 1

    @current.setter
    def current(self, cell: int) -> None:
        self._current[0] = cell + 1

    def close(self) -> None:
        for view in (self.codes, self._current, self._view):
            view.release()
        self._map.close()


@dataclass(frozen=True)
class Enumeration:
    """Cells over variables and requests, as a process enumerates them: environments, then requests.

    Args:
        variables: the axes that make an environment.
        requests: what is asked under each.
    """

    variables: tuple[Axis, ...]
    requests: tuple[Request, ...]

    @classmethod
    def of(cls, axes: Sequence[Axis]) -> Enumeration:
        """Return the enumeration of axes that end with the requests."""
        return cls(tuple(axes[:-1]), cast(tuple[Request, ...], axes[-1].values))

    @property
    def environments(self) -> int:
        return math.prod(len(axis.values) for axis in self.variables)

    @property
    def cells(self) -> int:
        return self.environments * len(self.requests)

    def environ(self, number: int) -> dict[str, str]:
        """Return one of the environments, by its number."""
        values = []
        for axis in reversed(self.variables):
            number, position = divmod(number, len(axis.values))
            values.append(axis.values[position])
        return environment_of(self.variables, values[::-1])


def scattered(count: int) -> Iterator[int]:
    """Yield 0 to count - 1, each once, so that any beginning is spread over the whole.

    If the time runs out, what was asked by then is a sample and not a corner.
    """
    step = max(1, round(count * 0.6180339887))
    while math.gcd(step, count) != 1:
        step += 1
    return (number * step % count for number in range(count))


def answer_cells(
    channel: Channel, adapter: Adapter, asked: wire.AskCells, base: Mapping[str, str]
) -> None:
    """Ask the cells of a message that have no code yet, until they have, or the time is over."""
    shared = SharedCodes(asked.file)
    _Asking(channel, adapter, shared, asked, base).run()
    shared.close()


class _Asking:
    def __init__(
        self,
        channel: Channel,
        adapter: Adapter,
        shared: SharedCodes,
        asked: wire.AskCells,
        base: Mapping[str, str],
    ) -> None:
        self._channel = channel
        self._adapter = adapter
        self._shared = shared
        self._cells = Enumeration.of([Axis.of(axis) for axis in asked.axes])
        self._asked = asked
        self._base = base
        self._set = {name for name in os.environ if name not in base}
        self._numbers = OutcomeCodes(asked.outcomes)
        self._raised: dict[tuple[type, str], int] = {}
        self._written: set[str] = set()

    def run(self) -> None:
        order = self._asked.environments
        with _quiet_logging(), _CompiledOnce():
            end = time.monotonic() + self._asked.seconds
            for number in scattered(self._cells.environments) if order is None else order:
                if time.monotonic() > end:
                    break
                self._ask_under(number, end)
        self._channel.send(wire.Done(sorted(self._written)))

    def _ask_under(self, number: int, end: float) -> None:
        requests, codes = self._cells.requests, self._shared.codes
        first = number * len(requests)
        if UNANSWERED not in codes[first : first + len(requests)].tolist():
            return
        environ = self._cells.environ(number)
        process = os.getpid()
        # The result of entering the environment is the outcome of the first of its cells.
        self._shared.current = first + codes[first : first + len(requests)].tolist().index(
            UNANSWERED
        )
        failure = None if self._asked.pure else self._enter(environ)
        if failure is not None:
            code = self._number(failure)
            for cell in range(first, first + len(requests)):
                if codes[cell] == UNANSWERED:
                    codes[cell] = code
            return
        before = _environment()
        for cell, request in enumerate(requests, first):
            if codes[cell] != UNANSWERED:
                continue
            if time.monotonic() > end:
                return
            self._shared.current = cell
            code = self._ask(request, environ)
            if os.getpid() != process:
                os._exit(0)  # the selector forked, and this is its child: the parent answers
            if _environment() != before:
                self._restore(before)
            codes[cell] = code

    def _enter(self, environ: Mapping[str, str]) -> Crashed | None:
        """Make the environment that base and environ are together, from the one before.

        Returns:
            The outcome of bringing the selector up to it, if that failed.
        """
        for name in self._set - environ.keys():
            if name in self._base:
                os.environ[name] = self._base[name]
            else:
                del os.environ[name]
        os.environ.update(environ)
        self._set = set(environ)
        _bound_the_log()
        return refresh(self._adapter)[1] if self._asked.refresh else None

    def _restore(self, before: Mapping[bytes, bytes]) -> None:
        now = _environment()
        changed = {name for name in before.keys() | now.keys() if before.get(name) != now.get(name)}
        self._written |= {os.fsdecode(name) for name in changed}
        set_environment({os.fsdecode(n): os.fsdecode(text) for n, text in before.items()})

    def _ask(self, request: Request, environ: Mapping[str, str]) -> int:
        """Ask one question and return the code of its outcome."""
        try:
            outcome: Outcome = self._adapter.select(request, dict(environ), self._asked.gpu)
        except BaseException as error:  # noqa: BLE001  whatever it raises is its outcome
            # A traceback is long in the making; the same error again is the same outcome.
            key = type(error), text_of(error)
            code = self._raised.get(key)
            if code is None:
                code = self._number(outcome_of(error))
                if len(self._raised) < MOST_OUTCOMES:
                    self._raised[key] = code
            return code
        return self._number(outcome)

    def _number(self, outcome: Outcome) -> int:
        known = len(self._numbers.outcomes)
        if known >= MOST_OUTCOMES:
            outcome = _without_words(outcome)
        code = self._numbers.code(outcome)
        if len(self._numbers.outcomes) > known:
            self._channel.send(wire.Numbered(self._numbers.outcomes[code]))
        return code


def _without_words(outcome: Outcome) -> Outcome:
    words = f"(one of more than {MOST_OUTCOMES} different texts)"
    match outcome:
        case Rejected(error):
            return Rejected(error, words)
        case Crashed(error):
            return Crashed(error, words)
        case Unrecognised():
            return Unrecognised(words)
    return outcome


def _environment() -> dict[bytes, bytes]:
    """Return a copy of the environment, in the form in which it is copied fastest."""
    texts: dict[bytes, bytes] = os.environ._data  # type: ignore[attr-defined]  # every CPython has it
    return texts.copy()


def _bound_the_log() -> None:
    """Cut what the selector printed, once it is too much to keep."""
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):
            if os.fstat(descriptor).st_size > _MOST_PRINTED:
                os.ftruncate(descriptor, 0)


@contextlib.contextmanager
def _quiet_logging() -> Iterator[None]:
    """Switch logging off: a line a selection, as vLLM writes it, takes longer than the selection."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


class _CompiledOnce:
    """Compile each source once, also that of a module whose import fails each time it is tried.

    Python keeps no compiled file of it where it may not write any.
    """

    def __enter__(self) -> None:
        loader: Any = importlib.machinery.SourceFileLoader  # its method is replaced for the while
        self._compile: Callable[..., CodeType] = loader.source_to_code
        compiled: dict[tuple[Any, Any], CodeType] = {}

        def source_to_code(self_: Any, data: Any, path: Any, **options: Any) -> CodeType:
            key = (path, data)
            if options or not isinstance(data, bytes):
                return self._compile(self_, data, path, **options)
            if key not in compiled:
                compiled[key] = self._compile(self_, data, path)
            return compiled[key]

        loader.source_to_code = source_to_code

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        loader: Any = importlib.machinery.SourceFileLoader
        loader.source_to_code = self._compile
