"""Memory operations under way, and the s_waitcnt that each result needs.

Source: AMD's ISA guides ("Manually inserted wait states", "Data dependency resolution"): loads of
one counter return in order, but scalar loads do not, so a counter with one of them under way says
something only at zero. On gfx9 stores count with loads; later targets count them apart, and gfx12
counts each kind by itself. An operation is held back while its counter is full (the widths of
S_WAITCNT's fields), so of 64 vector loads the first has arrived without a wait. LLVM relies on it, and on
vector loads that write one register in their order, without a wait between them (llvm-project, llvmorg-22.1.0,
llvm/lib/Target/AMDGPU/SIInsertWaitcnts.cpp).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from pytest_rocm_attn.emulator.machine import Array

    Rows = slice | NDArray[np.intp]

LOAD, STORE, LDS, SCALAR = "load", "store", "LDS", "scalar load"
# Counter of each kind of operation, by family.
_GFX9 = {LOAD: "vm", STORE: "vm", LDS: "lgkm", SCALAR: "lgkm"}
_GFX11 = {LOAD: "vm", STORE: "vs", LDS: "lgkm", SCALAR: "lgkm"}
_GFX12 = {LOAD: "load", STORE: "store", LDS: "ds", SCALAR: "km"}
# The most that a counter counts: the width of its field in S_WAITCNT or S_WAIT_*CNT.
_FULL = {"vm": 63, "vs": 63, "lgkm": 63, "load": 63, "store": 63, "ds": 63, "km": 31}


def full(gfx: str, counter: str) -> int:
    """Return how many operations of a counter can be under way."""
    return 15 if gfx.startswith("gfx9") and counter == "lgkm" else _FULL[counter]


def counters(gfx: str) -> dict[str, str]:
    """Return which counter each kind of operation counts on."""
    return _GFX9 if gfx.startswith("gfx9") else _GFX12 if gfx.startswith("gfx12") else _GFX11


def waited(name: str, operands: list[str]) -> dict[str, int]:
    """Return the counters that a wait instruction waits for, and down to what.

    ``s_waitcnt vmcnt(0) lgkmcnt(1)``, ``s_waitcnt_vscnt null, 0x0``, ``s_wait_loadcnt_dscnt 0x102``.
    """
    if name == "s_waitcnt":
        found = (re.fullmatch(r"(\w+)cnt\((\w+)\)", word) for word in operands)
        return {match[1]: int(match[2], 0) for match in found if match is not None}
    if name == "s_waitcnt_vscnt":
        return {"vs": int(operands[1], 0)}
    if name == "s_wait_idle":
        return dict.fromkeys(_GFX12.values(), 0)
    kinds = re.findall(r"([a-z]+)cnt", name.removeprefix("s_wait_"))
    if len(kinds) == 2:  # loads or stores in bits 8 and up, LDS in the lowest six
        value = int(operands[0], 0)
        return {kinds[0]: value >> 8, kinds[1]: value & 63}
    return {kinds[0]: int(operands[0], 0)} if kinds else {}


class Waits:
    """The operations under way of each wave.

    A selection of waves is a slice, which stands for those in focus, or an array of their numbers.

    Attributes:
        awaited: keys of the registers that some load has yet to fill.
        rows: the waves in focus.
    """

    def __init__(self, waves: int, gfx: str) -> None:
        self._counter = counters(gfx)
        names = set(self._counter.values())
        self._full = {name: full(gfx, name) for name in names}
        self._issued = {name: np.zeros(waves, np.int64) for name in names}
        self._done = {name: np.zeros(waves, np.int64) for name in names}
        self._last_scalar = {name: np.zeros(waves, np.int64) for name in names}
        # Of registers: the operation that fills it in each wave, the greatest of these numbers, and the instruction.
        self._pending: dict[str, dict[int, tuple[NDArray[np.int64], int, Any]]] = {
            name: {} for name in names
        }
        self._most = dict.fromkeys(names, 0)  # no wave has more under way
        self._scalar = dict.fromkeys(names, False)  # a scalar load has ever been under way
        self.awaited: set[int] = set()
        self.rows: Rows = slice(None)

    def issue(self, kind: str, keys: Sequence[int], waves: Rows, here: object) -> Array:
        """Note an operation that will fill registers, or none; return its number in each wave."""
        counter, rows = self._counter[kind], self._rows(waves)
        issued = self._issued[counter]
        number: Array = issued[rows] + 1
        issued[rows] = number
        if kind == SCALAR:
            self._last_scalar[counter][rows] = number
            self._scalar[counter] = True
        if keys:
            self._await(counter, keys, rows, number, here)
        self._most[counter] += 1
        if self._most[counter] > self._full[counter]:
            self.wait(counter, self._full[counter], waves)
            self._most[counter] = int((issued - self._done[counter]).max())
        return number

    def _await(
        self, counter: str, keys: Sequence[int], rows: Rows, number: Array, here: object
    ) -> None:
        pending, count = self._pending[counter], len(self._issued[counter])
        greatest, fresh = int(number.max()), number
        if len(number) < count:
            fresh = np.zeros(count, np.int64)
            fresh[rows] = number
        for key in keys:
            sequence, most = fresh, greatest
            if key in pending and len(number) < count:
                sequence = pending[key][0].copy()
                sequence[rows] = number
                most = int(sequence.max())
            pending[key] = (sequence, most, here)
        self.awaited.update(keys)

    def wait(self, counter: str, most: int, waves: Rows) -> None:
        """Note that no more than most operations of a counter are under way."""
        if counter not in self._issued:
            return
        rows = self._rows(waves)
        issued, done = self._issued[counter][rows], self._done[counter][rows]
        if not most and len(issued) == len(self._issued[counter]):  # everything of every wave
            self._done[counter][rows] = issued
            self._most[counter] = 0
            if self._pending[counter]:
                self._pending[counter].clear()
                self.awaited = {key for keys in self._pending.values() for key in keys}
            return
        reached = issued - most
        if most and self._scalar[counter]:  # they return in any order
            scalar = self._last_scalar[counter][rows] > done
            reached = np.where(scalar, done, reached)
        np.maximum(done, reached, out=reached)
        self._done[counter][rows] = reached
        if self._pending[counter]:
            self._forget(counter)

    def _forget(self, counter: str) -> None:
        pending, done = self._pending[counter], self._done[counter]
        least, greatest = int(done.min()), int(done.max())
        arrived = [
            key
            for key, (sequence, most, _) in pending.items()
            if most <= least or (most <= greatest and (sequence <= done).all())
        ]
        for key in arrived:
            del pending[key]
        if arrived:
            self.awaited = {key for keys in self._pending.values() for key in keys}

    def unfinished(
        self, keys: Iterable[int], waves: Rows, overtakes: frozenset[int] = frozenset()
    ) -> tuple[int, Any] | None:
        """Return the first key that is not filled in some wave, with what is to fill it.

        Args:
            overtakes: keys that may be awaited from vector loads.
        """
        rows = self._rows(waves)
        for counter, pending in self._pending.items():
            done = self._done[counter][rows]
            ordered = overtakes if counter == self._counter[LOAD] else ()
            for key in keys:
                if key in pending and key not in ordered:
                    sequence, _, here = pending[key]
                    if (sequence[rows] > done).any():
                        return key, here
        return None

    def under_way(self, kind: str, sequence: Array, waves: Rows) -> NDArray[np.bool_]:
        """Return which waves have not waited for the operation of a number."""
        late: NDArray[np.bool_] = sequence > self._done[self._counter[kind]][self._rows(waves)]
        return late

    def _rows(self, waves: Rows) -> Rows:
        return self.rows if isinstance(waves, slice) else waves
