"""What `rocm-attn diff` costs, against reading every cell of both recordings once.

    python benchmarks/diff.py [BEFORE AFTER]

Peer: counting the pairs of answers of all cells, in one pass over both tables, which every comparison
must do at least. The ratio is taken in one run, in processor time, the least of a few rounds each.
Budget: 15; exit status 1 above it.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable

from pytest_rocm_attn.conformance.baseline.baseline import Baseline, load
from pytest_rocm_attn.conformance.baseline.changelog import Changelog, render
from pytest_rocm_attn.conformance.promise.grid.design import standard

BUDGET = 15.0
ROUNDS = 3
PAIR = ("vllm-0.11.2", "vllm-0.12.0")


def count_pairs(before: Baseline, after: Baseline) -> int:
    """Return how many cells two recordings have, after a look at each of them."""
    pairs: Counter[tuple[int, int]] = Counter()
    for name, table in before.tables.items():
        pairs.update(zip(table.codes, after.tables[name].codes, strict=True))
    return pairs.total()


def least(call: Callable[[], object]) -> float:
    """Return the seconds of processor time that a call takes, the least of a few."""
    found = []
    for _ in range(ROUNDS):
        start = time.process_time()
        call()
        found.append(time.process_time() - start)
    return min(found)


def main() -> int:
    """Print the seconds of both, and the ratio."""
    before, after = map(load, sys.argv[1:3] if len(sys.argv) > 2 else PAIR)
    assert count_pairs(before, after) == standard().cells
    peer = least(lambda: count_pairs(before, after))
    whole = least(lambda: render(Changelog.between(before, after, standard()), "text"))
    ratio = whole / peer
    print(
        f"{before} -> {after}: {whole:.2f} s, one pass over both tables {peer:.2f} s: ratio"
        f" {ratio:.1f} (budget {BUDGET:.0f})"
    )
    return int(ratio > BUDGET)


if __name__ == "__main__":
    sys.exit(main())
