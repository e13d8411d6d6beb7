"""What entering and leaving the mock costs, compared with a plain peer in the same run.

The peer is what projects do by hand today: monkeypatching twenty attributes and undoing it. Budget:
enter plus leave under 5 ms once torch is imported; exit status 1 above it, and if a cycle mocks nothing.

    python benchmarks/mock_cycle.py
"""

from __future__ import annotations

import importlib.util
import statistics
import sys
import time
import types
from collections.abc import Callable

import pytest

from pytest_rocm_attn.mock import mock_rocm

BUDGET_MS = 5.0
ROUNDS = 15
CYCLES = 20
PATCHES = 20
COUNT = 8  # GPUs


def milliseconds(cycle: Callable[[], None]) -> float:
    """Return the CPU time of one cycle, the median over rounds; a busy machine does not disturb it."""
    cycle()
    times = []
    for _ in range(ROUNDS):
        start = time.process_time()
        for _ in range(CYCLES):
            cycle()
        times.append((time.process_time() - start) / CYCLES * 1e3)
    return statistics.median(times)


def peer(target: types.SimpleNamespace) -> None:
    patch = pytest.MonkeyPatch()
    for index in range(PATCHES):
        patch.setattr(target, f"name{index}", index)
    patch.undo()


def main() -> int:
    import torch  # the budget holds once it is imported

    mock = mock_rocm("gfx942", aiter=True, count=COUNT)

    def cycle() -> None:
        with mock:
            assert torch.cuda.device_count() == COUNT, "nothing is mocked"

    names = {f"name{index}": None for index in range(PATCHES)}
    target = types.SimpleNamespace(**names)
    mocked, patched = milliseconds(cycle), milliseconds(lambda: peer(target))
    print(f"enter + leave MockRocm:           {mocked:7.3f} ms (budget {BUDGET_MS} ms)")
    print(f"monkeypatch {PATCHES} attributes, undo: {patched:7.3f} ms")
    print(f"ratio:                            {mocked / patched:7.1f}")
    if importlib.util.find_spec("triton") is not None:
        importlib.import_module("triton")
        with_triton = milliseconds(cycle)
        print(f"with Triton imported, its driver: {with_triton:7.3f} ms")
        mocked = max(mocked, with_triton)
    print(f"modules loaded: {len(sys.modules)}")
    return 0 if mocked < BUDGET_MS else 1


if __name__ == "__main__":
    sys.exit(main())
