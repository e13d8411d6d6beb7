"""All shipped numerics cases on our backends, on this machine's GPU: a table for docs/numerics.md.

One process a backend, as each compiles kernels of its own. Needs torch, Triton and a GPU:

    python benchmarks/numerics_on_gpu.py
"""

from __future__ import annotations

import datetime
import subprocess
import sys
from collections import Counter

import torch
import triton

from pytest_rocm_attn.conformance import adapters
from pytest_rocm_attn.conformance.numerics.case import shipped
from pytest_rocm_attn.conformance.numerics.judge import examine
from pytest_rocm_attn.conformance.numerics.subjects import REFERENCES


def run(name: str) -> int:
    """Put every case to one backend; print its row. Return how many were wrong."""
    (backend,) = (one for one in REFERENCES if one.name == name)
    solver = adapters.load(backend.spec)
    assert isinstance(solver, type)
    found: Counter[str] = Counter()
    worst = 0.0
    for case in shipped():
        if backend.takes(case):
            finding = examine(solver(), case, torch.device("cuda", 0))
            found[finding.kind] += 1
            worst = max(worst, finding.ratio)
            if finding.kind not in ("right", "declined"):
                print(f"{name} {case.id}: {finding.words}", flush=True)
    wrong = sum(found.values()) - found["right"] - found["declined"]
    print(
        f"| {name} | {found['right']} | {found['declined']} | {wrong} | {worst:.3f} |", flush=True
    )
    return wrong


def main() -> int:
    """Print the table; return 1 when a case was wrong or a backend's process failed."""
    if len(sys.argv) > 1:
        return int(run(sys.argv[1]) > 0)
    print(
        f"{datetime.datetime.now(tz=datetime.UTC).date()} {torch.cuda.get_device_name()},"
        f" torch {torch.__version__}, triton {triton.__version__}\n"
    )
    print("| backend | right | declined | wrong | largest error / bound |")
    print("| --- | --- | --- | --- | --- |", flush=True)
    processes = [
        subprocess.Popen([sys.executable, __file__, backend.name]) for backend in REFERENCES
    ]
    return max(process.wait() for process in processes)


if __name__ == "__main__":
    sys.exit(main())
