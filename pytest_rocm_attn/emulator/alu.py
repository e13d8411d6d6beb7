"""Arithmetic of vector instructions, one line a mnemonic: pure functions of whole arrays.

Names are gfx9's; names.py maps what later targets call the same. Source: AMD's ISA guides for
"CDNA3", "CDNA4", "RDNA3" and "RDNA4", sections on VOP1, VOP2 and VOP3, whose pseudo-code each line
restates; tests/plugin/emulator/test_against_pseudo_code.py runs that pseudo-code against it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pytest_rocm_attn.emulator import numbers as n
from pytest_rocm_attn.emulator import taint
from pytest_rocm_attn.emulator.numbers import (
    FIVE_BITS,
    Array,
    f16,
    f32,
    i16,
    i32,
    u16,
    u32,
    u64,
)
from pytest_rocm_attn.emulator.operands import TYPES


@dataclass(frozen=True, slots=True)
class Alu:
    """What an instruction computes, lane by lane.

    Attributes:
        compute: the function.
        sources: type of each source, as in operands.TYPES.
        result: type of the result.
        rule: which bits of the result are undefined; taint.py.
        accumulates: the destination is the last source.
    """

    compute: Callable[..., Array]
    sources: tuple[str, ...]
    result: str
    rule: taint.Rule = taint.anything
    accumulates: bool = False


def _u(compute: Callable[..., Array], count: int, rule: taint.Rule = taint.anything) -> Alu:
    return Alu(compute, ("u32",) * count, "u32", rule)


def _i(compute: Callable[..., Array], count: int, rule: taint.Rule = taint.anything) -> Alu:
    return Alu(compute, ("i32",) * count, "i32", rule)


def _f(compute: Callable[..., Array], count: int, kind: str = "f32") -> Alu:
    return Alu(compute, (kind,) * count, kind)


def _half(compute: Callable[..., Array], count: int, kind: str = "u16") -> Alu:
    return Alu(compute, (kind,) * count, kind)


def _convert(to: str, from_: str, compute: Callable[..., Array] | None = None) -> Alu:
    return Alu(compute or (lambda a: a.astype(TYPES[to])), (from_,), to)


def _saturated_pair(to: str, from_: str) -> Alu:
    convert = n.to_integer(TYPES[to])
    return Alu(lambda a, b: n.packed(convert(a), convert(b)), (from_,) * 2, "u32")


def _propagating(kinds: Sequence[str]) -> dict[str, Alu]:
    """Return what gives a NaN if a source is one."""
    high, low = n.maximum, n.minimum
    table = {}
    for kind in kinds:
        table[f"v_maximum_{kind}"] = _f(high, 2, kind)
        table[f"v_minimum_{kind}"] = _f(low, 2, kind)
        if kind != "f64":
            table[f"v_maximum3_{kind}"] = _f(lambda a, b, c: high(high(a, b), c), 3, kind)
            table[f"v_minimum3_{kind}"] = _f(lambda a, b, c: low(low(a, b), c), 3, kind)
            table[f"v_maximumminimum_{kind}"] = _f(lambda a, b, c: low(high(a, b), c), 3, kind)
            table[f"v_minimummaximum_{kind}"] = _f(lambda a, b, c: high(low(a, b), c), 3, kind)
    return table


_shl = lambda a, b: b << (a & FIVE_BITS)
same: Callable[[Array], Array] = lambda a: a
_add, _and, _or, _xor = np.add, np.bitwise_and, np.bitwise_or, np.bitwise_xor
_left = taint.swapped(taint.shifted_left)  # the value first, the distance second

INTEGER: dict[str, Alu] = {
    "v_mov_b32": _u(same, 1, taint.each_bit),
    "v_accvgpr_read_b32": _u(same, 1, taint.each_bit),
    "v_accvgpr_write_b32": _u(same, 1, taint.each_bit),
    "v_accvgpr_mov_b32": _u(same, 1, taint.each_bit),
    "v_not_b32": _u(np.invert, 1, taint.each_bit),
    "v_bfrev_b32": _u(n.reversed_bits, 1),
    "v_ffbh_u32": _u(n.leading_zeros, 1),
    "v_ffbl_b32": _u(n.trailing_zeros, 1),
    "v_ffbh_i32": _u(n.sign_length, 1),
    "v_add_u32": _u(_add, 2, taint.carried),
    "v_sub_u32": _u(np.subtract, 2, taint.carried),
    "v_subrev_u32": _u(lambda a, b: b - a, 2, taint.carried),
    "v_add_i32": _u(_add, 2, taint.carried),
    "v_sub_i32": _u(np.subtract, 2, taint.carried),
    "v_and_b32": _u(_and, 2, taint.both),
    "v_or_b32": _u(_or, 2, taint.either),
    "v_xor_b32": _u(_xor, 2, taint.each_bit),
    "v_xnor_b32": _u(lambda a, b: ~(a ^ b), 2, taint.each_bit),
    "v_lshlrev_b32": _u(_shl, 2, taint.shifted_left),
    "v_lshrrev_b32": _u(lambda a, b: b >> (a & FIVE_BITS), 2, taint.shifted_right),
    "v_ashrrev_i32": Alu(
        lambda a, b: b >> (a & FIVE_BITS).view(i32), ("u32", "i32"), "i32", taint.shifted_right
    ),
    "v_mul_lo_u32": _u(np.multiply, 2, taint.carried),
    "v_mul_hi_u32": _u(n.multiply_high, 2),
    "v_mul_hi_i32": _i(n.multiply_high_signed, 2),
    "v_mul_u32_u24": _u(lambda a, b: n.unsigned_24(a) * n.unsigned_24(b), 2, taint.low_24),
    "v_mul_i32_i24": _u(lambda a, b: (n.signed_24(a) * n.signed_24(b)).view(u32), 2, taint.low_24),
    "v_mul_hi_u32_u24": _u(lambda a, b: n.multiply_high(n.unsigned_24(a), n.unsigned_24(b)), 2),
    "v_mul_hi_i32_i24": Alu(
        lambda a, b: n.multiply_high_signed(n.signed_24(a), n.signed_24(b)), ("u32",) * 2, "i32"
    ),
    "v_max_u32": _u(np.maximum, 2),
    "v_min_u32": _u(np.minimum, 2),
    "v_max_i32": _i(np.maximum, 2),
    "v_min_i32": _i(np.minimum, 2),
    "v_bfm_b32": _u(lambda a, b: ((u32(1) << (a & FIVE_BITS)) - u32(1)) << (b & FIVE_BITS), 2),
    "v_bcnt_u32_b32": _u(lambda a, b: np.bitwise_count(a).astype(u32) + b, 2),
    "v_add3_u32": _u(lambda a, b, c: a + b + c, 3, taint.carried),
    "v_or3_b32": _u(lambda a, b, c: a | b | c, 3, taint.then(taint.either, taint.either, _or)),
    "v_xor3_b32": _u(lambda a, b, c: a ^ b ^ c, 3, taint.each_bit),
    "v_xad_u32": _u(lambda a, b, c: (a ^ b) + c, 3, taint.carried),
    "v_lshl_add_u32": _u(
        lambda a, b, c: (a << (b & FIVE_BITS)) + c,
        3,
        taint.then(_left, taint.carried, lambda a, b: a << (b & FIVE_BITS)),
    ),
    "v_add_lshl_u32": _u(
        lambda a, b, c: (a + b) << (c & FIVE_BITS), 3, taint.then(taint.carried, _left, _add)
    ),
    "v_lshl_or_b32": _u(
        lambda a, b, c: (a << (b & FIVE_BITS)) | c,
        3,
        taint.then(_left, taint.either, lambda a, b: a << (b & FIVE_BITS)),
    ),
    "v_and_or_b32": _u(lambda a, b, c: (a & b) | c, 3, taint.then(taint.both, taint.either, _and)),
    "v_bfe_u32": _u(n.field, 3, taint.field_of),
    "v_bfe_i32": _u(n.signed_field, 3, taint.field_of),
    "v_bfi_b32": _u(lambda a, b, c: (a & b) | (~a & c), 3, taint.selected),
    "v_perm_b32": _u(n.permute_bytes, 3, taint.permuted),
    "v_alignbit_b32": _u(n.align_bits, 3, taint.aligned),
    "v_alignbyte_b32": _u(
        lambda a, b, c: n.align_bits(a, b, (c & u32(3)) * u32(8)),
        3,
        lambda v, s: taint.aligned((v[0], v[1], (v[2] & u32(3)) * u32(8)), s),
    ),
    "v_mad_u32_u24": _u(lambda a, b, c: n.unsigned_24(a) * n.unsigned_24(b) + c, 3, taint.low_24),
    "v_mad_i32_i24": _u(
        lambda a, b, c: (n.signed_24(a) * n.signed_24(b)).view(u32) + c, 3, taint.low_24
    ),
    "v_sad_u32": _u(lambda a, b, c: np.maximum(a, b) - np.minimum(a, b) + c, 3),
    "v_min3_u32": _u(lambda a, b, c: np.minimum(np.minimum(a, b), c), 3),
    "v_max3_u32": _u(lambda a, b, c: np.maximum(np.maximum(a, b), c), 3),
    "v_min3_i32": _i(lambda a, b, c: np.minimum(np.minimum(a, b), c), 3),
    "v_max3_i32": _i(lambda a, b, c: np.maximum(np.maximum(a, b), c), 3),
    "v_med3_u32": _u(lambda a, b, c: n.median(a, b, c, np.minimum, np.maximum), 3),
    "v_med3_i32": _i(lambda a, b, c: n.median(a, b, c, np.minimum, np.maximum), 3),
    "v_maxmin_i32": _i(lambda a, b, c: np.minimum(np.maximum(a, b), c), 3),
    "v_minmax_i32": _i(lambda a, b, c: np.maximum(np.minimum(a, b), c), 3),
    "v_maxmin_u32": _u(lambda a, b, c: np.minimum(np.maximum(a, b), c), 3),
    "v_minmax_u32": _u(lambda a, b, c: np.maximum(np.minimum(a, b), c), 3),
}

FLOAT: dict[str, Alu] = {
    "v_add_f32": _f(_add, 2),
    "v_sub_f32": _f(np.subtract, 2),
    "v_subrev_f32": _f(lambda a, b: b - a, 2),
    "v_mul_f32": _f(np.multiply, 2),
    "v_mul_legacy_f32": _f(lambda a, b: np.where((a == 0) | (b == 0), f32(0), a * b), 2),
    "v_max_f32": _f(n.greater, 2),
    "v_min_f32": _f(n.lesser, 2),
    "v_fma_f32": _f(n.fma32, 3),
    "v_fmamk_f32": _f(n.fma32, 3),
    "v_fmaak_f32": _f(n.fma32, 3),
    "v_mad_f32": _f(lambda a, b, c: a * b + c, 3),
    "v_fmac_f32": Alu(n.fma32, ("f32",) * 3, "f32", accumulates=True),
    "v_mac_f32": Alu(lambda a, b, c: a * b + c, ("f32",) * 3, "f32", accumulates=True),
    "v_max3_f32": _f(lambda a, b, c: n.greater(n.greater(a, b), c), 3),
    "v_min3_f32": _f(lambda a, b, c: n.lesser(n.lesser(a, b), c), 3),
    "v_med3_f32": _f(n.median_float, 3),
    "v_maxmin_f32": _f(lambda a, b, c: n.lesser(n.greater(a, b), c), 3),
    "v_minmax_f32": _f(lambda a, b, c: n.greater(n.lesser(a, b), c), 3),
    **_propagating(("f16", "f32", "f64")),
    "v_exp_f32": _f(np.exp2, 1),
    "v_log_f32": _f(np.log2, 1),
    "v_rcp_f32": _f(lambda a: f32(1) / a, 1),
    "v_rcp_iflag_f32": _f(lambda a: f32(1) / a, 1),
    "v_sqrt_f32": _f(np.sqrt, 1),
    "v_rsq_f32": _f(lambda a: f32(1) / np.sqrt(a), 1),
    "v_sin_f32": _f(lambda a: np.sin(n.turns(a)).astype(f32), 1),
    "v_cos_f32": _f(lambda a: np.cos(n.turns(a)).astype(f32), 1),
    "v_floor_f32": _f(np.floor, 1),
    "v_ceil_f32": _f(np.ceil, 1),
    "v_trunc_f32": _f(np.trunc, 1),
    "v_rndne_f32": _f(np.rint, 1),
    "v_fract_f32": _f(n.fraction, 1),
    "v_frexp_mant_f32": _f(lambda a: np.frexp(a)[0], 1),
    "v_frexp_exp_i32_f32": _convert("i32", "f32", n.exponent),
    "v_ldexp_f32": Alu(lambda a, b: np.ldexp(a, np.clip(b, -400, 400)), ("f32", "i32"), "f32"),
}

HALF: dict[str, Alu] = {
    "v_add_u16": _half(_add, 2),
    "v_sub_u16": _half(lambda a, b: a - b, 2),
    "v_subrev_u16": _half(lambda a, b: b - a, 2),
    "v_mul_lo_u16": _half(lambda a, b: a * b, 2),
    "v_and_b16": Alu(_and, ("u16",) * 2, "u16", taint.both),
    "v_or_b16": Alu(_or, ("u16",) * 2, "u16", taint.either),
    "v_xor_b16": Alu(_xor, ("u16",) * 2, "u16", taint.each_bit),
    "v_not_b16": Alu(lambda a: ~a, ("u16",), "u16", taint.each_bit),
    "v_mov_b16": Alu(lambda a: a, ("u16",), "u16", taint.each_bit),
    "v_lshlrev_b16": Alu(
        lambda a, b: b << (a & u16(15)), ("u16", "u16"), "u16", taint.shifted_left
    ),
    "v_lshrrev_b16": Alu(
        lambda a, b: b >> (a & u16(15)), ("u16", "u16"), "u16", taint.shifted_right
    ),
    "v_ashrrev_i16": Alu(
        lambda a, b: b >> (a & u16(15)).view(i16), ("u16", "i16"), "i16", taint.shifted_right
    ),
    "v_max_u16": _half(np.maximum, 2),
    "v_min_u16": _half(np.minimum, 2),
    "v_max_i16": _half(np.maximum, 2, "i16"),
    "v_min_i16": _half(np.minimum, 2, "i16"),
    "v_mad_u16": _half(lambda a, b, c: a * b + c, 3),
    "v_mad_i16": _half(lambda a, b, c: a * b + c, 3),
    "v_add_i16": _half(_add, 2, "i16"),
    "v_sub_i16": _half(np.subtract, 2, "i16"),
    **{
        f"v_{name}_{kind}": _half(compute, 3, kind)
        for kind in ("i16", "u16")
        for name, compute in (
            ("max3", lambda a, b, c: np.maximum(np.maximum(a, b), c)),
            ("min3", lambda a, b, c: np.minimum(np.minimum(a, b), c)),
            ("med3", lambda a, b, c: n.median(a, b, c, np.minimum, np.maximum)),
        )
    },
    "v_mad_i32_i16": Alu(
        lambda a, b, c: (a.astype(i32) * b.astype(i32)).view(u32) + c, ("i16", "i16", "u32"), "u32"
    ),
    "v_mad_u32_u16": Alu(
        lambda a, b, c: a.astype(u32) * b.astype(u32) + c, ("u16", "u16", "u32"), "u32"
    ),
    "v_add_f16": _f(_add, 2, "f16"),
    "v_sub_f16": _f(lambda a, b: a - b, 2, "f16"),
    "v_subrev_f16": _f(lambda a, b: b - a, 2, "f16"),
    "v_mul_f16": _f(lambda a, b: a * b, 2, "f16"),
    "v_max_f16": _f(n.greater, 2, "f16"),
    "v_min_f16": _f(n.lesser, 2, "f16"),
    "v_fma_f16": _f(n.fma16, 3, "f16"),
    "v_fmac_f16": Alu(n.fma16, ("f16",) * 3, "f16", accumulates=True),
    "v_fmamk_f16": _f(n.fma16, 3, "f16"),
    "v_fmaak_f16": _f(n.fma16, 3, "f16"),
    "v_max3_f16": _f(lambda a, b, c: n.greater(n.greater(a, b), c), 3, "f16"),
    "v_min3_f16": _f(lambda a, b, c: n.lesser(n.lesser(a, b), c), 3, "f16"),
    "v_med3_f16": _f(n.median_float, 3, "f16"),
    "v_maxmin_f16": _f(lambda a, b, c: n.lesser(n.greater(a, b), c), 3, "f16"),
    "v_minmax_f16": _f(lambda a, b, c: n.greater(n.lesser(a, b), c), 3, "f16"),
    "v_exp_f16": _f(lambda a: np.exp2(a.astype(f32)).astype(f16), 1, "f16"),
    "v_log_f16": _f(lambda a: np.log2(a.astype(f32)).astype(f16), 1, "f16"),
    "v_rcp_f16": _f(lambda a: (f32(1) / a.astype(f32)).astype(f16), 1, "f16"),
    "v_sqrt_f16": _f(lambda a: np.sqrt(a.astype(f32)).astype(f16), 1, "f16"),
    "v_rsq_f16": _f(lambda a: (f32(1) / np.sqrt(a.astype(f32))).astype(f16), 1, "f16"),
    "v_sin_f16": _f(lambda a: np.sin(n.turns(a)).astype(f16), 1, "f16"),
    "v_cos_f16": _f(lambda a: np.cos(n.turns(a)).astype(f16), 1, "f16"),
    "v_fract_f16": _f(n.fraction, 1, "f16"),
    "v_frexp_mant_f16": _f(lambda a: np.frexp(a)[0], 1, "f16"),
    "v_frexp_exp_i16_f16": _convert("i16", "f16", lambda a: n.exponent(a).astype(i16)),
    "v_floor_f16": _f(np.floor, 1, "f16"),
    "v_ceil_f16": _f(np.ceil, 1, "f16"),
    "v_trunc_f16": _f(np.trunc, 1, "f16"),
    "v_rndne_f16": _f(np.rint, 1, "f16"),
    "v_ldexp_f16": Alu(
        lambda a, b: np.ldexp(a.astype(f32), b.astype(i32)).astype(f16), ("f16", "i16"), "f16"
    ),
}

DOUBLE: dict[str, Alu] = {
    "v_mov_b64": Alu(lambda a: a, ("u64",), "u64", taint.each_bit),
    "v_lshl_add_u64": Alu(
        lambda a, b, c: (a << (b & u32(7)).astype(u64)) + c, ("u64", "u32", "u64"), "u64"
    ),
    "v_lshlrev_b64": Alu(
        lambda a, b: b << (a & u32(63)).astype(u64), ("u32", "u64"), "u64", taint.shifted_left
    ),
    "v_lshrrev_b64": Alu(
        lambda a, b: b >> (a & u32(63)).astype(u64), ("u32", "u64"), "u64", taint.shifted_right
    ),
    "v_ashrrev_i64": Alu(
        lambda a, b: b >> (a & u32(63)).astype(np.int64),
        ("u32", "i64"),
        "i64",
        taint.shifted_right,
    ),
    "v_add_f64": _f(_add, 2, "f64"),
    "v_mul_f64": _f(lambda a, b: a * b, 2, "f64"),
    "v_max_f64": _f(n.greater, 2, "f64"),
    "v_min_f64": _f(n.lesser, 2, "f64"),
    "v_fma_f64": _f(n.fma64, 3, "f64"),
    "v_fmac_f64": Alu(n.fma64, ("f64",) * 3, "f64", accumulates=True),
    "v_rcp_f64": _f(lambda a: 1 / a, 1, "f64"),
    "v_rsq_f64": _f(lambda a: 1 / np.sqrt(a), 1, "f64"),
    "v_sqrt_f64": _f(np.sqrt, 1, "f64"),
    "v_fract_f64": _f(n.fraction, 1, "f64"),
    "v_frexp_mant_f64": _f(lambda a: np.frexp(a)[0], 1, "f64"),
    "v_frexp_exp_i32_f64": _convert("i32", "f64", n.exponent),
    "v_floor_f64": _f(np.floor, 1, "f64"),
    "v_ceil_f64": _f(np.ceil, 1, "f64"),
    "v_trunc_f64": _f(np.trunc, 1, "f64"),
    "v_rndne_f64": _f(np.rint, 1, "f64"),
    "v_ldexp_f64": Alu(lambda a, b: np.ldexp(a, np.clip(b, -3000, 3000)), ("f64", "i32"), "f64"),
}

CONVERSIONS: dict[str, Alu] = {
    "v_cvt_f32_u32": _convert("f32", "u32"),
    "v_cvt_f32_i32": _convert("f32", "i32"),
    "v_cvt_u32_f32": _convert("u32", "f32", n.to_integer(u32)),
    "v_cvt_i32_f32": _convert("i32", "f32", n.to_integer(i32)),
    "v_cvt_flr_i32_f32": _convert("i32", "f32", lambda a: n.to_integer(i32)(np.floor(a))),
    "v_cvt_rpi_i32_f32": _convert(
        "i32", "f32", lambda a: n.to_integer(i32)(np.floor(a + f32(0.5)))
    ),
    "v_cvt_f32_f16": _convert("f32", "f16"),
    "v_cvt_f16_f32": _convert("f16", "f32"),
    "v_cvt_f16_u16": _convert("f16", "u16"),
    "v_cvt_f16_i16": _convert("f16", "i16"),
    "v_cvt_u16_f16": _convert("u16", "f16", n.to_integer(u16)),
    "v_cvt_i16_f16": _convert("i16", "f16", n.to_integer(i16)),
    "v_cvt_f64_f32": _convert("f64", "f32"),
    "v_cvt_f32_f64": _convert("f32", "f64"),
    "v_cvt_f64_i32": _convert("f64", "i32"),
    "v_cvt_f64_u32": _convert("f64", "u32"),
    "v_cvt_i32_f64": _convert("i32", "f64", n.to_integer(i32)),
    "v_cvt_u32_f64": _convert("u32", "f64", n.to_integer(u32)),
    "v_cvt_u32_u16": _convert("u32", "u16"),
    "v_cvt_i32_i16": _convert("i32", "i16"),
    "v_cvt_f32_bf16": Alu(n.from_bfloat16, ("u16",), "f32"),
    "v_cvt_pkrtz_f16_f32": Alu(
        lambda a, b: n.packed(n.half_toward_zero(a), n.half_toward_zero(b)), ("f32", "f32"), "u32"
    ),
    **{
        f"v_cvt_pk_{to}_{from_}": _saturated_pair(to, from_)
        for to, from_ in (("i16", "i32"), ("u16", "u32"), ("i16", "f32"), ("u16", "f32"))
    },
    "v_cvt_pk_f16_f32": Alu(
        lambda a, b: n.packed(a.astype(f16), b.astype(f16)), ("f32", "f32"), "u32"
    ),
    "v_cvt_pk_bf16_f32": Alu(
        lambda a, b: n.packed(n.bfloat16(a), n.bfloat16(b)), ("f32", "f32"), "u32"
    ),
    "v_pack_b32_f16": Alu(
        lambda a, b: n.packed(a, b),
        ("u16", "u16"),
        "u32",
        lambda values, shadows: n.packed(shadows[0], shadows[1]),
    ),
    **{
        f"v_cvt_f32_ubyte{byte}": Alu(
            lambda a, byte=byte: (a >> u32(8 * byte) & u32(255)).astype(f32),
            ("u32",),
            "f32",
            taint.byte_of(byte),
        )
        for byte in range(4)
    },
}


_SATURATING = re.compile(r"v_(?:add|sub|subrev)_([ui](?:16|32))")


def saturating(name: str) -> Alu | None:
    """Return a sum or difference that stops at the limits of its type (clamp), or None."""
    match = _SATURATING.fullmatch(name)
    if match is None or name not in ALU:
        return None
    plain, limits = ALU[name].compute, np.iinfo(f"{match[1][0]}{int(match[1][1:]) // 8}")

    def compute(a: Array, b: Array) -> Array:
        wide = plain(a.astype(np.int64), b.astype(np.int64))
        return np.clip(wide, limits.min, limits.max).astype(limits.dtype)

    return Alu(compute, (match[1],) * 2, match[1])


ALU: dict[str, Alu] = INTEGER | FLOAT | HALF | DOUBLE | CONVERSIONS
