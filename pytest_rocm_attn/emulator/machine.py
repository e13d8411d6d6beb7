"""The state of many waves that run in lockstep: registers, EXEC, undefined bits, loads under way.

Registers are numpy arrays: ``vector[register, wave, lane]``, ``scalar[register, wave]``. A
selection of waves is a slice that takes all, or an array of their numbers.

Besides the values there is a shadow: the bits that nothing has defined. It is kept only of registers
that have such bits (``undefined``), so that it costs next to nothing once a kernel is under way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pytest_rocm_attn.emulator.waits import Waits
from pytest_rocm_attn.errors import EmulationFault

if TYPE_CHECKING:
    from pytest_rocm_attn.emulator.lds import Lds
    from pytest_rocm_attn.emulator.memory import Memory

Array: TypeAlias = NDArray[Any]
Waves: TypeAlias = "slice | NDArray[np.intp]"

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
        self.grid_group = grid_group
        self.workgroup, self.count, self.lanes, self.gfx = workgroup, count, lanes, gfx
        self.vector = np.full((vectors, count, lanes), POISON, np.uint32)
        self.scalar = np.full((SCALARS, count), POISON, np.uint32)
        self.scalar[NULL] = 0
        self.scc = np.zeros(count, bool)
        self.exec = np.ones((count, lanes), bool)
        self.exec_is_full = True
        self.lds, self.memory = lds, memory
        # Private memory, lane by lane, in bytes; nothing of it is defined.
        self.scratch_bytes = scratch
        self.scratch_stride = -(-scratch // 16) * 16 + 16
        self.scratch = np.full(count * lanes * self.scratch_stride, 0xFF, np.uint8)
        self.scratch_shadow = np.full_like(self.scratch, 0xFF)
        self.waits = Waits(count, gfx)
        # None stands for a shadow of ones everywhere.
        self.undefined: dict[int, Array | None] = dict.fromkeys(range(vectors))
        self.undefined.update(dict.fromkeys(range(SCALAR_KEY, SCALAR_KEY + NULL)))
        self.undefined[SCC_KEY] = None
        # What the running instruction leaves undefined of its results: (key, shadow).
        self.late: list[tuple[int, Array]] = []
        self.here: Any = None  # the instruction that runs, for messages
        self.set_scalar(EXEC, slice(None), FULL)
        if lanes == 64:
            self.set_scalar(EXEC + 1, slice(None), FULL)
        for register in (EXEC, EXEC + 1):
            self.undefined.pop(SCALAR_KEY + register)

    def size(self, waves: Waves) -> int:
        """Return how many waves a selection has."""
        return self.count if isinstance(waves, slice) else len(waves)

    def fault(self, words: str) -> EmulationFault:
        """Return a fault of the instruction that runs."""
        return EmulationFault(f"{words}, by {self.here}")

    # --- values ---

    def write(self, register: int, waves: Waves, value: Array) -> None:
        """Write 32 bits of each lane that EXEC has, broadcast over waves and lanes."""
        if isinstance(waves, slice):
            if self.exec_is_full:
                self.vector[register][...] = value
            else:
                np.copyto(self.vector[register], value, where=self.exec)
        else:
            self.vector[register, waves] = np.where(
                self.exec[waves], value, self.vector[register, waves]
            )

    def write_half(self, register: int, high: bool, waves: Waves, value: Array) -> None:
        """Write 16 bits of each lane into one half; the other half stays."""
        old = self.vector[register, waves]
        if high:
            self.write(register, waves, value << np.uint32(16) | old & np.uint32(0xFFFF))
        else:
            self.write(register, waves, value & np.uint32(0xFFFF) | old & np.uint32(0xFFFF0000))

    def set_scalar(self, register: int, waves: Waves, value: Any) -> None:
        """Write a scalar register of each wave."""
        if register == NULL:
            return
        self.scalar[register, waves] = value
        if register >= EXEC:
            self._exec_changed(waves)

    def set_scalar64(self, register: int, waves: Waves, value: Array) -> None:
        """Write a pair of scalar registers."""
        if register == NULL:
            return
        self.scalar[register, waves] = (value & np.uint64(0xFFFFFFFF)).astype(np.uint32)
        self.scalar[register + 1, waves] = (value >> np.uint64(32)).astype(np.uint32)
        if register >= EXEC:
            self._exec_changed(waves)

    def scalar64(self, register: int, waves: Waves) -> Array:
        """Return pairs of scalar registers as 64 bits."""
        low = self.scalar[register, waves].astype(np.uint64)
        return low | self.scalar[register + 1, waves].astype(np.uint64) << np.uint64(32)

    def mask(self, register: int, waves: Waves) -> NDArray[np.bool_]:
        """Return a lane mask kept in scalar registers as [waves, lanes]."""
        return _unpacked(self.scalar[register : register + self.lanes // 32, waves])

    def set_mask(self, register: int, waves: Waves, bits: Array) -> None:
        """Write a lane mask."""
        if register == NULL:
            return
        words = np.packbits(bits, axis=1, bitorder="little").view(np.uint32)
        for word in range(self.lanes // 32):
            self.scalar[register + word, waves] = words[:, word]
        if register >= EXEC:
            self._exec_changed(waves)

    def _exec_changed(self, waves: Waves) -> None:
        self.exec[waves] = self.mask(EXEC, waves)
        self.exec_is_full = bool(self.exec.all())

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

    def define(self, key: int, waves: Waves, shadow: Array | None, *, everywhere: bool) -> None:
        """Note the undefined bits of what was just written.

        Args:
            shadow: as wide as the register; None: all is defined.
            everywhere: the write did not heed EXEC.
        """
        old = self.undefined.get(key, _CLEAN)
        if shadow is None and old is _CLEAN:
            return
        flat = key >= SCALAR_KEY
        whole = flat or everywhere or self.exec_is_full
        if shadow is None and whole and isinstance(waves, slice):
            del self.undefined[key]
            return
        if old is None:
            old = np.full(self.count if flat else (self.count, self.lanes), FULL)
        elif old is _CLEAN:
            old = np.zeros(self.count if flat else (self.count, self.lanes), np.uint32)
        new = np.uint32(0) if shadow is None else shadow
        old[waves] = new if flat or everywhere else np.where(self.exec[waves], new, old[waves])
        if old.any():
            self.undefined[key] = old
        else:
            self.undefined.pop(key, None)

    def demand(self, what: str, shadow: Array, where: Array | None = None) -> None:
        """Raise a fault if undefined bits reach what decides.

        Args:
            what: what they would decide or become.
            shadow: their shadow.
            where: the lanes that count.
        """
        bad = shadow != 0 if where is None else (shadow != 0) & where
        if bad.any():
            place = np.argwhere(np.broadcast_to(bad, bad.shape))[0]
            lane = f" of lane {int(place[-1])}" if bad.ndim > 1 and bad.shape[-1] > 1 else ""
            raise self.fault(f"uninitialised data{lane} reaches {what}")


def _unpacked(words: Array) -> NDArray[np.bool_]:
    """Return [words, waves] of bits as [waves, lanes]."""
    rows = np.ascontiguousarray(words.T)
    return np.unpackbits(rows.view(np.uint8), axis=1, bitorder="little").view(bool)


_CLEAN: Any = object()
