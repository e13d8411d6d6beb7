"""What having the plugin installed costs a suite that does not use it.

    python benchmarks/per_test.py [PAIRS]

A suite of 4,000 empty tests runs with the plugin and with ``-p no:rocm_attn``, in turn, so that a busy
machine disturbs both alike; other plugins are switched off. The figure is CPU time: the median over pairs
of the ratio within a pair. Budget: 2% more. The plugin's start is included (benchmarks/startup.py).
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from pathlib import Path

from startup import commands, milliseconds

BUDGET = 0.02
FILES, TESTS = 40, 100


def main(pairs: int) -> int:
    environ = {name: text for name, text in os.environ.items() if not name.startswith("PYTEST")}
    environ.pop("PYTHONDONTWRITEBYTECODE", None)
    variants = commands("-q", "-p", "no:cacheprovider")
    ratios: list[float] = []
    cpu: dict[str, list[float]] = {"with": [], "without": []}
    with tempfile.TemporaryDirectory() as folder:
        suite = "".join(f"def test_{number}():\n    pass\n\n\n" for number in range(TESTS))
        for number in range(FILES):
            Path(folder, f"test_{number}.py").write_text(suite)
        for command in variants.values():  # fills the caches of bytecode
            milliseconds(command, folder, environ)
        for number in range(pairs):
            names = ("with", "without") if number % 2 else ("without", "with")
            times = {name: milliseconds(variants[name], folder, environ)[1] for name in names}
            ratios.append(times["with"] / times["without"])
            for name, time in times.items():
                cpu[name].append(time)
    more = statistics.median(ratios) - 1
    print(
        f"{FILES * TESTS:,} empty tests, CPU: with {min(cpu['with']):.0f},"
        f" without {min(cpu['without']):.0f} ms (the least of {pairs});"
        f" {more:+.1%} (median of pairs; budget {BUDGET:+.0%})"
    )
    return 0 if more <= BUDGET else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 15))
