"""The configurations that were chosen by compiling: launch_table.toml, by target and shape."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.backends.launch_tiles import Tile

if TYPE_CHECKING:
    from pytest_rocm_attn.backends.launch_config import Shape
    from pytest_rocm_attn.backends.launch_target import Target

TABLE = Path(__file__).parent / "launch_table.toml"
SATURATING_WAVES = (
    8  # of a processor, whose loads use its share of the memory bandwidth: two per SIMD
)
_CLASS = ("value_size", "tail", "element", "cache_element", "shared", "plain")  # of a Shape


def tabled(kind: str, shape: Shape, target: Target) -> Tile | None:
    """Return the tile that the table has for a shape on a target, or None.

    Args:
        kind: "prefill", "decode" or "latent" (MLA's decode).
        shape: what is to be computed.
        target: the GPU; the table has no row for what is not AMD's.
    """
    row = configurations().get((target.name, kind, rows_of(kind, shape), *_class(shape)))
    return None if row is None else tile_of(row)


def tabled_short(shape: Shape, target: Target) -> list[Tile]:
    """Return the tiles for short requests that the table has for a shape, of any number of rows."""
    return [
        tile_of(row)
        for (name, kind, _, *one), row in configurations().items()
        if (name, kind, tuple(one)) == (target.name, "short", _class(shape))
    ]


def tile_of(row: Mapping[str, Any]) -> Tile:
    """Return the tile of a row of the table."""
    rows, keys, warps, stages = row["tile"]
    saturating = max(2, SATURATING_WAVES // warps)
    return Tile(
        rows,
        keys,
        warps,
        stages,
        loops=row["loops"],
        saturating=saturating,
        waves_per_eu=row["waves_per_eu"],
    )


def rows_of(kind: str, shape: Shape) -> int:
    """Return the class of a shape by its query rows: a power of two from 16; 0 for any prefill."""
    return 0 if kind == "prefill" else max(16, 1 << (shape.rows - 1).bit_length())


def _class(shape: Shape) -> tuple[Any, ...]:
    return tuple(getattr(shape, name) for name in _CLASS)


@functools.cache
def configurations() -> Mapping[tuple[Any, ...], dict[str, Any]]:
    """Return the rows of the table by target, kind, rows and class."""
    return {
        (row["target"], row["kind"], row["rows"], *(row[name] for name in _CLASS)): row
        for row in tomllib.loads(TABLE.read_text("utf-8"))["configuration"]
    }
