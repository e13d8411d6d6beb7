"""Time TRITON_ATTN and TRITON_MLA on a GPU, together with the copy and the matrix product of the same run.

    python benchmarks/attention.py --peer vllm=TREE --peer aiter=TREE --check > attention.md

prints a Markdown page; docs/nvidia.md has tables of two such runs. A TREE is the folder that holds
the unmodified package (benchmarks/peers.py). --check then compares a grid of small cases with the float64 oracle. The exit status is 1 if a case takes longer than its limit,
which is an H100's, or is beyond its error bound; if an fp8 cache takes longer than a bfloat16 one; if a few
new tokens take longer than `cliffs` allows; or if the host takes over HOST_US for a call. bf16, block size 16,
blocks in random order, CUDA-graph replays, medians. Inputs rotate through more memory than any L2 cache.
"""

from __future__ import annotations

import argparse
import itertools
import math
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import triton
from peers import Peer, load
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from pytest_rocm_attn.backends import error_bounds, oracle
from pytest_rocm_attn.backends.batch import Batch
from pytest_rocm_attn.backends.triton_attn import TritonAttention
from pytest_rocm_attn.backends.triton_mla import TritonMLA
from pytest_rocm_attn.request import Request

BLOCK = 16
LAYERS = 32  # a model calls its layers in a row
NOTE = (
    "bf16, paged cache with block size 16, blocks in random order, 32 query and 8 KV heads of 128"
    " unless MLA; CUDA-graph replays, medians. A peer's cell gives its time and that time over ours, on"
    " the same tensors; its kernels are unmodified, with its own launch configurations."
)
HOST_US = 60  # of the host for one call of many in a row
SPECULATED, SPECULATION = 16, 2.0  # up to 16 new tokens may take twice as long as one
# Limits of the ratio of two rows' times. GROWN: to the row before, multiplied by the growth of its blocks of BLOCKS query
# rows, which the matrix unit multiplies at once. FEWER: to any later row, which has more new tokens.
GROWN, BLOCKS, FEWER = 1.15, 64, 1.1
# New tokens after KEYS: what fills tiles, and one more.
NEW_TOKENS, KEYS = (1, 2, 3, 4, 5, 6, 8, 9, 12, 16, 17, 24, 32, 33, 48, 49, 64), 32768
GROUPS = (1, 4, 8, 16)  # query heads to a KV head
CACHE_BYTES = 200e6  # rotate through at least this much: four times the largest L2


@dataclass(frozen=True)
class Speed:
    """One timed case: (query length, sequence length) per request, and the most that it may take.

    Args:
        as_fast_as: the name of a case before it that takes as long, or longer.
    """

    name: str
    lengths: Sequence[tuple[int, int]]
    limit_us: float
    mla_heads: int = 0
    kv_heads: int = 8
    fp8: bool = False
    as_fast_as: str = ""


SPEEDS = (
    Speed("decode, batch 64, 8192 tokens", [(1, 8192)] * 64, 733),
    Speed("decode, batch 64, 2048 tokens", [(1, 2048)] * 64, 191),
    Speed("decode, batch 1, 32768 tokens", [(1, 32768)], 60),
    *(
        Speed(f"{name}, fp8 cache", lengths, limit, fp8=True, as_fast_as=name)
        for name, lengths, limit in (
            ("decode, batch 64, 8192 tokens", [(1, 8192)] * 64, 733),
            ("decode, batch 64, 2048 tokens", [(1, 2048)] * 64, 191),
            ("decode, batch 1, 32768 tokens", [(1, 32768)], 60),
        )
    ),
    Speed("5 new tokens, 4 x 32768", [(5, 32768)] * 4, 250),
    Speed("prefill, 1 x 8192 causal", [(8192, 8192)], 1500),
    Speed("prefill, 1 x 4096 causal", [(4096, 4096)], 430),
    Speed("mixed, 56 x 2048 + 8 x 1024", [(1, 2048)] * 56 + [(1024, 1024)] * 8, 450),
    Speed("MLA decode, 128 heads, 32 x 4096", [(1, 4096)] * 32, 200, mla_heads=128),
    Speed("MLA decode, 16 heads, 32 x 4096", [(1, 4096)] * 32, 80, mla_heads=16),
)


def batches(lengths: Sequence[tuple[int, int]], copies: int, device: torch.device) -> list[Batch]:
    """Return batches over disjoint, shuffled blocks of one cache; no request owns block 0."""
    blocks = [-(-seq_len // BLOCK) for _, seq_len in lengths]
    free = iter((torch.randperm(sum(blocks) * copies) + 1).tolist())
    result = []
    for _ in range(copies):
        table = torch.zeros(len(lengths), -(-max(blocks) // 16) * 16, dtype=torch.int32)
        for i, count in enumerate(blocks):
            table[i, :count] = torch.tensor(list(itertools.islice(free, count)), dtype=torch.int32)
        slots = torch.cat(
            [
                table[i, torch.arange(s - q, s) // BLOCK].long() * BLOCK
                + torch.arange(s - q, s) % BLOCK
                for i, (q, s) in enumerate(lengths)
            ]
        )
        queries, seqs = [q for q, _ in lengths], [s for _, s in lengths]
        result.append(Batch.build(queries, seqs, table.to(device), slots.to(device)))
    return result


def microseconds(call: Callable[[int], Any], copies: int = 1) -> float:
    """Return the median time of call(i), from replays of a graph that holds all copies."""
    for i in range(copies):
        call(i)
    torch.cuda.synchronize()
    count = max(4, copies)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(count):
            call(i % copies)
    graph.replay()
    times: list[float] = []
    for _ in range(15):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) * 1000 / count)
    return statistics.median(times)


def ceilings(device: torch.device) -> tuple[float, float]:
    """Return the copy bandwidth in GB/s (read plus written) and the matrix product in TFLOP/s."""

    def copying(target: torch.Tensor, source: torch.Tensor) -> Callable[[int], Any]:
        return lambda _: target.copy_(source)

    best = 0.0
    for megabytes in (256, 1024, 4096):
        source = torch.randint(0, 2**30, (megabytes * 2**18,), dtype=torch.int32, device=device)
        target = torch.empty_like(source)
        taken = microseconds(copying(target, source))
        best = max(best, 2 * source.nbytes / taken / 1e3)
    a, b = (torch.randn(8192, 8192, device=device, dtype=torch.bfloat16) for _ in range(2))
    c = torch.empty_like(a)
    return best, 2 * 8192**3 / microseconds(lambda i: torch.matmul(a, b, out=c)) / 1e6


@dataclass(frozen=True)
class Prepared:
    """A case with its tensors.

    Args:
        call: computes copy i of the case.
        peers: what computes the same, by name.
        out: what each of them writes.
        copies: how many copies there are.
        size: bytes that must be read.
        flops: operations that must be done.
    """

    call: Callable[[int], Any]
    peers: dict[str, Callable[[int], Any]]
    out: torch.Tensor
    copies: int
    size: float
    flops: float


def prepare(speed: Speed, device: torch.device, peers: Sequence[Peer] = ()) -> Prepared:
    """Return a case on the device."""
    tokens = sum(s for _, s in speed.lengths)
    queries = sum(q for q, _ in speed.lengths)
    pairs = sum(q * s - q * (q - 1) / 2 for q, s in speed.lengths)
    if speed.mla_heads:
        size = tokens * 576 * 2
        copies = max(1, round(CACHE_BYTES * 2 / size))
        made = batches(speed.lengths, copies, device)
        mla = TritonMLA(Request(use_mla=True, num_heads=speed.mla_heads), device, scale=192**-0.5)
        cache = torch.randn(
            mla.cache_shape(1 + copies * tokens // BLOCK), device=device, dtype=torch.bfloat16
        )
        q = torch.randn(queries, speed.mla_heads, 576, device=device, dtype=torch.bfloat16)
        out = torch.empty(queries, speed.mla_heads, 512, device=device, dtype=torch.bfloat16)
        flops = 2 * pairs * speed.mla_heads * (576 + 512)

        def latent(peer: Peer) -> Callable[[int], Any]:
            return lambda i: peer.latent_attention(q, cache, made[i], out, mla.scale)

        others = {peer.name: latent(peer) for peer in peers if peer.mla_decode is not None}
        return Prepared(
            lambda i: mla.decode(q, cache, made[i], out), others, out, copies, size, flops
        )
    size = tokens * speed.kv_heads * 128 * 2 * (1 if speed.fp8 else 2)
    copies = max(1, round(CACHE_BYTES * 2 / size))
    made = batches(speed.lengths, copies, device)
    request = Request(num_kv_heads=speed.kv_heads, kv_cache_dtype="fp8" if speed.fp8 else "auto")
    layer = TritonAttention(request, device, scale=128**-0.5)
    shape = layer.cache_shape(1 + copies * tokens // BLOCK)
    cache = torch.empty(shape, device=device, dtype=layer.cache_dtype)
    for part in cache.split(4096):
        part.copy_(torch.randn(part.shape, device=device))
    one = torch.ones((), device=device) if speed.fp8 else None
    q = torch.randn(queries, 32, 128, device=device, dtype=torch.bfloat16)
    out = torch.empty_like(q)

    def paged(peer: Peer) -> Callable[[int], Any]:
        return lambda i: peer.attention(q, cache, made[i], out, layer.scale)

    others = {peer.name: paged(peer) for peer in peers if not speed.fp8}
    return Prepared(
        lambda i: layer.forward(q, cache, made[i], out, k_scale=one, v_scale=one),
        others,
        out,
        copies,
        size,
        4 * pairs * 32 * 128,
    )


def contiguous_microseconds(length: int, device: torch.device) -> float:
    """Return cuDNN's time for one causal request whose keys lie contiguously, without a cache."""
    q, k, v = (
        torch.randn(1, heads, length, 128, device=device, dtype=torch.bfloat16)
        for heads in (32, 8, 8)
    )
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return microseconds(
            lambda i: scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        )


def host_microseconds(device: torch.device) -> dict[str, tuple[float, float]]:
    """Return the host's time for one eager call: without and with segments, and the cache write."""
    times = {}
    for name, lengths in (("1 launch", [(1, 64)] * 64), ("2 launches", [(1, 4096)])):
        times[f"TRITON_ATTN forward, {name}"] = _eager(Speed(name, lengths, 0), device)
    latent = Speed("MLA", [(1, 4096)] * 32, 0, mla_heads=16)
    times["TRITON_MLA decode, 2 launches"] = _eager(latent, device)
    layer = TritonAttention(Request(), device, scale=1.0)
    (long,) = batches([(1, 4096)], 1, device)
    q = torch.randn(1, 32, 128, device=device, dtype=torch.bfloat16)
    cache = torch.zeros(layer.cache_shape(300), device=device, dtype=torch.bfloat16)
    out = torch.empty_like(q)
    first = "TRITON_ATTN forward, 2 launches, a step's first layer, with a new Batch"
    times[first] = _host(lambda: layer.forward(q, cache, replace(long), out))
    (batch,) = batches([(1, 64)] * 64, 1, device)
    new = torch.randn(64, 8, 128, device=device, dtype=torch.bfloat16)
    times["TRITON_ATTN write_cache"] = _host(lambda: layer.write_cache(new, new, cache, batch))
    mla = TritonMLA(Request(use_mla=True, num_heads=16), device, scale=1.0)
    stored = torch.zeros(mla.cache_shape(300), device=device, dtype=torch.bfloat16)
    kv_c, k_pe = (torch.randn(64, n, device=device, dtype=torch.bfloat16) for n in (512, 64))
    times["TRITON_MLA write_cache"] = _host(lambda: mla.write_cache(kv_c, k_pe, stored, batch))
    return times


def _eager(speed: Speed, device: torch.device) -> tuple[float, float]:
    case = prepare(speed, device)
    return _host(lambda: case.call(0))


def _host(call: Callable[[], Any]) -> tuple[float, float]:
    """Return the host's time for one of LAYERS calls in a row, and for one alone on an idle GPU."""
    for _ in range(20):
        call()
    bursts: list[float] = []
    alone: list[float] = []
    for times, count in ((bursts, LAYERS), (alone, 1)):
        for _ in range(100):
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(count):
                call()
            times.append((time.perf_counter() - start) * 1e6 / count)
    return statistics.median(bursts), statistics.median(alone)


LENGTHS = (
    ("mixed", [(5, 137), (1, 64), (133, 233), (1, 1), (17, 90), (0, 20), (64, 64)]),
    ("decode", [(1, 1000), (1, 33), (1, 16), (1, 1), (0, 0)]),
    ("long decode", [(1, 131072)]),
)
FEATURES: tuple[dict[str, Any], ...] = (
    {},
    {"sliding_window": 9},
    {"sliding_window": 100, "has_sink": True},
    {"logits_soft_cap": 5.0},
    {"alibi": True, "has_sink": True},
    {"causal": False},
    {"causal": False, "sliding_window": 30},
    {"kv_cache_dtype": "fp8", "fnuz": False},
    {"kv_cache_dtype": "fp8", "fnuz": True, "sliding_window": 50},
    {"head_size": 64, "num_kv_heads": 1},
    {"head_size": 80},
    {"head_size": 256},
    {"block_size": 48},
)


def check(device: torch.device) -> int:
    """Compare small cases with the oracle; return how many are beyond their bound."""
    cases: list[tuple[Any, ...]] = []
    for dtype, (name, lengths), features in itertools.product(
        ("bfloat16", "float16", "float32"), LENGTHS, FEATURES
    ):
        if not name.startswith("long") or (dtype == "bfloat16" and not features):
            cases.append((dtype, lengths, features, device))
    for dtype, heads in itertools.product(("bfloat16", "float16"), (16, 40, 128)):
        cases.append((dtype, heads, device))
    failures, largest = 0, 0.0
    # In processes of their own: nearly all of the time is the compiler's.
    with multiprocessing.get_context("spawn").Pool(12) as pool:
        for case, ratio in zip(cases, pool.imap(_case, cases), strict=True):
            largest = max(largest, ratio)
            if not ratio <= 1:
                failures += 1
                print(f"BEYOND ITS BOUND: {ratio:.3f} {case}")
    print(
        f"oracle: {len(cases) - failures} of {len(cases)} within; largest error / bound {largest:.3f}"
    )
    return failures


def _case(case: tuple[Any, ...]) -> float:
    torch.set_num_threads(1)
    return _ratio(*case) if len(case) == 4 else max(_mla_ratios(*case))


def _ratio(
    dtype: str, lengths: list[tuple[int, int]], features: dict[str, Any], device: torch.device
) -> float:
    """Return the largest error over its bound; inf when something was not written."""
    torch.manual_seed(0)
    features = {"num_heads": 8, "num_kv_heads": 2} | features | {"dtype": dtype}
    fnuz, causal = features.pop("fnuz", False), features.pop("causal", True)
    request = Request(**features)
    heads, block_size = request.num_heads, request.block_size or BLOCK
    slopes = torch.rand(heads) if request.alibi else None
    sinks = torch.randn(heads) if request.has_sink else None
    flavour = torch.float8_e4m3fnuz if fnuz else torch.float8_e4m3fn
    layer = TritonAttention(
        request,
        device,
        scale=request.head_size**-0.5,
        alibi_slopes=None if slopes is None else slopes.to(device),
        sinks=None if sinks is None else sinks.to(device),
        fp8_dtype=flavour if request.kv_cache_dtype == "fp8" else None,
    )
    blocks = [-(-s // block_size) for _, s in lengths]
    order = iter((torch.randperm(sum(blocks)) + 1).tolist())
    table = torch.zeros(len(lengths), max(blocks) + 3, dtype=torch.int32)
    cache = torch.full(layer.cache_shape(sum(blocks) + 1), torch.nan)  # padding is NaN
    for i, (_, seq_len) in enumerate(lengths):
        for j in range(blocks[i]):
            table[i, j] = next(order)
            filled = min(block_size, seq_len - j * block_size)
            cache[table[i, j], :, :filled].normal_()
    stored = cache.to(layer.cache_dtype)
    queries, seqs = [q for q, _ in lengths], [s for _, s in lengths]
    slots = torch.full((sum(queries),), -1)
    batch = Batch.build(queries, seqs, table.to(device), slots.to(device), causal=causal)
    q = torch.randn(len(slots), heads, request.head_size).to(layer.dtype)
    out = torch.full_like(q, torch.nan, device=device)
    fp8 = layer.cache_dtype.itemsize == 1
    scales = (0.5, 1.5) if fp8 else (1.0, 1.0)
    k_scale, v_scale = (torch.tensor(s, device=device) if fp8 else None for s in scales)
    given = stored.view(torch.uint8).to(device) if fp8 else stored.to(device)
    layer.forward(q.to(device), given, batch, out, k_scale=k_scale, v_scale=v_scale)
    key, value = (stored.float() if fp8 else stored).unbind(1)
    reference = oracle.paged_attention(
        q,
        key,
        value,
        query_start_loc=batch.query_start_loc,
        seq_lens=batch.seq_lens,
        block_table=table,
        scale=layer.scale,
        causal=causal,
        window=request.sliding_window,
        soft_cap=request.logits_soft_cap,
        alibi_slopes=slopes,
        sinks=sinks,
        k_scale=scales[0],
        v_scale=scales[1],
    )
    return _worst(out, reference, layer.dtype, request.head_size)


def _mla_ratios(dtype: str, heads: int, device: torch.device) -> list[float]:
    torch.manual_seed(0)
    mla = TritonMLA(Request(use_mla=True, num_heads=heads, dtype=dtype), device, scale=192**-0.5)
    lengths = [(1, 1000), (1, 33), (1, 16), (1, 1)]
    (batch,) = batches(lengths, 1, device)
    cache = torch.randn(mla.cache_shape(200)).to(mla.dtype)
    q = torch.randn(4, heads, 576).to(mla.dtype)
    out = torch.full((4, heads, 512), torch.nan, dtype=mla.dtype, device=device)
    mla.decode(q.to(device), cache.to(device), batch, out, check=True)
    decoded = oracle.mla_decode(
        q, cache, seq_lens=batch.seq_lens, block_table=batch.block_table, scale=mla.scale
    )
    starts, keys = torch.tensor([0, 5, 70, 71]), torch.tensor([0, 105, 170, 300])
    pq, pk, pv = (
        torch.randn(n, heads, size).to(mla.dtype) for n, size in ((71, 192), (300, 192), (300, 128))
    )
    pout = torch.full((71, heads, 128), torch.nan, dtype=mla.dtype, device=device)
    lse = torch.full((heads, 71), torch.nan, device=device)
    ratios = [_worst(out, decoded, mla.dtype, 576)]
    for causal in (True, False):
        mla.prefill(
            pq.to(device),
            pk.to(device),
            pv.to(device),
            pout,
            query_start_loc=starts.int().to(device),
            key_start_loc=keys.int().to(device),
            max_query_len=65,
            causal=causal,
            lse=lse,
        )
        reference = oracle.ragged_attention(
            pq, pk, pv, query_start_loc=starts, key_start_loc=keys, scale=mla.scale, causal=causal
        )
        ratios.append(_worst(pout, reference, mla.dtype, 192))
        error = (lse.double().cpu() - reference.lse).abs()
        ratios.append(float((error / error_bounds.lse_bound(reference, mla.dtype, 192)).max()))
    return ratios


def _worst(
    out: torch.Tensor, reference: oracle.Reference, dtype: torch.dtype, head_size: int
) -> float:
    bound = error_bounds.output_bound(reference, dtype, head_size)
    return float(((out.double().cpu() - reference.out).abs() / bound).nan_to_num(torch.inf).max())


def table(device: torch.device, peers: Sequence[Peer]) -> list[str]:
    """Print the timed cases, one row each; return what took longer than its limit."""
    missed = []
    times: dict[str, float] = {}
    bandwidth, product = ceilings(device)
    print(f"In this run: copy {bandwidth:.0f} GB/s (read plus written),", end=" ")
    print(f"8192-cubed bf16 matrix product {product:.0f} TFLOP/s.\n")
    names = [peer.name for peer in peers]
    columns = ["us", "at most", "of copy", "TFLOP/s", "of product", *names]
    print(f"| case | {' | '.join(columns)} |")
    print(f"| --- |{' ---: |' * len(columns)}")
    for speed in SPEEDS:
        case = prepare(speed, device, peers)
        taken = microseconds(case.call, case.copies)
        rate = case.flops / taken / 1e6
        cells = [
            f"{taken:.1f}",
            f"{speed.limit_us:.0f}",
            f"{case.size / taken / 1e3 / bandwidth:.1%}",
            f"{rate:.0f}",
            f"{rate / product:.1%}",
            *(_beside(case, name, taken) for name in names),
        ]
        print(f"| {speed.name} | {' | '.join(cells)} |", flush=True)
        if taken > speed.limit_us:
            missed.append(f"{speed.name}: {taken:.1f} us, at most {speed.limit_us:.0f}")
        times[speed.name] = taken
        if speed.as_fast_as and taken > times[speed.as_fast_as]:
            other = f"{speed.as_fast_as}: {times[speed.as_fast_as]:.1f} us"
            missed.append(f"{speed.name}: {taken:.1f} us, not as fast as {other}")
        del case
        torch.cuda.empty_cache()
    for length in (8192, 4096):
        print(f"\ncuDNN, 1 x {length} causal, contiguous keys, no cache:", end=" ")
        print(f"{contiguous_microseconds(length, device):.1f} us")
    return missed


def short_queries(device: torch.device) -> list[str]:
    """Print the time of a few new tokens after KEYS; return what is a cliff."""
    print(f"\nNew tokens of one request after {KEYS} keys, 32 query heads, us:\n")
    print(f"| new tokens | {' | '.join(f'group {group}' for group in GROUPS)} |")
    print(f"| --- |{' ---: |' * len(GROUPS)}")
    times: dict[int, dict[int, float]] = {group: {} for group in GROUPS}
    for new in NEW_TOKENS:
        for group, taken in times.items():
            case = prepare(Speed("", [(new, KEYS)], 0, kv_heads=32 // group), device)
            taken[new] = microseconds(case.call, case.copies)
            del case
        print(
            f"| {new} | {' | '.join(f'{taken[new]:.1f}' for taken in times.values())} |", flush=True
        )
    return [
        f"group {group}: {cliff}"
        for group, taken in times.items()
        for cliff in cliffs(taken, group)
    ]


def cliffs(times: Mapping[int, float], group: int) -> list[str]:
    """Return which rows take longer than SPECULATION, GROWN or FEWER allows, with what each is compared with.

    Args:
        times: of each number of new tokens.
        group: query heads to a KV head.
    """
    found = []
    rows = sorted(times)
    blocks = {new: -(-new * group // BLOCKS) for new in rows}

    def compare(new: int, other: int, most: float) -> None:
        grown = times[new] / times[other]
        if grown > most:
            found.append(f"{new} new tokens take {grown:.2f} times as long as {other}")

    for new in rows[1:]:
        compare(new, rows[0], SPECULATION if new <= SPECULATED else math.inf)
    for before, new in itertools.pairwise(rows):
        compare(new, before, GROWN * blocks[new] / blocks[before])
    for fewer, more in itertools.combinations(rows, 2):
        compare(fewer, more, FEWER)
    return found


def _beside(case: Prepared, name: str, ours: float) -> str:
    """Return a peer's time and its ratio to ours, once it has computed the same."""
    if name not in case.peers:
        return "-"
    case.call(0)
    expected = case.out.float()
    case.out.fill_(torch.nan)
    case.peers[name](0)
    if not torch.allclose(case.out.float(), expected, atol=2e-2, rtol=2e-2):
        return "computes something else"
    taken = microseconds(case.peers[name], case.copies)
    return f"{taken:.1f} ({taken / ours:.2f}x)"


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="then compare with the oracle")
    parser.add_argument("--peer", action="append", default=[], metavar="vllm=TREE", help="time too")
    options = parser.parse_args(arguments)
    peers = [load(name, Path(tree)) for name, _, tree in (p.partition("=") for p in options.peer)]
    device = torch.device("cuda", torch.cuda.current_device())
    print(f"# TRITON_ATTN and TRITON_MLA on {torch.cuda.get_device_name()}\n")
    print("Output of `python benchmarks/attention.py` (evidence: cuda),", end=" ")
    print(f"{time.strftime('%Y-%m-%d')},", end=" ")
    print(f"torch {torch.__version__}, Triton {triton.__version__}. {NOTE}\n")
    missed = table(device, peers) + short_queries(device)
    print(f"\nHost time of one eager call, metadata in place (at most {HOST_US} us in a row):\n")
    print(f"| call | one of {LAYERS} in a row, us | one alone, after the GPU fell idle, us |")
    print("| --- | ---: | ---: |")
    for name, (burst, alone) in host_microseconds(device).items():
        print(f"| {name} | {burst:.1f} | {alone:.1f} |")
        if burst > HOST_US and "first layer" not in name:
            missed.append(f"{name}: {burst:.1f} us of the host, at most {HOST_US}")
    print(flush=True)
    for words in missed:
        print(f"MISSED: {words}")
    failed = check(device) if options.check else 0
    return 1 if missed or failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
