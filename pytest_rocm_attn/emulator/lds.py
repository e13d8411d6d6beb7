"""Local memory (LDS) of workgroups: its bytes, which of them are undefined, who touched which.

Two waves conflict if, with no barrier between, one writes what the other has read or written, and
the bytes change: waves that write the same value to the same place are harmless.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pytest_rocm_attn.emulator.waits import LDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_rocm_attn.emulator.machine import Array, Machine, Waves

_MARGIN = 16  # bytes beyond the end, so that lanes that are switched off may point anywhere


class Lds:
    """The local memories of several workgroups.

    Args:
        workgroups: how many.
        size: bytes of each.
        waves: waves of a workgroup; conflicts need at least two.
        granule: bytes of the smallest store that the program has: 1, 2 or 4.
    """

    def __init__(self, workgroups: int, size: int, waves: int, granule: int) -> None:
        self.size, self.waves, self.granule = size, waves, granule
        self.stride = -(-(size + _MARGIN) // 16) * 16
        self._bytes = np.full(workgroups * self.stride, 0xFF, np.uint8)  # NaN, if anything
        self._shadow = np.full(workgroups * self.stride, 0xFF, np.uint8)
        self.judged = waves > 1
        self._epoch = np.ones(workgroups, np.int32)
        if self.judged:
            cells = workgroups * self.stride // granule
            # epoch * 64 + wave of the last writer; epoch of each wave's last read
            self._writer = np.zeros(cells, np.int32)
            self._readers = np.zeros((waves, cells), np.int32)
            # Epoch in which each workgroup read last, and wrote last.
            self._read = np.zeros(workgroups, np.int32)
            self._written = np.zeros(workgroups, np.int32)
        # Stores that their waves may not have waited for: these, their workgroups, their places in
        # them, the number of the store in each, position, active.
        self._late: list[tuple[Array, Array, Array, Array, Array, Array]] = []

    def base(self, machine: Machine, waves: Waves) -> Array:
        """Return where each wave's local memory starts, [waves, 1]."""
        base: Array = (machine.workgroup[waves] * self.stride)[:, None]
        return base

    def check(self, machine: Machine, offset: Array, size: int, active: Array, verb: str) -> None:
        """Raise a fault if an active lane's bytes lie outside."""
        bad = (offset + size > self.size) & active
        if bad.any():
            wave, lane = np.argwhere(bad)[0]
            raise machine.fault(
                f"{verb} {size} bytes at offset {int(offset[wave, lane])} of LDS, which has"
                f" {self.size} bytes (out of bounds), lane {int(lane)}"
            )

    def load(self, position: Array, size: int) -> tuple[list[Array], list[Array]]:
        """Return the words at positions, and their undefined bits."""
        return gather(self._bytes, position, size), gather(self._shadow, position, size)

    def store(
        self, position: Array, size: int, values: Sequence[Array], shadows: Sequence[Array]
    ) -> None:
        """Write words, or one of 8 or 16 bits."""
        scatter(self._bytes, position, size, values)
        scatter(self._shadow, position, size, shadows)

    # --- conflicts ---

    def note_load(
        self, machine: Machine, waves: Waves, position: Array, size: int, active: Array
    ) -> None:
        """Note who reads, and raise a fault if another wave wrote there since the last barrier."""
        if not self.judged:
            return
        number = machine.workgroup[waves]
        wave = self._wave(machine, waves)
        now = self._epoch[number]
        epoch = now[:, None]
        cell = self._cells(position, size)
        if (self._written[number] == now).any():
            writer = self._writer[cell]
            bad = (writer // 64 == epoch) & (writer != epoch * 64 + wave) & active
            if bad.any():
                self._conflict(machine, waves, position, bad, writer % 64, "reads", "wrote")
        self._read[number] = now
        where = wave * self._readers.shape[1] + cell
        flat = self._readers.reshape(-1)
        if active.all():
            flat[where] = epoch
        else:
            flat[where[:, active]] = np.broadcast_to(epoch, active.shape)[active]

    def _cells(self, position: Array, size: int) -> Array:
        """Return the cells of each access, [cells, waves, lanes]."""
        first = np.arange(0, size, self.granule)[:, None, None]
        cells: Array = (position + first) // self.granule
        return cells

    def note_store(
        self,
        machine: Machine,
        waves: Waves,
        position: Array,
        size: int,
        values: Sequence[Array],
        active: Array,
        sequence: Array,
    ) -> None:
        """Note who writes, and raise a fault if another wave touched it since the last barrier.

        Args:
            sequence: the number of the operation in each wave, as Waits counts.
        """
        if not self.judged:
            return
        number = machine.workgroup[waves]
        wave = self._wave(machine, waves)
        now = self._epoch[number]
        epoch = np.broadcast_to(now[:, None], active.shape)
        mine = epoch * 64 + wave
        cell = self._cells(position, size)
        read, written = (self._read[number] == now).any(), (self._written[number] == now).any()
        if read or written:
            changes = self._changes(position, size, values) & active
            if written and changes.any():
                writer = self._writer[cell]
                bad = (writer // 64 == epoch) & (writer != mine) & changes
                if bad.any():
                    self._conflict(machine, waves, position, bad, writer % 64, "writes", "wrote")
            if read and changes.any():
                other = np.arange(self.waves)[:, None, None, None]
                readers = (self._readers[:, cell] == epoch) & (other != wave) & changes
                if readers.any():
                    them, bad = readers.argmax(axis=0), readers.any(axis=0)
                    self._conflict(machine, waves, position, bad, them, "writes", "read")
        self._written[number] = now
        if active.all():
            self._writer[cell] = mine
        else:
            self._writer[cell[:, active]] = mine[active]
        # Two waves that write one place at once: the values must be the same.
        writer = self._writer[cell]
        lost = (writer != mine) & active
        if lost.any():
            given = [np.broadcast_to(value, active.shape)[active] for value in values]
            scatter(self._bytes, position[active], size, given)
            lost &= self._changes(position, size, values)
            if lost.any():
                self._conflict(machine, waves, position, lost, writer % 64, "writes", "writes")
        place = np.broadcast_to(position, active.shape)
        self._late.append((machine.rows, number, wave, sequence, place, active))

    def _changes(self, position: Array, size: int, values: Sequence[Array]) -> Array:
        """Return where other bytes lie than these values."""
        keep = np.uint32((1 << 8 * min(size, 4)) - 1)
        words = zip(gather(self._bytes, position, size), values, strict=True)
        changes: Array = np.any([(before ^ after) & keep != 0 for before, after in words], axis=0)
        return changes

    def _wave(self, machine: Machine, waves: Waves) -> Array:
        wave: Array = (machine.rows % self.waves)[:, None]
        return wave

    def barrier(self, machine: Machine, groups: Array) -> None:
        """Note that workgroups have passed a barrier.

        A store that its wave has not waited for may arrive after the barrier, and belongs to what
        follows as well.
        """
        self._epoch[groups] += 1
        if not self.judged:
            return
        kept = []
        passed = np.zeros(len(self._epoch), bool)
        passed[groups] = True
        for store in self._late:
            waves, number, wave, sequence, position, active = store
            late = machine.waits.under_way(LDS, sequence, waves)
            if not late.any():
                continue
            kept.append(store)
            rows = (late & passed[number])[:, None] & active
            mine = (self._epoch[number] * 64)[:, None] + wave
            self._writer[position[rows] // self.granule] = np.broadcast_to(mine, rows.shape)[rows]
            self._written[number[rows.any(axis=1)]] = self._epoch[number[rows.any(axis=1)]]
        self._late = kept

    def _conflict(
        self,
        machine: Machine,
        waves: Waves,
        position: Array,
        bad: Array,
        other: Array,
        verb: str,
        their: str,
    ) -> None:
        cell, where, lane = np.argwhere(bad)[0]
        wave = int(self._wave(machine, waves)[where, 0])
        offset = int(np.broadcast_to(position, bad.shape[1:])[where, lane] % self.stride)
        raise machine.fault(
            f"race: wave {wave} {verb} offset {offset} of LDS, which wave"
            f" {int(other[cell, where, lane])} of the same workgroup {their}, with no barrier between"
        )


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


def gather(source: Array, position: Array, size: int) -> list[Array]:
    """Return the words at positions in bytes; one of 8 or 16 bits, zero-extended."""
    if size == 1:
        return [source[position].astype(np.uint32)]
    if size == 2 and not (position & 1).any():
        return [source.view(np.uint16)[position >> 1].astype(np.uint32)]
    if size >= 4 and not (position & 3).any():
        words, index = source.view(np.uint32), position >> 2
        return [words[index + i] for i in range(size // 4)]
    width = min(size, 4)
    return [
        sum(
            (source[position + 4 * i + j].astype(np.uint32) << np.uint32(8 * j))
            for j in range(width)
        )
        for i in range(-(-size // 4))
    ]


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
