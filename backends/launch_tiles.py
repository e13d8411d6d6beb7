"""Tile sizes that a kernel may run with: data per GPU family, best first; launch_config.py chooses."""

from __future__ import annotations

import functools
from dataclasses import dataclass


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
        most_columns: compiled for every GPU of the family without spills up to that many columns of the
            key; more are left to other tiles. 0: by the estimate of launch_config.py.
        plain: of use only without window, soft cap and ALiBi, whose masks and biases take registers.
        cache_bytes: of a stored element for which the tile is meant; 0: any.
        waves_per_eu: waves that a SIMD is to hold, by which the compiler limits registers; 0: as many as there
            is room for. AMD only.
        split: of use only if there are too few requests to fill the GPU.
    """

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int
    loops: bool = True
    pages_ahead: bool = False
    saturating: int = 2
    most_columns: int = 0
    plain: bool = False
    cache_bytes: int = 0
    waves_per_eu: int = 0
    split: bool = False


# Decodes that look up pages early, for the keys that they were swept with.
_ahead = functools.partial(Tile, loops=False, pages_ahead=True, most_columns=128)

# Prefill: whole blocks of rows. Decode: few rows, so no second loop: one pass keeps the memory
# pipeline full. Short: a few new tokens, whose rows one program holds; else both of these. Latent:
# MLA's decode, whose 576 columns leave room for few keys. NVIDIA: swept on an H100 and an H200 (docs/nvidia.md).
# AMD: no such GPU was at hand; by the figures of the compiled loops (docs/backends.md), and elsewhere
# the largest tiles that compile without spills on CDNA, with the fewest on RDNA (docs/launch-tables/).
# A wave of CDNA multiplies 32 rows: of a tile with more waves than that, several compute the same scores
# and exchange them through LDS.
TILES: dict[str, dict[str, tuple[Tile, ...]]] = {
    "NVIDIA": {
        "prefill": (
            Tile(256, 64, 16, 3, pages_ahead=True, saturating=1),
            Tile(128, 64, 8, 3, pages_ahead=True, saturating=1),
            Tile(64, 64, 4, 2),
            Tile(64, 32, 4, 2),
            Tile(32, 32, 4, 2),
            Tile(16, 16, 4, 2),
        ),
        "decode": (
            Tile(64, 64, 8, 3, loops=False),
            Tile(64, 32, 8, 3, loops=False, pages_ahead=True),
            Tile(32, 64, 4, 3, loops=False),
            _ahead(16, 64, 2, 3, saturating=4, cache_bytes=1),
            Tile(16, 64, 2, 3, loops=False, pages_ahead=True, cache_bytes=1),
            _ahead(16, 32, 4, 4, saturating=3, cache_bytes=2, split=True),
            Tile(16, 64, 4, 3, loops=False),
            Tile(16, 32, 4, 3, loops=False, pages_ahead=True),
            Tile(16, 16, 4, 2, loops=False),
        ),
        # Swept on an H200, 32,768 keys: 256 rows of one program take longer than two programs of 128, and
        # 32 rows of one longer than 64 of one.
        "short": (
            Tile(64, 64, 4, 3, pages_ahead=True),
            Tile(128, 64, 8, 3, pages_ahead=True, saturating=1),
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
            Tile(256, 64, 8, 2, most_columns=128, plain=True, cache_bytes=2),
            Tile(128, 64, 8, 2),
            Tile(128, 32, 8, 2),
            Tile(64, 64, 8, 2),
            Tile(64, 32, 4, 2),
            Tile(32, 32, 4, 1),
            Tile(16, 16, 4, 1),
        ),
        "decode": (
            Tile(32, 32, 2, 1, saturating=4, most_columns=128),
            Tile(32, 32, 4, 1, loops=False),
            Tile(16, 64, 2, 1, saturating=4, most_columns=128, cache_bytes=2),
            # With a second loop, decoding fp8 spills over the split layout with 32-bit offsets.
            Tile(16, 64, 2, 1, saturating=4, most_columns=128, cache_bytes=1, loops=False),
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
            Tile(16, 32, 4, 1, loops=False, plain=True),  # 90 spills over the split layout
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
    # Without the tiles of most rows: where they are full, one row more would take half as long again.
    _prefill = [tile for tile in _tiles["prefill"] if tile.block_m <= 128]
    _tiles.setdefault("short", (*_tiles["decode"], *_prefill))
