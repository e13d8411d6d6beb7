"""Comparisons that write a mask of lanes: v_cmp, v_cmpx, v_cmp_class.

Source: AMD's ISA guides, "VOPC Instructions". Lanes that EXEC lacks get a 0.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from pytest_rocm_attn.emulator.machine import EXEC, NULL, SCALAR_KEY, VCC, Array, Machine, Waves
from pytest_rocm_attn.emulator.operands import Operand, source
from pytest_rocm_attn.emulator.step import Context, Shadows, Step
from pytest_rocm_attn.emulator.vector import keys_of, sdwa_source

if TYPE_CHECKING:
    from pytest_rocm_attn.emulator.operands import Source

Comparison = Callable[[Array, Array], Array]

RELATIONS: dict[str, Comparison] = {
    "f": lambda a, b: (a == b) & False,
    "t": lambda a, b: (a == b) | True,
    "tru": lambda a, b: (a == b) | True,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "lg": lambda a, b: (a < b) | (a > b),
    "neq": lambda a, b: ~(a == b),
    "nlt": lambda a, b: ~(a < b),
    "nle": lambda a, b: ~(a <= b),
    "ngt": lambda a, b: ~(a > b),
    "nge": lambda a, b: ~(a >= b),
    "nlg": lambda a, b: ~((a < b) | (a > b)),
    "o": lambda a, b: ~(np.isnan(a) | np.isnan(b)),
    "u": lambda a, b: np.isnan(a) | np.isnan(b),
}
_NAME = re.compile(r"v_cmp(x?)_(\w+?)_([uif](?:16|32|64))")


def build(context: Context) -> Step | None:
    """Return a comparison's step, or None if it is not one."""
    match = _NAME.fullmatch(context.name)
    if match is None:
        return None
    operands = context.operands()
    if match[2] == "class":
        compare: Comparison = _class
        kinds = (match[3], "u16" if match[3] == "f16" else "u32")
    elif match[2] in RELATIONS:
        compare, kinds = RELATIONS[match[2]], (match[3], match[3])
    else:
        return None
    sources = [
        _source(context, operand, kind, number)
        for number, (operand, kind) in enumerate(zip(operands[-2:], kinds, strict=True))
    ]
    targets = [operands[0].index] if len(operands) > 2 else []
    if match[1] and EXEC not in targets:
        targets.append(EXEC)
    return _step(context, compare, sources, targets or [VCC])


def _source(context: Context, operand: Operand, kind: str, number: int) -> Source:
    if context.instruction.encoding == "sdwa":
        how = context.instruction.modifiers.get(f"src{number}_sel", "DWORD")
        return sdwa_source(operand, kind, how)
    high = bool(context.modifier("op_sel", [0, 0])[number]) and kind.endswith("16")
    return source(replace(operand, high=True) if high else operand, kind)


def _step(context: Context, compare: Comparison, sources: list[Source], targets: list[int]) -> Step:
    first, second = (one.fetch for one in sources)
    width = context.lanes // 32

    def run(m: Machine, w: Waves) -> None:
        bits = compare(first(m, w), second(m, w)) & m.exec[w]
        for target in targets:
            m.set_mask(target, w, bits)

    def taint(m: Machine, w: Waves) -> Shadows:
        a, b = (one.shadow(m, w) for one in sources)
        unsure = ((a != 0) | (b != 0)) & m.exec[w]
        if EXEC in targets:
            m.demand("the mask of active lanes (EXEC)", unsure)
        words = np.packbits(unsure, axis=1, bitorder="little").view(np.uint32)
        return [
            (SCALAR_KEY + target + word, words[:, word])
            for target in targets
            if target not in (EXEC, NULL)
            for word in range(width)
        ]

    writes = tuple(
        SCALAR_KEY + target + word for target in targets if target != NULL for word in range(width)
    )
    return Step(run, keys_of(sources), writes, taint, everywhere=True)


def _class(a: Array, wanted: Array) -> Array:
    """v_cmp_class: bits 0 to 9 ask for sNaN, qNaN, -inf, -normal, -denormal, -0, +0 ... +inf."""
    bits = a.dtype.itemsize * 8
    unsigned = a.view(f"u{bits // 8}")
    mantissa = {16: 10, 32: 23, 64: 52}[bits]
    quiet = (unsigned >> unsigned.dtype.type(mantissa - 1) & unsigned.dtype.type(1)) == 1
    tiny = np.finfo(a.dtype).tiny
    nan, infinite, minus = np.isnan(a), np.isinf(a), np.signbit(a)
    denormal = (a != 0) & (np.abs(a) < tiny)
    normal = ~nan & ~infinite & (np.abs(a) >= tiny)
    classes = (
        nan & ~quiet,
        nan & quiet,
        infinite & minus,
        normal & minus,
        denormal & minus,
        (a == 0) & minus,
        (a == 0) & ~minus,
        denormal & ~minus,
        normal & ~minus,
        infinite & ~minus,
    )
    result = np.zeros(np.broadcast_shapes(a.shape, wanted.shape), bool)
    for number, found in enumerate(classes):
        result |= found & (wanted >> wanted.dtype.type(number) & wanted.dtype.type(1) == 1)
    return result
