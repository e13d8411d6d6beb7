"""How many query rows and keys an iteration of an attention kernel's loop covers, by its constants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# The names by which kernels call their tile. Rows: this package's and vLLM's prefill, vLLM's and
# aiter's unified attention (TILE_SIZE; BLOCK_SIZE until vLLM 0.11), the grouped decode of vLLM and
# SGLang, vLLM's paged decode. The first pair that a kernel has counts.
TILES = (
    ("BLOCK_M", "TILE_SIZE"),
    ("BLOCK_M", "BLOCK_N"),
    ("BLOCK_M", "BLOCK_SIZE"),
    ("BLOCK_H", "BLOCK_N"),
    ("num_queries_per_kv_padded", "BLOCK_SIZE"),
)


def covered(constexprs: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Return the rows and the keys of an iteration, or (None, None) for a kernel that is not known."""
    for rows, keys in TILES:
        if isinstance(constexprs.get(rows), int) and isinstance(constexprs.get(keys), int):
            return constexprs[rows], constexprs[keys]
    return None, None
