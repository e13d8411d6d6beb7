"""Loads from memory straight into LDS, past the registers: ``buffer_load_* ... lds``, ``global_load_lds_*``.

A lane's words go to M0 plus the instruction's offset plus the lane's number times their size. A lane that is off
writes nothing, one beyond num_records of a buffer writes 0. Loads of less than a word write a word. They count
as loads: LDS holds their words after the s_waitcnt vmcnt that covers them. Source: AMD's ISA guides for CDNA3
and CDNA4, "Memory Buffer Load to LDS" and "GLOBAL_LOAD_LDS"; LLVM 22, llvm/include/llvm/IR/IntrinsicsAMDGPU.td
(int_amdgcn_global_load_lds).
"""

from __future__ import annotations

import re

import numpy as np

from pytest_rocm_attn.emulator.global_memory import (
    BYTES,
    buffer_addresses,
    fetched,
    offset_of,
    on_vector,
)
from pytest_rocm_attn.emulator.lds_memory import write_words
from pytest_rocm_attn.emulator.machine import M0, SCALAR_KEY, Machine, Waves
from pytest_rocm_attn.emulator.numbers import i64
from pytest_rocm_attn.emulator.step import Context, Shadows, Step
from pytest_rocm_attn.emulator.waits import LOAD

_NAME = re.compile(r"(buffer_load|global_load_lds)_(\w+)")
_M0 = SCALAR_KEY + M0


def build(context: Context) -> Step | None:
    """Return the step of one of these instructions, or None."""
    match = _NAME.fullmatch(context.name)
    if match is None or match[2] not in BYTES:
        return None
    where, kind = match.groups()
    if where == "buffer_load":
        if not context.instruction.modifiers.get("lds"):
            return None
        context.refuse("idxen")
        addresses = buffer_addresses(context, BYTES[kind], first=0)
    else:
        vector, base = context.operands()
        addresses = on_vector(vector, base, context)
    size = max(4, BYTES[kind])
    places = offset_of(context) + np.arange(context.lanes, dtype=i64) * size

    def run(m: Machine, w: Waves) -> None:
        values = fetched(m, w, addresses, kind)
        sequence = m.waits.issue(LOAD, (), w, m.here)
        at = m.scalar[M0, w].astype(i64)[:, None] + places
        write_words(m, w, at, size, values, None, sequence, LOAD)

    def taint(m: Machine, w: Waves) -> Shadows:
        m.demand("the address of a load", addresses.shadow(m, w), m.exec[w])
        m.demand("M0, an offset in LDS", m.scalar_shadow(M0, w))
        return []

    return Step(run, (*addresses.keys, _M0), (), taint)
