"""Merge the values of an axis that nothing in a table tells apart.

A table over a product of axes is bytes in mixed-radix order, the last axis fastest. Most flags
change nothing in most comparisons, so a million cells usually come down to a few thousand; what is
left holds every distinction. Work and memory are linear in the table, in slices that bytes copies
by itself, so that plain Python is fast enough.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def alike(table: bytes, sizes: Sequence[int], axis: int) -> list[int]:
    """Return for each value of an axis the first value that has the same cells."""
    first: dict[bytes, int] = {}
    stride = math.prod(sizes[axis + 1 :])
    return [
        first.setdefault(_at(table, stride, sizes[axis], value), value)
        for value in range(sizes[axis])
    ]


def take(table: bytes, sizes: Sequence[int], axis: int, values: Sequence[int]) -> bytes:
    """Return the table with only these values of an axis, in this order."""
    size, stride = sizes[axis], math.prod(sizes[axis + 1 :])
    if list(values) == list(range(size)):
        return table
    step, kept = stride * size, stride * len(values)
    if len(table) // step <= stride:
        return b"".join(
            table[start + value * stride : start + (value + 1) * stride]
            for start in range(0, len(table), step)
            for value in values
        )
    smaller = bytearray(len(table) // size * len(values))
    for new, value in enumerate(values):
        for at in range(stride):
            smaller[new * stride + at :: kept] = table[value * stride + at :: step]
    return bytes(smaller)


def _at(table: bytes, stride: int, size: int, value: int) -> bytes:
    """Return all cells with one value of an axis, in an order that only the other axes decide."""
    step = stride * size
    if len(table) // step <= stride:
        start = value * stride
        return b"".join(table[at : at + stride] for at in range(start, len(table), step))
    return b"".join(table[value * stride + at :: step] for at in range(stride))
