"""What a kernel's addresses mean: the tensors of its launch, its arguments, its constants.

Addresses are this process's own, so tensors are read and written where they are. Nothing is touched
before each byte is known to lie in a region.
"""

from __future__ import annotations

import bisect
import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pytest_rocm_attn.emulator.numbers import Array
from pytest_rocm_attn.emulator.rows import Bytes, Places, overwritten, put_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_rocm_attn.emulator.machine import Machine

_LOWEST = 4096
# The whole address space of a user's process; an element is this much below its address.
_SPACE: Any = (ctypes.c_uint8 * ((1 << 47) - _LOWEST)).from_address(_LOWEST)
_MEMORY = Bytes(np.frombuffer(_SPACE, dtype=np.uint8))
_TRACKED = 1 << 28  # bytes of a region up to which its writers are noted


@dataclass(frozen=True, slots=True)
class Region:
    """Memory that a kernel may touch.

    Attributes:
        start, end: its addresses.
        name: what a message calls it.
        itemsize: bytes of an element.
        first: address of element 0; a tensor may start inside of its storage.
        writable: stores may go there.
    """

    start: int
    end: int
    name: str
    itemsize: int = 1
    first: int = 0
    writable: bool = True

    def place(self, address: int) -> str:
        """Return an address in terms of this region."""
        origin = self.first or self.start
        element = (address - origin) // self.itemsize
        last = (self.end - origin) // self.itemsize - 1
        if address >= self.end:
            beyond = f"; its storage ends with element {last}"
        elif address < self.start:
            beyond = f"; its storage starts with element {(self.start - origin) // self.itemsize}"
        else:
            beyond = ""
        return f"element {element} of {self.name}{beyond}"


class Span(NamedTuple):
    """The place of an access: the bytes of all active lanes lie from low up to high.

    Attributes:
        every: all lanes are active.
    """

    low: int
    high: int
    every: bool


class Memory:
    """The regions of one launch, and who of it wrote where.

    Args:
        regions: in any order; those that overlap are one for the check.
        judged: whether conflicts between workgroups are looked for.
    """

    def __init__(self, regions: Sequence[Region], *, judged: bool = True) -> None:
        self.regions = sorted(regions, key=lambda region: region.start)
        self.judged = judged
        spans: list[list[int]] = []
        for region in self.regions:
            if spans and region.start <= spans[-1][1]:
                spans[-1][1] = max(spans[-1][1], region.end)
            else:
                spans.append([region.start, region.end])
        self._low = [low for low, _ in spans]
        self._high = [high for _, high in spans]
        self.safe = self._low[0]  # where lanes that do not take part may point
        self._writers: dict[int, Array] = {}

    def check(self, machine: Machine, address: Array, size: int, active: Array, verb: str) -> Span:
        """Raise a fault unless each active lane's bytes lie in one region; return where they lie.

        Args:
            address: int64, [waves, lanes] or [waves].
            size: bytes from there on.
            active: which of them count.
            verb: "reads" or "writes".
        """
        every = np.count_nonzero(active) == active.size == address.size
        if every:
            lowest = int(np.minimum.reduce(address, axis=None))
            highest = int(np.maximum.reduce(address, axis=None))
        else:
            lowest = int(np.min(address, where=active, initial=1 << 62))
            highest = int(np.max(address, where=active, initial=0))
        if lowest == 1 << 62:
            return Span(0, 0, every)
        span = bisect.bisect_right(self._low, lowest) - 1
        if span >= 0 and highest + size <= self._high[span]:
            return Span(lowest, highest + size, every)
        wanted = address[active]
        spans = np.searchsorted(self._low, wanted, "right") - 1
        bad = (spans < 0) | (wanted + size > np.array(self._high)[spans])
        if bad.any():
            raise self._outside(machine, address, size, active, int(wanted[bad][0]), verb)
        return Span(lowest, highest + size, every)

    def _outside(
        self, machine: Machine, address: Array, size: int, active: Array, bad: int, verb: str
    ) -> Exception:
        nearest = min(
            self.regions, key=lambda one: min(abs(bad - one.start), abs(bad + size - one.end))
        )
        where = np.argwhere(active & (address == bad))[0]
        lane = f", lane {int(where[1])}" if address.ndim > 1 else ""
        distance = min(abs(bad - nearest.start), abs(bad - nearest.end))
        if distance > 1 << 24:
            place = f"address {bad:#x}, which is in no tensor of the launch"
        else:
            place = f"{nearest.place(bad)} (out of bounds)"
        return machine.fault(f"{verb} {size} bytes at {place}{lane}")

    def load(self, address: Array, size: int) -> list[Array]:
        """Return the words at addresses that were checked; one of 8 or 16 bits, zero-extended."""
        return _MEMORY.load(Places(address - _LOWEST, size))

    def store(self, address: Array, size: int, values: Sequence[Array]) -> None:
        """Write words, or one of 8 or 16 bits, at addresses that were checked."""
        _MEMORY.store(Places(address - _LOWEST, size), values)

    # --- conflicts between workgroups ---

    def note_store(
        self,
        machine: Machine,
        address: Array,
        size: int,
        values: Sequence[Array],
        active: Array,
        span: Span,
    ) -> None:
        """Note who writes, and raise a fault if another workgroup wrote something else there.

        Args:
            address, values: of the active lanes alone.
            active: which lanes those are. span: what check said.
        """
        if not self.judged or not address.size:
            return
        mine = self._mine(machine, active, span)
        for region, writers, offset, chosen in self._tracked(address, size, span, create=True):
            before = writers[offset]
            foreign = (before != 0) & (before != mine[chosen])
            if foreign.any():
                here = [value[chosen] for value in values]
                there = self.load(address[chosen], size)
                differ = np.zeros(len(offset), bool)
                for old, new in zip(there, here, strict=True):
                    keep = np.uint32((1 << 8 * min(size, 4)) - 1)
                    differ |= (old ^ new) & keep != 0
                if (foreign & differ).any():
                    self._conflict(machine, region, offset, before, mine[chosen], foreign & differ)
            if size & size - 1 or (offset & size - 1).any():
                for byte in range(size):
                    writers[offset + byte] = mine[chosen]
            else:
                own = np.repeat(mine[chosen], size).reshape(-1, size)
                put_rows(writers.reshape(-1, size), offset // size, own)
            lost = writers[offset] != mine[chosen]  # to another workgroup, by this instruction
            if lost.any():
                here = [value[chosen] for value in values]
                lost &= overwritten(address[chosen], size, here)
                if lost.any():
                    self._conflict(machine, region, offset, writers[offset], mine[chosen], lost)

    def note_load(
        self, machine: Machine, address: Array, size: int, active: Array, span: Span
    ) -> None:
        """Raise a fault if another workgroup of this launch wrote what is read."""
        if not self.judged or not self._writers:
            return
        at = address[active]
        mine = self._mine(machine, active, span)
        for region, writers, offset, chosen in self._tracked(at, size, span, create=False):
            for byte in (0, size - 1):
                before = writers[offset + byte]
                foreign = (before != 0) & (before != mine[chosen])
                if foreign.any():
                    self._conflict(machine, region, offset, before, mine[chosen], foreign)

    def _mine(self, machine: Machine, active: Array, span: Span) -> Array:
        """Return what _writers says of bytes that each active lane's workgroup has written."""
        groups = (machine.grid_group + 1).astype(np.int32)
        if span.every:
            return np.repeat(groups, machine.lanes)
        mine: Array = np.broadcast_to(groups[:, None], active.shape)[active]
        return mine

    def _tracked(
        self, address: Array, size: int, span: Span, *, create: bool
    ) -> list[tuple[Region, Array, Array, Array | slice]]:
        found: list[tuple[Region, Array, Array, Array | slice]] = []
        for number, region in enumerate(self.regions):
            if not region.writable or (not create and number not in self._writers):
                continue
            if region.end - region.start > _TRACKED:
                continue
            if span.high <= region.start or region.end <= span.low:
                continue
            chosen: Array | slice = slice(None)
            if not (region.start <= span.low and span.high <= region.end):
                inside = (address >= region.start) & (address + size <= region.end)
                if not inside.any():
                    continue
                chosen = inside
            if number not in self._writers:
                room = -(-(region.end - region.start) // 16) * 16  # whole for every size of a store
                self._writers[number] = np.zeros(room, np.int32)
            offset = address[chosen] - region.start
            found.append((region, self._writers[number], offset, chosen))
        return found

    def _conflict(
        self,
        machine: Machine,
        region: Region,
        offset: Array,
        before: Array,
        mine: Array,
        bad: Array,
    ) -> None:
        first = int(np.flatnonzero(bad)[0])
        raise machine.fault(
            f"race: workgroup {int(mine[first]) - 1} touches"
            f" {region.place(region.start + int(offset[first]))}, which workgroup"
            f" {int(before[first]) - 1} of the same launch wrote, with no atomic between"
        )
