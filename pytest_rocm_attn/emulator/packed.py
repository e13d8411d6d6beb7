"""Packed instructions: two halves of a register at once, or a pair of registers; mixed precision.

Source: AMD's ISA guides, "VOP3P Instructions": op_sel and op_sel_hi choose the half that each
half of the result reads, neg_lo and neg_hi change its sign.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from pytest_rocm_attn.emulator import numbers as n
from pytest_rocm_attn.emulator import taint as rules
from pytest_rocm_attn.emulator.machine import Array, Machine, Waves
from pytest_rocm_attn.emulator.numbers import f16, f32, f64, u16, u32
from pytest_rocm_attn.emulator.operands import TYPES, Fetch, Operand, Source, float_bits, source
from pytest_rocm_attn.emulator.step import Context, Destination, Shadows, Step
from pytest_rocm_attn.emulator.vector import Operation, keys_of, output_modifiers

HALVES: dict[str, Callable[..., Array]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "mul_lo": lambda a, b: a * b,
    "mad": lambda a, b, c: a * b + c,
    "fma": n.fma16,
    "max": lambda a, b: n.greater(a, b) if a.dtype == f16 else np.maximum(a, b),
    "min": lambda a, b: n.lesser(a, b) if a.dtype == f16 else np.minimum(a, b),
    "maximum": n.maximum,
    "minimum": n.minimum,
    "maximum3": lambda a, b, c: n.maximum(n.maximum(a, b), c),
    "minimum3": lambda a, b, c: n.minimum(n.minimum(a, b), c),
    "lshlrev": lambda a, b: b << (a & a.dtype.type(15)),
    "lshrrev": lambda a, b: b >> (a & a.dtype.type(15)),
    "ashrrev": lambda a, b: b >> (a & a.dtype.type(15)),
}
WORDS: dict[str, Callable[..., Array]] = {
    "v_pk_add_f32": np.add,
    "v_pk_mul_f32": np.multiply,
    "v_pk_fma_f32": n.fma32,
    "v_pk_mov_b32": lambda a: a,
}
_DOTS = re.compile(r"v_dot2c?_f32_(f16|bf16)|v_dot2_(f16|bf16)_(?:f16|bf16)")


def build(context: Context) -> Step | None:
    """Return a packed instruction's step, or None if it is not one."""
    if context.name in WORDS:
        return _words(context)
    if context.name in ("v_fma_mix_f32", "v_fma_mixlo_f16", "v_fma_mixhi_f16"):
        return _mixed(context)
    if match := _DOTS.fullmatch(context.name):
        return _dot(context, match[1] or match[2], into=match[2])
    if context.name == "v_pk_fmac_f16":
        operands = context.operands()
        return _halves(context, n.fma16, "f16", [*operands[1:], operands[0]])
    match = re.fullmatch(r"v_pk_(\w+)_([biuf]16)", context.name)
    if match is None or match[1] not in HALVES:
        return None
    return _halves(context, HALVES[match[1]], match[2].replace("b", "u"), context.operands()[1:])


def _both_halves(operand: Operand, kind: str) -> Source:
    """Return a word of two halves; a float constant stands in the lower one."""
    if operand.kind == "float":
        operand = Operand("constant", float_bits(operand.number, 16))
    return source(_unsigned(operand), "u32")


def _unsigned(operand: Operand) -> Operand:
    if operand.negative or operand.absolute:
        return replace(operand, negative=False, absolute=False)
    return operand


def _signs(context: Context, count: int) -> tuple[Sequence[int], Sequence[int]]:
    low = context.modifier("neg_lo", [0] * count)
    return low, context.modifier("neg_hi", [0] * count)


def _halves(
    context: Context, compute: Callable[..., Array], kind: str, operands: Sequence[Operand]
) -> Step:
    count = len(operands)
    sources = [_both_halves(operand, kind) for operand in operands]
    picks = context.modifier("op_sel", [0] * count), context.modifier("op_sel_hi", [1] * count)
    signs = _signs(context, count)
    dtype = TYPES[kind]
    finish = output_modifiers(context, kind)

    def half_of(words: list[Array], which: int) -> Array:
        halves = []
        for word, pick, sign in zip(words, picks[which], signs[which], strict=False):
            half = (word >> u32(16 * pick)).astype(u16).view(dtype)
            halves.append(-half if sign else half)
        result = np.asarray(compute(*halves)).astype(dtype)
        result = result if finish is None else finish(result)
        return result.view(u16).astype(u32)

    def value(m: Machine, w: Waves) -> Array:
        words = [one.fetch(m, w) for one in sources]
        return half_of(words, 0) | half_of(words, 1) << u32(16)

    def shadow(m: Machine, w: Waves) -> Array:
        words = [one.shadow(m, w) for one in sources]
        halves = []
        for which in (0, 1):
            used = [
                word >> u32(16 * pick) & u32(0xFFFF)
                for word, pick in zip(words, picks[which], strict=False)
            ]
            halves.append(rules.anything((), used).astype(u32) & u32(0xFFFF))
        return halves[0] | halves[1] << u32(16)

    to = Destination(context.operand(0), "u32")
    return Operation(value, shadow, to, keys_of(sources)).step()


def _words(context: Context) -> Step:
    """Two float32 operations on pairs of registers; v_pk_mov takes a word of each source."""
    operands = context.operands()[1:]
    count = len(operands)
    picks = context.modifier("op_sel", [0] * count), context.modifier("op_sel_hi", [1] * count)
    signs = _signs(context, count)
    compute = WORDS[context.name]
    moves = context.name == "v_pk_mov_b32"

    def part(operand: Operand, pick: int) -> Source:
        one = Operand(operand.kind, operand.index + pick) if operand.kind in "vs" else operand
        return source(_unsigned(one), "u32" if moves else "f32")

    sides: list[list[tuple[Source, int]]] = []
    for which in (0, 1):
        pairs = list(zip(operands, picks[which], signs[which], strict=False))
        if moves:
            pairs = [pairs[which]]
        sides.append([(part(operand, pick), sign) for operand, pick, sign in pairs])

    def shadow(m: Machine, w: Waves, which: int) -> Array:
        shadows = [one.shadow(m, w) for one, _ in sides[which]]
        return shadows[0] if moves else rules.anything((), shadows).astype(u32)

    if moves:  # which takes the high word of op_sel, not of op_sel_hi, for its second source
        sides[1] = [(part(operands[1], picks[0][1]), 0)]
    keys = tuple(key for one in sides for found, _ in one for key in found.keys)
    targets = Destination(context.operand(0), "u64").keys

    lows, highs = ([_signed(found.fetch, sign) for found, sign in one] for one in sides)

    def run(m: Machine, w: Waves) -> None:
        low = compute(*[fetch(m, w) for fetch in lows])
        high = compute(*[fetch(m, w) for fetch in highs])
        if moves:
            high = high.copy()  # it may be what low is written over
        m.write(targets[0], w, low.view(u32))
        m.write(targets[1], w, high.view(u32))

    def taint(m: Machine, w: Waves) -> Shadows:
        return [(target, shadow(m, w, which)) for which, target in enumerate(targets)]

    return Step(run, keys, targets, taint)


def _signed(fetch: Fetch, sign: int) -> Fetch:
    return (lambda m, w: -fetch(m, w)) if sign else fetch


def _mixed(context: Context) -> Step:
    """v_fma_mix: each source is float32, or a float16 half that op_sel picks."""
    operands = context.operands()[1:]
    picks = context.modifier("op_sel", [0, 0, 0])
    halves = context.modifier("op_sel_hi", [0, 0, 0])
    sources = []
    for operand, pick, is_half in zip(operands, picks, halves, strict=True):
        if not is_half:
            sources.append(source(operand, "f32"))
            continue
        word = _both_halves(operand, "f16")
        sources.append(_widened(word, pick, operand))
    finish = output_modifiers(context, "f32")

    def value(m: Machine, w: Waves) -> Array:
        a, b, c = (one.fetch(m, w) for one in sources)
        result = (a.astype(f64) * b + c).astype(f32)
        return result if finish is None else finish(result)

    def shadow(m: Machine, w: Waves) -> Array:
        return rules.anything((), [one.shadow(m, w) for one in sources])

    into_half = context.name != "v_fma_mix_f32"
    to = Destination(
        context.operand(0),
        "f16" if into_half else "f32",
        keeps=True,
        high=context.name == "v_fma_mixhi_f16",
    )
    return Operation(value, shadow, to, keys_of(sources)).step()


def _widened(word: Source, pick: int, operand: Operand) -> Source:
    def fetch(m: Machine, w: Waves) -> Array:
        value = (word.fetch(m, w) >> u32(16 * pick)).astype(u16).view(f16).astype(f32)
        value = np.abs(value) if operand.absolute else value
        return -value if operand.negative else value

    def shadow(m: Machine, w: Waves) -> Array:
        return word.shadow(m, w) >> u32(16 * pick) & u32(0xFFFF)

    return Source(fetch, shadow, word.keys)


def _dot(context: Context, kind: str, into: str | None) -> Step:
    """v_dot2: the products of both halves, summed onto the third source."""
    operands = context.operands()
    if context.name.startswith("v_dot2c"):
        operands.append(operands[0])
    words = [_both_halves(operand, kind) for operand in operands[1:3]]
    picks = context.modifier("op_sel", [0, 0, 0]), context.modifier("op_sel_hi", [1, 1, 1])
    signs = _signs(context, 3)
    start = source(operands[3], "u16" if into else "f32")

    def half(word: Array, pick: int, sign: int) -> Array:
        bits = (word >> u32(16 * pick)).astype(u16)
        value = bits.view(f16).astype(f32) if kind == "f16" else n.from_bfloat16(bits)
        return -value if sign else value

    def rounded(number: Array) -> Array:
        """Into a half: the guide rounds each product and each sum to it."""
        if into is None:
            return number
        return (
            number.astype(f16).astype(f32) if into == "f16" else n.from_bfloat16(n.bfloat16(number))
        )

    def value(m: Machine, w: Waves) -> Array:
        a, b = (word.fetch(m, w) for word in words)
        total = start.fetch(m, w)
        if into:
            total = total.view(f16).astype(f32) if into == "f16" else n.from_bfloat16(total)
        for which in (0, 1):
            first = half(a, picks[which][0], signs[which][0])
            second = half(b, picks[which][1], signs[which][1])
            total = rounded(total + rounded(first * second))
        if into == "bf16":
            return n.bfloat16(total)
        return total.astype(f16).view(u16) if into else total

    sources = [*words, start]

    def shadow(m: Machine, w: Waves) -> Array:
        return rules.anything((), [one.shadow(m, w) for one in sources])

    to = Destination(context.operand(0), "u16" if into else "f32", keeps=context.keeps_half)
    return Operation(value, shadow, to, keys_of(sources)).step()
