"""Merge the values of an axis that nothing in a table tells apart.

A table over a product of axes is bytes in mixed-radix order, the last axis fastest. Most flags
change nothing in most comparisons, so a million cells usually come down to a few thousand; what is
left holds every distinction. Work and memory are linear in the table, in slices that bytes copies
by itself, so that plain Python is fast enough.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

Classes = tuple[tuple[int, ...], ...]  # of one axis: the values that each class holds, in order


def collapse(
    table: bytes, sizes: Sequence[int], keep: Collection[int] = ()
) -> tuple[bytes, list[Classes]]:
    """Return the table over classes of values, and each axis's classes.

    Args:
        table: one byte per cell.
        sizes: the number of values of each axis.
        keep: axes whose values are left apart.
    """
    sizes = list(sizes)
    classes: list[Classes] = [()] * len(sizes)
    for axis in reversed(range(len(sizes))):
        stride = _product(sizes[axis + 1 :])
        if axis in keep:
            classes[axis] = tuple((value,) for value in range(sizes[axis]))
            continue
        members: dict[bytes, list[int]] = {}
        for value in range(sizes[axis]):
            members.setdefault(_at(table, stride, sizes[axis], value), []).append(value)
        classes[axis] = tuple(tuple(values) for values in members.values())
        if len(members) < sizes[axis]:
            chosen = [values[0] for values in classes[axis]]
            table = _take(table, stride, sizes[axis], chosen)
            sizes[axis] = len(chosen)
    return table, classes


def _product(sizes: Sequence[int]) -> int:
    product = 1
    for size in sizes:
        product *= size
    return product


def _at(table: bytes, stride: int, size: int, value: int) -> bytes:
    """Return all cells with one value of an axis, in an order that only the other axes decide."""
    step = stride * size
    if len(table) // step <= stride:
        start = value * stride
        return b"".join(table[at : at + stride] for at in range(start, len(table), step))
    return b"".join(table[value * stride + at :: step] for at in range(stride))


def _take(table: bytes, stride: int, size: int, values: Sequence[int]) -> bytes:
    """Return the table with only these values of an axis."""
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
