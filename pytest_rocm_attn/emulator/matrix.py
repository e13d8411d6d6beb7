"""Matrix instructions: MFMA of CDNA and WMMA of RDNA, which ignore EXEC.

Source: AMD's ISA guides for CDNA3 and CDNA4, "Matrix Arithmetic Instructions"; for RDNA3 and
RDNA4, "WMMA", and AMD's matrix instruction calculator for the layouts of registers. Products are
summed in float32 in numpy's order; the hardware's inner order is not documented.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np

from pytest_rocm_attn.emulator import numbers as n
from pytest_rocm_attn.emulator.machine import Array, Machine, Waves
from pytest_rocm_attn.emulator.numbers import f16, f32, u16, u32
from pytest_rocm_attn.emulator.operands import Operand, float_bits
from pytest_rocm_attn.emulator.step import Context, Shadows, Step
from pytest_rocm_attn.errors import EmulatorError

_MFMA = re.compile(
    r"v_mfma_f32_(16x16|32x32)x(\d+)_?(f16|bf16_1k|bf16|f32|xf32|(?:fp8|bf8)_(?:fp8|bf8))"
)
_WMMA = re.compile(r"v_wmma_(f32|f16|bf16)_16x16x16_(f16|bf16|(?:fp8|bf8)_(?:fp8|bf8))")

Spread = tuple[tuple[int, ...], tuple[int, ...]]


def build(context: Context) -> Step | None:
    """Return a matrix instruction's step, or None if it is not one."""
    if match := _MFMA.fullmatch(context.name):
        return _mfma(context, int(match[1][:2]), int(match[2]), match[3])
    if match := _WMMA.fullmatch(context.name):
        return _wmma(context, match[1], match[2])
    return None


def _decoder(kind: str, fnuz: bool) -> tuple[Callable[[Array], Array], int]:
    """Return how words become float32 numbers, [..., words] to [..., numbers], and how many."""
    if kind in ("fp8", "bf8"):
        values = n.fp8_values(4 if kind == "fp8" else 5, fnuz)
        return lambda words: values[words.view(np.uint8)], 4
    if kind in ("f32", "xf32"):
        return lambda words: words.view(f32), 1
    if kind == "f16":
        return lambda words: words.view(f16).astype(f32), 2
    return lambda words: n.from_bfloat16(words.view(u16)), 2


def _registers(m: Machine, w: Waves, first: int, count: int, *, shadow: bool) -> Array:
    """Return registers as [waves, lanes, registers]."""
    if shadow:
        words = np.stack([m.vector_shadow(first + i, w) for i in range(count)])
    else:
        words = m.vector[first : first + count, w]
    return np.ascontiguousarray(np.moveaxis(words, 0, -1))


def _mfma(context: Context, size: int, depth: int, kind: str) -> Step:
    """A product of size x depth and depth x size, one block."""
    context.refuse("cbsz", "abid", "blgp", "neg_lo", "neg_hi")
    groups = 64 // size  # lanes that hold one row together
    per_lane = depth // groups
    if per_lane * groups != depth:
        raise EmulatorError("an MFMA of several blocks")
    if size == 32:  # row 8 i + 4 (lane // 32) + j in register 4 i + j
        spread: Spread = (4, 2, 4, 32), (1, 3, 0, 2, 4)
    else:  # row 4 (lane // 16) + register
        spread = (4, 4, 16), (2, 0, 1, 3)

    def matrix(numbers: Array) -> Array:
        """Return [waves, lanes, numbers] as [waves, size, depth]."""
        blocks = numbers.reshape(-1, groups, size, per_lane)
        return blocks.transpose(0, 2, 1, 3).reshape(-1, size, depth)

    kinds = kind.removesuffix("_1k").split("_")
    both = kinds[0], kinds[-1]
    return _product(context, both, per_lane, (matrix, matrix), spread, "f32")


def _wmma(context: Context, result: str, kind: str) -> Step:
    """A product of 16 x 16 each; on RDNA3 both halves of a wave hold the same rows."""
    context.refuse("neg_lo", "neg_hi", "op_sel")
    if context.gfx12:  # row 8 (lane // 16) + register
        per_lane, spread = 8, ((2, 8, 16), (2, 0, 1, 3))

        def matrix(numbers: Array) -> Array:
            return np.concatenate([numbers[:, :16], numbers[:, 16:]], axis=2)

    else:
        # row 2 register + lane // 16
        per_lane, spread = 16, ((8, 2, 16), (1, 0, 2, 3))

        def matrix(numbers: Array) -> Array:
            return numbers[:, :16]

    kinds = kind.split("_")
    both = kinds[0], kinds[-1]
    return _product(context, both, per_lane, (matrix, matrix), spread, result)


def _product(
    context: Context,
    kinds: tuple[str, str],
    per_lane: int,
    shapes: tuple[Callable[[Array], Array], Callable[[Array], Array]],
    spread: Spread,
    result: str,
) -> Step:
    """Return D = A B + C.

    Args:
        spread: how the product lies in registers: the parts of its rows and columns, and the order of waves (0) and
            these parts in [registers, waves, lanes].
    """
    if result != "f32":
        raise EmulatorError("a matrix product that is not accumulated in float32")
    target, first, second, start = context.operands()
    decoders = [_decoder(kind, context.fnuz) for kind in kinds]
    words = [per_lane // in_a_word for _, in_a_word in decoders]
    parts, order = spread
    count = math.prod(parts) // context.lanes

    def operand(m: Machine, w: Waves, number: int) -> Array:
        register = (first, second)[number].index
        words_of = _registers(m, w, register, words[number], shadow=False)
        return shapes[number](decoders[number][0](words_of))

    def parted(matrix: Array) -> Array:
        return matrix.reshape(-1, *parts).transpose(order)

    def run(m: Machine, w: Waves) -> None:
        right = np.ascontiguousarray(operand(m, w, 1).transpose(0, 2, 1))
        product = parted(np.matmul(operand(m, w, 0), right))
        whole = m.floats[target.index : target.index + count]
        before = _start(m, w, start, count)
        before = before.reshape(product.shape) if before.ndim else before
        np.add(product, before, out=whole.reshape(product.shape))  # a view, as axes are only parted

    def unsure(m: Machine, w: Waves, number: int) -> Array:
        """Return the rows of an operand that have undefined numbers, [waves, size]."""
        register = (first, second)[number].index
        shadow = _registers(m, w, register, words[number], shadow=True)
        numbers = np.repeat(shadow != 0, decoders[number][1], axis=2)
        rows: Array = np.asarray(shapes[number](numbers).any(axis=2))
        return rows

    def taint(m: Machine, w: Waves) -> Shadows:
        bad = parted(unsure(m, w, 0)[:, :, None] | unsure(m, w, 1)[:, None, :])
        shadows = np.where(bad.reshape(count, -1, m.lanes), u32(0xFFFFFFFF), u32(0))
        if start.kind == "v":
            whole = np.stack([m.vector_shadow(start.index + i, w) for i in range(count)])
            shadows = np.where(whole != 0, u32(0xFFFFFFFF), shadows)
        return [(target.index + i, shadows[i]) for i in range(count)]

    reads = tuple(range(first.index, first.index + words[0]))
    reads += tuple(range(second.index, second.index + words[1]))
    if start.kind == "v":
        reads += tuple(range(start.index, start.index + count))
    writes = tuple(range(target.index, target.index + count))
    return Step(run, reads, writes, taint, everywhere=True)


def _start(m: Machine, w: Waves, start: Operand, count: int) -> Array:
    if start.kind == "v":
        return m.vector[start.index : start.index + count, w].view(f32)
    bits = float_bits(start.number, 32) if start.kind == "float" else start.index & 0xFFFFFFFF
    return np.array(bits, np.uint32).view(f32)
