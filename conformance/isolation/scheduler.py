"""The scheduler: threads, called lanes, that work through what waits, each on one platform at a time."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Generic, TypeVar

from pytest_rocm_attn.conformance.isolation.processes import WorkerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pytest_rocm_attn.gpu import Gpu

Work = TypeVar("Work")


class Scheduler(Generic[Work]):
    """Threads that take one platform at a time, with all the work that waits for it.

    A selector is imported once per platform that way. Whatever ends the work on a platform, a bug
    of this package included, is reported for the work that it leaves undone; the thread goes on.

    Args:
        count: how many threads.
        run: does the work of a platform.
        failed: is given the work of a platform and what ended `run` early.
        changed: guards everything here and `busy`; is notified of every change.
        busy: platforms that somebody works on.
        rank: of the platforms that are free, the one that it ranks lowest goes first.

    Attributes:
        count: how many threads.
        closed: no more work is taken.
    """

    def __init__(
        self,
        count: int,
        run: Callable[[Gpu, list[Work]], None],
        failed: Callable[[list[Work], WorkerError], None],
        *,
        changed: threading.Condition,
        busy: set[Gpu],
        rank: Callable[[Gpu], bool] = lambda gpu: False,
    ) -> None:
        self.count = count
        self.closed = False
        self._run = run
        self._failed = failed
        self._changed = changed
        self._busy = busy
        self._rank = rank
        self._failure: WorkerError | None = None  # why no more work is done
        self._waiting: dict[Gpu, list[Work]] = {}
        self._threads = [threading.Thread(target=self._lane, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def submit(self, work: Iterable[tuple[Gpu, Work]]) -> None:
        """Have work done, each on its platform."""
        with self._changed:
            for gpu, each in work:
                self._waiting.setdefault(gpu, []).append(each)
            if self._failure is not None:
                self._give_up(self._failure)
            self._changed.notify_all()

    def close(self) -> None:
        """Take no more work; what is being done goes on, and what comes later fails at once."""
        with self._changed:
            self.closed = True
            self._failure = WorkerError("the workers of pytest-rocm-attn were ended")
            self._changed.notify_all()

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the threads to end, each for `timeout` seconds; return whether all have."""
        for thread in self._threads:
            thread.join(timeout)
        return not any(thread.is_alive() for thread in self._threads)

    def _lane(self) -> None:
        try:
            while (taken := self._take()) is not None:
                gpu, work = taken
                try:
                    self._run(gpu, work)
                except BaseException as error:  # noqa: BLE001  somebody waits for this work
                    self._failed(work, as_worker_error(error))
                finally:
                    with self._changed:
                        self._busy.discard(gpu)
                        self._changed.notify_all()
        except BaseException as error:  # noqa: BLE001  and for all other work
            with self._changed:
                self._failure = as_worker_error(error)
                self._give_up(self._failure)

    def _take(self) -> tuple[Gpu, list[Work]] | None:
        """Return a platform that nobody works on and its work; waits. None once closed."""
        with self._changed:
            while not self.closed:
                if (gpu := self._next()) is not None:
                    self._busy.add(gpu)
                    return gpu, self._waiting.pop(gpu)
                self._changed.wait()
        return None

    def _give_up(self, failure: WorkerError) -> None:
        while self._waiting:
            self._failed(self._waiting.popitem()[1], failure)

    def _next(self) -> Gpu | None:
        free = [gpu for gpu in self._waiting if gpu not in self._busy]
        return min(free, key=self._rank, default=None)


def as_worker_error(error: BaseException) -> WorkerError:
    """Return what ended work early as the error that is raised where somebody waits for it."""
    if isinstance(error, WorkerError):
        return error
    try:
        words = f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001  not even its words can be read
        words = type(error).__name__
    found = WorkerError(
        f"a bug in pytest-rocm-attn, or a machine out of resources; please report it ({words})"
    )
    found.__cause__ = error
    return found
