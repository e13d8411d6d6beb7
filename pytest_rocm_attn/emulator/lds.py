"""Local memory (LDS) of workgroups: its bytes, which of them are undefined, who touched which.

Two waves conflict if, with no barrier between, one writes what the other has read or written, and
the bytes change: waves that write the same value to the same place are harmless.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_rocm_attn.emulator.rows import Bytes, filled, put_rows
from pytest_rocm_attn.emulator.waits import LDS, LOAD

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_rocm_attn.emulator.machine import Array, Machine, Waves
    from pytest_rocm_attn.emulator.rows import Places

_MARGIN = 16  # bytes beyond the end, so that lanes that are switched off may point anywhere


@dataclass(slots=True)
class _Access:
    """A load or store of many waves.

    Attributes:
        store: it is one.
        number, epoch, wave: of each wave its workgroup, the barriers that this has passed, its place in it.
        cell: rows of count cells that it touches, [waves, lanes] or [waves, lanes, rows].
        active: lanes; None: all.
        low, high: offsets in LDS between which all of it lies.
        noted: the cells have it.
    """

    store: bool
    number: Array
    epoch: Array
    wave: Array
    cell: Array
    count: int
    active: Array | None
    low: int
    high: int
    noted: bool = False

    @property
    def mine(self) -> Array:
        """What _writer says of cells that a wave has written."""
        note: Array = self.epoch * 64 + self.wave
        return note


class Lds:
    """The local memories of several workgroups.

    Args:
        workgroups: how many.
        size: bytes of each.
        waves: waves of a workgroup; conflicts need at least two.
        granule: bytes of the smallest store that the program has: 1, 2 or 4.

    Attributes:
        values, shadow: the bytes of all of them, and which of their bits are undefined.
    """

    def __init__(self, workgroups: int, size: int, waves: int, granule: int) -> None:
        self.size, self.waves, self.granule = size, waves, granule
        self.stride = -(-(size + _MARGIN) // 16) * 16
        room = workgroups * self.stride
        self.values, self.shadow = Bytes(filled(room)), Bytes(filled(room))
        self.judged = waves > 1
        self._epoch = np.ones(workgroups, np.int32)
        if self.judged:
            cells = room // granule
            # epoch * 64 + wave of the last writer; epoch of each wave's last read
            self._writer = np.zeros(cells, np.int32)
            self._readers = np.zeros((waves, cells), np.int32)
            self._last = np.empty(cells, np.int32)  # to find out whether places are distinct
        # Since the last barrier, oldest first.
        self._accesses: list[_Access] = []
        # Stores that their waves may not have waited for: these, the store's number in each, and what counts it.
        self._late: list[tuple[Array, Array, str, _Access]] = []
        # Likewise loads from memory straight into LDS, which do not arrive in the order of LDS operations.
        self._filling: list[tuple[Array, Array, Any, _Access]] = []

    def base(self, machine: Machine, waves: Waves) -> Array:
        """Return where each wave's local memory starts, [waves, 1]."""
        base: Array = (machine.workgroup[waves] * self.stride)[:, None]
        return base

    def check(
        self, machine: Machine, offset: Array, size: int, active: Array, verb: str
    ) -> tuple[int, int]:
        """Raise a fault if an active lane's bytes lie outside; return offsets between which they all lie."""
        if machine.exec_is_full:
            low = int(np.minimum.reduce(offset, axis=None))
            high = int(np.maximum.reduce(offset, axis=None)) + size
            if high <= self.size:
                return low, high
        bad = (offset + size > self.size) & active
        if bad.any():
            wave, lane = np.argwhere(bad)[0]
            raise machine.fault(
                f"{verb} {size} bytes at offset {int(offset[wave, lane])} of LDS, which has"
                f" {self.size} bytes (out of bounds), lane {int(lane)}"
            )
        return 0, self.size

    def load(self, at: Places) -> tuple[list[Array], list[Array] | None]:
        """Return the words at places, and their undefined bits unless there are none."""
        shadows = self.shadow.load(at)
        unsure = any(np.count_nonzero(one) for one in shadows)
        return self.values.load(at), shadows if unsure else None

    def store(self, at: Places, values: Sequence[Array], shadows: Sequence[Array] | None) -> None:
        """Write words, or one of 8 or 16 bits; without shadows, all of them are defined."""
        self.values.store(at, values)
        if shadows is None:
            self.shadow.clear(at)
        else:
            self.shadow.store(at, shadows)

    # --- conflicts ---

    def note_load(
        self,
        machine: Machine,
        at: Places,
        active: Array,
        reach: tuple[int, int],
    ) -> None:
        """Note who reads, and raise a fault if another wave wrote there since the last barrier.

        Args:
            reach: what check said.
        """
        if self._filling:
            self._check_filled(machine, at, active, reach, "reads")
        if not self.judged:
            return
        access = self._access(machine, at, active, reach, store=False)
        if self._may_meet(access, stores=True):
            bad, writer = self._foreign(access)
            bad &= active[..., None]
            if bad.any():
                self._conflict(machine, at, bad, writer % 64, "reads", "wrote")
        self._accesses.append(access)

    def note_store(
        self,
        machine: Machine,
        at: Places,
        values: Sequence[Array],
        active: Array,
        sequence: Array,
        reach: tuple[int, int],
        kind: str = LDS,
    ) -> None:
        """Note who writes, and raise a fault if another wave touched it since the last barrier.

        Args:
            sequence: the number of the operation in each wave, as Waits counts.
            reach: what check said.
            kind: LDS, or LOAD if it is a load from memory straight into LDS.
        """
        if self._filling and kind == LDS:
            self._check_filled(machine, at, active, reach, "writes")
        if not self.judged and kind == LDS:
            return
        access = self._access(machine, at, active, reach, store=True)
        if kind == LOAD:
            self._filling.append((machine.rows, sequence, machine.here, access))
            if not self.judged:
                return
        chosen = active[..., None]
        if self._may_meet(access, stores=True):
            bad, writer = self._foreign(access)
            bad &= chosen
            if bad.any():
                bad &= self._changes(at, values)
                if bad.any():
                    self._conflict(machine, at, bad, writer % 64, "writes", "wrote")
        if self._may_meet(access, stores=False):
            epoch = access.epoch[:, None, None]
            noted = [_noted(one, access.cell, access.count) == epoch for one in self._readers]
            readers = np.stack(noted) & chosen
            readers &= np.arange(self.waves)[:, None, None, None] != access.wave[:, None, None]
            if readers.any():
                readers &= self._changes(at, values)
                if readers.any():
                    found: Array = np.asarray(readers.any(axis=0))
                    them = readers.argmax(axis=0)
                    self._conflict(machine, at, found, them, "writes", "read")
        self._accesses.append(access)
        self._late.append((machine.rows, sequence, kind, access))

    def check_stored(
        self, machine: Machine, at: Places, values: Sequence[Array], active: Array
    ) -> None:
        """Raise a fault if two waves wrote different values to one place by the store that was just made."""
        if not self.judged or self._distinct(machine, at, active):
            return
        lost = self._changes(at, values) & active[..., None]
        if not lost.any():
            return
        self._note()
        access = self._accesses[-1]
        writer = _noted(self._writer, access.cell, access.count)
        lost = lost & (writer != access.mine[:, None, None])
        if lost.any():
            self._conflict(machine, at, lost, writer % 64, "writes", "writes")

    def _distinct(self, machine: Machine, at: Places, active: Array) -> bool:
        """Return whether no two active lanes point at the same bytes; False if that takes long to see."""
        if at.row != at.size:
            return False
        index = at.index if machine.exec_is_full else at.index[active]
        number = np.arange(index.size, dtype=np.int32).reshape(index.shape)
        self._last[index] = number
        return not np.count_nonzero(self._last.take(index) != number)

    def _check_filled(
        self, machine: Machine, at: Places, active: Array, reach: tuple[int, int], verb: str
    ) -> None:
        """Raise a fault if a wave touches what its own load from memory has yet to put into LDS."""
        left = []
        for filling in self._filling:
            waves, sequence, load, access = filling
            late = machine.waits.under_way(LOAD, sequence, waves)[:, None]
            if not late.any():
                continue
            left.append(filling)
            if access.low >= reach[1] or reach[0] >= access.high:
                continue
            awaited = late if access.active is None else late & access.active
            awaited = np.broadcast_to(awaited, access.cell.shape[:2])
            owner = np.zeros(len(self.values.content) // self.granule, np.int32)
            _put(owner, access.cell, access.count, waves + 1, awaited)
            mine = self._access(machine, at, active, reach, store=False)
            bad = _noted(owner, mine.cell, mine.count) == (machine.rows + 1)[:, None, None]
            bad &= active[..., None]
            if bad.any():
                where, lane, _ = np.argwhere(bad)[0]
                raise machine.fault(
                    f"{verb} offset {self._offset(at, bad, where, lane)} of LDS before it has arrived: no wait"
                    f" covers its load, {load}"
                )
        self._filling = left

    def _access(
        self,
        machine: Machine,
        at: Places,
        active: Array,
        reach: tuple[int, int],
        *,
        store: bool,
    ) -> _Access:
        count, cell = max(1, at.size // self.granule), at.index
        if at.row != at.size:
            first = np.arange(0, at.size, self.granule)
            cell, count = (at.position[..., None] + first) // self.granule, 1
        elif at.size < self.granule:
            cell = at.position // self.granule
        number = machine.workgroup
        wave, kept = machine.rows % self.waves, None if machine.exec_is_full else active.copy()
        return _Access(store, number, self._epoch[number], wave, cell, count, kept, *reach)

    def _may_meet(self, access: _Access, *, stores: bool) -> bool:
        """Return whether a load or store since the last barrier may have touched the same bytes; note all if so."""
        for one in self._accesses:
            if one.store == stores and one.low < access.high and access.low < one.high:
                self._note()
                return True
        return False

    def _note(self) -> None:
        """Note in the cells who has touched them: only if somebody asks, as most are left alone until a barrier."""
        for one in self._accesses:
            if one.noted:
                continue
            one.noted = True
            if one.store:
                _put(self._writer, one.cell, one.count, one.mine, one.active)
            else:
                every = self._readers.shape[1] // one.count
                row = (one.wave * every).reshape(-1, *[1] * (one.cell.ndim - 1))
                _put(self._readers.reshape(-1), one.cell + row, one.count, one.epoch, one.active)

    def _foreign(self, access: _Access) -> tuple[Array, Array]:
        """Return which cells another wave has written since the last barrier, and who wrote last."""
        writer = _noted(self._writer, access.cell, access.count)
        epoch, mine = access.epoch[:, None, None], access.mine[:, None, None]
        return (writer >> 6 == epoch) & (writer != mine), writer

    def _changes(self, at: Places, values: Sequence[Array]) -> Array:
        """Return where other bytes lie than these values, [waves, lanes, 1]."""
        keep = np.uint32((1 << 8 * min(at.size, 4)) - 1)
        words = zip(self.values.load(at), values, strict=True)
        differ = [before ^ after for before, after in words]
        changes: Array = functools.reduce(np.bitwise_or, differ) & keep != 0
        return changes[..., None]

    def barrier(self, machine: Machine, groups: Array) -> None:
        """Note that workgroups have passed a barrier.

        A store that its wave has not waited for may arrive after the barrier, and belongs to what
        follows as well.
        """
        self._epoch[groups] += 1
        if not self.judged:
            return
        kept, again = [], []
        passed = np.zeros(len(self._epoch), bool)
        passed[groups] = True
        for store in self._late:
            waves, sequence, kind, access = store
            late = machine.waits.under_way(kind, sequence, waves)
            if not late.any():
                continue
            kept.append(store)
            rows = (late & passed[access.number])[:, None]
            if rows.any():
                active = np.broadcast_to(rows, access.cell.shape[:2])
                if access.active is not None:
                    active = active & access.active
                now = self._epoch[access.number]
                again.append(replace(access, epoch=now, active=active, noted=False))
        self._late = kept
        if again:
            self._note()
        current = (one for one in self._accesses if (self._epoch[one.number] == one.epoch).any())
        self._accesses = [*current, *again]

    def _conflict(
        self,
        machine: Machine,
        at: Places,
        bad: Array,
        other: Array,
        verb: str,
        their: str,
    ) -> None:
        where, lane, cell = np.argwhere(bad)[0]
        wave = int(machine.rows[where] % self.waves)
        raise machine.fault(
            f"race: wave {wave} {verb} offset {self._offset(at, bad, where, lane)} of LDS, which wave"
            f" {int(other[where, lane, cell])} of the same workgroup {their}, with no barrier between"
        )

    def _offset(self, at: Places, bad: Array, where: int, lane: int) -> int:
        """Return what a lane points at, from the start of its workgroup's memory."""
        return int(np.broadcast_to(at.position, bad.shape[:2])[where, lane] % self.stride)


def _noted(notes: Array, cell: Array, count: int) -> Array:
    """Return what is noted of cells, as _cells gives them: [waves, lanes, cells]."""
    return notes.reshape(-1, count).take(cell, axis=0).reshape(*cell.shape[:2], -1)


def _put(notes: Array, cell: Array, count: int, note: Array, active: Array | None) -> None:
    """Note something of each wave in cells; of the active lanes unless that is None."""
    notes_of = np.empty((*cell.shape, count), np.int32)
    notes_of[...] = note.reshape(-1, *[1] * cell.ndim)
    if active is not None:
        cell, notes_of = cell[active], notes_of[active]
    put_rows(notes.reshape(-1, count), cell, notes_of)
