"""Matrix instructions against the layouts of registers that AMD publishes, on numbers whose sums are exact.

Source: AMD's ISA guides for CDNA3 and CDNA4, "Dense Matrix Multiplication: register layouts", for RDNA3 and
RDNA4, "WMMA: matrix element storage"; AMD's matrix instruction calculator prints the same. The encodings of
numbers are torch's.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

from pytest_rocm_attn.emulator.assembly import read_assembly
from pytest_rocm_attn.emulator.build import step_of
from pytest_rocm_attn.emulator.lds import Lds
from pytest_rocm_attn.emulator.machine import EXEC, FULL, Machine
from pytest_rocm_attn.emulator.memory import Memory, Region
from pytest_rocm_attn.emulator.step import Step

A, B, C, D = 16, 32, 48, 80  # first registers
FP8 = [f"{a}_{b}" for a in ("fp8", "bf8") for b in ("fp8", "bf8")]
MFMA: dict[str, list[str]] = {
    "gfx90a": ["16x16x16f16", "32x32x8f16", "16x16x16bf16_1k", "32x32x8bf16_1k", "16x16x8bf16", "32x32x4bf16",
               "16x16x4f32", "32x32x2f32"],
    "gfx942": ["16x16x16_f16", "32x32x8_f16", "16x16x16_bf16", "32x32x8_bf16", "16x16x4_f32", "32x32x2_f32",
               "16x16x8_xf32", "32x32x4_xf32",
               *(f"16x16x32_{kind}" for kind in FP8), *(f"32x32x16_{kind}" for kind in FP8)],
    "gfx950": ["16x16x32_f16", "32x32x16_f16", "16x16x32_bf16", "32x32x16_bf16", "16x16x16_f16",
               *(f"16x16x32_{kind}" for kind in FP8), *(f"32x32x16_{kind}" for kind in FP8)],
}  # fmt: skip
WMMA = {
    "gfx1100": ["f32_16x16x16_f16", "f32_16x16x16_bf16"],
    "gfx1201": ["f32_16x16x16_f16", "f32_16x16x16_bf16", *(f"f32_16x16x16_{kind}" for kind in FP8)],
}


def encoded(numbers: np.ndarray[Any, Any], kind: str, gfx: str) -> np.ndarray[Any, Any]:
    """Return numbers as the bytes of a format, along the last axis."""
    fnuz = gfx == "gfx942"
    types = {
        "f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32, "xf32": torch.float32,
        "fp8": torch.float8_e4m3fnuz if fnuz else torch.float8_e4m3fn,
        "bf8": torch.float8_e5m2fnuz if fnuz else torch.float8_e5m2,
    }  # fmt: skip
    tensor = torch.from_numpy(np.ascontiguousarray(numbers, np.float32)).to(types[kind])
    return tensor.view(torch.uint8).numpy()


def machine(gfx: str, lanes: int) -> Machine:
    nothing = np.zeros(1, np.intp)
    tensor = torch.zeros(4)
    region = Region(tensor.data_ptr(), tensor.data_ptr() + 16, "x", 4, tensor.data_ptr())
    made = Machine(nothing, nothing, lanes, 128, Lds(1, 0, 1, 4), Memory([region]), 0, gfx)
    made.undefined.clear()
    made.set_mask(
        EXEC, slice(None), np.arange(lanes)[None] % 3 == 0
    )  # matrix instructions ignore EXEC
    return made


def step(m: Machine, text: str) -> Step:
    program = read_assembly(f'\t.amdgcn_target "amdgcn-amd-amdhsa--{m.gfx}"\n\t.text\n\t{text}\n')
    return step_of(program.instructions[0], program, m.lanes)


def registers(first: int, count: int) -> str:
    return f"v{first}" if count == 1 else f"v[{first}:{first + count - 1}]"


def put(m: Machine, first: int, lanes: np.ndarray[Any, Any]) -> int:
    """Write each lane's bytes, [lanes, bytes], into registers; return how many."""
    words = np.ascontiguousarray(lanes).view(np.uint32)
    m.vector[first : first + words.shape[1], 0] = words.T
    return int(words.shape[1])


def product(
    gfx: str,
    name: str,
    kinds: tuple[str, str],
    shape: tuple[int, int, int],
    a_place: Any,
    b_place: Any,
    d_place: Any,
    per_lane: tuple[int, int],
) -> None:
    """Run an instruction on small whole numbers, and compare all elements of the result.

    Args:
        a_place, b_place: (row or column, k) -> lanes that hold it, item in the lane.
        d_place: (row, column) -> lane, register.
        per_lane: numbers of A and of B, and registers of D.
    """
    lanes = 64 if gfx.startswith("gfx9") else 32
    rows, columns, depth = shape
    random = np.random.default_rng(rows + depth)
    a = random.integers(-4, 5, (rows, depth))
    b = random.integers(-4, 5, (columns, depth))
    c = random.integers(-8, 9, (rows, columns))
    m = machine(gfx, lanes)
    counts = []
    for first, matrix, place, kind in ((A, a, a_place, kinds[0]), (B, b, b_place, kinds[1])):
        held = np.full((lanes, per_lane[0]), np.nan)
        for line in range(matrix.shape[0]):
            for k in range(depth):
                which, item = place(line, k)
                for lane in which:
                    held[lane, item] = matrix[line, k]
        assert not np.isnan(held).any()
        counts.append(put(m, first, encoded(held, kind, gfx)))
    start = np.zeros((lanes, per_lane[1]), np.float32)
    for i in range(rows):
        for j in range(columns):
            lane, register = d_place(i, j)
            start[lane, register] = c[i, j]
    put(m, C, start.view(np.uint8))
    size = per_lane[1]
    multiply = step(m, f"{name} {registers(D, size)}, {registers(A, counts[0])},"
                       f" {registers(B, counts[1])}, {registers(C, size)}")  # fmt: skip
    multiply.run(m, slice(None))
    result = m.vector[D : D + size, 0].view(np.float32)
    got = np.array([[result[d_place(i, j)[::-1]] for j in range(columns)] for i in range(rows)])
    np.testing.assert_array_equal(got, a @ b.T + c)
    # Undefined numbers of A leave their rows undefined, and no others.
    undefined, in_a_word = 5, per_lane[0] // counts[0]
    m.undefined[A] = np.where(np.arange(lanes) == undefined, FULL, np.uint32(0))[None]
    shadows = dict(multiply.taint(m, slice(None)))
    for i in range(rows):
        places = (a_place(i, k) for k in range(depth))
        unsure = any(undefined in which and item < in_a_word for which, item in places)
        for lane, register in (d_place(i, j) for j in range(columns)):
            assert (shadows[D + register][0, lane] != 0) == unsure


@pytest.mark.parametrize(
    ("gfx", "name"), [(gfx, name) for gfx, names in MFMA.items() for name in names]
)
def test_an_mfma_multiplies_what_the_published_layout_says(gfx: str, name: str) -> None:
    match = re.fullmatch(r"(\d+)x(\d+)x(\d+)_?(bf16_1k|xf32|f16|bf16|f32|\w\w8_\w\w8)", name)
    assert match is not None
    rows, columns, depth = (int(one) for one in match.groups()[:3])
    kinds = match[4].removesuffix("_1k").split("_")
    in_a_lane = rows * depth // 64
    group = 4  # rows that stand in one lane's consecutive registers, of results of 32 bits
    side = 64 // columns  # lanes that share a column

    def source(line: int, k: int) -> tuple[list[int], int]:
        return [line + rows * (k // in_a_lane)], k % in_a_lane

    def target(i: int, j: int) -> tuple[int, int]:
        return j + columns * (i // group % side), i % group + group * (i // (group * side))

    size = rows * columns // 64
    shape = (rows, columns, depth)
    product(
        gfx,
        f"v_mfma_f32_{name}",
        (kinds[0], kinds[-1]),
        shape,
        source,
        source,
        target,
        (in_a_lane, size),
    )


@pytest.mark.parametrize(
    ("gfx", "name"), [(gfx, name) for gfx, names in WMMA.items() for name in names]
)
def test_a_wmma_multiplies_what_the_published_layout_says(gfx: str, name: str) -> None:
    kinds = name.split("16x16x16_")[1].split("_")

    def both_halves(line: int, k: int) -> tuple[list[int], int]:
        return [line, line + 16], k

    def a_half_each(line: int, k: int) -> tuple[list[int], int]:
        return [line + 16 * (k // 8)], k % 8

    old = gfx == "gfx1100"
    source = both_halves if old else a_half_each

    def target(i: int, j: int) -> tuple[int, int]:
        return (j + 16 * (i % 2), i // 2) if old else (j + 16 * (i // 8), i % 8)

    per_lane = (16 if old else 8, 8)
    shape = (16, 16, 16)
    product(gfx, f"v_wmma_{name}", (kinds[0], kinds[-1]), shape, source, source, target, per_lane)
