"""Vector instructions whose first source comes from another lane.

Source: AMD's ISA guides, "Vector ALU Operations": "DPP".
"""

from __future__ import annotations

import numpy as np

from pytest_rocm_attn.emulator.alu import ALU
from pytest_rocm_attn.emulator.machine import Array, Machine, Waves
from pytest_rocm_attn.emulator.operands import Fetch, Source
from pytest_rocm_attn.emulator.step import Context, Destination, Shadows, Step
from pytest_rocm_attn.emulator.vector import combined, keys_of, output_modifiers, sources_of
from pytest_rocm_attn.errors import EmulatorError


def dpp_lanes(context: Context) -> tuple[Array, Array, Array]:
    """Return which lane each lane reads, whether there is one, and whether the lane writes."""
    modifiers, lane = context.instruction.modifiers, np.arange(context.lanes)
    exists = np.ones(context.lanes, bool)
    row = lane & ~15
    if "quad_perm" in modifiers:
        reads = lane & ~3 | np.array(modifiers["quad_perm"])[lane & 3]
    elif "row_shr" in modifiers:
        reads = lane - modifiers["row_shr"]
        exists = reads >= row
    elif "row_shl" in modifiers:
        reads = lane + modifiers["row_shl"]
        exists = reads < row + 16
    elif "row_ror" in modifiers:
        reads = row | (lane - modifiers["row_ror"]) & 15
    elif "row_share" in modifiers:
        reads = row | modifiers["row_share"]
    elif "row_newbcast" in modifiers:
        reads = row | modifiers["row_newbcast"]
    elif "row_xmask" in modifiers:
        reads = lane ^ modifiers["row_xmask"]
    elif "row_bcast" in modifiers:  # the last lane of each row, or pair of rows, to the next
        size = modifiers["row_bcast"] + 1
        reads = lane // size * size - 1
        exists = reads >= 0
    elif "row_mirror" in modifiers:
        reads = lane ^ 15
    elif "row_half_mirror" in modifiers:
        reads = lane ^ 7
    else:
        raise EmulatorError("this kind of DPP")
    rows, banks = modifiers.get("row_mask", 15), modifiers.get("bank_mask", 15)
    writes = (rows >> lane // 16 & 1) & (banks >> lane % 16 // 4 & 1) == 1
    return np.where(exists, reads, 0), exists, writes


def build(context: Context) -> Step | None:
    """Return the step of one of alu.py's instructions with DPP, or None if it is not one."""
    alu = ALU.get(context.name)
    if alu is None or not context.instruction.encoding.endswith("dpp"):
        return None
    reads, exists, writes = dpp_lanes(context)
    modifiers = context.instruction.modifiers
    zero, inactive = bool(modifiers.get("bound_ctrl")), bool(modifiers.get("fi"))
    sources = sources_of(context, alu)
    first = sources[0]

    every, all_write = bool(exists.all()), bool(writes.all())

    def available(m: Machine, w: Waves) -> Array:
        return exists if inactive or m.exec_is_full else m.exec[:, reads] & exists

    def moved(fetch: Fetch) -> Fetch:
        def value(m: Machine, w: Waves) -> Array:
            whole = fetch(m, w)
            if whole.shape[1] > 1:
                whole = whole.take(reads, axis=1)
            if not zero or (every and (inactive or m.exec_is_full)):
                return whole  # a lane without a source does not write
            return np.where(available(m, w), whole, whole.dtype.type(0))

        return value

    sources[0] = Source(moved(first.fetch), moved(first.shadow), first.keys)
    value, shadow = combined(alu, sources, output_modifiers(context, alu.result))
    to = Destination(context.operand(0), alu.result, keeps=context.keeps_half)

    def enabled(m: Machine, w: Waves) -> Array:
        lanes: Array = writes if zero else available(m, w) & writes
        return lanes

    registers = to.registers
    if registers is None:
        raise EmulatorError("DPP with a result that is not of 32 bits")

    def run(m: Machine, w: Waves) -> None:
        result, target = value(m, w), registers(m)[to.register]
        if all_write and m.exec_is_full and (zero or every):
            target[...] = result
        else:
            np.copyto(target, result, "unsafe", enabled(m, w) & m.exec)

    def taint(m: Machine, w: Waves) -> Shadows:
        old = m.vector_shadow(to.register, w)
        return [(to.register, np.where(enabled(m, w), shadow(m, w).astype(np.uint32), old))]

    partly = not (zero and all_write)
    return Step(run, keys_of(sources) + (to.keys if partly else ()), to.keys, taint)
