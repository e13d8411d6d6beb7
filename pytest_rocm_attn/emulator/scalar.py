"""Scalar instructions: one value a wave. SCC is set where the table says so.

Source: AMD's ISA guides, "Scalar ALU Operations": SOP1, SOP2, SOPC, SOPK. Names are gfx9's.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from pytest_rocm_attn.emulator import fields
from pytest_rocm_attn.emulator import numbers as n
from pytest_rocm_attn.emulator import taint as rules
from pytest_rocm_attn.emulator.compare import RELATIONS
from pytest_rocm_attn.emulator.machine import (
    EXEC,
    NULL,
    SCALAR_KEY,
    SCC_KEY,
    Array,
    Machine,
    Waves,
)
from pytest_rocm_attn.emulator.numbers import FIVE_BITS, f16, f32, i32, u16, u32, u64
from pytest_rocm_attn.emulator.operands import TYPES, Operand, Source, scalar_source
from pytest_rocm_attn.emulator.step import Context, Shadows, Step

SetsScc = Callable[..., Array]


@dataclass(frozen=True, slots=True)
class Salu:
    """What a scalar instruction computes.

    Attributes:
        compute: the function.
        sources: types; result: its type.
        scc: what SCC becomes, of the result and the sources; None: it stays.
        rule: which bits of the result are undefined.
    """

    compute: Callable[..., Array]
    sources: tuple[str, ...]
    result: str
    scc: SetsScc | None = None
    rule: rules.Rule = rules.anything


def _not_zero(result: Array, *sources: Array) -> Array:
    return result != 0


def _overflow_of_sum(r: Array, a: Array, b: Array) -> Array:
    return ((a ^ r) & (b ^ r)) >> u32(31) != 0


def _overflow_of_difference(r: Array, a: Array, b: Array) -> Array:
    return ((a ^ b) & (a ^ r)) >> u32(31) != 0


def _u32(
    compute: Callable[..., Array],
    count: int,
    scc: SetsScc | None = None,
    rule: rules.Rule = rules.anything,
) -> Salu:
    return Salu(compute, ("u32",) * count, "u32", scc, rule)


def _f32(compute: Callable[..., Array], count: int) -> Salu:
    return Salu(compute, ("f32",) * count, "f32")


def _f16(compute: Callable[..., Array], count: int) -> Salu:
    """Of float16; the upper half of the result is 0."""
    return Salu(
        lambda *sources: compute(*sources).astype(f16).view(u16).astype(u32),
        ("f16",) * count,
        "u32",
    )


def _each_width(compute: Callable[..., Array], count: int, rule: rules.Rule) -> dict[str, Salu]:
    return {
        f"b{bits}": Salu(compute, (f"u{bits}",) * count, f"u{bits}", _not_zero, rule)
        for bits in (32, 64)
    }


def _distance(a: Array, b: Array) -> Array:
    """The difference without its sign; it wraps."""
    return np.abs(a - b)


_BITWISE: dict[str, tuple[Callable[..., Array], rules.Rule]] = {
    "and": (lambda a, b: a & b, rules.both),
    "or": (lambda a, b: a | b, rules.either),
    "xor": (lambda a, b: a ^ b, rules.each_bit),
    "andn2": (lambda a, b: a & ~b, lambda v, s: rules.both((v[0], ~v[1]), s)),
    "orn2": (lambda a, b: a | ~b, lambda v, s: rules.either((v[0], ~v[1]), s)),
    "nand": (lambda a, b: ~(a & b), rules.both),
    "nor": (lambda a, b: ~(a | b), rules.either),
    "xnor": (lambda a, b: ~(a ^ b), rules.each_bit),
}
_FLOATS: tuple[tuple[str, Callable[..., Array], int], ...] = (
    *(("add", np.add, 2), ("sub", np.subtract, 2), ("mul", np.multiply, 2)),
    *(("min", n.lesser, 2), ("max", n.greater, 2)),
    *(("minimum", n.minimum, 2), ("maximum", n.maximum, 2)),
    *(("floor", np.floor, 1), ("ceil", np.ceil, 1), ("trunc", np.trunc, 1), ("rndne", np.rint, 1)),
)
# Of s_..._saveexec: of the source and EXEC.
_SAVING: dict[str, Callable[..., Array]] = {
    **{name: compute for name, (compute, _) in _BITWISE.items()},
    "andn1": lambda a, b: ~a & b,
    "orn1": lambda a, b: ~a | b,
}
_left = rules.swapped(rules.shifted_left)
_right = rules.swapped(rules.shifted_right)

SALU: dict[str, Salu] = {
    **{
        f"s_{name}_b{bits}": Salu(compute, (f"u{bits}",) * 2, f"u{bits}", _not_zero, rule)
        for name, (compute, rule) in _BITWISE.items()
        for bits in (32, 64)
    },
    **{f"s_not_{k}": v for k, v in _each_width(lambda a: ~a, 1, rules.each_bit).items()},
    "s_mov_b32": _u32(lambda a: a, 1, None, rules.each_bit),
    "s_mov_b64": Salu(lambda a: a, ("u64",), "u64", None, rules.each_bit),
    "s_movk_i32": _u32(lambda a: a, 1),
    "s_add_u32": _u32(lambda a, b: a + b, 2, lambda r, a, b: r < b, rules.carried),
    "s_sub_u32": _u32(lambda a, b: a - b, 2, lambda r, a, b: a < b, rules.carried),
    "s_add_i32": _u32(lambda a, b: a + b, 2, _overflow_of_sum, rules.carried),
    "s_sub_i32": _u32(lambda a, b: a - b, 2, _overflow_of_difference, rules.carried),
    "s_mul_i32": _u32(lambda a, b: a * b, 2, None, rules.carried),
    "s_mul_hi_u32": _u32(n.multiply_high, 2),
    "s_mul_hi_i32": Salu(n.multiply_high_signed, ("i32", "i32"), "i32"),
    "s_min_i32": Salu(np.minimum, ("i32", "i32"), "i32", lambda r, a, b: a < b),
    "s_max_i32": Salu(np.maximum, ("i32", "i32"), "i32", lambda r, a, b: a >= b),
    "s_min_u32": _u32(np.minimum, 2, lambda r, a, b: a < b),
    "s_max_u32": _u32(np.maximum, 2, lambda r, a, b: a >= b),
    "s_lshl_b32": _u32(lambda a, b: a << (b & FIVE_BITS), 2, _not_zero, _left),
    "s_lshr_b32": _u32(lambda a, b: a >> (b & FIVE_BITS), 2, _not_zero, _right),
    "s_ashr_i32": Salu(
        lambda a, b: a >> (b & FIVE_BITS).view(i32), ("i32", "u32"), "i32", _not_zero, _right
    ),
    "s_lshl_b64": Salu(
        lambda a, b: a << (b & u32(63)).astype(u64), ("u64", "u32"), "u64", _not_zero, _left
    ),
    "s_lshr_b64": Salu(
        lambda a, b: a >> (b & u32(63)).astype(u64), ("u64", "u32"), "u64", _not_zero, _right
    ),
    "s_ashr_i64": Salu(
        lambda a, b: a >> (b & u32(63)).astype(np.int64),
        ("i64", "u32"),
        "i64",
        _not_zero,
        _right,
    ),
    "s_bfe_u32": _u32(fields.field, 2, _not_zero),
    "s_bfe_i32": _u32(fields.signed_field, 2, _not_zero),
    "s_bfe_u64": Salu(fields.field, ("u64", "u32"), "u64", _not_zero),
    "s_bfe_i64": Salu(fields.signed_field, ("u64", "u32"), "u64", _not_zero),
    "s_bfm_b64": Salu(
        lambda a, b: ((u64(1) << (a & u32(63)).astype(u64)) - u64(1)) << (b & u32(63)).astype(u64),
        ("u32", "u32"),
        "u64",
    ),
    "s_bfm_b32": _u32(lambda a, b: ((u32(1) << (a & FIVE_BITS)) - u32(1)) << (b & FIVE_BITS), 2),
    **{
        f"s_lshl{by}_add_u32": _u32(
            lambda a, b, by=by: (a << u32(by)) + b,
            2,
            lambda r, a, b, by=by: (a.astype(u64) << u64(by)) + b > u64(0xFFFFFFFF),
        )
        for by in (1, 2, 3, 4)
    },
    "s_pack_ll_b32_b16": _u32(lambda a, b: a & u32(0xFFFF) | b << u32(16), 2),
    "s_pack_lh_b32_b16": _u32(lambda a, b: a & u32(0xFFFF) | b & u32(0xFFFF0000), 2),
    "s_pack_hl_b32_b16": _u32(lambda a, b: a >> u32(16) | b << u32(16), 2),
    "s_pack_hh_b32_b16": _u32(lambda a, b: a >> u32(16) | b & u32(0xFFFF0000), 2),
    "s_absdiff_i32": Salu(_distance, ("i32", "i32"), "i32", _not_zero),
    "s_abs_i32": Salu(np.abs, ("i32",), "i32", _not_zero),
    "s_brev_b32": _u32(n.reversed_bits, 1),
    "s_sext_i32_i16": Salu(lambda a: (a << u32(16)).view(i32) >> i32(16), ("u32",), "i32"),
    "s_sext_i32_i8": Salu(lambda a: (a << u32(24)).view(i32) >> i32(24), ("u32",), "i32"),
    "s_bcnt1_i32_b32": _u32(lambda a: np.bitwise_count(a).astype(u32), 1, _not_zero),
    "s_bcnt1_i32_b64": Salu(lambda a: np.bitwise_count(a).astype(u32), ("u64",), "u32", _not_zero),
    "s_bcnt0_i32_b32": _u32(lambda a: np.bitwise_count(~a).astype(u32), 1, _not_zero),
    "s_bcnt0_i32_b64": Salu(lambda a: np.bitwise_count(~a).astype(u32), ("u64",), "u32", _not_zero),
    "s_brev_b64": Salu(fields.wide_reversed, ("u64",), "u64"),
    "s_ff1_i32_b32": _u32(n.trailing_zeros, 1),
    "s_ff0_i32_b32": _u32(lambda a: n.trailing_zeros(~a), 1),
    "s_ff1_i32_b64": Salu(fields.wide_trailing_zeros, ("u64",), "u32"),
    "s_ff0_i32_b64": Salu(lambda a: fields.wide_trailing_zeros(~a), ("u64",), "u32"),
    "s_flbit_i32_b32": _u32(n.leading_zeros, 1),
    "s_flbit_i32_b64": Salu(fields.wide_leading_zeros, ("u64",), "u32"),
    "s_flbit_i32": _u32(n.sign_length, 1),
    "s_flbit_i32_i64": Salu(
        lambda a: fields.wide_leading_zeros(a ^ (a.view(np.int64) >> np.int64(63)).view(u64)),
        ("u64",),
        "u32",
    ),
    "s_bitreplicate_b64_b32": Salu(fields.twice_each, ("u32",), "u64"),
    **{
        f"s_{name}_{kind}": salu
        for name, compute in (("wqm", fields.whole_fours), ("quadmask", fields.gathered))
        for kind, salu in _each_width(compute, 1, rules.anything).items()
    },
    "s_add_nc_u64": Salu(lambda a, b: a + b, ("u64", "u64"), "u64", None, rules.carried),
    "s_sub_nc_u64": Salu(lambda a, b: a - b, ("u64", "u64"), "u64", None, rules.carried),
    "s_mul_u64": Salu(lambda a, b: a * b, ("u64", "u64"), "u64", None, rules.carried),
    **{
        f"s_{name}_{kind}": make(compute, count)
        for kind, make in (("f32", _f32), ("f16", _f16))
        for name, compute, count in _FLOATS
    },
    "s_fmaak_f32": _f32(n.fma32, 3),
    "s_fmamk_f32": _f32(n.fma32, 3),
    "s_cvt_f32_i32": Salu(lambda a: a.astype(f32), ("i32",), "f32"),
    "s_cvt_f32_u32": Salu(lambda a: a.astype(f32), ("u32",), "f32"),
    "s_cvt_i32_f32": Salu(n.to_integer(i32), ("f32",), "i32"),
    "s_cvt_u32_f32": Salu(n.to_integer(u32), ("f32",), "u32"),
    "s_cvt_f16_f32": Salu(lambda a: a.astype(f16).view(u16).astype(u32), ("f32",), "u32"),
    "s_cvt_f32_f16": Salu(lambda a: a.astype(f32), ("f16",), "f32"),
    "s_cvt_hi_f32_f16": Salu(
        lambda a: (a >> u32(16)).astype(u16).view(f16).astype(f32), ("u32",), "f32"
    ),
    "s_cvt_pk_rtz_f16_f32": Salu(
        lambda *sources: n.packed(*map(n.half_toward_zero, sources)), ("f32", "f32"), "u32"
    ),
    "v_s_exp_f32": _f32(np.exp2, 1),
    "v_s_log_f32": _f32(np.log2, 1),
    "v_s_rcp_f32": _f32(lambda a: f32(1) / a, 1),
    "v_s_sqrt_f32": _f32(np.sqrt, 1),
    "v_s_rsq_f32": _f32(lambda a: f32(1) / np.sqrt(a), 1),
}


def build(context: Context) -> Step | None:
    """Return a scalar instruction's step, or None if it is not one."""
    name = context.name
    if name in SALU:
        salu = SALU[name]
        operands = [_immediate(context, one) for one in context.operands()]
        return _assign(operands[0], salu, operands[1:])
    if name in ("s_addk_i32", "s_mulk_i32"):
        target, constant = context.operand(0), _immediate(context, context.operand(1))
        return _assign(target, SALU[f"s_{name[2:5]}_i32"], [target, constant])
    if name in ("s_fmac_f32", "s_fmac_f16"):
        target = context.operand(0)
        salu = _f32(n.fma32, 3) if name.endswith("f32") else _f16(n.fma16, 3)
        return _assign(target, salu, [*context.operands()[1:], target])
    if name in ("s_addc_u32", "s_subb_u32"):
        return _with_carry(context)
    if name in ("s_cselect_b32", "s_cselect_b64", "s_cmov_b32", "s_cmovk_i32", "s_cmov_b64"):
        return _select(context)
    if match := re.fullmatch(r"s_cmpk?_(\w+)_([iuf](?:16|32|64))", name):
        return _compare(context, match[1], match[2])
    if match := re.fullmatch(r"s_bitcmp([01])_b(32|64)", name):
        return _bit_compare(context, match[1] == "1", match[2])
    if match := re.fullmatch(r"s_(\w+)_(save|wr)exec_b(32|64)", name):
        return _save_exec(context, match[1], int(match[3]), saves=match[2] == "save")
    if match := re.fullmatch(r"s_bitset([01])_b(32|64)", name):
        return _bit_set(context, match[1] == "1", match[2])
    return None


def _immediate(context: Context, operand: Operand) -> Operand:
    """Return a constant of SOPK, printed as 16 bits, with its sign."""
    signed = re.fullmatch(r"s_(movk|cmovk|addk|mulk)_i32|s_cmpk_\w+_i32", context.name)
    if signed and operand.kind == "constant":
        low = operand.index & 0xFFFF
        return replace(operand, index=(low ^ 0x8000) - 0x8000 & 0xFFFFFFFF)
    return operand


def _assign(target: Operand, salu: Salu, operands: list[Operand]) -> Step:
    sources = [
        scalar_source(operand, kind) for operand, kind in zip(operands, salu.sources, strict=True)
    ]
    wide, dtype = salu.result.endswith("64"), TYPES[salu.result]
    register, compute, scc = target.index, salu.compute, salu.scc

    fetches = [one.fetch for one in sources]

    def run(m: Machine, w: Waves) -> None:
        values = [fetch(m, w) for fetch in fetches]
        result = compute(*values)
        if result.dtype != dtype:
            result = result.astype(dtype)
        if scc is not None:
            m.scc[:] = scc(result, *values)
        if wide:
            m.set_scalar64(register, w, result.view(np.uint64))
        else:
            m.set_scalar(register, w, result.view(np.uint32))

    def taint(m: Machine, w: Waves) -> Shadows:
        values = [one.fetch(m, w) for one in sources]
        unsigned = [one.view(f"u{one.dtype.itemsize}") for one in values]
        shadow = salu.rule(unsigned, [one.shadow(m, w) for one in sources])
        found = _shadows(m, w, register, shadow, wide)
        if scc is not None:
            found.append((SCC_KEY, np.where(shadow != 0, u32(1), u32(0))))
        return found

    return Step(run, _keys(sources), _written(register, wide, scc is not None), taint)


def _keys(sources: list[Source]) -> tuple[int, ...]:
    return tuple(key for one in sources for key in one.keys)


def _written(register: int, wide: bool, scc: bool) -> tuple[int, ...]:
    keys: tuple[int, ...] = () if register == NULL else (SCALAR_KEY + register,)
    if wide and register != NULL:
        keys += (SCALAR_KEY + register + 1,)
    return (*keys, SCC_KEY) if scc else keys


def _shadows(m: Machine, w: Waves, register: int, shadow: Array, wide: bool) -> Shadows:
    shadow = np.broadcast_to(shadow, (m.size(w),))
    if register in (EXEC, EXEC + 1):
        m.demand("the mask of active lanes (EXEC)", shadow)
        return []
    if register == NULL:
        return []
    if not wide:
        return [(SCALAR_KEY + register, shadow.astype(np.uint32))]
    high = (shadow.astype(u64) >> u64(32)).astype(np.uint32)
    return [(SCALAR_KEY + register, shadow.astype(np.uint32)), (SCALAR_KEY + register + 1, high)]


def _with_carry(context: Context) -> Step:
    target = context.operand(0).index
    first, second = (scalar_source(context.operand(number), "u32") for number in (1, 2))
    sign = 1 if context.name == "s_addc_u32" else -1

    def run(m: Machine, w: Waves) -> None:
        a, b = first.fetch(m, w).astype(np.int64), second.fetch(m, w).astype(np.int64)
        result = a + sign * (b + m.scc[w])
        m.scc[w] = result >> 32 != 0
        m.set_scalar(target, w, (result & 0xFFFFFFFF).astype(np.uint32))

    def taint(m: Machine, w: Waves) -> Shadows:
        carry = np.where(m.scc_shadow(w) != 0, u32(1), u32(0))
        shadow = rules.carried((), [first.shadow(m, w), second.shadow(m, w), carry])
        return [*_shadows(m, w, target, shadow, False), (SCC_KEY, shadow)]

    reads = (*first.keys, *second.keys, SCC_KEY)
    return Step(run, reads, _written(target, False, True), taint)


def _select(context: Context) -> Step:
    """s_cselect takes one of two; s_cmov takes its source, or stays."""
    wide = context.name.endswith("64")
    kind = "u64" if wide else "u32"
    target = context.operand(0)
    operands = [_immediate(context, one) for one in context.operands()[1:]]
    if len(operands) == 1:
        operands.append(target)
    yes, no = (scalar_source(one, kind) for one in operands)
    register = target.index

    def run(m: Machine, w: Waves) -> None:
        result = np.where(m.scc[w], yes.fetch(m, w), no.fetch(m, w))
        (m.set_scalar64 if wide else m.set_scalar)(register, w, result)

    def taint(m: Machine, w: Waves) -> Shadows:
        picked = np.where(m.scc[w], yes.shadow(m, w), no.shadow(m, w))
        shadow = np.where(m.scc_shadow(w) != 0, ~picked.dtype.type(0), picked)
        return _shadows(m, w, register, shadow, wide)

    return Step(run, (*yes.keys, *no.keys, SCC_KEY), _written(register, wide, False), taint)


def _compare(context: Context, relation: str, kind: str) -> Step | None:
    if relation == "lg" and not kind.startswith("f"):
        relation = "ne"
    if relation not in RELATIONS:
        return None
    compare = RELATIONS[relation]
    first, second = (
        scalar_source(_immediate(context, operand), kind) for operand in context.operands()
    )

    def run(m: Machine, w: Waves) -> None:
        m.scc[w] = compare(first.fetch(m, w), second.fetch(m, w))

    def taint(m: Machine, w: Waves) -> Shadows:
        unsure = (first.shadow(m, w) != 0) | (second.shadow(m, w) != 0)
        return [(SCC_KEY, np.where(np.broadcast_to(unsure, (m.size(w),)), u32(1), u32(0)))]

    return Step(run, first.keys + second.keys, (SCC_KEY,), taint)


def _bit_compare(context: Context, wanted: bool, bits: str) -> Step:
    value = scalar_source(context.operand(0), f"u{bits}")
    place = scalar_source(context.operand(1), "u32")
    most = u32(int(bits) - 1)

    def bit(fetched: Array, m: Machine, w: Waves) -> Array:
        moved: Array = fetched >> (place.fetch(m, w) & most).astype(fetched.dtype)
        return np.broadcast_to(moved & fetched.dtype.type(1), (m.size(w),))

    def run(m: Machine, w: Waves) -> None:
        m.scc[w] = (bit(value.fetch(m, w), m, w) != 0) == wanted

    def taint(m: Machine, w: Waves) -> Shadows:
        unsure = (bit(value.shadow(m, w), m, w) != 0) | (place.shadow(m, w) != 0)
        return [(SCC_KEY, np.where(unsure, u32(1), u32(0)))]

    return Step(run, value.keys + place.keys, (SCC_KEY,), taint)


def _bit_set(context: Context, one: bool, bits: str) -> Step:
    target, most = context.operand(0), u32(int(bits) - 1)

    def compute(place: Array, before: Array) -> Array:
        bit = before.dtype.type(1) << (place & most).astype(before.dtype)
        return before | bit if one else before & ~bit

    kind = f"u{bits}"
    return _assign(target, Salu(compute, ("u32", kind), kind), [context.operand(1), target])


def _save_exec(context: Context, name: str, bits: int, *, saves: bool) -> Step | None:
    """Make EXEC the function of a mask and itself, and return what it was, or (wrexec) is."""
    if name not in _SAVING:
        return None
    compute = _SAVING[name]
    target, value = context.operand(0).index, scalar_source(context.operand(1), f"u{bits}")
    wide = bits == 64

    def run(m: Machine, w: Waves) -> None:
        before = m.scalar64(EXEC, w) if wide else m.scalar[EXEC, w].copy()
        result = compute(value.fetch(m, w), before)
        (m.set_scalar64 if wide else m.set_scalar)(target, w, before if saves else result)
        (m.set_scalar64 if wide else m.set_scalar)(EXEC, w, result)
        m.scc[w] = result != 0

    def taint(m: Machine, w: Waves) -> Shadows:
        before = m.scalar64(EXEC, w) if wide else m.scalar[EXEC, w]
        decides = value.shadow(m, w) & before if name == "and" else value.shadow(m, w)
        m.demand("the mask of active lanes (EXEC)", decides)
        return []

    return Step(run, value.keys, _written(target, wide, True), taint)
