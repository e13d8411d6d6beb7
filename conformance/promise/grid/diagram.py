"""A table over a product of axes as a decision diagram: what makes a million cells a few kilobytes.

Each axis is a level. A row of a level has an entry for each value of its axis: the number of a row of
the next level, or of an outcome on the last. Equal rows are one row, numbered in the order of their
first cell, so that equal tables give equal diagrams, on every machine. A row is written as text, a
repeated entry as ``entry*times``: "0*3 2 0" is 0, 0, 0, 2, 0.
"""

from __future__ import annotations

import math
from array import array
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def encode(codes: Sequence[int], sizes: Sequence[int]) -> list[list[str]]:
    """Return the levels of a table, first axis first, each a list of rows.

    Args:
        codes: one per cell, in mixed-radix order, the last axis fastest.
        sizes: the number of values of each axis.
    """
    entries: Sequence[int] = codes
    levels: list[list[str]] = []
    for size in reversed(sizes):
        packed = array("L", entries)
        rows: dict[bytes, int] = {}
        width = size * packed.itemsize
        cells = packed.tobytes()
        entries = [
            rows.setdefault(cells[at : at + width], len(rows)) for at in range(0, len(cells), width)
        ]
        levels.append([_write(array("L", row)) for row in rows])
    return levels[::-1]


def decode(levels: Sequence[Sequence[str]], sizes: Sequence[int], outcomes: int) -> array[int]:
    """Return the code of each cell.

    Args:
        levels: as encode returns them.
        sizes: the number of values of each axis.
        outcomes: how many outcomes the codes may stand for.

    Raises:
        ValueError: the levels do not describe a table of these sizes; one line.
    """
    if len(levels) != len(sizes):
        raise ValueError(f"{len(levels)} levels for {len(sizes)} axes")
    below = [array("H", (code,)).tobytes() for code in range(outcomes)]
    for level, (rows, size) in reversed(list(enumerate(zip(levels, sizes, strict=True)))):
        entries = [_read(row, size, len(below), level) for row in rows]
        # Distinct rows that are all in use join to the whole table at most: memory is bounded.
        if len(entries) > math.prod(sizes[:level]):
            raise ValueError(f"level {level} has rows that no cell uses")
        below = [b"".join(below[entry] for entry in row) for row in entries]
    if len(below) != 1:
        raise ValueError(f"{len(below)} first rows")
    return array("H", below[0])


def _write(row: Sequence[int]) -> str:
    words: list[str] = []
    start = 0
    for at in range(1, len(row) + 1):
        if at == len(row) or row[at] != row[start]:
            words.append(f"{row[start]}*{at - start}" if at - start > 1 else str(row[start]))
            start = at
    return " ".join(words)


def _read(row: str, size: int, entries: int, level: int) -> list[int]:
    found: list[int] = []
    for word in row.split():
        entry, _, times = word.partition("*")
        if not entry.isdecimal() or not (times or "1").isdecimal() or int(times or 1) > size:
            raise ValueError(f"level {level} has the entry {word[:40]!r}")
        found += [int(entry)] * int(times or 1)
    if len(found) != size or any(entry >= entries for entry in found):
        raise ValueError(f"level {level} has a row that does not fit its axis")
    return found
