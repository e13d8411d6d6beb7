"""The whole grid against bare calls of the same selector in a loop, in one run.

    PYTHONPATH=vllm-0.12.0 python benchmarks/grid.py vllm.platforms.rocm:RocmPlatform

Prints the CPU time and memory of the grid (all processes), the CPU time of as many bare calls of
the selector on one platform, and the ratio. Budget: 1,000,000 cells in 600 s of CPU and 2 GB; exit status
1 above it, or if a process failed or answered no cell.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import threading
import time
from pathlib import Path

from processes import run  # next to this script

BUDGET_CPU_US = 600.0  # of a cell: 600 s for 1,000,000 cells
BUDGET_BYTES = 2e9
RAN = (0, 1)  # 1: some slices fail
BARE = """
import contextlib, logging, os, sys, time
from pytest_rocm_attn import Gpu
from pytest_rocm_attn.conformance import adapters
from pytest_rocm_attn.conformance.promise.grid.design import standard
from pytest_rocm_attn.mock import mock_rocm
spec, calls = sys.argv[1], 20_000
gpu = Gpu("gfx942")
if spec != adapters.REFERENCE:
    mock_rocm(gpu).enter()
adapter = adapters.adapt(adapters.load(spec), spec)
part = standard().slice("shapes[gfx942]")
cells = [part.cell(number) for number in range(0, part.cells // 2, 3)]
adapter.prepare(gpu)
logging.disable(logging.CRITICAL)
start = time.process_time()
for number in range(calls):
    cell = cells[number % len(cells)]
    with contextlib.suppress(Exception):
        adapter.select(cell.request, cell.environ, gpu)
print((time.process_time() - start) / calls)
"""


def proportional_memory(root: int) -> int:
    """Return the bytes of a process and all below it, shared pages counted once (Linux)."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    total, open_ones = 0, [root]
    while open_ones:
        process = open_ones.pop()
        open_ones += children.get(process, [])
        try:
            rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
        except OSError:
            continue
        total += next(
            int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:")
        )
    return total


def exceeded(cells: int, cpu: float, peak: int) -> list[str]:
    """Return what is above the budget, in words.

    Args:
        cells: answered, at least one.
        cpu: seconds of all processes.
        peak: bytes of all processes.
    """
    a_cell = cpu / cells * 1e6
    faults = []
    if a_cell > BUDGET_CPU_US:
        faults.append(f"{a_cell:.0f} us of CPU a cell, budget {BUDGET_CPU_US:.0f}")
    if peak > BUDGET_BYTES:
        faults.append(f"{peak / 1e6:.0f} MB, budget {BUDGET_BYTES / 1e6:.0f}")
    return faults


def main() -> int:
    """Print the figures of the grid and of bare calls."""
    selector = sys.argv[1] if len(sys.argv) > 1 else "pytest_rocm_attn.backends:select"
    peak = 0
    ended = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(1.0):
            peak = max(peak, proportional_memory(os.getpid()))

    watcher = threading.Thread(target=watch)
    with tempfile.TemporaryDirectory() as folder:
        a_call = float(run([sys.executable, "-c", BARE, selector], folder).splitlines()[-1])
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        watcher.start()
        start = time.monotonic()
        command = [
            *(sys.executable, "-m", "pytest", "-q", "--tb=no", "--rocm-attn-conformance"),
            *("--rocm-attn-tier=grid", f"--rocm-attn-selector={selector}"),
            *("--rocm-attn-fresh", *sys.argv[2:]),
        ]
        try:
            output = run(command, folder, statuses=RAN)
        finally:
            ended.set()
            watcher.join()
        wall = time.monotonic() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    (summary,) = [line for line in output.splitlines() if " cells answered in " in line]
    cells = int(summary.partition(" ")[0].replace(",", ""))
    if not cells:
        raise SystemExit(f"no cell was answered: {summary}")
    print(summary)
    print(
        f"{cells:,} cells: {wall:.0f} s, {cpu:.0f} s of CPU ({cpu / cells * 1e6:.0f} us a cell),"
        f" {peak / 1e6:.0f} MB at most; a bare call takes {a_call * 1e6:.0f} us: ratio"
        f" {cpu / cells / a_call:.1f}"
    )
    faults = exceeded(cells, cpu, peak)
    for fault in faults:
        print(f"above the budget: {fault}")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
