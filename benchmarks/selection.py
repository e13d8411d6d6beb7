"""How many selections the reference makes per second of one core.

    python benchmarks/selection.py

Peer: ``Flags(environ)``, parsing the very environment of each case, which a caller pays before it
can ask at all. The ratio (time of a selection over time of that parse) is taken in one run and so
hardly depends on the machine; the figures per second do. Processor time is counted, not the clock,
for other processes share the core. Exit code 1 when a case stays below the budget.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial

from pytest_rocm_attn.backends import select
from pytest_rocm_attn.flags import Flags
from pytest_rocm_attn.gpu import Gpu
from pytest_rocm_attn.request import Request

BUDGET = 100_000  # selections per second of one core
CALLS, ROUNDS = 2_000, 25

AITER = {"VLLM_ROCM_USE_AITER": "1", "VLLM_ROCM_USE_AITER_MHA": "1"}
NAMED = {"VLLM_ATTENTION_BACKEND": "TRITON_ATTN"}
CASES: dict[str, tuple[Request, dict[str, str], Gpu, str]] = {
    "default": (Request(), {}, Gpu("gfx942"), "TRITON_ATTN"),
    "named": (Request(), NAMED, Gpu("gfx942"), "TRITON_ATTN"),
    "aiter": (Request(), AITER, Gpu("gfx942"), "ROCM_AITER_FA"),
    "aiter, RDNA": (Request(), AITER, Gpu("gfx1100"), "TRITON_ATTN"),
    "MLA": (Request(use_mla=True), {}, Gpu("gfx942"), "TRITON_MLA"),
    "MLA, aiter": (Request(use_mla=True), AITER, Gpu("gfx942"), "ROCM_AITER_MLA"),
}


def per_second(call: Callable[[], object]) -> float:
    """Return the best rate of several rounds, in calls per second of processor time."""
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.process_time()
        for _ in range(CALLS):
            call()
        best = min(best, time.process_time() - start)
    return CALLS / best


def main() -> int:
    """Print a line per case."""
    print(f"{'case':12} {'selections/s':>14} {'parses/s':>14} {'selection/parse':>16}")
    slowest = float("inf")
    for name, (request, environ, gpu, backend) in CASES.items():
        flags = Flags(environ)
        assert select(request, flags, gpu).backend == backend, name
        selections = per_second(partial(select, request, flags, gpu))
        parses = per_second(partial(Flags, environ))
        slowest = min(slowest, selections)
        print(f"{name:12} {selections:14,.0f} {parses:14,.0f} {parses / selections:16.1f}")
    print(f"slowest: {slowest:,.0f} per second; budget: {BUDGET:,}")
    return 0 if slowest >= BUDGET else 1


if __name__ == "__main__":
    sys.exit(main())
