"""Words and bytes at many places of an array at once.

numpy moves rows of a matrix to places of an index some eight times as slowly as single elements of the same size, so
a row is moved as one element.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Sequence

Array = NDArray[Any]


def put_rows(target: Array, row: Array, values: Array) -> None:
    """Do ``target[row] = values`` for a contiguous matrix, where values are as wide as its rows."""
    size = target.shape[1] * target.itemsize
    step = next(step for step in (16, 8, 4, 2, 1) if size % step == 0)
    parts = size // step
    elements = target.view(f"V{step}").reshape(-1)
    given = np.ascontiguousarray(values).view(f"V{step}")
    for part in range(parts):
        elements[row * parts + part] = given[..., part]


def overwritten(places: Array, size: int, values: Sequence[Array]) -> Array:
    """Return which of several stores at once are not what stays: another wrote something else.

    Args:
        places: where each goes; values: its words, or one of 8 or 16 bits.
    """
    differs = np.zeros(len(places), bool)
    unique, which = np.unique(places, return_inverse=True)
    keep = np.uint32((1 << 8 * min(size, 4)) - 1)
    for value in values:
        left = np.zeros(len(unique), np.uint32)
        left[which] = value & keep
        differs |= left[which] != value & keep
    return differs


def joined(parts: Sequence[Array]) -> list[Array]:
    """Return words of their bytes, lowest first; the last may have fewer."""
    shifted = [part.astype(np.uint32) << np.uint32(8 * (i % 4)) for i, part in enumerate(parts)]
    return [
        functools.reduce(np.bitwise_or, shifted[first : first + 4])
        for first in range(0, len(shifted), 4)
    ]


def gather(source: Array, position: Array, size: int) -> list[Array]:
    """Return the words at positions in bytes; one of 8 or 16 bits, zero-extended."""
    if size == 1:
        return [source[position].astype(np.uint32)]
    if size == 2 and not (position & 1).any():
        return [source.view(np.uint16)[position >> 1].astype(np.uint32)]
    if size >= 4 and not (position & 3).any():
        words, index = source.view(np.uint32), position >> 2
        return [words[index + i] for i in range(size // 4)]
    return joined([source[position + byte] for byte in range(size)])


def scatter(target: Array, position: Array, size: int, values: Sequence[Array]) -> None:
    """Write words, or one of 8 or 16 bits, at positions in bytes."""
    if size == 1:
        target[position] = values[0].astype(np.uint8)
    elif size == 2 and not (position & 1).any():
        target.view(np.uint16)[position >> 1] = values[0].astype(np.uint16)
    elif size >= 4 and not (position & 3).any():
        words, index = target.view(np.uint32), position >> 2
        for i, value in enumerate(values):
            words[index + i] = value
    else:
        for i, value in enumerate(values):
            for j in range(min(size, 4)):
                target[position + 4 * i + j] = (value >> np.uint32(8 * j)).astype(np.uint8)
