"""Matrix instructions: MFMA of CDNA and WMMA of RDNA, which ignore EXEC.

Source: AMD's ISA guides for CDNA3 and CDNA4, "Matrix Arithmetic Instructions"; for RDNA3 and
RDNA4, "WMMA", and AMD's matrix instruction calculator for the layouts of registers. Products are
summed in float32 (float64 of such factors) in numpy's order, and rounded once to a result of 16 bits;
the hardware's inner order is not documented.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pytest_rocm_attn.emulator import numbers as n
from pytest_rocm_attn.emulator.machine import Array, Machine, Waves
from pytest_rocm_attn.emulator.numbers import f16, f32, u16, u32, u64
from pytest_rocm_attn.emulator.operands import Operand, float_bits
from pytest_rocm_attn.emulator.step import Context, Shadows, Step
from pytest_rocm_attn.errors import EmulatorError

_MFMA = re.compile(
    r"v_mfma_(f32|i32|f64)_(4x4|16x16|32x32)x(\d+)(?:_\d+b)?_?"
    r"(f16|bf16_1k|bf16|f32|xf32|f64|i8|(?:fp8|bf8)_(?:fp8|bf8))"
)
# gfx950's, of formats that cbsz (of A) and blgp (of B) name; those of 6 and 4 bits and scales are not known.
_FORMATS = re.compile(r"v_mfma_f32_(?:16x16x128|32x32x64)_f8f6f4")
_EIGHT_BITS = ("fp8", "bf8")
_WMMA = re.compile(
    r"v_wmma_(f32|f16|bf16|i32)_16x16x(16|32)_(f16|bf16|iu[48]|(?:fp8|bf8)_(?:fp8|bf8))"
)
# Bits of a number, by its kind.
_BITS = {"f64": 64, "f32": 32, "xf32": 32, "i32": 32, "f16": 16, "bf16": 16, "fp8": 8, "bf8": 8,
         "i8": 8, "u8": 8, "i4": 4, "u4": 4}  # fmt: skip

Spread = tuple[tuple[int, ...], tuple[int, ...]]


def build(context: Context) -> Step | None:
    """Return a matrix instruction's step, or None if it is not one."""
    if match := _MFMA.fullmatch(context.name):
        context.refuse("blgp")
        modifiers = context.instruction.modifiers
        block = int(modifiers.get("cbsz") or 0), int(modifiers.get("abid") or 0)
        size, depth = int(match[2].split("x")[0]), int(match[3])
        return _mfma(context, match[1], size, depth, match[4], block)
    if _FORMATS.fullmatch(context.name):
        context.refuse("abid", "op_sel", "op_sel_hi")
        numbers = [int(context.instruction.modifiers.get(one) or 0) for one in ("cbsz", "blgp")]
        if max(numbers) >= len(_EIGHT_BITS):
            raise EmulatorError("a product of numbers of 6 or 4 bits")
        size, depth = (16, 128) if "_16x16x128_" in context.name else (32, 64)
        kinds = "_".join(_EIGHT_BITS[number] for number in numbers)
        return _mfma(context, "f32", size, depth, kinds, (0, 0))
    if match := _WMMA.fullmatch(context.name):
        return _wmma(context, match[1], int(match[2]), match[3])
    return None


def _decoder(kind: str, fnuz: bool) -> Callable[[Array], Array]:
    """Return how words become numbers to multiply, [..., words] to [..., numbers]."""
    if kind in ("fp8", "bf8"):
        values = n.fp8_values(4 if kind == "fp8" else 5, fnuz)
        return lambda words: values[words.view(np.uint8)]
    if kind in ("i8", "u8"):  # float32 has their products and sums exactly
        return lambda words: words.view(np.dtype(f"{kind[0]}1")).astype(f32)
    if kind in ("i4", "u4"):
        return lambda words: _fours(words, signed=kind == "i4")
    if kind == "f64":
        return lambda words: words.view(np.float64)
    if kind in ("f32", "xf32"):
        return lambda words: words.view(f32)
    if kind == "f16":
        return lambda words: words.view(f16).astype(f32)
    return lambda words: n.from_bfloat16(words.view(u16))


def _fours(words: Array, *, signed: bool) -> Array:
    """Numbers of 4 bits."""
    parts = words[..., None] >> (u32(4) * np.arange(8, dtype=u32)) & u32(15)
    numbers = parts.reshape(*words.shape[:-1], -1).astype(f32)
    return np.where(numbers > 7, numbers - f32(16), numbers) if signed else numbers


def _registers(m: Machine, w: Waves, first: int, count: int, *, shadow: bool) -> Array:
    """Return registers as [waves, lanes, registers]."""
    if shadow:
        words = np.stack([m.vector_shadow(first + i, w) for i in range(count)])
    else:
        words = m.vector[first : first + count, w]
    return np.ascontiguousarray(np.moveaxis(words, 0, -1))


def _mfma(
    context: Context, result: str, size: int, depth: int, kind: str, block: tuple[int, int]
) -> Step:
    """Products of size x depth and depth x size, one for each block.

    Args:
        block: cbsz and abid, of a block of A that stands for others, of 2 ** cbsz each.
    """
    context.refuse("neg_lo", "neg_hi")
    kinds = kind.removesuffix("_1k").split("_")
    per_lane = 32 * context.operand(1).count // _BITS[kinds[0]]
    blocks = 64 * per_lane // (size * depth)
    groups = 64 // (size * blocks)  # lanes that hold one row together
    if groups * per_lane != depth:
        raise EmulatorError("an MFMA with registers of another width")
    shared, which = block
    if shared and (1 << shared > blocks or which >> shared):
        raise EmulatorError(f"modifiers cbsz:{shared} abid:{which} of {blocks} blocks")
    # Source: the guide's formula for the place of D[i][j] of a block; rows stand in runs of so many registers.
    run = 1 if result == "f64" else 4
    abreast = max(1, 64 * run // (size * size))  # blocks next to each other in the lanes
    rows = 64 // (abreast * size)  # runs next to each other
    whole = (blocks // abreast, abreast, size // (run * rows), rows, run, size)
    order = (1, 3, 5, 0, 2, 4, 6)
    # Parts of one element are left out.
    kept = [axis for axis, count in enumerate(whole, 1) if count > 1]
    parts = tuple(whole[axis - 1] for axis in kept)
    spread: Spread = parts, tuple([0, *kept].index(axis) for axis in order if axis in (0, *kept))

    def matrix(numbers: Array) -> Array:
        """Return [waves, lanes, numbers] as [waves, size, depth], or [waves, blocks, size, depth]."""
        if blocks == 1:
            held = numbers.reshape(-1, groups, size, per_lane)
            return held.transpose(0, 2, 1, 3).reshape(-1, size, depth)
        held = numbers.reshape(-1, groups, blocks, size, per_lane)
        return held.transpose(0, 2, 3, 1, 4).reshape(-1, blocks, size, depth)

    def left(numbers: Array) -> Array:
        found = matrix(numbers)
        if shared:
            number = np.arange(blocks)
            found = found[:, number >> shared << shared | which]
        return found

    return _product(context, (kinds[0], kinds[-1]), (left, matrix), spread, _Result(result))


def _wmma(context: Context, result: str, depth: int, kind: str) -> Step:
    """A product of 16 x depth and depth x 16; on RDNA3 both halves of a wave hold the same rows."""
    context.refuse("neg_hi", *([] if kind.startswith("iu") else ["neg_lo"]))
    half = result.endswith("16")
    selects = context.modifier("op_sel", [0, 0, 0])
    if any(selects[:2]) or (selects[2] and (context.gfx12 or not half)):
        raise EmulatorError("modifier 'op_sel'")
    if context.gfx12:  # row 8 (lane // 16) + register
        spread: Spread = ((2, 8, 16), (2, 0, 1, 3))

        def matrix(numbers: Array) -> Array:
            return np.concatenate([numbers[:, :16], numbers[:, 16:]], axis=2)

    else:
        # row 2 register + lane // 16
        spread = ((8, 2, 16), (1, 0, 2, 3))

        def matrix(numbers: Array) -> Array:
            return numbers[:, :16]

    kinds = kind.split("_")
    if kind.startswith("iu"):
        signs = context.modifier("neg_lo", [0, 0, 0])
        kinds = [("i" if sign else "u") + kind[2:] for sign in signs[:2]]
    form = _Result(result, packed=half and context.gfx12, high=bool(selects[2]))
    return _product(context, (kinds[0], kinds[-1]), (matrix, matrix), spread, form)


@dataclass(frozen=True, slots=True)
class _Result:
    """How the numbers of a result lie in registers.

    Attributes:
        kind: their type.
        packed: two of 16 bits share a register. high: else one of 16 bits lies in the upper half.
    """

    kind: str
    packed: bool = False
    high: bool = False

    def registers(self, numbers: int) -> int:
        """Return how many registers so many numbers of a lane take."""
        return numbers // 2 if self.packed else numbers * max(1, _BITS[self.kind] // 32)

    def numbers(self, words: Array) -> Array:
        """Return [registers, ...] words as numbers."""
        if self.kind == "f64":
            return (words[::2].astype(u64) | words[1::2].astype(u64) << u64(32)).view(np.float64)
        if self.kind == "i32":
            return words.view(np.int32)
        if self.kind == "f32":
            return words.view(f32)
        halves = self._halves(words)
        return halves.view(f16).astype(f32) if self.kind == "f16" else n.from_bfloat16(halves)

    def _halves(self, words: Array) -> Array:
        if not self.packed:
            return (words >> u32(16 * self.high)).astype(u16)
        both = np.stack([words & u32(0xFFFF), words >> u32(16)], axis=1)
        return both.reshape(-1, *words.shape[1:]).astype(u16)

    def words(self, numbers: Array, before: Array) -> Array:
        """Return numbers as words, in place of those before; other halves stay."""
        if self.kind in ("f32", "i32"):
            return numbers.view(u32)
        if self.kind == "f64":
            return self._pairs(numbers.view(u64))
        halves = numbers.astype(f16).view(u16) if self.kind == "f16" else n.bfloat16(numbers)
        return self._placed(halves.astype(u32), before)

    def _pairs(self, wide: Array) -> Array:
        both = np.stack([wide & u64(0xFFFFFFFF), wide >> u64(32)], axis=1)
        return both.reshape(-1, *wide.shape[1:]).astype(u32)

    def _placed(self, halves: Array, before: Array) -> Array:
        if self.packed:
            return halves[::2] | halves[1::2] << u32(16)
        shift = u32(16 * self.high)
        return halves << shift | before & ~(u32(0xFFFF) << shift)

    def shadow(self, bad: Array, start: Array, before: Array) -> Array:
        """Return the undefined bits of the result's registers.

        Args:
            bad: numbers that the factors leave undefined, [numbers, waves, lanes].
            start, before: shadows of the registers of C, and of the result before.
        """
        if self.kind == "f64":
            bad = bad | (start[::2] != 0) | (start[1::2] != 0)
            return np.repeat(np.where(bad, u32(0xFFFFFFFF), u32(0)), 2, axis=0)
        if _BITS[self.kind] == 32:
            return np.where(bad | (start != 0), u32(0xFFFFFFFF), u32(0))
        bad = bad | (self._halves(start) != 0)
        return self._placed(np.where(bad, u32(0xFFFF), u32(0)), before)


def _product(
    context: Context,
    kinds: tuple[str, str],
    shapes: tuple[Callable[[Array], Array], Callable[[Array], Array]],
    spread: Spread,
    result: _Result,
) -> Step:
    """Return D = A B + C.

    Args:
        spread: how the product lies in registers: the parts of its blocks, rows and columns, and the order of waves (0)
            and these parts in [numbers, waves, lanes].
    """
    target, first, second, start = context.operands()
    clamps = bool(context.instruction.modifiers.get("clamp"))
    if clamps and result.kind != "i32":
        raise EmulatorError("modifier 'clamp'")
    decoders = [_decoder(kind, context.fnuz) for kind in kinds]
    words = [first.count, second.count]
    parts, order = spread
    numbers = math.prod(parts) // context.lanes
    count = result.registers(numbers)
    if target.count != count:
        raise EmulatorError(f"a result of {target.count} registers, expected {count}")

    def operand(m: Machine, w: Waves, number: int) -> Array:
        register = (first, second)[number].index
        words_of = _registers(m, w, register, words[number], shadow=False)
        return shapes[number](decoders[number](words_of))

    def parted(matrix: Array) -> Array:
        return matrix.reshape(-1, *parts).transpose(order)

    def product_of(m: Machine, w: Waves) -> Array:
        right = np.ascontiguousarray(operand(m, w, 1).swapaxes(-1, -2))
        return parted(np.matmul(operand(m, w, 0), right))

    def run(m: Machine, w: Waves) -> None:
        product = product_of(m, w)
        whole = m.floats[target.index : target.index + count]
        before = _start(m, w, start, count, result)
        before = before.reshape(product.shape) if before.ndim else before
        np.add(product, before, out=whole.reshape(product.shape))  # a view, as axes are only parted

    def run_others(m: Machine, w: Waves) -> None:
        product = product_of(m, w).reshape(numbers, -1, m.lanes)
        before = _start(m, w, start, count, result)
        if result.kind == "i32":
            total = product.astype(np.int64) + before
            total = np.clip(total, -(1 << 31), (1 << 31) - 1) if clamps else total
            total = total.astype(np.int32)
        else:
            total = product + before
        whole = m.vector[target.index : target.index + count]
        whole[...] = result.words(np.ascontiguousarray(total), whole)

    def unsure(m: Machine, w: Waves, number: int) -> Array:
        """Return the rows of an operand that have undefined numbers, [waves, size]."""
        register = (first, second)[number].index
        bad = _registers(m, w, register, words[number], shadow=True) != 0
        bits = _BITS[kinds[number]]
        if bits == 64:
            bad = bad[..., ::2] | bad[..., 1::2]
        else:
            bad = np.repeat(bad, 32 // bits, axis=2)
        rows: Array = np.asarray(shapes[number](bad).any(axis=-1))
        return rows

    def taint(m: Machine, w: Waves) -> Shadows:
        bad = parted(unsure(m, w, 0)[..., :, None] | unsure(m, w, 1)[..., None, :])
        bad = bad.reshape(numbers, -1, m.lanes)

        def shadow_of(first: int) -> Array:
            return np.stack([m.vector_shadow(first + i, w) for i in range(count)])

        before = shadow_of(target.index)
        begun = shadow_of(start.index) if start.kind == "v" else np.zeros_like(before)
        shadows = result.shadow(bad, begun, before)
        return [(target.index + i, shadows[i]) for i in range(count)]

    reads = tuple(range(first.index, first.index + words[0]))
    reads += tuple(range(second.index, second.index + words[1]))
    if start.kind == "v":
        reads += tuple(range(start.index, start.index + count))
    writes = tuple(range(target.index, target.index + count))
    if result.kind.endswith("16") and not result.packed:
        reads += writes  # the other halves stay
    return Step(run if result.kind == "f32" else run_others, reads, writes, taint, everywhere=True)


def _start(m: Machine, w: Waves, start: Operand, count: int, result: _Result) -> Array:
    """Return C as numbers: of registers, or one of a constant."""
    if start.kind == "v":
        return result.numbers(m.vector[start.index : start.index + count, w])
    bits = _BITS[result.kind]
    value = float_bits(start.number, bits) if start.kind == "float" else start.index
    words = [value & 0xFFFFFFFF, value >> 32 & 0xFFFFFFFF][: max(1, bits // 32)]
    constant = np.array([words[0] | words[0] << 16] if bits == 16 else words, np.uint32)
    return result.numbers(constant)[0]
