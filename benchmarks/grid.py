"""The whole grid against bare calls of the same selector in a loop, in one run.

    PYTHONPATH=vllm-0.12.0 python benchmarks/grid.py vllm.platforms.rocm:RocmPlatform

Prints the CPU time and memory of the grid (all processes), the CPU time of as many bare calls of
the selector on one platform, and the ratio. Budget: 1,000,000 cells in 600 s of CPU and 2 GB.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

BARE = """
import contextlib, logging, os, sys, time
from pytest_rocm_attn import Gpu
from pytest_rocm_attn.conformance import adapters
from pytest_rocm_attn.conformance.grid.design import standard
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


def main() -> None:
    selector = sys.argv[1] if len(sys.argv) > 1 else "pytest_rocm_attn.backends:select"
    peak = 0
    ended = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(1.0):
            peak = max(peak, proportional_memory(os.getpid()))

    watcher = threading.Thread(target=watch)
    with tempfile.TemporaryDirectory() as folder:
        bare = subprocess.run(
            [sys.executable, "-c", BARE, selector],
            cwd=folder,
            check=True,
            capture_output=True,
            text=True,
        )
        a_call = float(bare.stdout.splitlines()[-1])
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        watcher.start()
        start = time.monotonic()
        run = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-q", "--tb=no", "--rocm-attn-conformance"),
                *("--rocm-attn-tier=grid", f"--rocm-attn-selector={selector}"),
                *("--rocm-attn-fresh", *sys.argv[2:]),
            ],
            cwd=folder,
            check=False,
            capture_output=True,
            text=True,
        )
        wall = time.monotonic() - start
        ended.set()
        watcher.join()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    (told,) = [line for line in run.stdout.splitlines() if " cells answered in " in line]
    cells = int(told.partition(" ")[0].replace(",", ""))
    print(told)
    print(
        f"{cells:,} cells: {wall:.0f} s, {cpu:.0f} s of CPU ({cpu / cells * 1e6:.0f} us a cell),"
        f" {peak / 1e6:.0f} MB at most; a bare call takes {a_call * 1e6:.0f} us: ratio"
        f" {cpu / cells / a_call:.1f}"
    )


if __name__ == "__main__":
    main()
