"""Loads and stores outside of LDS: global, flat, buffer, scratch and scalar ones.

Source: AMD's ISA guides, "Vector Memory Operations", "Flat Memory Instructions", "Scalar Memory".
A buffer access beyond num_records reads 0 and writes nothing, which Triton masks with. Buffers are raw ("Buffer Resource
Descriptor"): without a stride, swizzle or thread number.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pytest_rocm_attn.emulator.machine import SCALAR_KEY, Array, Machine, Waves
from pytest_rocm_attn.emulator.numbers import i64, u32
from pytest_rocm_attn.emulator.operands import Operand, scalar_source
from pytest_rocm_attn.emulator.rows import Places
from pytest_rocm_attn.emulator.step import Context, Shadows, Step
from pytest_rocm_attn.emulator.waits import LOAD, SCALAR, STORE
from pytest_rocm_attn.errors import EmulatorError

BYTES = {
    "ubyte": 1,
    "sbyte": 1,
    "byte": 1,
    "ushort": 2,
    "sshort": 2,
    "short": 2,
    "dword": 4,
    "dwordx2": 8,
    "dwordx3": 12,
    "dwordx4": 16,
}
SIGNED = frozenset({"sbyte", "sshort"})
CACHE_CONTROL = frozenset(
    [
        "buffer_inv",
        "buffer_invl2",
        "buffer_wbl2",
        "buffer_gl0_inv",
        "buffer_gl1_inv",
        "buffer_wbinvl1",
        "buffer_wbinvl1_vol",
        "global_inv",
        "global_wb",
        "global_wbinv",
        "s_dcache_inv",
        "s_dcache_wb",
    ]
)
_VECTOR = re.compile(r"(global|flat|buffer|scratch)_(load|store)_(\w+?)(_d16)?(_hi)?")
_SCALAR = re.compile(r"s_(buffer_)?load_(?:dword(?:x(\d+))?|([iu])(8|16))")


@dataclass(frozen=True, slots=True)
class Addresses:
    """The addresses that the lanes of an instruction point at.

    Attributes:
        fetch: addresses and which of the lanes take part, [waves, lanes] each.
        shadow: the undefined bits of the addresses.
        keys: registers from which the addresses are computed.
    """

    fetch: Callable[[Machine, Waves], tuple[Array, Array]]
    shadow: Callable[[Machine, Waves], Array]
    keys: tuple[int, ...]


def build(context: Context) -> Step | None:
    """Return the step of one of these instructions, or None."""
    if context.name in CACHE_CONTROL:
        return Step(lambda m, w: None)
    if match := _SCALAR.fullmatch(context.name):
        size = int(match[4]) // 8 if match[4] else 4 * int(match[2] or 1)
        return _scalar_load(context, size, buffer=bool(match[1]), signed=match[3] == "i")
    match = _VECTOR.fullmatch(context.name)
    if match is None or match[3] not in BYTES:
        return None
    context.refuse("lds", "idxen")
    where, what, kind, d16, high = match.groups()
    operands = context.operands()
    if where == "scratch":
        return _scratch(context, what, kind, half=bool(d16), high=bool(high))
    data = operands[1] if what == "store" and where != "buffer" else operands[0]
    addresses = buffer_addresses(context) if where == "buffer" else flat_addresses(context, what)
    if what == "store":
        return _store(addresses, data, BYTES[kind], high=bool(high))
    return _load(addresses, data, kind, half=bool(d16), high=bool(high))


def extended(value: Array, size: int) -> Array:
    """Return 8 or 16 bits as 32, with their sign."""
    shift = np.int32(32 - 8 * size)
    return (value.view(np.int32) << shift >> shift).view(np.uint32)


# --- addresses ---


def offset_of(context: Context) -> int:
    """Return the instruction's constant offset."""
    offset = context.instruction.modifiers.get("offset", 0)
    if not isinstance(offset, int):
        raise EmulatorError(f"offset {offset!r}")
    return offset


def flat_addresses(context: Context, what: str) -> Addresses:
    """Return the addresses of a global or flat instruction: a register pair, or one on a scalar."""
    operands = context.operands()
    vector = operands[0 if what == "store" else 1]
    return on_vector(vector, operands[-1], context)


def on_vector(vector: Operand, base: Operand, context: Context) -> Addresses:
    """Return the addresses in a register pair, or in one register on a pair of scalars."""
    low, scalar, offset = vector.index, base.index, offset_of(context)
    on_scalar = base.kind == "s" and not context.name.startswith("flat")

    def fetch(m: Machine, w: Waves) -> tuple[Array, Array]:
        if on_scalar:
            start = m.scalar64(scalar, w).view(i64)[:, None] + offset
            return m.vector[low] + start, m.exec
        address = m.vector[low + 1].astype(i64)
        address <<= 32
        address |= m.vector[low]
        address += offset
        return address, m.exec

    def shadow(m: Machine, w: Waves) -> Array:
        if on_scalar:
            bits = m.scalar_shadow(scalar, w) | m.scalar_shadow(scalar + 1, w)
            return m.vector_shadow(low, w) | bits[:, None]
        return m.vector_shadow(low, w) | m.vector_shadow(low + 1, w)

    if on_scalar:
        keys: tuple[int, ...] = (low, SCALAR_KEY + scalar, SCALAR_KEY + scalar + 1)
    else:
        keys = (low, low + 1)
    return Addresses(fetch, shadow, keys)


def buffer_addresses(context: Context, size: int | None = None, first: int = 1) -> Addresses:
    """Return the addresses of a buffer instruction; lanes beyond num_records take no part.

    Args:
        size: bytes of each lane, if the mnemonic does not say.
        first: which operand is the vector of offsets; the resource and a scalar offset follow.
    """
    vector, descriptor, base_offset = context.operands()[first : first + 3]
    resource, scalar = descriptor.index, scalar_source(base_offset, "u32")
    offset, offen = offset_of(context), bool(context.instruction.modifiers.get("offen"))
    moves = base_offset.kind != "constant"
    if not moves:
        offset += base_offset.index & 0xFFFFFFFF
    if size is None:
        match = _VECTOR.fullmatch(context.name)
        assert match is not None
        size = BYTES[match[3]]
    reach = size
    # The last word's type, OOB_SELECT (3 is a raw buffer's; CDNA has none) and ADD_TID_ENABLE.
    mask, wanted = (u32(0xC0800000), u32(0)) if context.gfx9 else (u32(0xF0800000), u32(0x30000000))
    sixteen = u32(16)

    def fetch(m: Machine, w: Waves) -> tuple[Array, Array]:
        words = m.scalar[resource : resource + 4]
        if np.count_nonzero((words[1] >> sixteen) | ((words[3] & mask) ^ wanted)):
            raise m.fault(
                f"its buffer resource is not that of a raw buffer: stride and swizzle {int(words[1][0]) >> 16:#x},"
                f" last word {int(words[3][0]):#x}"
            )
        base = m.scalar64(resource, w).view(i64)[:, None]
        if offen:
            inside = m.vector[vector.index].astype(i64)
            inside += offset
        else:
            inside = np.full((m.count, m.lanes), offset, i64)
        if moves:
            inside += scalar.fetch(m, w).astype(i64)[:, None]
        active = inside <= (words[2].astype(i64) - reach)[:, None]
        if not m.exec_is_full:
            active &= m.exec
        inside += base
        return inside, active

    def shadow(m: Machine, w: Waves) -> Array:
        bits = scalar.shadow(m, w)
        for word in range(4):
            bits = bits | m.scalar_shadow(resource + word, w)
        lanes = m.vector_shadow(vector.index, w) if offen else np.zeros((1, 1), np.uint32)
        return np.broadcast_to(bits[:, None] | lanes, (m.size(w), m.lanes))

    keys = tuple(SCALAR_KEY + resource + word for word in range(4)) + scalar.keys
    return Addresses(fetch, shadow, (*keys, vector.index) if offen else keys)


# --- vector loads and stores ---


def fetched(m: Machine, w: Waves, addresses: Addresses, kind: str) -> list[Array]:
    """Return the words that lanes load, or one of 8 or 16 bits, extended; 0 of lanes that take no part."""
    size = BYTES[kind]
    address, active = addresses.fetch(m, w)
    span = m.memory.check(m, address, size, active, "reads")
    m.memory.note_load(m, address, size, active, span)
    if not span.every:
        address = np.where(active, address, m.memory.safe)
    values = m.memory.load(address, size)
    if kind in SIGNED:
        values = [extended(values[0], size)]
    return values if span.every else [np.where(active, value, u32(0)) for value in values]


def _load(addresses: Addresses, data: Operand, kind: str, *, half: bool, high: bool) -> Step:
    register, words = data.index, max(1, BYTES[kind] // 4)

    def run(m: Machine, w: Waves) -> None:
        for number, value in enumerate(fetched(m, w, addresses, kind), register):
            if half:
                m.write_half(register, high, w, value & u32(0xFFFF))
            else:
                m.write(number, w, value)
        m.waits.issue(LOAD, keys, w, m.here)

    def taint(m: Machine, w: Waves) -> Shadows:
        m.demand("the address of a load", addresses.shadow(m, w), m.exec[w])
        if not half:
            return []
        keep = u32(0xFFFF if high else 0xFFFF0000)
        return [(register, m.vector_shadow(register, w) & keep)]

    keys = tuple(range(register, register + words))
    overtakes = frozenset(keys) - frozenset(addresses.keys)
    return Step(run, addresses.keys + (keys if half else ()), keys, taint, overtakes=overtakes)


def _store(addresses: Addresses, data: Operand, size: int, *, high: bool) -> Step:
    register, words = data.index, max(1, size // 4)
    shift = u32(16 if high else 0)

    def run(m: Machine, w: Waves) -> None:
        address, active = addresses.fetch(m, w)
        span = m.memory.check(m, address, size, active, "writes")
        values = [m.vector[register + i] for i in range(words)]
        if high:
            values = [value >> shift for value in values]
        if span.every:
            at = address.reshape(-1)
            values = [value.reshape(-1) for value in values]
        else:
            at = address[active]
            values = [value[active] for value in values]
        m.memory.note_store(m, at, size, values, active, span)
        m.memory.store(at, size, values)
        m.waits.issue(STORE, (), w, m.here)

    def taint(m: Machine, w: Waves) -> Shadows:
        m.demand("the address of a store", addresses.shadow(m, w), m.exec[w])
        _, active = addresses.fetch(m, w)
        keep = u32(0xFFFFFFFF if size >= 4 else (1 << 8 * size) - 1)
        for word in range(words):
            shadow = m.vector_shadow(register + word, w) >> shift & keep
            m.demand("memory: it is stored", shadow, active)
        return []

    keys = tuple(range(register, register + words))
    return Step(run, addresses.keys + keys, (), taint)


# --- private memory ---


def _scratch(context: Context, what: str, kind: str, *, half: bool, high: bool) -> Step:
    """Spilled registers and local arrays: memory of each lane's own."""
    operands = context.operands()
    data, vector, base = operands[0], operands[1], operands[2]
    if what == "store":
        data, vector = vector, data
    size, offset, register = BYTES[kind], offset_of(context), data.index
    words = max(1, size // 4)
    keys = tuple(range(register, register + words))
    lane = np.arange(context.lanes)

    def places(m: Machine, w: Waves, verb: str) -> tuple[Array, Array]:
        at = np.full((m.size(w), m.lanes), offset, i64)
        if vector.kind == "v":
            at = at + m.vector[vector.index, w]
        if base.kind == "s":
            at = at + m.scalar[base.index, w].astype(i64)[:, None]
        active = m.exec[w]
        if ((at + size > m.scratch_bytes) & active).any():
            raise m.fault(f"{verb} beyond the {m.scratch_bytes} bytes of private memory")
        rows = m.rows[:, None]
        return np.where(active, at, 0) + (rows * m.lanes + lane) * m.scratch_stride, active

    def load(m: Machine, w: Waves) -> None:
        position, _ = places(m, w, "reads")
        at = Places(position, size)
        values, shadows = m.scratch.load(at), m.scratch_shadow.load(at)
        if kind in SIGNED:
            values = [extended(values[0], size)]
            shadows = [np.where(shadows[0] != 0, u32(0xFFFFFFFF), u32(0))]
        for key, value, shadow in zip(keys, values, shadows, strict=True):
            if half:
                m.write_half(key, high, w, value & u32(0xFFFF))
            else:
                m.write(key, w, value)
            if shadow.any():
                m.late.append((key, shadow << u32(16) if half and high else shadow))
        m.waits.issue(LOAD, keys, w, m.here)

    def store(m: Machine, w: Waves) -> None:
        position, active = places(m, w, "writes")
        shift = u32(16 if high else 0)
        values = [m.vector[key, w][active] >> shift for key in keys]
        shadows = [m.vector_shadow(key, w)[active] >> shift for key in keys]
        at = Places(position[active], size)
        m.scratch.store(at, values)
        m.scratch_shadow.store(at, shadows)
        m.waits.issue(STORE, (), w, m.here)

    def taint(m: Machine, w: Waves) -> Shadows:
        if vector.kind == "v":
            m.demand("the address of private memory", m.vector_shadow(vector.index, w), m.exec[w])
        if base.kind == "s":
            m.demand("the address of private memory", m.scalar_shadow(base.index, w))
        return []

    where = (vector.keys if vector.kind == "v" else ()) + (base.keys if base.kind == "s" else ())
    if what == "store":
        return Step(store, where + keys, (), taint)
    overtakes = frozenset(keys) - frozenset(where)
    return Step(load, where + (keys if half else ()), keys, taint, overtakes=overtakes)


# --- scalar loads ---


def _scalar_load(context: Context, size: int, *, buffer: bool, signed: bool) -> Step:
    operands, words = context.operands(), max(1, size // 4)
    target, base = operands[0].index, operands[1].index
    extra = operands[2] if len(operands) > 2 else Operand("constant", 0)
    moved = scalar_source(extra, "i32")
    offset = offset_of(context)
    keys = tuple(SCALAR_KEY + target + word for word in range(words))

    def run(m: Machine, w: Waves) -> None:
        start = m.scalar64(base, w).view(i64)
        if buffer:
            start = start & 0xFFFFFFFFFFFF
        address = (start + moved.fetch(m, w).astype(i64) + offset) & ~np.int64(min(size, 4) - 1)
        m.memory.check(m, address, size, np.ones(address.shape, bool), "reads")
        values = m.memory.load(address, size)
        for word, value in enumerate([extended(values[0], size)] if signed else values):
            m.set_scalar(target + word, w, value)
        m.waits.issue(SCALAR, keys, w, m.here)

    def taint(m: Machine, w: Waves) -> Shadows:
        shadow = m.scalar_shadow(base, w) | m.scalar_shadow(base + 1, w) | moved.shadow(m, w)
        m.demand("the address of a scalar load", shadow)
        return []

    reads = (SCALAR_KEY + base, SCALAR_KEY + base + 1, *moved.keys)
    return Step(run, reads, keys, taint)
