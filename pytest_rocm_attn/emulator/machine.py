"""The state of many waves that run in lockstep: registers, EXEC, undefined bits, loads under way.

Registers are numpy arrays: ``vector[register, wave, lane]``, ``scalar[register, wave]``; ``floats`` and ``integers``
are the former as float32 and int32. They show
the waves in focus, those that run together; a selection of waves is a slice that takes all of them.

Besides the values there is a shadow: the bits that nothing has defined. It is kept only of registers
that have such bits (``undefined``), so that it costs next to nothing once a kernel is under way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pytest_rocm_attn.emulator.rows import Bytes, filled
from pytest_rocm_attn.emulator.waits import Waits
from pytest_rocm_attn.errors import EmulationFault

if TYPE_CHECKING:
    from pytest_rocm_attn.emulator.hostcalls import Host
    from pytest_rocm_attn.emulator.lds import Lds
    from pytest_rocm_attn.emulator.memory import Memory

Array: TypeAlias = NDArray[Any]
Waves: TypeAlias = slice

# Scalar registers by our own number; hardware's encodings differ between families.
VCC, M0, EXEC, NULL = 106, 124, 126, 128
TTMP0 = 108
SCALARS = 129
ACCUMULATION = 256  # the number of a0 among the vector registers (CDNA)
VECTORS = 512
# Keys under which registers are known to be undefined or awaited: vectors by number, then these.
SCALAR_KEY = 1000
SCC_KEY = 2000

FULL = np.uint32(0xFFFFFFFF)
POISON = np.uint32(0x7FC0DEAD)  # a quiet NaN in float32, in its upper half a NaN in bfloat16


class Machine:
    """Waves that run one kernel.

    Args:
        workgroup: number of each wave's workgroup, within this machine.
        grid_group: the same within the grid.
        lanes: lanes per wave.
        vectors: vector registers of a wave.
        lds: their local memories.
        memory: what global addresses mean.
        scratch: bytes of private memory per lane.
        gfx: target.
    """

    def __init__(
        self,
        workgroup: NDArray[np.intp],
        grid_group: NDArray[np.intp],
        lanes: int,
        vectors: int,
        lds: Lds,
        memory: Memory,
        scratch: int,
        gfx: str,
    ) -> None:
        count = len(workgroup)
        self.lanes, self.gfx = lanes, gfx
        vector = np.full((vectors, count, lanes), POISON, np.uint32)
        scalar = np.full((SCALARS, count), POISON, np.uint32)
        scalar[NULL] = 0
        scc, mask = np.zeros(count, bool), np.ones((count, lanes), bool)
        self._whole = (vector, scalar, scc, mask, workgroup, grid_group)
        self.lds, self.memory = lds, memory
        # Private memory, lane by lane, in bytes; nothing of it is defined.
        self.scratch_bytes = scratch
        self.scratch_stride = -(-scratch // 16) * 16 + 16
        room = count * lanes * self.scratch_stride
        self.scratch, self.scratch_shadow = Bytes(filled(room)), Bytes(filled(room))
        self.waits = Waits(count, gfx)
        # The registers that nothing has defined in any wave. Of the others, over all waves: which have
        # undefined bits, as the bits of a number, and which bits these are.
        keys = (*range(vectors), *range(SCALAR_KEY, SCALAR_KEY + NULL), SCC_KEY)
        self._untouched: dict[int, Array | None] = dict.fromkeys(keys)
        self._unsure: dict[int, tuple[int, Array | None]] = {}
        self._changed: set[int] = set()  # keys of what was defined since the waves came into focus
        # Of the waves in focus. None stands for a shadow of ones everywhere.
        self.undefined: dict[int, Array | None] = {}
        self.rows = np.zeros(0, np.intp)
        self.focus(np.arange(count))
        # What the running instruction leaves undefined of its results: (key, shadow).
        self.late: list[tuple[int, Array]] = []
        self.here: Any = None  # the instruction that runs, for messages
        self.host: Host | None = None  # who answers the kernel's messages
        self.set_scalar(EXEC, slice(None), FULL)
        if lanes == 64:
            self.set_scalar(EXEC + 1, slice(None), FULL)
        for register in (EXEC, EXEC + 1):
            self.define(SCALAR_KEY + register, None, everywhere=True)

    def size(self, waves: Waves) -> int:
        """Return how many waves a selection has."""
        return self.count

    # --- which waves run together ---

    def focus(self, rows: NDArray[np.intp]) -> None:
        """Show these waves until the next call, so that instructions see no others.

        Args:
            rows: their numbers, ascending.
        """
        if len(rows) == len(self.rows) and not np.count_nonzero(rows != self.rows):
            return
        self._put_back()
        first, last = int(rows[0]), int(rows[-1])
        near = last - first + 1 == len(rows)
        # A view where they are neighbours, else a copy, which _put_back returns.
        self._at: slice | NDArray[np.intp] = slice(first, last + 1) if near else rows
        vector, scalar, scc, mask, workgroup, grid_group = self._whole
        self.rows, self.count = rows, len(rows)
        self.vector, self.scalar = vector[:, self._at], scalar[:, self._at]
        self.floats, self.integers = self.vector.view(np.float32), self.vector.view(np.int32)
        self._masks: dict[int, NDArray[np.bool_]] = {}  # what was last written to scalar registers
        self.scc, self.exec = scc[self._at], mask[self._at]
        self.workgroup, self.grid_group = workgroup[self._at], grid_group[self._at]
        self.exec_is_full = bool(self.exec.all())
        self.waits.rows = self._at
        chosen = np.zeros(len(self._whole[2]), bool)
        chosen[rows] = True
        self._bits = int.from_bytes(np.packbits(chosen, bitorder="little").tobytes(), "little")
        self.undefined = self._untouched.copy()
        for key, (waves, shadow) in self._unsure.items():
            if waves & self._bits:
                self.undefined[key] = self._part(key, waves, shadow)

    def _part(self, key: int, waves: int, shadow: Array | None) -> Array | None:
        """Return the shadow of the waves in focus, given that of all."""
        if shadow is not None:
            part: Array = shadow[self._at]
            return part
        if waves & self._bits == self._bits:
            return None
        return self._shadow_of(key, waves, self.rows)

    def _shadow_of(self, key: int, waves: int, rows: NDArray[np.intp]) -> Array:
        """Return the shadow of rows of which some waves have ones everywhere."""
        count = len(self._whole[2])
        bits = np.frombuffer(waves.to_bytes(-(-count // 8), "little"), np.uint8)
        words = np.unpackbits(bits, bitorder="little")[rows] * FULL
        return words if key >= SCALAR_KEY else np.repeat(words[:, None], self.lanes, 1)

    def _put_back(self) -> None:
        """Return to all waves what became of those in focus."""
        if not len(self.rows):
            return
        if not isinstance(self._at, slice):
            whole, own = self._whole, (self.vector, self.scalar, self.scc, self.exec)
            whole[0][:, self._at], whole[1][:, self._at] = own[:2]
            whole[2][self._at], whole[3][self._at] = own[2:]
        for key in self._changed:
            self._keep_shadow(key)
        self._changed.clear()

    def _keep_shadow(self, key: int) -> None:
        waves, shadow = self._unsure.get(key, (0, None))
        if key in self._untouched:
            if self.undefined.get(key, _CLEAN) is None:
                return
            del self._untouched[key]
            waves = (1 << len(self._whole[2])) - 1
        if key not in self.undefined:
            waves &= ~self._bits
            if shadow is not None:
                shadow[self._at] = 0
        elif (own := self.undefined[key]) is None:
            waves |= self._bits
            if shadow is not None:
                shadow[self._at] = FULL
        else:
            if shadow is None:
                shadow = self._shadow_of(key, waves, np.arange(len(self._whole[2])))
            waves |= self._bits
            shadow[self._at] = own
        if waves:
            self._unsure[key] = waves, shadow
        else:
            self._unsure.pop(key, None)

    def fault(self, words: str) -> EmulationFault:
        """Return a fault of the instruction that runs."""
        return EmulationFault(f"{words}, by {self.here}")

    # --- values ---

    def write(self, register: int, waves: Waves, value: Array) -> None:
        """Write 32 bits in each lane that EXEC enables, broadcast over waves and lanes."""
        if self.exec_is_full:
            self.vector[register] = value
        else:
            np.copyto(self.vector[register], value, where=self.exec)

    def write_half(self, register: int, high: bool, waves: Waves, value: Array) -> None:
        """Write 16 bits of each lane into one half; the other half stays."""
        old = self.vector[register]
        if high:
            self.write(register, waves, value << np.uint32(16) | old & np.uint32(0xFFFF))
        else:
            self.write(register, waves, value & np.uint32(0xFFFF) | old & np.uint32(0xFFFF0000))

    def set_scalar(self, register: int, waves: Waves, value: Any) -> None:
        """Write a scalar register of each wave."""
        if register == NULL:
            return
        self.scalar[register] = value
        if self._masks:
            self._forget_masks(register, register)
        if register >= EXEC:
            self._exec_changed(waves)

    def set_scalar64(self, register: int, waves: Waves, value: Array) -> None:
        """Write a pair of scalar registers."""
        if register == NULL:
            return
        self.scalar[register] = value & np.uint64(0xFFFFFFFF)
        self.scalar[register + 1] = value >> np.uint64(32)
        if self._masks:
            self._forget_masks(register, register + 1)
        if register >= EXEC:
            self._exec_changed(waves)

    def scalar64(self, register: int, waves: Waves) -> Array:
        """Return pairs of scalar registers as 64 bits."""
        high = self.scalar[register + 1].astype(np.uint64)
        high <<= np.uint64(32)
        high |= self.scalar[register]
        return high

    def mask(self, register: int, waves: Waves) -> NDArray[np.bool_]:
        """Return a lane mask kept in scalar registers as [waves, lanes]; never change it."""
        found = self._masks.get(register)
        if found is None:
            found = _unpacked(self.scalar[register : register + self.lanes // 32])
        return found

    def set_mask(self, register: int, waves: Waves, bits: Array) -> None:
        """Write a lane mask."""
        if register == NULL:
            return
        words = np.packbits(bits, axis=1, bitorder="little").view(np.uint32)
        for word in range(self.lanes // 32):
            self.scalar[register + word] = words[:, word]
        self._forget_masks(register, register + self.lanes // 32 - 1)
        if register >= EXEC:
            self._exec_changed(waves)
        else:
            self._masks[register] = bits

    def _forget_masks(self, first: int, last: int) -> None:
        """Forget what the masks of some scalar registers are; a mask may begin one before."""
        for register in range(first - 1, last + 1):
            self._masks.pop(register, None)

    def _exec_changed(self, waves: Waves) -> None:
        self.exec[waves] = self.mask(EXEC, waves)
        self.exec_is_full = np.count_nonzero(self.exec) == self.exec.size

    # --- what is undefined ---

    def vector_shadow(self, register: int, waves: Waves) -> Array:
        """Return the undefined bits of a vector register, [waves, lanes]."""
        shadow = self.undefined.get(register, _CLEAN)
        if shadow is None:
            return np.full((self.size(waves), self.lanes), FULL)
        if shadow is _CLEAN:
            return np.zeros((self.size(waves), self.lanes), np.uint32)
        chosen: Array = shadow[waves]
        return chosen

    def scalar_shadow(self, register: int, waves: Waves) -> Array:
        """Return the undefined bits of a scalar register, [waves]."""
        return self._flat_shadow(SCALAR_KEY + register, waves)

    def scc_shadow(self, waves: Waves) -> Array:
        """Return ones for the waves whose SCC nothing has defined."""
        return self._flat_shadow(SCC_KEY, waves)

    def _flat_shadow(self, key: int, waves: Waves) -> Array:
        shadow = self.undefined.get(key, _CLEAN)
        if shadow is None:
            return np.full(self.size(waves), FULL)
        if shadow is _CLEAN:
            return np.zeros(self.size(waves), np.uint32)
        chosen: Array = shadow[waves]
        return chosen

    def mask_shadow(self, register: int, waves: Waves) -> NDArray[np.bool_]:
        """Return the undefined bits of a lane mask as [waves, lanes]."""
        words = [self.scalar_shadow(register + i, waves) for i in range(self.lanes // 32)]
        return _unpacked(np.stack(words))

    def define(self, key: int, shadow: Array | None, *, everywhere: bool) -> None:
        """Note the undefined bits of what was just written.

        Args:
            shadow: as wide as the register; None: all is defined.
            everywhere: the write did not heed EXEC.
        """
        old = self.undefined.get(key, _CLEAN)
        if shadow is None and old is _CLEAN:
            return
        self._changed.add(key)
        flat = key >= SCALAR_KEY
        if not (flat or everywhere or self.exec_is_full):
            before = np.uint32(0) if old is _CLEAN else FULL if old is None else old
            shadow = np.where(self.exec, np.uint32(0) if shadow is None else shadow, before)
        if shadow is None or not shadow.any():
            self.undefined.pop(key, None)
        else:  # of its own, as it may be a view of another register's
            new = np.empty(self.count if flat else (self.count, self.lanes), np.uint32)
            new[...] = shadow
            self.undefined[key] = new

    def define_late(self) -> None:
        """Note what the instruction that ran left undefined of its results."""
        for key, shadow in self.late:
            self.define(key, shadow, everywhere=False)
        self.late.clear()

    def demand(self, what: str, shadow: Array, where: Array | None = None) -> None:
        """Raise a fault if undefined bits would decide something, such as a branch or an address.

        Args:
            what: the thing, in words.
            shadow: a mask of the undefined bits.
            where: the lanes to check; None checks all.
        """
        bad = shadow != 0 if where is None else (shadow != 0) & where
        if np.count_nonzero(bad):
            place = np.argwhere(np.broadcast_to(bad, bad.shape))[0]
            lane = f" of lane {int(place[-1])}" if bad.ndim > 1 and bad.shape[-1] > 1 else ""
            raise self.fault(f"uninitialised data{lane} reaches {what}")


def _unpacked(words: Array) -> NDArray[np.bool_]:
    """Return [words, waves] of bits as [waves, lanes]."""
    rows = np.ascontiguousarray(words.T)
    return np.unpackbits(rows.view(np.uint8), axis=1, bitorder="little").view(bool)


_CLEAN: Any = object()
