"""Which element of a matrix each lane holds, for the matrix instructions of backends/hip/device.h.

D [16, 16] += A [16, K] B [K, 16], fp16 or bf16 in, fp32 out. Sources: ROCm/amd_matrix_instruction_calculator
(MFMA, and WMMA of RDNA3), AMD GPUOpen "Using the matrix cores of RDNA 3" and "... of AMD RDNA 4" (WMMA).
The kernels never read these tables: tests hold the kernels' index arithmetic against them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MatrixShape:
    """One matrix instruction.

    Args:
        struct: its name in device.h.
        targets: the GPUs whose kernels use it.
        k: length of the inner dimension.
        wave: lanes.
        per_lane: elements of A, and of B, that a lane holds.
        results: elements of D that a lane holds.
        groups: groups of 16 lanes that share the inner dimension; 1 where each group holds all of it.
        interleaved: D's rows alternate between the halves of the wave (RDNA3), else a lane's are
            adjacent.
    """

    struct: str
    targets: tuple[str, ...]
    k: int
    wave: int
    per_lane: int
    results: int
    groups: int
    interleaved: bool = False

    def a(self, lane: int, i: int) -> tuple[int, int]:
        """Return (row, k) of element i of A in a lane."""
        return lane % 16, self._inner(lane, i)

    def b(self, lane: int, i: int) -> tuple[int, int]:
        """Return (k, column) of element i of B in a lane."""
        return self._inner(lane, i), lane % 16

    def d(self, lane: int, i: int) -> tuple[int, int]:
        """Return (row, column) of element i of D in a lane."""
        group = lane // 16
        row = 2 * i + group if self.interleaved else self.results * group + i
        return row, lane % 16

    def _inner(self, lane: int, i: int) -> int:
        return i if self.groups == 1 else self.per_lane * (lane // 16) + i


SHAPES = (
    MatrixShape("Mfma16", ("gfx90a", "gfx942"), 16, 64, 4, 4, 4),
    MatrixShape("Mfma32", ("gfx950",), 32, 64, 8, 4, 4),
    MatrixShape(
        "Wmma11",
        ("gfx1100", "gfx1101", "gfx1102", "gfx1103", "gfx1150", "gfx1151", "gfx1152", "gfx1153"),
        16,
        32,
        16,
        8,
        1,
        interleaved=True,
    ),
    MatrixShape("Wmma12", ("gfx1200", "gfx1201"), 16, 32, 8, 8, 2),
)
