"""Which tile sizes a kernel runs with: data per GPU family, and the rule that picks what fits.

`TILES` lists candidates, best first. `choose_tile` takes the first that is no larger than the work
and that fits the target's LDS and registers by `lds_bytes` and `registers`, two upper estimates; the
launch tier compiles every choice for every target and compares (tests/backends/test_launch_config.py,
docs/backends.md). `choose_segments` says into how many parts the keys of a decode are split.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.errors import BackendInputError, BackendLimitError
from pytest_rocm_attn.gpu import Gpu, hardware

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Tile:
    """One configuration of the attention kernel.

    Args:
        block_m: query rows (token, head) of one program.
        block_n: keys of one step.
        num_warps, num_stages: the compiler's.
        loops: give the tiles that need no mask a loop of their own.
        pages_ahead: look up the pages of a tile one step early.
        saturating: programs on one processor that use all of its share of the memory bandwidth.
        options: further compiler options, by name.
    """

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int
    loops: bool = True
    pages_ahead: bool = False
    saturating: int = 2
    options: dict[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Target:
    """What the rule needs to know of a GPU.

    Args:
        name: gfx target, "sm_90", or "interpreter".
        family: "CDNA", "RDNA3", "RDNA", "VECTOR", "NVIDIA" or "INTERPRETER".
        wavefront: lanes of a warp.
        lds_bytes: shared memory that one program can have.
        simd_registers: 32-bit registers of a SIMD lane, shared by its resident waves.
        wave_registers: the most that one wave can address.
        processors: compute units (work-group processors on RDNA, multiprocessors on NVIDIA).
    """

    name: str
    family: str
    wavefront: int
    lds_bytes: int
    simd_registers: int
    wave_registers: int
    processors: int


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
    """

    rows: int
    value_size: int
    tail: int = 0
    element: int = 2
    cache_element: int = 2
    shared: bool = False


# Prefill: whole blocks of rows. Decode: few rows, so no second loop: one pass keeps the memory
# pipeline full. Latent: MLA's decode, whose 576 columns leave room for few keys.
# NVIDIA: swept on an H100 (docs/h100.md). AMD: untuned, as no such GPU was at hand; the largest tiles
# that compile without spills on CDNA, and with the fewest elsewhere (docs/launch-tables/).
TILES: dict[str, dict[str, tuple[Tile, ...]]] = {
    "NVIDIA": {
        "prefill": (
            Tile(256, 64, 16, 3),
            Tile(128, 64, 8, 3, pages_ahead=True),
            Tile(64, 64, 4, 2),
            Tile(64, 32, 4, 2),
            Tile(32, 32, 4, 2),
            Tile(16, 16, 4, 2),
        ),
        "decode": (
            Tile(64, 64, 8, 3, loops=False),
            Tile(64, 32, 8, 3, loops=False, pages_ahead=True),
            Tile(32, 64, 4, 3, loops=False),
            Tile(16, 64, 4, 3, loops=False),
            Tile(16, 32, 4, 3, loops=False, pages_ahead=True),
            Tile(16, 16, 4, 2, loops=False),
        ),
        # pages_ahead: else the tile's keys are asked for only when the tile before is done.
        "latent": (
            Tile(64, 64, 8, 3, loops=False, saturating=1),
            Tile(64, 32, 8, 3, loops=False, pages_ahead=True, saturating=1),
            Tile(32, 64, 8, 3, loops=False, pages_ahead=True, saturating=1),
            Tile(16, 32, 4, 3, loops=False, pages_ahead=True, saturating=1),
            Tile(16, 16, 4, 2, loops=False),
        ),
    },
    "CDNA": {
        "prefill": (
            Tile(128, 64, 8, 2),
            Tile(128, 32, 8, 2),
            Tile(64, 64, 8, 2),
            Tile(64, 32, 4, 2),
            Tile(32, 32, 4, 1),
            Tile(16, 16, 4, 1),
        ),
        "decode": (
            Tile(32, 64, 4, 2, loops=False),
            Tile(32, 32, 4, 1, loops=False),
            Tile(16, 64, 4, 2, loops=False),
            Tile(16, 32, 4, 1, loops=False),
            Tile(16, 16, 4, 1, loops=False),
        ),
        # Of more keys at a time, 576 columns of addresses spill on gfx950.
        "latent": (
            Tile(32, 32, 4, 1, loops=False),
            Tile(16, 32, 4, 1, loops=False),
            Tile(16, 16, 4, 1, loops=False),
        ),
    },
    "RDNA": {
        "prefill": (
            Tile(64, 32, 8, 1),
            Tile(64, 16, 8, 1),
            Tile(32, 32, 4, 1),
            Tile(32, 16, 4, 1),
            Tile(16, 16, 4, 1),
            Tile(16, 16, 16, 1),
        ),
        "decode": (
            Tile(16, 32, 4, 1, loops=False),
            Tile(16, 16, 4, 1, loops=False),
            Tile(16, 16, 16, 1, loops=False),
        ),
    },
    # Both halves of a wave hold the whole operand: more waves, so that each holds less.
    "RDNA3": {
        "prefill": (
            Tile(64, 32, 16, 1),
            Tile(64, 16, 8, 1),
            Tile(32, 16, 8, 1),
            Tile(16, 16, 4, 1),
            Tile(16, 16, 16, 1),
        ),
        "decode": (
            Tile(16, 32, 4, 1, loops=False),
            Tile(16, 16, 4, 1, loops=False),
            Tile(16, 16, 16, 1, loops=False),
        ),
    },
    # No matrix unit: products by vector instructions, on operands widened to float32.
    "VECTOR": {
        "prefill": (Tile(32, 16, 16, 1), Tile(16, 16, 16, 1)),
        "decode": (Tile(16, 16, 16, 1, loops=False),),
    },
    # NumPy runs one program after another: a few tile edges matter, speed does not.
    "INTERPRETER": {"prefill": (Tile(32, 32, 1, 1),), "decode": (Tile(16, 32, 1, 1, loops=False),)},
}
for _tiles in TILES.values():
    _tiles.setdefault("latent", _tiles["decode"])

# Registers of a lane beside those that `registers` counts: addresses, masks, the row state, and the
# fragments of K and V on their way to the matrix unit. Read off the compiled kernels (docs/backends.md).
OTHER_REGISTERS = {
    "NVIDIA": 32, "CDNA": 44, "RDNA": 96, "RDNA3": 96, "VECTOR": 96, "INTERPRETER": 0,
}  # fmt: skip
# And on CDNA what a pipelined loop holds of the next tile: by Triton 3.8, which spills where 3.6 does not.
PIPELINED_REGISTERS = 50
# Triton 3.8 loads straight into LDS there, with a buffer for each stage, padded by up to 16 bytes in 512.
DIRECT_TO_LDS = ("gfx950",)
# The fixed cost of a program, and of merging segments, in steps of one tile: swept with the tiles.
START_STEPS = 4
MERGE_STEPS = 4


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
    return lds_bytes(tile, shape, target) <= target.lds_bytes and registers(
        tile, shape, target
    ) <= available_registers(tile, target)


@functools.cache
def choose_tile(kind: str, shape: Shape, target: Target) -> Tile:
    """Return the first candidate that is no larger than the work and that fits.

    Args:
        kind: "prefill", "decode" or "latent" (MLA's decode).
        shape: what is to be computed.
        target: the GPU.

    Raises:
        BackendLimitError: no candidate fits; the message gives the smallest need and the limit.
    """
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
def choose_segments(programs: int, tiles: int, processors: int, saturating: int = 2) -> int:
    """Return into how many segments to split the keys of each request.

    The busiest processor's work decides the time: programs on it, each of (tiles / segments) steps
    plus START_STEPS. Fewer than `saturating` on a processor cannot use its share of the memory
    bandwidth, so they count as that many. Of the counts that put 1, 2, ... 8 programs on the
    busiest processor, the cheapest is taken, the smaller one of equals.

    Args:
        programs: programs without a split: requests * KV heads * head blocks.
        tiles: steps over the keys of the longest request.
        processors: see `Target`.
        saturating: see `Tile`.
    """
    best, lowest = 1, _steps(1, programs, tiles, processors, saturating)
    for busy in range(1, 9):
        segments = max(min(busy * processors // max(programs, 1), tiles), 1)
        segments = -(-tiles // -(-tiles // segments))  # none of them empty
        if segments > 1:
            steps = _steps(segments, programs, tiles, processors, saturating) + MERGE_STEPS
            if steps < lowest:
                best, lowest = segments, steps
    return best


def _steps(segments: int, programs: int, tiles: int, processors: int, saturating: int) -> int:
    busiest = max(-(-programs * segments // processors), saturating)
    return busiest * (-(-tiles // segments) + START_STEPS)


def padded(size: int) -> int:
    """Return the power of two that holds size: Triton's blocks are powers of two."""
    return 1 << (size - 1).bit_length()


def amd_target(gfx: str, processors: int | None = None) -> Target:
    """Return the target of a gfx name, its limits from hardware.toml.

    Args:
        gfx: bare target name.
        processors: as the device reports; by default those of the first listed product.

    Raises:
        UnknownGpuError: hardware.toml does not describe the target.
        BackendLimitError: Triton does not compile for it.
    """
    if gfx in NOT_COMPILED_FOR:
        raise BackendLimitError(
            f"Triton compiles nothing for {gfx} (its AMD backend: unsupported target); choose a backend"
            " that is not written in Triton"
        )
    gpu = Gpu(gfx)
    row = hardware()["target"][gfx]
    family = gpu.family
    if not row.get("matrix_cores", {"v": True})["v"]:
        kind = "VECTOR"
    elif family.startswith("RDNA3"):
        kind = "RDNA3"
    elif family.startswith("CDNA") and gpu.wavefront == 64:
        kind = "CDNA"
    else:
        kind = "RDNA"  # CDNA5 too: waves of 32 and WMMA
    product = row.get("product", [{}])[0]
    cus = product.get("cu_per_device", product.get("cu", {"v": 64}))["v"]
    addressable = row["vgprs_addressable_per_wave"]["v"]
    return Target(
        name=gfx,
        family=kind,
        wavefront=gpu.wavefront,
        lds_bytes=gpu.lds_bytes,
        simd_registers=row.get("vgprs_per_simd_lane", {"v": addressable})["v"],
        wave_registers=addressable,
        processors=processors or (cus // 2 if family.startswith("RDNA") else cus),
    )


# Triton's AMD backend lowers nothing for it ("unsupported target", 3.6.0).
NOT_COMPILED_FOR = ("gfx906",)
INTERPRETER = Target("interpreter", "INTERPRETER", 32, 1 << 40, 1 << 20, 1 << 20, 4)


def target_of(device: torch.device) -> Target:
    """Return the target that a tensor's device stands for.

    A GPU stands for itself. The CPU, and the meta device of a tensor without memory, for whatever runs
    kernels on it: Triton's interpreter (TRITON_INTERPRET=1), or the GPU of a dry launch in force.

    Raises:
        BackendInputError: the device is no GPU, and nothing runs or compiles kernels on it.
        UnknownGpuError: an AMD GPU that hardware.toml does not describe.
    """
    if device.type == "cuda":
        return _gpu_target(device)
    import triton

    if triton.knobs.runtime.interpret and device.type == "cpu":
        return INTERPRETER
    if device.type in ("cpu", "meta"):
        try:
            target = triton.runtime.driver.active.get_current_target()
        except RuntimeError:  # Triton found no GPU, and none is mocked
            target = None
        if target is not None and target.backend == "hip":
            return amd_target(target.arch)
    raise BackendInputError(
        f"tensors on {device} cannot be attended over here: use a GPU, set TRITON_INTERPRET=1 before"
        " triton is imported (CPU tensors), or enter a dry launch (docs/dry-launch.md)"
    )


def _gpu_target(device: torch.device) -> Target:
    import torch

    # Any: torch's stub lacks the opt-in limit.
    properties: Any = torch.cuda.get_device_properties(device)
    if torch.version.hip:
        gfx = properties.gcnArchName.partition(":")[0]
        return amd_target(gfx, properties.multi_processor_count)
    return nvidia_target(
        f"sm_{properties.major}{properties.minor}",
        properties.shared_memory_per_block_optin,
        properties.multi_processor_count,
    )


def nvidia_target(name: str, shared_bytes: int, processors: int) -> Target:
    """Return an NVIDIA target: 64 Ki registers a multiprocessor, 255 a thread, on every sm."""
    return Target(name, "NVIDIA", 32, shared_bytes, 65536 // (4 * 32), 255, processors)
