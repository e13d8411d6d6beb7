"""The documented tier against a real fork, as a ratio to one bare import of it under the mock.

    PYTHONPATH=vllm-0.12.0 python benchmarks/documented_tier.py

Budget: at most 4.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time

BARE = (
    "import torch\n"
    "from pytest_rocm_attn.mock import mock_rocm\n"
    "mock_rocm('gfx942').enter()\n"
    "import vllm.platforms.rocm\n"
)
TIER = [
    *("-m", "pytest", "-q", "--rocm-attn-conformance"),
    "--rocm-attn-selector=vllm.platforms.rocm:RocmPlatform",
]


def seconds(folder: str, *arguments: str) -> float:
    """Return how long a Python command takes."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=folder, check=False, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        bare = min(seconds(folder, "-c", BARE) for _ in range(3))
        tier = min(seconds(folder, *TIER) for _ in range(2))
        print(f"bare import {bare:.2f} s, documented tier {tier:.2f} s, ratio {tier / bare:.2f}")


if __name__ == "__main__":
    main()
