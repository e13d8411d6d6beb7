"""What having the plugin installed adds to ``pytest --collect-only`` in an empty folder.

    python benchmarks/startup.py [PAIRS]

Both variants (with the plugin, and with ``-p no:rocm_attn``) run in turn, so that a busy machine
disturbs them alike; other plugins are switched off, since their own start-up would hide ours. Twice:
with this package's bytecode cached, as where a user runs pytest again, and without (its cache is
emptied), as with an editable install where PYTHONDONTWRITEBYTECODE is set. Budget: 10 ms more.
"""

from __future__ import annotations

import importlib.util
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

import pytest

BUDGET_MS = 10.0
OURS = "rocm_attn"


def milliseconds(command: list[str], folder: str, environ: dict[str, str]) -> tuple[float, float]:
    """Return wall and CPU time of one run of pytest.

    Raises:
        RuntimeError: not all tests passed, or there was none; its time shows nothing.
    """
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        command, cwd=folder, env=environ, check=False, capture_output=True, text=True
    )
    if done.returncode not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        raise RuntimeError(f"{command} exits with {done.returncode}:\n{done.stdout}{done.stderr}")
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall * 1e3, cpu * 1e3


def commands(*options: str) -> dict[str, list[str]]:
    """Return pytest with these options, with the plugin and without; no other plugin is loaded."""
    others = {entry.name for entry in metadata.entry_points(group="pytest11")} - {OURS}
    base = [sys.executable, "-m", "pytest", *options]
    base += [word for name in sorted(others) for word in ("-p", f"no:{name}")]
    return {"with": base, "without": [*base, "-p", f"no:{OURS}"]}


def compare(pairs: int, environ: dict[str, str]) -> float:
    """Print both variants and what lies between them; return the smaller of two estimates (wall)."""
    variants = commands("--collect-only", "-q")
    times: dict[str, list[tuple[float, float]]] = {"with": [], "without": []}
    with tempfile.TemporaryDirectory() as folder:
        for command in variants.values():  # fills the caches
            milliseconds(command, folder, environ)
        for number in range(pairs):
            for name in ("with", "without") if number % 2 else ("without", "with"):
                times[name].append(milliseconds(variants[name], folder, environ))
    differences = []
    for index, kind in enumerate(("wall", "CPU")):
        on, off = ([sample[index] for sample in times[name]] for name in ("with", "without"))
        medians, minima = statistics.median(on) - statistics.median(off), min(on) - min(off)
        print(
            f"  {kind:>4}: with {statistics.median(on):7.1f} (min {min(on):7.1f}), without"
            f" {statistics.median(off):7.1f} (min {min(off):7.1f}) ms;"
            f" medians {medians:+5.1f}, minima {minima:+5.1f} ms"
        )
        differences.append(min(medians, minima))
    return differences[0]


def main(pairs: int) -> int:
    environ = {name: text for name, text in os.environ.items() if not name.startswith("PYTEST")}
    environ.pop("PYTHONDONTWRITEBYTECODE", None)
    print(f"bytecode cached, {pairs} pairs")
    cached = compare(pairs, environ)
    spec = importlib.util.find_spec("pytest_rocm_attn")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        for compiled in Path(place).glob("__pycache__/*.pyc"):
            compiled.unlink()
    print(f"no bytecode, {pairs} pairs")
    uncached = compare(pairs, environ | {"PYTHONDONTWRITEBYTECODE": "1"})
    return 0 if max(cached, uncached) < BUDGET_MS else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 25))
