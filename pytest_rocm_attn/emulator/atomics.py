"""Atomic operations on global memory and on LDS.

Lanes that share an address take their turns, lowest wave and lane first; hardware names no order.
Source: AMD's ISA guides, "Flat Memory Instructions" and "LDS Instructions", atomics.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pytest_rocm_attn.emulator import numbers as n
from pytest_rocm_attn.emulator.global_memory import (
    Addresses,
    buffer_addresses,
    offset_of,
    on_vector,
)
from pytest_rocm_attn.emulator.machine import Array, Machine, Waves
from pytest_rocm_attn.emulator.numbers import f16, f32, u16, u32
from pytest_rocm_attn.emulator.operands import Operand
from pytest_rocm_attn.emulator.rows import Places
from pytest_rocm_attn.emulator.step import Context, Shadows, Step
from pytest_rocm_attn.emulator.waits import LDS, LOAD, STORE

Combine = Callable[[Array, Array], Array]

_PLAIN: dict[str, Combine] = {
    "swap": lambda old, new: new,
    "add": lambda old, new: old + new,
    "sub": lambda old, new: old - new,
    "rsub": lambda old, new: new - old,
    "inc": lambda old, new: np.where(old >= new, 0, old + 1).astype(old.dtype),
    "dec": lambda old, new: np.where((old == 0) | (old > new), new, old - 1).astype(old.dtype),
    "cond_sub": lambda old, new: np.where(old >= new, old - new, old),
    "sub_clamp": lambda old, new: np.where(old >= new, old - new, 0).astype(old.dtype),
    "and": lambda old, new: old & new,
    "or": lambda old, new: old | new,
    "xor": lambda old, new: old ^ new,
    "min": np.minimum,
    "max": np.maximum,
}
# Before gfx12 a float in memory stays unless the other one compares as less (greater): a NaN there, or a zero of either sign.
_KEEPING: dict[str, Combine] = {
    "min": lambda old, new: np.where(new < old, new, old),
    "max": lambda old, new: np.where(new > old, new, old),
}
_TYPED = re.compile(
    r"(add|sub|rsub|inc|dec|cond_sub|sub_clamp|min|max|swap|and|or|xor|cmpswap)_([uifb])(32|64)"
)
# What LDS and other targets call the same.
_OTHER = {
    "wrxchg": "swap",
    "storexchg": "swap",
    "cmpst": "cmpswap",
    "cmpstore": "cmpswap",
    "csub": "sub_clamp",
}
_OLD = {"smin": "min_i", "smax": "max_i", "umin": "min_u", "umax": "max_u"}


def operation(name: str, *, numbers: bool) -> tuple[Combine | None, Any, int] | None:
    """Return how an atomic combines, in which type, and its bytes; None for an unknown one.

    The combination of a compare and swap is None.

    Args:
        name: as ``add_u32``, or gfx9's ``add``, ``smax_x2``, ``cmpswap``, ``pk_add_f16``.
        numbers: of a NaN and a number, ``min`` and ``max`` take the number, as gfx12's do.
    """
    if name in ("pk_add_f16", "pk_add_bf16"):
        return (_halves if name.endswith("_f16") else _bfloats), np.dtype(np.uint32), 4
    base, wide = re.subn(r"_x2$", "", name)
    bits = 64 if wide else 32
    base = _OLD.get(base, base).replace("_num_", "_")
    verb, _, kind = base.partition("_")
    if verb in _OTHER:
        base = f"{_OTHER[verb]}_{kind}"
    if not re.search(r"_[uifb](32|64)?$", base):
        base += "_u"
    if not base[-1].isdigit():
        base += str(bits)
    match = _TYPED.fullmatch(base)
    if match is None:
        return None
    size = int(match[3]) // 8
    kind = "u" if match[2] == "b" else match[2]
    dtype = np.dtype(f"{kind}{size}")
    if match[1] == "cmpswap":
        return None, dtype, size
    if kind == "f" and match[1] in ("min", "max"):
        if numbers:
            return (n.lesser if match[1] == "min" else n.greater), dtype, size
        return _KEEPING[match[1]], dtype, size
    return _PLAIN[match[1]], dtype, size


def _halves(old: Array, new: Array) -> Array:
    return _pairs(old, new, lambda a, b: (a.view(f16) + b.view(f16)).view(u16))


def _bfloats(old: Array, new: Array) -> Array:
    return _pairs(
        old, new, lambda a, b: n.bfloat16((n.from_bfloat16(a) + n.from_bfloat16(b)).astype(f32))
    )


def _pairs(old: Array, new: Array, add: Combine) -> Array:
    halves = [
        add((old >> u32(16 * i)).astype(u16), (new >> u32(16 * i)).astype(u16)).astype(u32)
        for i in (0, 1)
    ]
    return halves[0] | halves[1] << u32(16)


def build(context: Context) -> Step | None:
    """Return an atomic's step, or None if it is not one."""
    numbers = "_num_" in context.instruction.name  # which gfx9's name of it lacks
    match = re.fullmatch(r"(global|flat|buffer)_atomic_(\w+)", context.name)
    if match is not None:
        known = operation(match[2], numbers=numbers)
        return None if known is None else _global(context, match[1], *known)
    if context.name.startswith("ds_"):
        known = operation(context.name[3:].replace("_rtn", ""), numbers=numbers)
        return None if known is None else _lds(context, "_rtn_" in context.name, *known)
    return None


def take_turns(
    address: Array,
    load: Callable[[Array], Array],
    store: Callable[[Array, Array], None],
    values: Sequence[Array],
    combine: Combine | None,
) -> Array:
    """Return what each lane found, after all have combined their values with memory.

    Args:
        address: of the active lanes.
        load, store: memory as numbers of the operation's type.
        values: the operand, for compare and swap [new, expected].
        combine: None compares and swaps.
    """
    found = np.zeros(len(address), values[0].dtype)
    order = np.argsort(address, kind="stable")
    first = np.concatenate([[True], address[order][1:] != address[order][:-1]])
    starts = np.flatnonzero(first)
    turn = np.arange(len(address)) - np.repeat(starts, np.diff([*starts, len(address)]))
    for number in range(int(turn.max(initial=-1)) + 1):
        lanes = order[turn == number]
        old = load(address[lanes])
        found[lanes] = old
        if combine is None:
            new = np.where(old == values[1][lanes], values[0][lanes], old)
        else:
            new = combine(old, values[0][lanes])
        store(address[lanes], new)
    return found


def _numbers(words: Sequence[Array], dtype: Any) -> Array:
    if dtype.itemsize == 8:
        wide = words[0].astype(np.uint64) | words[1].astype(np.uint64) << np.uint64(32)
        return wide.view(dtype)
    return np.ascontiguousarray(words[0]).view(dtype)


def _words(numbers: Array) -> list[Array]:
    bits = np.ascontiguousarray(numbers).view(f"u{numbers.dtype.itemsize}")
    if numbers.dtype.itemsize == 4:
        return [bits]
    return [
        (bits & np.uint64(0xFFFFFFFF)).astype(np.uint32),
        (bits >> np.uint64(32)).astype(np.uint32),
    ]


def _returns(context: Context) -> bool:
    modifiers = context.instruction.modifiers
    return bool(modifiers.get("glc") or modifiers.get("sc0")) or "RETURN" in str(
        modifiers.get("th")
    )


def _global(context: Context, where: str, combine: Combine | None, dtype: Any, size: int) -> Step:
    operands, returns = context.operands(), _returns(context)
    if where == "buffer":
        data, addresses = operands[0], buffer_addresses(context, size)
        target = data if returns else None
    else:
        target = operands[0] if returns else None
        vector, data = operands[1 if returns else 0], operands[2 if returns else 1]
        addresses = on_vector(vector, operands[-1], context)
    return _global_step(addresses, data, target, combine, dtype, size)


def _global_step(
    addresses: Addresses,
    data: Operand,
    target: Operand | None,
    combine: Combine | None,
    dtype: Any,
    size: int,
) -> Step:
    words = size // 4
    count = words * (2 if combine is None else 1)
    data_keys = tuple(range(data.index, data.index + count))
    target_keys = () if target is None else tuple(range(target.index, target.index + words))

    def run(m: Machine, w: Waves) -> None:
        address, active = addresses.fetch(m, w)
        m.memory.check(m, address, size, active, "updates")
        given = [m.vector[key, w][active] for key in data_keys]
        values = [_numbers(given[i : i + words], dtype) for i in range(0, count, words)]
        found = take_turns(
            address[active],
            lambda at: _numbers(m.memory.load(at, size), dtype),
            lambda at, new: m.memory.store(at, size, _words(new)),
            values,
            combine,
        )
        for key, word in zip(target_keys, _words(found), strict=False):
            whole = np.array(m.vector[key, w])
            whole[active] = word
            m.write(key, w, whole)
        m.waits.issue(LOAD if target_keys else STORE, target_keys, w, m.here)

    def taint(m: Machine, w: Waves) -> Shadows:
        m.demand("the address of an atomic", addresses.shadow(m, w), m.exec[w])
        _, active = addresses.fetch(m, w)
        for key in data_keys:
            m.demand("memory: an atomic takes it", m.vector_shadow(key, w), active)
        return []

    return Step(run, addresses.keys + data_keys, target_keys, taint)


def _lds(context: Context, returns: bool, combine: Combine | None, dtype: Any, size: int) -> Step:
    operands, words = context.operands(), size // 4
    target = operands[0].index if returns else None
    address, *data = operands[1:] if returns else operands
    swapped = context.name.startswith("ds_cmpst_")  # gfx9: expected first, then new
    data = data[::-1] if swapped else data
    offset = offset_of(context)
    data_keys = tuple(key for one in data for key in range(one.index, one.index + words))
    target_keys = () if target is None else tuple(range(target, target + words))

    def run(m: Machine, w: Waves) -> None:
        active = m.exec[w]
        at = m.vector[address.index, w].astype(np.int64) + offset
        m.lds.check(m, at, size, active, "updates")
        position = (at + m.lds.base(m, w))[active]
        given = [m.vector[key, w][active] for key in data_keys]
        values = [_numbers(given[i : i + words], dtype) for i in range(0, len(given), words)]
        found = take_turns(
            position,
            lambda where: _numbers(m.lds.values.load(Places(where, size)), dtype),
            lambda where, new: m.lds.store(Places(where, size), _words(new), None),
            values,
            combine,
        )
        for key, word in zip(target_keys, _words(found), strict=False):
            whole = np.array(m.vector[key, w])
            whole[active] = word
            m.write(key, w, whole)
        m.waits.issue(LDS, target_keys, w, m.here)

    def taint(m: Machine, w: Waves) -> Shadows:
        m.demand("the address of an atomic", m.vector_shadow(address.index, w), m.exec[w])
        for key in data_keys:
            m.demand("LDS: an atomic takes it", m.vector_shadow(key, w), m.exec[w])
        return []

    return Step(run, (address.index, *data_keys), target_keys, taint)
