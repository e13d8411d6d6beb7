"""What a dry launch costs, compared with Triton's own compilation of the same kernel.

Run: python benchmarks/dry_launch.py [--pairs N] [--gfx gfx942]

Both are measured in CPU time, in one process, in turn, each with an empty cache, after one round that
warms Triton up; the best time of each counts, for other processes share the cores. The bar is 1.05: a dry launch costs at most 5% more. The exit status is 1 above it.
A second identical launch, which finds the kernel in the cache, is shown for scale.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from pytest_rocm_attn.dry_launch import dry_launch, storageless
from pytest_rocm_attn.gpu import Gpu

BAR = 1.05


@triton.jit
def add_one(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + offsets, tl.load(x_ptr + offsets, offsets < n) + 1, offsets < n)


@triton.jit
def multiply(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    rows = tl.arange(0, BLOCK)
    offsets = rows[:, None] * BLOCK + rows[None, :]
    total = tl.zeros((BLOCK, BLOCK), tl.float32)
    for start in range(0, n, BLOCK):
        x = tl.load(x_ptr + start + offsets)
        total += tl.dot(x, tl.trans(x))
    tl.store(y_ptr + offsets, total)


@contextmanager
def empty_cache() -> Iterator[None]:
    with tempfile.TemporaryDirectory() as folder, triton.knobs.cache.scope():
        triton.knobs.cache.dir = folder
        yield


def cpu_seconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def measure(kernel: Any, block: int, gpu: Gpu, pairs: int) -> tuple[float, float, float]:
    """Return the best seconds of a compilation, of a dry launch, and of an identical second one."""
    x, y = storageless([1 << 20], torch.float16), storageless([1 << 20], torch.float32)
    target = GPUTarget("hip", gpu.gfx, gpu.wavefront)

    def launch() -> None:
        with dry_launch(gpu) as launches:
            kernel[(1,)](x, y, 1 << 10, BLOCK=block)
        assert len(launches) == 1

    def compilation() -> None:
        aligned = [["tt.divisibility", 16]]
        small = [*aligned, ["tt.pointer_range", 32]]
        source = ASTSource(
            kernel,
            {"x_ptr": "*fp16", "y_ptr": "*fp32", "n": "i32", "BLOCK": "constexpr"},
            constexprs={"BLOCK": block},
            attrs={(0,): small, (1,): small, (2,): aligned},
        )
        triton.compile(source, target=target)

    own, dry, again = [], [], []
    for round_ in range(pairs + 1):
        if round_ % 2:
            with empty_cache():
                own.append(cpu_seconds(compilation))
        with empty_cache():
            dry.append(cpu_seconds(launch))
            again.append(cpu_seconds(launch))
        if not round_ % 2:
            with empty_cache():
                own.append(cpu_seconds(compilation))
    return min(own[1:]), min(dry[1:]), min(again[1:])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=15, help="measurements of each kind")
    parser.add_argument("--gfx", default="gfx942", help="target")
    options = parser.parse_args()
    gpu, worst = Gpu(options.gfx), 0.0
    print(f"Triton {triton.__version__}, {gpu.gfx}, best of {options.pairs}, CPU milliseconds")
    print("kernel     compile  dry launch  ratio  again")
    for kernel, block in ((add_one, 256), (multiply, 32)):
        own, dry, again = measure(kernel, block, gpu, options.pairs)
        worst = max(worst, dry / own)
        print(
            f"{kernel.__name__:9} {own * 1e3:8.1f}  {dry * 1e3:10.1f}  {dry / own:5.3f}"
            f"  {again * 1e3:5.1f}"
        )
    print(f"worst ratio {worst:.3f}, bar {BAR}")
    return int(worst > BAR)


if __name__ == "__main__":
    raise SystemExit(main())
