"""ROCM_ATTN's HIP decode on a GPU: right on every case, and how fast, compared with the Triton kernel.

On an AMD GPU the matrix kernel runs, and the plain one too; on an NVIDIA GPU the plain kernel,
built by nvcc from the same source. Prints Markdown; the exit status is 1 if a result is wrong. Needs torch,
Triton and the GPU's compiler:

    python benchmarks/hip_decode.py
"""

from __future__ import annotations

import datetime
import itertools
import math
import sys
import time
from collections import Counter
from functools import partial
from typing import Any

import torch
import triton

from pytest_rocm_attn.backends.batch import Batch
from pytest_rocm_attn.backends.error_bounds import output_bound
from pytest_rocm_attn.backends.hip.build import library
from pytest_rocm_attn.backends.oracle import attend
from pytest_rocm_attn.backends.rocm_attn import RocmAttention
from pytest_rocm_attn.backends.under_test import RocmAttn, RocmAttnPlainHip
from pytest_rocm_attn.conformance.tiers.numerics.case import shipped
from pytest_rocm_attn.conformance.tiers.numerics.judge import examine
from pytest_rocm_attn.request import Request

GPU = torch.device("cuda", 0)
DTYPES = ("float16", "bfloat16")
LENGTHS = [1, 16, 255, 256, 257, 1025, 5000]


def step(request: Request, seq_lens: list[int], *, plain: bool, seed: int) -> tuple[float, bool]:
    """Return the largest error over its bound, of one new token for each of seq_lens."""
    draw = torch.Generator(device=GPU).manual_seed(seed)
    dtype = getattr(torch, request.dtype)
    slopes = torch.rand(request.num_heads, device=GPU, generator=draw) if request.alibi else None
    layer = RocmAttention(
        request, GPU, scale=request.head_size**-0.5, alibi_slopes=slopes, plain=plain
    )
    block = layer.block_size
    needed = [math.ceil(length / block) for length in seq_lens]
    order = torch.randperm(sum(needed) + 3, device=GPU, generator=draw).to(torch.int32)
    table = torch.zeros(len(seq_lens), max(needed), dtype=torch.int32, device=GPU)
    for i, count in enumerate(needed):
        table[i, :count] = order[sum(needed[:i]) : sum(needed[:i]) + count]
    slots = torch.cat(
        [
            table[i, torch.arange(n, device=GPU) // block].long() * block
            + torch.arange(n, device=GPU) % block
            for i, n in enumerate(seq_lens)
        ]
    )
    shape = (sum(seq_lens), request.num_kv_heads, request.head_size)
    key, value = (torch.randn(shape, device=GPU, generator=draw).to(dtype) for _ in range(2))
    bytes_ = torch.full((math.prod(layer.cache_shape(len(order))) * 2,), 0x7F, dtype=torch.uint8)
    cache = bytes_.to(GPU)[: math.prod(layer.cache_shape(len(order))) * layer.cache_dtype.itemsize]
    cache = cache.view(layer.cache_dtype).view(layer.cache_shape(len(order)))
    scale = torch.tensor(0.5, device=GPU)
    scales: dict[str, Any] = {"k_scale": scale, "v_scale": scale} if layer.fp8 else {}
    layer.write_cache(key, value, cache, Batch.build(seq_lens, seq_lens, table, slots), **scales)
    if layer.fp8:
        key, value = (
            (rows.float() / 0.5).to(layer.cache_dtype).double() * 0.5 for rows in (key, value)
        )
    requests = len(seq_lens)
    query = torch.randn(
        requests, request.num_heads, request.head_size, device=GPU, generator=draw
    ).to(dtype)
    batch = Batch.build([1] * requests, seq_lens, table, torch.full((requests,), -1, device=GPU))
    out = torch.full_like(query, torch.nan)
    reached = layer.decode_refusal(batch.max_seq_len, query, out) == ""
    layer.forward(query, cache, batch, out, **scales)
    worst, start = 0.0, 0
    for i, length in enumerate(seq_lens):
        exact = attend(
            query[i : i + 1],
            key[start : start + length],
            value[start : start + length],
            scale=layer.scale,
            alibi_slopes=slopes,
        )
        error = (out[i : i + 1].double().cpu() - exact.out).abs()
        ratio = (error / output_bound(exact, dtype, request.head_size)).max()
        worst = max(worst, math.inf if ratio.isnan() else float(ratio))
        start += length
    return worst, reached


def every_kernel(wrong: list[str], *, plain: bool) -> str:
    """Check each compiled kernel at several ratios of heads; return a line of Markdown.

    Args:
        wrong: gets what is beyond its bound or does not reach the kernel.
        plain: see RocmAttention.
    """
    count, failed, worst = 0, len(wrong), 0.0
    kinds = itertools.product(DTYPES, ("auto", "fp8"), (64, 128), (16, 32), (1, 3, 4, 8, 11, 16))
    for seed, (dtype, cache, head_size, block_size, group) in enumerate(kinds):
        request = Request(
            dtype=dtype,
            kv_cache_dtype=cache,
            head_size=head_size,
            block_size=block_size,
            num_heads=group,
            num_kv_heads=1,
            alibi=seed % 3 == 0,
        )
        ratio, reached = step(request, LENGTHS, plain=plain, seed=seed)
        count, worst = count + 1, max(worst, ratio)
        if not reached or not ratio <= 1:
            wrong.append(f"{request}: error / bound {ratio:.3f}, HIP kernel reached: {reached}")
    request = Request(num_heads=4, num_kv_heads=1)
    ratio, _ = step(request, [131072, 100_000], plain=plain, seed=1)
    count, worst = count + 1, max(worst, ratio)
    if not ratio <= 1:
        wrong.append(f"131,072 tokens: error / bound {ratio:.3f}")
    within = count - (len(wrong) - failed)
    return f"every kernel: {within} of {count} within, largest error / bound {worst:.3f}"


def cases(wrong: list[str], backend: RocmAttn) -> str:
    """Put the shipped numerics cases to a backend; return a line of Markdown, and add to `wrong`."""
    found: Counter[str] = Counter()
    for case in shipped():
        if case.kind == "attention" and not case.batch_invariant:
            finding = examine(backend, case, GPU)
            found[finding.kind] += 1
            if finding.kind not in ("right", "declined"):
                wrong.append(f"{backend.name}, {case.id}: {finding.words}")
    return f"numerics cases, {backend.name}: {found['right']} right, {found['declined']} declined"


def speed(batch_size: int, tokens: int) -> str:
    """Time decode by the HIP source and by Triton over one cache; return a row of Markdown."""
    request = Request(num_heads=32, num_kv_heads=8)
    times = []
    for plain in (True, False):
        layer = RocmAttention(request, GPU, scale=0.1, plain=plain)
        blocks = batch_size * tokens // 16
        cache = torch.randn(layer.cache_shape(blocks), dtype=torch.bfloat16, device=GPU)
        table = torch.randperm(blocks, device=GPU).to(torch.int32).view(batch_size, -1)
        slots = torch.full((batch_size,), -1, device=GPU)
        batch = Batch.build([1] * batch_size, [tokens] * batch_size, table, slots)
        query = torch.randn(batch_size, 32, 128, dtype=torch.bfloat16, device=GPU)
        out = torch.empty_like(query)
        times.append(
            triton.testing.do_bench_cudagraph(
                partial(layer.forward, query, cache, batch, out),
                return_mode="median",
            )
            * 1000
        )
    data = 2 * blocks * 16 * 8 * 128 * 2
    return (
        f"| {batch_size} x {tokens} | {times[0]:.0f} | {data / times[0] / 1e3:.0f} | {times[1]:.0f}"
        f" | {data / times[1] / 1e3:.0f} | {times[0] / times[1]:.2f} |"
    )


def main() -> int:
    """Print what was found; return the exit status."""
    wrong: list[str] = []
    amd = torch.version.hip is not None
    print(
        f"{datetime.datetime.now(tz=datetime.UTC).date()} {torch.cuda.get_device_name()},"
        f" torch {torch.__version__}, triton {triton.__version__}"
    )
    start = time.perf_counter()
    library()
    print(f"- build: {time.perf_counter() - start:.0f} s")
    for plain in (True, False) if amd else (True,):
        print(f"- {'plain' if plain else 'matrix'} kernel, {every_kernel(wrong, plain=plain)}")
    print(f"- {cases(wrong, RocmAttnPlainHip())}")
    print(f"- {cases(wrong, RocmAttn())}")
    print("\n| batch x tokens | HIP plain us | GB/s | Triton us | GB/s | ratio |")
    print("| --- | --- | --- | --- | --- | --- |")
    for batch_size, tokens in ((64, 2048), (64, 8192), (1, 32768)):
        print(speed(batch_size, tokens))
    for words in wrong:
        print(f"WRONG: {words}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
