"""Products of the integers in two registers, summed onto a third: v_dot2, v_dot4 and v_dot8.

Source: AMD's ISA guides, "VOP3P Instructions" and "VOP2 Instructions".
"""

from __future__ import annotations

import re

import numpy as np

from pytest_rocm_attn.emulator import taint as rules
from pytest_rocm_attn.emulator.machine import Array, Machine, Waves
from pytest_rocm_attn.emulator.numbers import i64, u32
from pytest_rocm_attn.emulator.operands import source
from pytest_rocm_attn.emulator.step import Context, Destination, Step
from pytest_rocm_attn.emulator.vector import Operation, keys_of

_DOTS = re.compile(r"v_dot([248])(c?)_([iu])32_(iu|i|u)(?:16|8|4)")


def build(context: Context) -> Step | None:
    """Return the step of such a product, or None if it is not one."""
    match = _DOTS.fullmatch(context.name)
    if match is None:
        return None
    context.refuse("op_sel", "op_sel_hi", "neg_hi")
    count, limits = int(match[1]), np.iinfo(f"{match[3]}4")
    bits = 32 // count
    if match[4] == "iu":  # neg_lo names the factors that have signs
        signed = [bool(sign) for sign in context.modifier("neg_lo", [0, 0, 0])[:2]]
    else:
        context.refuse("neg_lo")
        signed = [match[4] == "i"] * 2
    operands = context.operands()
    if match[2]:
        operands.append(operands[0])
    sources = [source(one, "u32") for one in operands[1:3]]
    sources.append(source(operands[3], f"{match[3]}32"))
    clamps = bool(context.instruction.modifiers.get("clamp"))

    def item(word: Array, number: int, has_sign: bool) -> Array:
        found = (word >> u32(bits * number) & u32((1 << bits) - 1)).astype(i64)
        sign = i64(1 << bits - 1)
        return (found ^ sign) - sign if has_sign else found

    def value(m: Machine, w: Waves) -> Array:
        a, b, total = (one.fetch(m, w) for one in sources)
        total = total.astype(i64)
        for number in range(count):
            total = total + item(a, number, signed[0]) * item(b, number, signed[1])
        if clamps:
            total = np.clip(total, limits.min, limits.max)
        return (total & i64(0xFFFFFFFF)).astype(u32)

    def shadow(m: Machine, w: Waves) -> Array:
        return rules.anything((), [one.shadow(m, w) for one in sources])

    return Operation(value, shadow, Destination(operands[0], "u32"), keys_of(sources)).step()
