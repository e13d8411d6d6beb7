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
from pytest_rocm_attn.errors import EmulatorError

A, B, C, D = 16, 32, 48, 80  # first registers
FP8 = [f"{a}_{b}" for a in ("fp8", "bf8") for b in ("fp8", "bf8")]
MFMA: dict[str, list[str]] = {
    "gfx90a": ["16x16x16f16", "32x32x8f16", "16x16x16bf16_1k", "32x32x8bf16_1k", "16x16x8bf16", "32x32x4bf16",
               "16x16x4f32", "32x32x2f32", "i32_16x16x16i8", "i32_32x32x8i8", "f64_16x16x4f64", "f64_4x4x4f64",
               "32x32x4f16", "16x16x4f16", "4x4x4f16", "i32_4x4x4i8", "4x4x4bf16_1k", "16x16x1f32"],
    "gfx942": ["16x16x16_f16", "32x32x8_f16", "16x16x16_bf16", "32x32x8_bf16", "16x16x4_f32", "32x32x2_f32",
               "16x16x8_xf32", "32x32x4_xf32",
               *(f"16x16x32_{kind}" for kind in FP8), *(f"32x32x16_{kind}" for kind in FP8),
               "i32_16x16x32_i8", "i32_32x32x16_i8", "f64_16x16x4_f64", "f64_4x4x4_4b_f64",
               "32x32x4_2b_f16", "16x16x4_4b_bf16", "4x4x4_16b_f16", "i32_32x32x4_2b_i8", "4x4x1_16b_f32"],
    "gfx950": ["i32_16x16x64_i8", "i32_32x32x32_i8", "f64_16x16x4_f64", "4x4x4_16b_f16", "16x16x1_4b_f32", "16x16x4_4b_f16", "32x32x1_2b_f32", "32x32x4_2b_bf16",
               "4x4x4_16b_bf16", "i32_16x16x4_4b_i8", "i32_4x4x4_16b_i8", "16x16x32_f16", "32x32x16_f16", "16x16x32_bf16", "32x32x16_bf16", "16x16x16_f16",
               *(f"16x16x32_{kind}" for kind in FP8), *(f"32x32x16_{kind}" for kind in FP8)],
}  # fmt: skip
# Blocks, where the name does not have them.
BLOCKS = {("gfx90a", name): blocks for name, blocks in (
    ("f64_4x4x4f64", 4), ("32x32x4f16", 2), ("16x16x4f16", 4), ("4x4x4f16", 16), ("i32_4x4x4i8", 16),
    ("4x4x4bf16_1k", 16), ("16x16x1f32", 4),
)}  # fmt: skip
# With the signs that neg_lo gives to integers.
INTEGERS = [f"i32_16x16x16_{a}{bits}_{b}{bits}" for bits in (8, 4) for a in "iu" for b in "iu"]
HALVES = ["f16_16x16x16_f16", "bf16_16x16x16_bf16"]
WMMA = {
    "gfx1100": ["f32_16x16x16_f16", "f32_16x16x16_bf16", *INTEGERS, *HALVES, *(f"{one}_high" for one in HALVES)],
    "gfx1201": ["f32_16x16x16_f16", "f32_16x16x16_bf16", *(f"f32_16x16x16_{kind}" for kind in FP8), *INTEGERS, *HALVES,
                "i32_16x16x32_i4_u4"],
}  # fmt: skip
BITS = {"f64": 64, "f32": 32, "xf32": 32, "i32": 32, "f16": 16, "bf16": 16, "fp8": 8, "bf8": 8, "i8": 8,
        "u8": 8, "i4": 4, "u4": 4}  # fmt: skip


def encoded(numbers: np.ndarray[Any, Any], kind: str, gfx: str) -> np.ndarray[Any, Any]:
    """Return numbers as the bytes of a format, along the last axis."""
    fnuz = gfx == "gfx942"
    if kind in ("i4", "u4"):
        whole = numbers.astype(np.int64).reshape(*numbers.shape[:-1], -1, 2) & 15
        return (whole[..., 0] | whole[..., 1] << 4).astype(np.uint8)
    types = {
        "f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32, "xf32": torch.float32,
        "fp8": torch.float8_e4m3fnuz if fnuz else torch.float8_e4m3fn,
        "bf8": torch.float8_e5m2fnuz if fnuz else torch.float8_e5m2,
        "f64": torch.float64, "i32": torch.int32, "i8": torch.int8, "u8": torch.uint8,
    }  # fmt: skip
    tensor = torch.from_numpy(np.ascontiguousarray(numbers, np.float64)).to(types[kind])
    return tensor.view(torch.uint8).numpy()


def decoded(lanes: np.ndarray[Any, Any], kind: str) -> np.ndarray[Any, Any]:
    """Return the words of lanes, [lanes, words], as numbers of a result."""
    types = {"f64": torch.float64, "f32": torch.float32, "i32": torch.int32, "f16": torch.float16,
             "bf16": torch.bfloat16}  # fmt: skip
    tensor = torch.from_numpy(np.ascontiguousarray(lanes).view(np.uint8)).view(types[kind])
    return tensor.to(torch.float64).numpy()


def drawn(random: np.random.Generator, kind: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Return whole numbers of a format: few enough for exact sums in any, and all of an integer's."""
    if kind[0] in "iu":
        low = 0 if kind[0] == "u" else -(1 << int(kind[1:]) - 1)
        return random.integers(low, low + (1 << int(kind[1:])), shape)
    limit = 2 if kind == "bf16" else 4
    return random.integers(-limit, limit + 1, shape)


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
    kinds: tuple[str, str, str],
    shape: tuple[int, int, int, int],
    a_place: Any,
    b_place: Any,
    d_place: Any,
    per_lane: tuple[int, int],
    modifiers: str = "",
) -> None:
    """Run an instruction on small whole numbers, and compare all elements of the result.

    Args:
        kinds: of A, B and the result.
        shape: blocks, rows, columns and depth.
        a_place, b_place: (block, row or column, k) -> lanes that hold it, item in the lane.
        d_place: (block, row, column) -> lane, item.
        per_lane: items of A and of B, and of D.
    """
    lanes = 64 if gfx.startswith("gfx9") else 32
    blocks, rows, columns, depth = shape
    random = np.random.default_rng(rows + depth)
    a = drawn(random, kinds[0], (blocks, rows, depth))
    b = drawn(random, kinds[1], (blocks, columns, depth))
    c = random.integers(-8, 9, (blocks, rows, columns))
    m = machine(gfx, lanes)
    counts = []
    for first, matrix, place, kind in ((A, a, a_place, kinds[0]), (B, b, b_place, kinds[1])):
        held = np.full((lanes, per_lane[0]), np.nan)
        for block, line, k in np.ndindex(*matrix.shape):
            which, item = place(block, line, k)
            for lane in which:
                held[lane, item] = matrix[block, line, k]
        assert not np.isnan(held).any()
        counts.append(put(m, first, encoded(held, kind, gfx)))
    bits, each = BITS[kinds[2]], list(np.ndindex(blocks, rows, columns))
    start, left = np.zeros((lanes, per_lane[1])), np.ones((lanes, per_lane[1]), bool)
    for place in each:
        start[d_place(*place)], left[d_place(*place)] = c[place], False
    size = put(m, C, encoded(start, kinds[2], gfx))
    before = put(m, D, encoded(np.full_like(start, 3), kinds[2], gfx))
    multiply = step(m, f"{name} {registers(D, before)}, {registers(A, counts[0])},"
                       f" {registers(B, counts[1])}, {registers(C, size)}{modifiers}")  # fmt: skip
    multiply.run(m, slice(None))
    result = decoded(m.vector[D : D + size, 0].T, kinds[2])
    got = np.array([result[d_place(*place)] for place in each]).reshape(c.shape)
    np.testing.assert_array_equal(got, a @ b.transpose(0, 2, 1) + c)
    assert (result[left] == 3).all()  # the other halves of registers that hold one number each
    # Undefined numbers of A leave their rows undefined, and no others.
    undefined, per_word = 5, BITS[kinds[0]]
    m.undefined[A] = np.where(np.arange(lanes) == undefined, FULL, np.uint32(0))[None]
    shadows = dict(multiply.taint(m, slice(None)))
    words = np.array([shadows[D + i][0] for i in range(size)], np.uint32).T
    for block, i, j in each:
        places = (a_place(block, i, k) for k in range(depth))
        unsure = any(undefined in which and item * per_word < 32 for which, item in places)
        lane, item = d_place(block, i, j)
        word = int(words[lane, item * bits // 32]) >> item * bits % 32
        assert (word & (1 << min(bits, 32)) - 1 != 0) == unsure
    if bits == 16:
        assert not np.ascontiguousarray(words).view(np.uint16)[left].any()


@pytest.mark.parametrize(
    ("gfx", "name"), [(gfx, name) for gfx, names in MFMA.items() for name in names]
)
def test_an_mfma_multiplies_what_the_published_layout_says(gfx: str, name: str) -> None:
    match = re.fullmatch(
        r"(?:(i32|f64)_)?(\d+)x(\d+)x(\d+)(?:_\d+b)?_?(bf16_1k|xf32|f16|bf16|f32|f64|i8|\w\w8_\w\w8)",
        name,
    )
    assert match is not None
    result = match[1] or "f32"
    rows, columns, depth = (int(one) for one in match.groups()[1:4])
    kinds = match[5].removesuffix("_1k").split("_")
    blocks = BLOCKS.get((gfx, name), int((re.search(r"_(\d+)b_", name) or [0, 1])[1]))
    in_a_lane = rows * depth * blocks // 64
    # The guide's formulas, of rows that stand in one lane's consecutive registers: 4, or 1 of results of 64 bits.
    group = 1 if result == "f64" else 4
    abreast = -(-64 // (columns * rows // group))
    side = 64 // abreast // columns
    turns = rows // (group * side)

    def source(block: int, line: int, k: int) -> tuple[list[int], int]:
        return [line + rows * (block + blocks * (k // in_a_lane))], k % in_a_lane

    def target(block: int, i: int, j: int) -> tuple[int, int]:
        lane = j + columns * (i // group % side + side * (block % abreast))
        return lane, i % group + group * (i // group // side + turns * (block // abreast))

    size = rows * columns * blocks // 64
    shape = (blocks, rows, columns, depth)
    named = name if match[1] else f"f32_{name}"
    product(
        gfx,
        f"v_mfma_{named}",
        (kinds[0], kinds[-1], result),
        shape,
        source,
        source,
        target,
        (in_a_lane, size),
    )


@pytest.mark.parametrize("name", ["16x16x128", "32x32x64"])
@pytest.mark.parametrize("kinds", [("fp8", "bf8"), ("bf8", "fp8"), ("bf8", "bf8"), ("fp8", "fp8")])
def test_modifiers_name_the_formats_of_gfx950(name: str, kinds: tuple[str, str]) -> None:
    """A and B hold k in one order, so that each order gives the same product."""
    size, _, depth = (int(one) for one in name.split("x"))
    side = 64 // size

    def source(block: int, line: int, k: int) -> tuple[list[int], int]:
        return [line + size * (k // 32)], k % 32

    def target(block: int, i: int, j: int) -> tuple[int, int]:
        return j + size * (i // 4 % side), i % 4 + 4 * (i // 4 // side)

    numbers = [("fp8", "bf8").index(kind) for kind in kinds]
    modifiers = "".join(
        f" {what}:{number}"
        for what, number in zip(("cbsz", "blgp"), numbers, strict=True)
        if number
    )
    shape = (1, size, size, depth)
    named = f"v_mfma_f32_{name}_f8f6f4"
    product(
        "gfx950",
        named,
        (*kinds, "f32"),
        shape,
        source,
        source,
        target,
        (32, size * size // 64),
        modifiers,
    )


def test_numbers_of_four_bits_are_refused() -> None:
    text = "v_mfma_f32_16x16x128_f8f6f4 v[80:83], v[16:19], v[32:35], v[48:51] cbsz:4 blgp:4"
    with pytest.raises(EmulatorError, match="numbers of 6 or 4 bits"):
        step(machine("gfx950", 64), text)


def test_a_block_of_a_stands_for_others() -> None:
    """Of cbsz:2, each group of four blocks takes the block that abid names."""
    random, m = np.random.default_rng(1), machine("gfx942", 64)
    a, b = (random.integers(-4, 5, (16, 4, 4)) for _ in range(2))  # blocks, rows, k
    for first, matrix in ((A, a), (B, b)):
        put(m, first, encoded(matrix.reshape(64, 4), "f16", "gfx942"))
    text = "v_mfma_f32_4x4x4_16b_f16 v[80:83], v[16:17], v[32:33], 0 cbsz:2 abid:3"
    step(m, text).run(m, slice(None))
    got = decoded(m.vector[D : D + 4, 0].T, "f32").reshape(16, 4, 4)  # blocks, columns, rows
    taken = a[np.arange(16) // 4 * 4 + 3]
    np.testing.assert_array_equal(got.transpose(0, 2, 1), taken @ b.transpose(0, 2, 1))


@pytest.mark.parametrize(("clamp", "limited"), [("", False), (" clamp", True)])
def test_a_sum_of_integers_wraps_or_is_limited(clamp: str, limited: bool) -> None:
    m = machine("gfx1100", 32)
    put(m, A, np.full((32, 16), 1, np.uint8))
    put(m, B, np.full((32, 16), 1, np.uint8))
    put(m, C, np.full((32, 32), 127, np.uint8))  # 0x7f7f7f7f in each register
    m.vector[C] = 0x7FFFFFFF
    step(m, f"v_wmma_i32_16x16x16_iu8 v[80:87], v[16:19], v[32:35], v[48:55]{clamp}").run(
        m, slice(None)
    )
    assert (m.vector[D] == (0x7FFFFFFF if limited else 0x8000000F)).all()
    assert (m.vector[D + 1] == 0x7F7F7F8F).all()


@pytest.mark.parametrize(
    ("gfx", "name"), [(gfx, name) for gfx, names in WMMA.items() for name in names]
)
def test_a_wmma_multiplies_what_the_published_layout_says(gfx: str, name: str) -> None:
    match = re.fullmatch(r"(\w+)_16x16x(\d+)_(\w+?)(_high)?", name)
    assert match is not None
    result, depth, high = match[1], int(match[2]), bool(match[4])
    kinds = match[3].split("_")
    modifiers = " op_sel:[0,0,1]" if high else ""
    if kinds[0][0] in "iu":
        modifiers = " neg_lo:[{},{},0]".format(*(int(kind[0] == "i") for kind in kinds))
        name = f"{result}_16x16x{depth}_iu{kinds[0][1:]}"
    old = gfx == "gfx1100"
    half = depth // 2

    def both_halves(block: int, line: int, k: int) -> tuple[list[int], int]:
        return [line, line + 16], k

    def a_half_each(block: int, line: int, k: int) -> tuple[list[int], int]:
        return [line + 16 * (k // half)], k % half

    source = both_halves if old else a_half_each
    apart = 2 if old and result.endswith("16") else 1  # a register holds one number of 16 bits

    def target(block: int, i: int, j: int) -> tuple[int, int]:
        if old:
            return j + 16 * (i % 2), i // 2 * apart + high
        return j + 16 * (i // 8), i % 8

    per_lane = (depth if old else half, 8 * apart)
    shape = (1, 16, 16, depth)
    named = f"v_wmma_{name.removesuffix('_high')}"
    product(
        gfx,
        named,
        (kinds[0], kinds[-1], result),
        shape,
        source,
        source,
        target,
        per_lane,
        modifiers,
    )
