"""Which tile a kernel runs with: the rule that picks, from launch_tiles.TILES, what fits the target.

`choose_tile` takes the tile that launch_table.toml has for a shape, if it has one. Else it takes the first
candidate that is not larger than the work and that fits the target's LDS
and registers by `lds_bytes` and `registers`, two upper estimates; the launch tier compiles every choice
for every target and compares (tests/backends/test_launch_config.py, docs/backends.md).
`choose_segments` says into how many parts the keys of each request are split, and `choose_passes` which
launches a step takes.
"""

from __future__ import annotations

import bisect
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_rocm_attn.backends.launch_table import tabled, tabled_short
from pytest_rocm_attn.backends.launch_tiles import TILES
from pytest_rocm_attn.errors import BackendLimitError

if TYPE_CHECKING:
    from pytest_rocm_attn.backends.launch_target import Target
    from pytest_rocm_attn.backends.launch_tiles import Tile


@dataclass(frozen=True, slots=True)
class Shape:
    """One call's shape, as far as a tile depends on it.

    Args:
        rows: query rows that share a KV head, in the longest request.
        value_size: columns of the value; the key has `tail` more.
        tail: see value_size.
        element: bytes of one element of the model dtype.
        cache_element: bytes of one stored element of the cache.
        shared: the value is a part of the key, loaded once (MLA).
        plain: see `Tile`.
        biased: whether ALiBi adds a bias to each score.
        split: whether there are too few requests to fill the GPU, so that keys are split.
    """

    rows: int
    value_size: int
    tail: int = 0
    element: int = 2
    cache_element: int = 2
    shared: bool = False
    plain: bool = False
    biased: bool = False
    split: bool = False


# Registers of a lane besides those that `registers` counts: addresses, masks, the row state, and the
# fragments of K and V on their way to the matrix unit. Read off the compiled kernels
# (docs/backends.md).
OTHER_REGISTERS = {
    "NVIDIA": 32, "CDNA": 44, "RDNA": 96, "RDNA3": 96, "VECTOR": 96, "INTERPRETER": 0,
}  # fmt: skip
# And on CDNA what a pipelined loop holds of the next tile: by Triton 3.8, which spills where 3.6 does not.
PIPELINED_REGISTERS = 50
# And what the positions and the bias of ALiBi take there.
BIAS_REGISTERS = 40
# Triton 3.8 loads straight into LDS there, with a buffer for each stage, padded by up to 16 bytes in 512.
DIRECT_TO_LDS = ("gfx950",)
# The fixed cost of a program, and of merging segments, in steps of one tile: swept with the tiles.
START_STEPS = 4
MERGE_STEPS = 4
SMALLEST_ROWS = 16  # of a matrix operand: a request counts as decode while its rows fit
SHORT_TOKENS = 64  # new tokens of a request that gets a tile and segments of its own, in any batch
BUSY_ROWS = 64  # query rows that keep the matrix units of a processor busy
WORKSPACE = 2**25  # float32 elements that the segments' partial results may take: 128 MiB


def lds_bytes(tile: Tile, shape: Shape, target: Target) -> int:
    """Return an upper estimate of the shared memory of one program, in bytes, by any Triton from 3.6."""
    value_size = padded(shape.value_size)
    key_size = value_size + shape.tail
    columns = key_size + (0 if shape.shared else value_size)
    element = 4 if target.family == "VECTOR" else shape.element
    query = tile.block_m * key_size * element
    weights = tile.block_m * tile.block_n * element
    step = tile.block_n * columns * shape.cache_element
    if shape.cache_element < element:  # decoded, or widened, into a second buffer
        weights += tile.block_n * columns * element
    if target.family == "NVIDIA":
        # The query stays in shared memory. The page numbers are buffered as well.
        buffers = tile.num_stages if tile.pages_ahead else max(tile.num_stages - 1, 2)
        return query + buffers * (step + 4 * tile.block_n) + weights
    # On AMD the query passes through LDS once, before the loop, and stays in registers.
    buffers = max(tile.num_stages - 1, 1)
    if target.name in DIRECT_TO_LDS and tile.num_stages > 1:
        buffers, step = tile.num_stages, step + step // 32
    return max(query, buffers * step + weights)


def registers(tile: Tile, shape: Shape, target: Target) -> int:
    """Return an estimate of the 32-bit registers that a lane needs at once.

    Accumulator, scores, the tile in flight, on AMD the query (its rows repeat in every wave that does
    not own rows of its own, twice on RDNA3, whose WMMA wants each operand in both half-waves), on CDNA
    the keys that a wave multiplies at once and what decoding fp8 and a pipelined loop take, and
    OTHER_REGISTERS.
    """
    lanes = tile.num_warps * target.wavefront
    value_size = padded(shape.value_size)
    key_size = value_size + shape.tail
    columns = key_size + (0 if shape.shared else value_size)
    count = (tile.block_m * value_size + tile.block_m * tile.block_n) // lanes
    if target.family != "NVIDIA":
        matrix_rows = 32 if target.family == "CDNA" and tile.block_m >= 32 else 16
        owners = max(1, min(tile.num_warps, tile.block_m // matrix_rows))
        query = tile.block_m * key_size * shape.element // (4 * target.wavefront * owners)
        count += query * (2 if target.family == "RDNA3" else 1)
        count += tile.block_n * columns * shape.cache_element // (4 * lanes)
        if target.family == "CDNA":
            count += PIPELINED_REGISTERS if tile.num_stages > 1 else 0
            count += BIAS_REGISTERS if shape.biased else 0
            keys = max(matrix_rows, tile.block_n * owners // tile.num_warps)
            count += keys * key_size * shape.element // (4 * target.wavefront)
            if (
                shape.cache_element < shape.element
            ):  # decoding: bytes, bits and float32 side by side
                count += 3 * tile.block_n * columns // lanes
        elif shape.element == 4:  # no matrix instruction takes float32 there
            count += tile.block_n * key_size // target.wavefront
    return count + OTHER_REGISTERS[target.family]


def available_registers(tile: Tile, target: Target) -> int:
    """Return the registers that a lane can have when all warps of one program are resident."""
    waves_per_simd = -(-tile.num_warps // 4)  # four SIMDs a compute unit, on both vendors' GPUs
    return min(target.wave_registers, target.simd_registers // waves_per_simd)


def fits(tile: Tile, shape: Shape, target: Target) -> bool:
    """Return whether one program of the tile fits the target's LDS and registers."""
    if tile.cache_bytes not in (0, shape.cache_element):
        return False
    if (tile.plain and not shape.plain) or (tile.split and not shape.split):
        return False
    if tile.most_columns:
        enough = shape.element == 2 and padded(shape.value_size) + shape.tail <= tile.most_columns
    else:
        enough = registers(tile, shape, target) <= available_registers(tile, target)
    return enough and lds_bytes(tile, shape, target) <= target.lds_bytes


@functools.cache
def choose_short_tile(shape: Shape, target: Target) -> Tile:
    """Return the tile for requests with a few new tokens, which all read the same keys.

    Of the table's for the shape, else of those that fit: the smallest that holds all rows, so that keys are
    read once. If none does, of the largest and those of half its rows, but BUSY_ROWS, the one that leaves
    the fewest rows empty, the larger one of equals.
    """
    fitting = tabled_short(shape, target) or [
        tile for tile in TILES[target.family]["short"] if fits(tile, shape, target)
    ]
    fitting.sort(key=lambda tile: tile.block_m)  # the first of equals is the best
    for tile in fitting:
        if tile.block_m >= shape.rows:
            return tile
    fitting = fitting or [choose_tile("prefill", shape, target)]
    least = max(fitting[-1].block_m // 2, min(BUSY_ROWS, fitting[-1].block_m))
    halves = [tile for tile in fitting if tile.block_m >= least]
    return min(halves, key=lambda tile: (-shape.rows % tile.block_m, -tile.block_m))


@functools.cache
def choose_tile(kind: str, shape: Shape, target: Target) -> Tile:
    """Return the first candidate that is not larger than the work and that fits.

    Args:
        kind: "prefill", "decode" or "latent" (MLA's decode).
        shape: what is to be computed.
        target: the GPU.

    Raises:
        BackendLimitError: no candidate fits; the message gives the smallest need and the limit.
    """
    tile = tabled(kind, shape, target)
    if tile is not None:
        return tile
    tiles = [
        tile
        for tile in TILES[target.family][kind]
        if kind == "prefill" or tile.block_m <= max(16, padded(shape.rows))
    ]
    for tile in tiles:
        if fits(tile, shape, target):
            return tile
    # RDNA has no room for MLA's query in registers: there the least of them spills, and is still right.
    within = [tile for tile in tiles if lds_bytes(tile, shape, target) <= target.lds_bytes]
    if within and target.family not in ("CDNA", "NVIDIA"):
        return min(within, key=lambda tile: registers(tile, shape, target))
    smallest = min(tiles, key=lambda tile: lds_bytes(tile, shape, target))
    raise BackendLimitError(
        f"{kind} attention with head size {shape.value_size + shape.tail} does not fit {target.name}:"
        f" its smallest tile needs {lds_bytes(smallest, shape, target)} bytes of LDS and"
        f" {registers(smallest, shape, target)} registers, the limits are {target.lds_bytes} and"
        f" {available_registers(smallest, target)} (hardware.toml); use a smaller head size or a"
        " 16-bit dtype"
    )


@functools.lru_cache(maxsize=4096)
def choose_segments(programs: int, tiles: int, processors: int, tile: Tile) -> int:
    """Return into how many segments to split the keys of each request.

    The busiest processor's work decides the time: programs on it, each of (tiles / segments) steps
    plus START_STEPS, and with segments those that it takes to write and read partial results. Fewer
    than `tile.saturating` on a processor cannot use its share of the memory bandwidth, so they count
    as that many. Of the counts that put 1, 2, ... 8 programs on the busiest processor, the cheapest is
    taken, the smaller one of equals.

    Args:
        programs: programs without a split: requests * KV heads * head blocks * blocks of tokens.
        tiles: steps over the keys of the longest request.
        processors: see `Target`.
        tile: which is used.
    """
    best, lowest = 1, predicted_steps(1, programs, tiles, processors, tile)
    for busy in range(1, 9):
        segments = _without_empty_ones(busy * processors // max(programs, 1), tiles)
        steps = predicted_steps(segments, programs, tiles, processors, tile)
        if steps < lowest:
            best, lowest = segments, steps
    return best


def predicted_steps(segments: int, programs: int, tiles: int, processors: int, tile: Tile) -> int:
    """Return the time that `choose_segments` minimises, in steps of one tile."""
    steps = -(-tiles // segments) + START_STEPS
    if segments > 1:  # float32 once out and in, where a step reads 16-bit keys and values
        steps += 2 * tile.block_m // tile.block_n
    busiest = max(-(-programs * segments // processors), tile.saturating)
    return busiest * steps + (MERGE_STEPS if segments > 1 else 0)


def _without_empty_ones(segments: int, tiles: int) -> int:
    segments = max(min(segments, tiles), 1)
    return -(-tiles // -(-tiles // segments))


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be computed in a step, as far as the host knows.

    Args:
        requests: how many.
        tokens: new tokens of all requests.
        shortest, longest: fewest and most new tokens of a request that has some.
        lengths: new tokens of each request; None if the host does not know them.
        keys: of the longest request.
        window: see Request.sliding_window.
        heads, kv_heads: of queries, and of keys.
        value_size: columns of the value.
    """

    requests: int
    tokens: int
    shortest: int
    longest: int
    lengths: tuple[int, ...] | None
    keys: int
    window: int | None
    heads: int
    kv_heads: int
    value_size: int


@dataclass(frozen=True, slots=True)
class Pass:
    """One launch of the attention kernel, for requests with `first` to `last` new tokens."""

    first: int
    last: int
    tile: Tile
    segments: int


def decode_length(group: int) -> int:
    """Return the new tokens up to which a request counts as decode."""
    return max(1, SMALLEST_ROWS // group)


def choose_passes(
    work: Work, processors: int, prefill: Tile, tile_of: Callable[[int, bool], Tile]
) -> tuple[Pass, ...]:
    """Return the launches that compute a step: decodes, short requests, and the rest.

    They take every length from work.shortest to work.longest: a graph may be replayed on others.

    Args:
        work: the step.
        processors: see `Target`.
        prefill: the tile for requests that fill the GPU by themselves.
        tile_of: returns the tile for some query rows that share a KV head, and for whether requests fill the GPU.
    """
    passes = []
    first = work.shortest
    for last, requests in _kinds(work):
        filled = requests * programs_of_request(work, last, prefill) >= 2 * processors
        tile = tile_of(last * (work.heads // work.kv_heads), filled)
        if filled and last > SHORT_TOKENS:
            tile = prefill
        segments = _segments_of(work, requests, last, tile, processors)
        passes.append(Pass(first, last, tile, segments))
        first = last + 1
    return tuple(passes)


def _kinds(work: Work) -> list[tuple[int, int]]:
    """Return the most new tokens, and the number, of decodes, of short requests and of others: of those
    that there are."""
    decode = decode_length(work.heads // work.kv_heads)
    limits = sorted({min(limit, work.longest) for limit in (decode, SHORT_TOKENS, work.longest)})
    if work.lengths is not None:
        counts = [0] * len(limits)
        for length in work.lengths:
            if length:
                counts[bisect.bisect_left(limits, length)] += 1
        kinds = [(limit, count) for limit, count in zip(limits, counts, strict=True) if count]
        return [*kinds[:-1], (work.longest, kinds[-1][1])] if kinds else []
    if work.shortest > decode or work.longest <= decode:
        return [(work.longest, work.requests)]
    # As few as there may be: splitting keys once too often costs little, and not splitting them leaves
    # most of the GPU idle.
    beyond = work.tokens - work.requests * work.shortest
    longer = min(max(beyond // (work.longest - work.shortest), 1), work.requests)
    return [(decode, work.requests), (work.longest, longer)]


def _segments_of(work: Work, requests: int, last: int, tile: Tile, processors: int) -> int:
    keys = work.keys if work.window is None else min(work.keys, work.window + last - 1)
    tiles = -(-keys // tile.block_n)
    programs = requests * programs_of_request(work, last, tile)
    partial = min(work.requests * last, work.tokens) * work.heads * (work.value_size + 1)
    most = _without_empty_ones(WORKSPACE // partial, tiles)
    return min(choose_segments(programs, tiles, processors, tile), most)


def programs_of_request(work: Work, tokens: int, tile: Tile) -> int:
    """Return the programs of a request with some new tokens, without a split."""
    group = work.heads // work.kv_heads
    row_heads = min(group, tile.block_m)
    return work.kv_heads * -(-group // row_heads) * -(-tokens // (tile.block_m // row_heads))


def padded(size: int) -> int:
    """Return the smallest power of two that is at least size: Triton's blocks are powers of two."""
    return 1 << (size - 1).bit_length()
