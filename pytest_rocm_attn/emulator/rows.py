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
# Elements of each size; numpy has no integer of 16 bytes, and copies complex numbers bit by bit.
_ELEMENTS: dict[int, Any] = {
    1: np.uint8,
    2: np.uint16,
    4: np.uint32,
    8: np.uint64,
    16: np.complex128,
}


class Places:
    """What the lanes of an instruction point at.

    Attributes:
        position: in bytes.
        size: bytes from there on.
        row: how many bytes can be moved at once: a whole access if each lies at a multiple of its size.
        index: positions in rows.
    """

    __slots__ = ("index", "position", "row", "size")

    def __init__(self, position: Array, size: int) -> None:
        bits = int(np.bitwise_or.reduce(position, axis=None)) | size | 16
        self.position, self.size, self.row = position, size, bits & -bits
        self.index: Array = position >> self.row.bit_length() - 1

    def chosen(self, active: Array) -> Places:
        """Return those of the active lanes."""
        return Places(self.position[active], self.size)


class Bytes:
    """Memory in which words are read and written at any byte.

    Attributes:
        content: its bytes, a multiple of 16.
    """

    def __init__(self, content: Array) -> None:
        self.content = content
        self._of = {size: content.view(kind) for size, kind in _ELEMENTS.items()}

    def load(self, at: Places) -> list[Array]:
        """Return words, or one of 8 or 16 bits, zero-extended."""
        row, table = at.row, self._of[at.row]
        if row >= 4:
            found: list[Array] = []
            for part in range(at.size // row):
                taken = table.take(at.index + part if part else at.index)
                words = taken.view(np.uint32).reshape(*taken.shape, row // 4)
                found += [words[..., i] for i in range(row // 4)]
            return found
        if row == at.size:
            return [table.take(at.index).astype(np.uint32)]
        return joined([self._of[1].take(at.position + byte) for byte in range(at.size)])

    def store(self, at: Places, values: Sequence[Array]) -> None:
        """Write words, or one of 8 or 16 bits."""
        row, table = at.row, self._of[at.row]
        if row > 4:
            width = row // 4
            for part in range(at.size // row):
                words = np.empty((*at.index.shape, width), np.uint32)
                for i in range(width):
                    words[..., i] = values[part * width + i]
                table[at.index + part] = words.view(table.dtype)[..., 0]
        elif row == 4 or row == at.size:
            for part, value in enumerate(values):
                table[at.index + part] = value.astype(table.dtype, copy=False)
        else:
            for byte in range(at.size):
                narrow = (values[byte // 4] >> np.uint32(8 * (byte % 4))).astype(np.uint8)
                self._of[1][at.position + byte] = narrow

    def clear(self, at: Places) -> None:
        """Write zeros."""
        for part in range(at.size // at.row):
            self._of[at.row][at.index + part] = 0


def filled(size: int) -> Array:
    """Return bytes of ones: as a value a NaN, as a shadow undefined."""
    return np.full(size, 0xFF, np.uint8)


def put_rows(target: Array, row: Array, values: Array) -> None:
    """Do ``target[row] = values`` for a contiguous matrix, where values are as wide as its rows."""
    size = target.shape[1] * target.itemsize
    step = next(step for step in (16, 8, 4, 2, 1) if size % step == 0)
    parts = size // step
    elements = target.view(_ELEMENTS[step]).reshape(-1)
    given = np.ascontiguousarray(values).view(_ELEMENTS[step])
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
