"""Instructions that carry values between lanes, or between a lane and a scalar register.

Source: AMD's ISA guides, "VOP3" (v_readlane, v_permlane) and "LDS Instructions" (ds_bpermute,
ds_permute, ds_swizzle, which use LDS's wires and not its memory).
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from pytest_rocm_attn.emulator.machine import Array, Machine, Waves
from pytest_rocm_attn.emulator.numbers import u32, u64
from pytest_rocm_attn.emulator.operands import scalar_source, source
from pytest_rocm_attn.emulator.step import Context, Shadows, Step
from pytest_rocm_attn.emulator.waits import LDS
from pytest_rocm_attn.errors import EmulatorError


def build(context: Context) -> Step | None:
    """Return the step of one of these instructions, or None."""
    name = context.name
    if name == "v_readfirstlane_b32":
        return _read_lane(context, first=True)
    if name == "v_readlane_b32":
        return _read_lane(context, first=False)
    if name == "v_writelane_b32":
        return _write_lane(context)
    if name == "v_swap_b32":
        return _swap(context)
    if name in ("v_permlane16_b32", "v_permlanex16_b32"):
        return _permute_row(context)
    if match := re.fullmatch(r"v_permlane(16|32)_swap_b32", name):
        return _swap_rows(context, int(match[1]))
    if name == "v_permlane64_b32":
        if context.lanes == 32:  # it does nothing there
            return Step(lambda m, w: None)
        return _gather(context, np.arange(64) ^ 32)
    if name == "ds_bpermute_b32":
        return _permute_back(context)
    if name == "ds_permute_b32":
        return _permute_forth(context)
    if name == "ds_swizzle_b32":
        return _swizzle(context)
    return None


def _swap(context: Context) -> Step:
    """Two registers change their values."""
    first, second = (operand.index for operand in context.operands())

    def run(m: Machine, w: Waves) -> None:
        before = np.array(m.vector[first, w])
        m.write(first, w, m.vector[second, w])
        m.write(second, w, before)

    def taint(m: Machine, w: Waves) -> Shadows:
        before = np.array(m.vector_shadow(first, w))
        return [(first, np.array(m.vector_shadow(second, w))), (second, before)]

    return Step(run, (first, second), (first, second), taint)


def _read_lane(context: Context, *, first: bool) -> Step:
    target, value = context.operand(0), context.source(1, "u32")
    number = None if first else scalar_source(context.operand(2), "u32")
    fixed = not first and context.operand(2).kind == "constant"
    at = context.operand(2).index & context.lanes - 1 if fixed else 0

    def lane(m: Machine, w: Waves) -> Array:
        if number is None:  # the lowest of all if no lane is active
            active = m.exec[w]
            return np.where(active.any(axis=1), active.argmax(axis=1), 0)
        return np.broadcast_to(number.fetch(m, w) & u32(m.lanes - 1), (m.size(w),)).astype(np.intp)

    def picked(words: Array, lanes: Array, m: Machine, w: Waves) -> Array:
        whole = np.broadcast_to(words, (m.size(w), m.lanes))
        return whole[np.arange(len(lanes)), lanes]

    def run(m: Machine, w: Waves) -> None:
        words = value.fetch(m, w)
        if fixed and words.shape[1] > 1:
            m.set_scalar(target.index, w, words[:, at])
        else:
            m.set_scalar(target.index, w, picked(words, lane(m, w), m, w))

    def taint(m: Machine, w: Waves) -> Shadows:
        if number is not None:
            m.demand("the number of a lane", number.shadow(m, w))
        return [(target.keys[0], picked(value.shadow(m, w), lane(m, w), m, w))]

    reads = value.keys + (() if number is None else number.keys)
    return Step(run, reads, target.keys, taint, everywhere=True)


def _write_lane(context: Context) -> Step:
    target = context.operand(0).index
    value = scalar_source(context.operand(1), "u32")
    number = scalar_source(context.operand(2), "u32")

    def place(m: Machine, w: Waves) -> tuple[Any, Array]:
        lanes = np.broadcast_to(number.fetch(m, w) & u32(m.lanes - 1), (m.size(w),))
        return np.arange(m.count)[w], lanes.astype(np.intp)

    def run(m: Machine, w: Waves) -> None:
        rows, lanes = place(m, w)
        m.vector[target, rows, lanes] = value.fetch(m, w)

    def taint(m: Machine, w: Waves) -> Shadows:
        m.demand("the number of a lane", number.shadow(m, w))
        shadow = np.array(m.vector_shadow(target, w))
        shadow[np.arange(m.size(w)), place(m, w)[1]] = value.shadow(m, w)
        return [(target, shadow)]

    return Step(run, (target, *value.keys, *number.keys), (target,), taint, everywhere=True)


def _gather(context: Context, lanes: Array) -> Step:
    """Every lane reads a fixed other one, whether that is active or not."""
    target, value = context.operand(0).index, context.source(1, "u32")

    def run(m: Machine, w: Waves) -> None:
        m.write(target, w, np.broadcast_to(value.fetch(m, w), (m.size(w), m.lanes))[:, lanes])

    def taint(m: Machine, w: Waves) -> Shadows:
        return [(target, np.broadcast_to(value.shadow(m, w), (m.size(w), m.lanes))[:, lanes])]

    return Step(run, value.keys, (target,), taint)


def _permute_row(context: Context) -> Step:
    """v_permlane16, v_permlanex16: a lane of the same row of 16, or of the other one."""
    target, value = context.operand(0).index, context.source(1, "u32")
    low, high = (scalar_source(context.operand(number), "u32") for number in (2, 3))
    lane = np.arange(context.lanes)
    row = (lane & 16) ^ (16 if "x16" in context.name else 0) | lane & ~31

    def picked(words: Array, m: Machine, w: Waves) -> Array:
        selects = low.fetch(m, w).astype(u64) | high.fetch(m, w).astype(u64) << u64(32)
        shift = (4 * (lane & 15)).astype(np.uint64)
        lanes = (selects[:, None] >> shift & u64(15)).astype(np.intp) + row
        lanes = np.broadcast_to(lanes, (m.size(w), m.lanes))
        return np.take_along_axis(np.broadcast_to(words, lanes.shape), lanes, 1)

    def run(m: Machine, w: Waves) -> None:
        m.write(target, w, picked(value.fetch(m, w), m, w))

    def taint(m: Machine, w: Waves) -> Shadows:
        m.demand("the number of a lane", low.shadow(m, w) | high.shadow(m, w))
        return [(target, picked(value.shadow(m, w), m, w))]

    return Step(run, value.keys + low.keys + high.keys, (target,), taint)


def _swap_rows(context: Context, size: int) -> Step:
    """v_permlane16_swap, v_permlane32_swap: odd rows of one register for even rows of the other."""
    context.refuse("bound_ctrl", "fi")
    first, second = context.operand(0).index, context.operand(1).index
    odd = np.arange(64).reshape(-1, size)[1::2].ravel()

    def swapped(a: Array, b: Array) -> tuple[Array, Array]:
        a, b = np.array(a), np.array(b)
        a[:, odd], b[:, odd - size] = b[:, odd - size].copy(), a[:, odd].copy()
        return a, b

    def run(m: Machine, w: Waves) -> None:
        a, b = swapped(m.vector[first, w], m.vector[second, w])
        m.vector[first, w], m.vector[second, w] = a, b

    def taint(m: Machine, w: Waves) -> Shadows:
        a, b = swapped(m.vector_shadow(first, w), m.vector_shadow(second, w))
        return [(first, a), (second, b)]

    keys = (first, second)
    return Step(run, keys, keys, taint, everywhere=True)


# --- over LDS's wires ---


def _permute_back(context: Context) -> Step:
    """ds_bpermute: each lane names the lane that it reads; an inactive one gives 0."""
    target, address = context.operand(0).index, context.source(1, "u32")
    value, offset = context.source(2, "u32"), u32(context.instruction.modifiers.get("offset", 0))

    def picked(words: Array, m: Machine, w: Waves) -> Array:
        shape = (m.size(w), m.lanes)
        lanes = ((address.fetch(m, w) + offset) >> u32(2)) & u32(m.lanes - 1)
        active = np.where(m.exec[w], words, u32(0))
        return np.take_along_axis(active, np.broadcast_to(lanes, shape).astype(np.intp), 1)

    def run(m: Machine, w: Waves) -> None:
        m.write(target, w, picked(value.fetch(m, w), m, w))
        m.waits.issue(LDS, (target,), w, m.here)

    def taint(m: Machine, w: Waves) -> Shadows:
        m.demand("the number of a lane", address.shadow(m, w), m.exec[w])
        return [(target, picked(value.shadow(m, w), m, w))]

    return Step(run, address.keys + value.keys, (target,), taint)


def _permute_forth(context: Context) -> Step:
    """ds_permute: each lane names the lane that it gives to; what nobody names becomes 0."""
    target, address = context.operand(0).index, context.source(1, "u32")
    value, offset = context.source(2, "u32"), u32(context.instruction.modifiers.get("offset", 0))

    def given(words: Array, m: Machine, w: Waves) -> Array:
        shape = (m.size(w), m.lanes)
        lanes = ((address.fetch(m, w) + offset) >> u32(2)) & u32(m.lanes - 1)
        row, lane = np.nonzero(m.exec[w])
        result = np.zeros(shape, np.uint32)
        to = np.broadcast_to(lanes, shape)[row, lane].astype(np.intp)
        result[row, to] = np.broadcast_to(words, shape)[row, lane]
        return result

    def run(m: Machine, w: Waves) -> None:
        m.write(target, w, given(value.fetch(m, w), m, w))
        m.waits.issue(LDS, (target,), w, m.here)

    def taint(m: Machine, w: Waves) -> Shadows:
        m.demand("the number of a lane", address.shadow(m, w), m.exec[w])
        return [(target, given(value.shadow(m, w), m, w))]

    return Step(run, address.keys + value.keys, (target,), taint)


def _swizzle(context: Context) -> Step:
    target, value = context.operand(0).index, source(context.operand(1), "u32")
    lanes = swizzle_lanes(context.instruction.modifiers["offset"], np.arange(context.lanes))

    def picked(words: Array, m: Machine, w: Waves) -> Array:
        return np.where(m.exec[w], words, u32(0))[:, lanes]

    def run(m: Machine, w: Waves) -> None:
        m.write(target, w, picked(value.fetch(m, w), m, w))
        m.waits.issue(LDS, (target,), w, m.here)

    def taint(m: Machine, w: Waves) -> Shadows:
        return [(target, picked(value.shadow(m, w), m, w))]

    return Step(run, value.keys, (target,), taint)


def swizzle_lanes(offset: int | str, lane: Array) -> Array:
    """Return the lane that each lane reads, from ds_swizzle's offset, number or words."""
    if isinstance(offset, int):
        if offset & 0x8000:
            return lane & ~3 | (offset >> 2 * (lane & 3)) & 3
        kept, set_, flipped = offset & 31, offset >> 5 & 31, offset >> 10 & 31
        return lane & ~31 | (((lane & 31) & kept) | set_) ^ flipped
    match = re.fullmatch(r"swizzle\((\w+),\s*(.*)\)", offset)
    if match is None:
        raise EmulatorError(f"offset {offset}")
    kind, rest = match[1], match[2]
    if kind == "SWAP":
        return lane ^ int(rest)
    if kind == "REVERSE":
        return lane ^ (int(rest) - 1)
    if kind == "QUAD_PERM":
        picks = np.array([int(one) for one in rest.split(",")])
        return lane & ~3 | picks[lane & 3]
    if kind == "BROADCAST":
        size, number = (int(one) for one in rest.split(","))
        return lane // size * size + number
    if kind == "BITMASK_PERM":
        kept = set_ = flipped = 0
        for letter, bit in zip(rest.strip('" '), (16, 8, 4, 2, 1), strict=True):
            kept |= bit * (letter in "pi")
            set_ |= bit * (letter == "1")
            flipped |= bit * (letter == "i")
        return lane & ~31 | (((lane & 31) & kept) | set_) ^ flipped
    raise EmulatorError(f"offset {offset}")
