"""The scheduler: whatever goes wrong in a thread reaches whoever waits for its work."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING

import pytest

from pytest_rocm_attn import Gpu
from pytest_rocm_attn.conformance.isolation import WorkerError
from pytest_rocm_attn.conformance.isolation.scheduler import Scheduler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FIRST, SECOND = Gpu("gfx942"), Gpu("gfx90a")


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise ValueError("not even its words")


FAULTS = [KeyError("x"), MemoryError(), SystemExit(3), KeyboardInterrupt(), Unspeakable()]


class Working:
    """A scheduler of futures; a platform's work fails as `faults` says."""

    def __init__(self) -> None:
        self.faults: dict[Gpu, BaseException] = {}
        self.rank: Callable[[Gpu], bool] = lambda gpu: False
        self.lanes: Scheduler[Future[str]] = Scheduler(
            1,
            self._run,
            self._failed,
            changed=threading.Condition(),
            busy=set(),
            rank=lambda gpu: self.rank(gpu),
        )

    def _run(self, gpu: Gpu, work: list[Future[str]]) -> None:
        if gpu in self.faults:
            raise self.faults[gpu]
        for future in work:
            future.set_result(gpu.gfx)

    def _failed(self, work: list[Future[str]], error: WorkerError) -> None:
        for future in work:
            future.set_exception(error)

    def submit(self, gpu: Gpu) -> Future[str]:
        future: Future[str] = Future()
        self.lanes.submit([(gpu, future)])
        return future


@pytest.fixture
def working() -> Iterator[Working]:
    """Scheduler, closed when the test is over."""
    made = Working()
    yield made
    made.lanes.close()
    assert made.lanes.join(60)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
def test_a_fault_of_the_work_is_raised_where_it_is_waited_for_and_the_lane_goes_on(
    working: Working, fault: BaseException
) -> None:
    working.faults[FIRST] = fault
    with pytest.raises(WorkerError, match=type(fault).__name__) as caught:
        working.submit(FIRST).result(timeout=60)
    assert caught.value.__cause__ is fault
    assert "\n" not in str(caught.value)
    assert working.submit(SECOND).result(timeout=60) == SECOND.gfx


def test_a_fault_of_the_lanes_themselves_is_raised_for_all_work_that_waits_or_comes_later(
    working: Working,
) -> None:
    def fails(gpu: Gpu) -> bool:
        raise MemoryError

    working.rank = fails
    with pytest.raises(WorkerError, match="MemoryError"):
        working.submit(FIRST).result(timeout=60)
    with pytest.raises(WorkerError, match="MemoryError"):
        working.submit(SECOND).result(timeout=60)
