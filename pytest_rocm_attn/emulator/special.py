"""Vector instructions with more than one result, a carry, or a mask: and the division sequence.

Source: AMD's ISA guides, "VOP3SD" (v_div_scale, carries, v_mad_u64_u32) and "VOP3"
(v_div_fmas, v_div_fixup), whose pseudo-code each function restates.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_rocm_attn.emulator import taint as rules
from pytest_rocm_attn.emulator.machine import NULL, SCALAR_KEY, VCC, Array, Machine, Waves
from pytest_rocm_attn.emulator.numbers import (
    f16,
    f32,
    f64,
    fp8_values,
    i32,
    to_fp8,
    u32,
    u64,
)
from pytest_rocm_attn.emulator.operands import Operand, Source, source
from pytest_rocm_attn.emulator.step import Context, Destination, Shadows, Step
from pytest_rocm_attn.emulator.vector import (
    Operation,
    conditional,
    keys_of,
    output_modifiers,
    sdwa_source,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


def build(context: Context) -> Step | None:
    """Return the step of one of these instructions, or None."""
    if context.name in ("v_cndmask_b32", "v_cndmask_b16"):
        return conditional(context).step()
    if context.name in CARRIES:
        return _carry(context)
    if context.name in ("v_mad_u64_u32", "v_mad_i64_i32"):
        return _wide_multiply_add(context)
    if context.name in ("v_div_scale_f32", "v_div_scale_f64"):
        return _division_scale(context)
    if context.name in ("v_div_fmas_f32", "v_div_fmas_f64"):
        return _division_fmas(context)
    if context.name in ("v_div_fixup_f32", "v_div_fixup_f64", "v_div_fixup_f16"):
        return _simple(context, (context.name[-3:],) * 3, context.name[-3:], division_fixup)
    if context.name in ("v_mbcnt_lo_u32_b32", "v_mbcnt_hi_u32_b32"):
        return _count_below(context)
    if context.name in ("v_bitop3_b32", "v_bitop3_b16"):
        return _bit_operation(context)
    if match := re.fullmatch(r"v_cvt_(pk_)?f32_(fp8|bf8)", context.name):
        return _from_fp8(context, bool(match[1]), 4 if match[2] == "fp8" else 5)
    if match := re.fullmatch(r"v_cvt_pk_(fp8|bf8)_f32", context.name):
        return _to_fp8(context, 4 if match[1] == "fp8" else 5)
    if match := re.fullmatch(r"v_cvt_scalef32_pk_(f32|f16|bf16)_(fp8|bf8)", context.name):
        return _from_scaled_fp8(context, match[1], 4 if match[2] == "fp8" else 5)
    if match := re.fullmatch(r"v_cvt_scalef32_pk_(fp8|bf8)_(f32|f16|bf16)", context.name):
        return _to_scaled_fp8(context, 4 if match[1] == "fp8" else 5, match[2])
    return None


def _simple(
    context: Context, kinds: Sequence[str], result: str, compute: Callable[..., Array]
) -> Step:
    sources = [context.source(number + 1, kind) for number, kind in enumerate(kinds)]
    finish = output_modifiers(context, result)
    fetches = [one.fetch for one in sources]

    def value(m: Machine, w: Waves) -> Array:
        made = compute(*[fetch(m, w) for fetch in fetches])
        return made if finish is None else finish(made)

    to = Destination(context.operand(0), result, keeps=context.keeps_half)
    return Operation(value, _any_of(sources), to, keys_of(sources)).step()


def _any_of(sources: Sequence[Source]) -> Callable[[Machine, Waves], Array]:
    return lambda m, w: rules.anything((), [one.shadow(m, w) for one in sources])


def _mask_keys(register: int, context: Context) -> tuple[int, ...]:
    if register == NULL:
        return ()
    return tuple(SCALAR_KEY + register + word for word in range(context.lanes // 32))


def _mask_shadows(m: Machine, w: Waves, keys: tuple[int, ...], bits: Array) -> Shadows:
    whole = np.broadcast_to(bits, (m.size(w), m.lanes)) & m.exec[w]
    words = np.packbits(whole, axis=1, bitorder="little").view(np.uint32)
    return [(key, words[:, number]) for number, key in enumerate(keys)]


# --- sums with a carry ---

CARRIES: dict[str, Callable[[Array, Array, Array], Array]] = {
    "v_add_co_u32": lambda a, b, carry: a + b,
    "v_addc_co_u32": lambda a, b, carry: a + b + carry,
    "v_sub_co_u32": lambda a, b, carry: a - b,
    "v_subb_co_u32": lambda a, b, carry: a - b - carry,
    "v_subrev_co_u32": lambda a, b, carry: b - a,
    "v_subbrev_co_u32": lambda a, b, carry: b - a - carry,
}


def _carry(context: Context) -> Step:
    compute = CARRIES[context.name]
    operands = context.operands()
    if context.instruction.encoding == "sdwa":
        first, second = (
            sdwa_source(one, "u32", context.instruction.modifiers.get(f"src{i}_sel", "DWORD"))
            for i, one in enumerate(operands[2:4])
        )
        context.refuse(
            *(["dst_sel"] if context.instruction.modifiers.get("dst_sel") != "DWORD" else [])
        )
    else:
        first, second = (source(one, "u32") for one in operands[2:4])
    out = operands[1].index
    carry_in = operands[4].index if len(operands) > 4 else None
    to = Destination(operands[0], "u32")
    carry_keys = () if carry_in is None else _mask_keys(carry_in, context)
    out_keys = _mask_keys(out, context)

    def run(m: Machine, w: Waves) -> None:
        a, b = first.fetch(m, w).astype(np.int64), second.fetch(m, w).astype(np.int64)
        none = np.zeros((1, 1), np.int64)
        carry = none if carry_in is None else m.mask(carry_in, w).astype(np.int64)
        result = np.broadcast_to(compute(a, b, carry), (m.size(w), m.lanes))
        m.set_mask(out, w, ((result >> 32) != 0) & m.exec[w])
        m.write(to.register, w, (result & 0xFFFFFFFF).astype(np.uint32))

    def taint(m: Machine, w: Waves) -> Shadows:
        shadow = first.shadow(m, w) | second.shadow(m, w)
        if carry_in is not None:
            shadow = shadow | np.where(m.mask_shadow(carry_in, w), u32(1), u32(0))
        spread = rules.carried((), [shadow])
        return [(to.register, spread), *_mask_shadows(m, w, out_keys, spread != 0)]

    reads = first.keys + second.keys + carry_keys
    return Step(run, reads, to.keys + out_keys, taint)


def _wide_multiply_add(context: Context) -> Step:
    """v_mad_u64_u32: a product of 32 bits each, and a sum of 64 with a carry."""
    signed = "i64" in context.name
    operands = context.operands()
    a, b = (source(one, "i32" if signed else "u32") for one in operands[2:4])
    c = source(operands[4], "u64")
    to, out = Destination(operands[0], "u64"), operands[1].index
    out_keys = _mask_keys(out, context)
    wide = np.int64 if signed else np.uint64

    def run(m: Machine, w: Waves) -> None:
        product = (a.fetch(m, w).astype(wide) * b.fetch(m, w).astype(wide)).view(np.uint64)
        added = c.fetch(m, w)
        total = np.broadcast_to(product + added, (m.size(w), m.lanes))
        carry = total < added
        if signed:  # bit 64 of a sum of 65 bits
            carry = carry ^ ((product ^ added) >> u64(63) != 0)
        m.set_mask(out, w, carry & m.exec[w])
        to.write(m, w, np.ascontiguousarray(total))

    def taint(m: Machine, w: Waves) -> Shadows:
        factors = a.shadow(m, w) | b.shadow(m, w)
        low = rules.carried((), [factors])
        product = np.where(low != 0, u64(0xFFFFFFFF) << u64(32), u64(0)) | low
        shadow = rules.carried((), [product | c.shadow(m, w)])
        return [*to.shadows(m, w, shadow), *_mask_shadows(m, w, out_keys, shadow != 0)]

    return Step(run, a.keys + b.keys + c.keys, to.keys + out_keys, taint)


# --- division ---


def _exponent(x: Array) -> Array:
    """The biased exponent."""
    size = x.dtype.itemsize
    mantissa, width = {2: (10, 5), 4: (23, 8), 8: (52, 11)}[size]
    unsigned: Any = np.dtype(f"u{size}").type
    bits = x.view(unsigned) >> unsigned(mantissa) & unsigned((1 << width) - 1)
    return bits.astype(i32)


def division_scale(s0: Array, denominator: Array, numerator: Array) -> tuple[Array, Array]:
    """Return the scaled operand and where v_div_fmas must scale back."""
    s0, denominator, numerator = np.broadcast_arrays(s0, denominator, numerator)
    double = s0.dtype == f64
    far, small, power = (768, 53, 128) if double else (96, 23, 64)
    den, num = _exponent(denominator), _exponent(numerator)
    inverse_denormal = den >= (2045 if double else 253)
    quotient_denormal = num - den <= (-1022 if double else -126)

    def up() -> Array:
        return s0 * s0.dtype.type(2.0**power)

    def down() -> Array:
        return s0 * s0.dtype.type(2.0**-power)

    result, flags = s0.copy(), np.zeros(s0.shape, bool)
    # The first that holds decides, so it is written last.
    for condition, value, flag in (
        (num <= small, up, False),
        (quotient_denormal, lambda: np.where(s0 == numerator, up(), s0), True),
        (inverse_denormal, down, False),
        # The guides say up, which would overflow.
        (
            inverse_denormal & quotient_denormal,
            lambda: np.where(s0 == denominator, down(), s0),
            True,
        ),
        (den == 0, up, False),
        (num - den >= far, lambda: np.where(s0 == denominator, up(), s0), True),
        ((numerator == 0) | (denominator == 0), lambda: s0.dtype.type(np.nan), False),
    ):
        if condition.any():
            np.copyto(result, value(), where=condition)
            flags[condition] = flag
    return result, flags


def _division_scale(context: Context) -> Step:
    kind = context.name[-3:]
    operands = context.operands()
    sources = [source(one, kind) for one in operands[2:5]]
    to, out = Destination(operands[0], kind), operands[1].index
    out_keys = _mask_keys(out, context)

    def run(m: Machine, w: Waves) -> None:
        result, flags = division_scale(*(one.fetch(m, w) for one in sources))
        m.set_mask(out, w, np.broadcast_to(flags, (m.size(w), m.lanes)) & m.exec[w])
        to.write(m, w, result)

    def taint(m: Machine, w: Waves) -> Shadows:
        shadow = _any_of(sources)(m, w)
        return [*to.shadows(m, w, shadow), *_mask_shadows(m, w, out_keys, shadow != 0)]

    return Step(run, keys_of(sources), to.keys + out_keys, taint)


def _division_fmas(context: Context) -> Step:
    kind = context.name[-3:]
    sources = [context.source(number, kind) for number in (1, 2, 3)]
    mask = Operand("s", VCC, context.lanes // 32)
    power = 128 if kind == "f64" else 64
    half_way = 1023 if kind == "f64" else 127
    wide: Any = np.longdouble if kind == "f64" else f64

    def value(m: Machine, w: Waves) -> Array:
        a, b, c = (one.fetch(m, w) for one in sources)
        exact = a.astype(wide) * b + c
        up = _exponent(np.broadcast_to(c, exact.shape)) > half_way
        scale = np.where(up, wide(2.0**power), wide(2.0**-power))
        return np.where(m.mask(VCC, w), exact * scale, exact).astype(c.dtype)  # rounded once

    def shadow(m: Machine, w: Waves) -> Array:
        unsure = np.where(m.mask_shadow(VCC, w), u32(1), u32(0))
        return rules.anything((), [*(one.shadow(m, w) for one in sources), unsure])

    to = Destination(context.operand(0), kind)
    return Operation(value, shadow, to, keys_of(sources) + mask.keys).step()


def division_fixup(quotient: Array, denominator: Array, numerator: Array) -> Array:
    """Return the quotient with the sign and the special values that division has."""
    one = quotient.dtype.type
    quotient, denominator, numerator = np.broadcast_arrays(quotient, denominator, numerator)
    unsigned: Any = np.dtype(f"u{quotient.dtype.itemsize}").type
    highest = unsigned(1 << 8 * quotient.dtype.itemsize - 1)
    den, num = _exponent(denominator), _exponent(numerator)
    most = {f16: 31, f32: 255}.get(one, 2047)
    special = (den == 0) | (den == most) | (num == 0) | (num == most)
    special |= (_exponent(quotient) == most) | (num - den < (-150 if one is f32 else -1075))
    if not special.any():  # numbers, none of them tiny
        bits, other, third = (x.view(unsigned) for x in (quotient, denominator, numerator))
        return (bits & ~highest | (other ^ third) & highest).view(one)
    sign = np.where(np.signbit(denominator) ^ np.signbit(numerator), one(-1), one(1))
    result = np.copysign(quotient, sign)
    zero = (numerator == 0) | np.isinf(denominator)
    infinite = (denominator == 0) | np.isinf(numerator)
    undefined = ((denominator == 0) & (numerator == 0)) | (
        np.isinf(denominator) & np.isinf(numerator)
    )
    if one is not f16:  # the steps of a long division may overflow on the way
        least = -150 if one is f32 else -1075
        zero = zero | (_exponent(numerator) - _exponent(denominator) < least)
        result = np.where(np.isfinite(quotient), result, one(np.inf) * sign)
    result = np.where(zero, one(0) * sign, result)
    result = np.where(infinite, one(np.inf) * sign, result)
    result = np.where(undefined, one(np.nan), result)
    result = np.where(np.isnan(denominator), denominator, result)
    return np.where(np.isnan(numerator), numerator, result)


# --- counting and bit operations ---


def _count_below(context: Context) -> Step:
    """v_mbcnt: bits of a mask below the lane, plus a start."""
    lane = np.arange(context.lanes).astype(np.uint64)
    place = np.clip(lane.astype(np.int64) - (32 if "_hi_" in context.name else 0), 0, 32)
    below = ((u64(1) << place.astype(np.uint64)) - u64(1)).astype(np.uint32)
    return _simple(
        context,
        ("u32", "u32"),
        "u32",
        lambda a, b: b + np.bitwise_count(a & below).astype(np.uint32),
    )


def _bit_operation(context: Context) -> Step:
    """v_bitop3: any function of three bits, by its table."""
    table = int(context.instruction.modifiers["bitop3"])
    bits = context.name[-2:]

    def compute(a: Array, b: Array, c: Array) -> Array:
        result = a & b & c & a.dtype.type(0)
        for row in range(8):
            if table >> row & 1:
                first = a if row & 4 else ~a
                second = b if row & 2 else ~b
                result = result | first & second & (c if row & 1 else ~c)
        return result

    return _simple(context, (f"u{bits}",) * 3, f"u{bits}", compute)


# --- fp8 ---


def _from_fp8(context: Context, packed: bool, exponent_bits: int) -> Step:
    values = fp8_values(exponent_bits, context.fnuz)
    shift = 16 * context.modifier("op_sel", [0, 0])[0]
    selected = context.instruction.modifiers.get("src0_sel")
    if selected is not None and selected != "DWORD":
        kind, _, number = selected.partition("_")
        shift = int(number) * (16 if kind == "WORD" else 8)
    if "byte_sel" in context.instruction.modifiers:
        shift = 8 * int(context.instruction.modifiers["byte_sel"])
    word = source(replace(context.operand(1), high=False), "u32")
    to = Destination(context.operand(0), "u64" if packed else "f32")

    def value(m: Machine, w: Waves) -> Array:
        bits = word.fetch(m, w) >> u32(shift)
        low = values[bits & u32(255)].view(np.uint32)
        if not packed:
            return low.view(f32)
        high = values[bits >> u32(8) & u32(255)].view(np.uint32)
        return low.astype(np.uint64) | high.astype(np.uint64) << u64(32)

    keep = u32(0xFFFF if packed else 0xFF)

    def shadow(m: Machine, w: Waves) -> Array:
        return rules.anything((), [word.shadow(m, w) >> u32(shift) & keep])

    return Operation(value, shadow, to, word.keys).step()


def _to_fp8(context: Context, exponent_bits: int) -> Step:
    high = bool(context.modifier("op_sel", [0, 0, 0])[2])
    a, b = (context.source(number, "f32") for number in (1, 2))
    fnuz = context.fnuz

    def value(m: Machine, w: Waves) -> Array:
        low = to_fp8(a.fetch(m, w), exponent_bits, fnuz)
        return (low | to_fp8(b.fetch(m, w), exponent_bits, fnuz) << u32(8)).astype(np.uint16)

    def shadow(m: Machine, w: Waves) -> Array:
        low = rules.anything((), [a.shadow(m, w)]) & u64(0xFF)
        return low | rules.anything((), [b.shadow(m, w)]) & u64(0xFF00)

    to = Destination(context.operand(0), "u16", keeps=True, high=high)
    return Operation(value, shadow, to, a.keys + b.keys).step()


def _scale(operand: Source) -> Callable[[Machine, Waves], Array]:
    """The power of two of a float32 scale: its exponent alone counts."""

    def fetch(m: Machine, w: Waves) -> Array:
        bits = operand.fetch(m, w) >> u32(23) & u32(0xFF)
        return bits.astype(i32) - i32(127)

    return fetch


def _from_scaled_fp8(context: Context, result: str, exponent_bits: int) -> Step:
    """gfx950: two fp8 numbers times a power of two, as float32, float16 or bfloat16."""
    values = fp8_values(exponent_bits, fnuz=False)
    shift = 16 * context.modifier("op_sel", [0, 0, 0])[0]
    word, scale = source(replace(context.operand(1), high=False), "u32"), context.source(2, "u32")
    power = _scale(scale)
    to = Destination(context.operand(0), "u64" if result == "f32" else "u32")

    def value(m: Machine, w: Waves) -> Array:
        bits, by = word.fetch(m, w) >> u32(shift), power(m, w)
        low, high = (np.ldexp(values[bits >> u32(8 * i) & u32(255)], by) for i in (0, 1))
        if result == "f32":
            return low.view(u32).astype(u64) | high.view(u32).astype(u64) << u64(32)
        return _as_halves(low, high, result)

    return Operation(value, _any_of([word, scale]), to, word.keys + scale.keys).step()


def _as_halves(low: Array, high: Array, kind: str) -> Array:
    from pytest_rocm_attn.emulator.numbers import bfloat16

    if kind == "bf16":
        return bfloat16(low).astype(u32) | bfloat16(high).astype(u32) << u32(16)
    bits = low.astype(f16).view(np.uint16).astype(u32)
    return bits | high.astype(f16).view(np.uint16).astype(u32) << u32(16)


def _to_scaled_fp8(context: Context, exponent_bits: int, kind: str) -> Step:
    """gfx950: two numbers over a power of two, as fp8."""
    from pytest_rocm_attn.emulator.numbers import from_bfloat16

    high = bool(context.modifier("op_sel", [0, 0, 0, 0])[3 if kind == "f32" else 2])
    if kind == "f32":
        sources = [context.source(1, "f32"), context.source(2, "f32"), context.source(3, "u32")]
    else:
        sources = [context.source(1, "u32"), context.source(2, "u32")]
    power = _scale(sources[-1])

    def pair(m: Machine, w: Waves) -> tuple[Array, Array]:
        if kind == "f32":
            return sources[0].fetch(m, w), sources[1].fetch(m, w)
        bits = sources[0].fetch(m, w)
        halves = [(bits >> u32(16 * i)).astype(np.uint16) for i in (0, 1)]
        if kind == "bf16":
            return from_bfloat16(halves[0]), from_bfloat16(halves[1])
        return halves[0].view(f16).astype(f32), halves[1].view(f16).astype(f32)

    def value(m: Machine, w: Waves) -> Array:
        by = -power(m, w)
        low, top = (to_fp8(np.ldexp(x, by), exponent_bits, False) for x in pair(m, w))
        return (low | top << u32(8)).astype(np.uint16)

    to = Destination(context.operand(0), "u16", keeps=True, high=high)
    return Operation(value, _any_of(sources), to, keys_of(sources)).step()
