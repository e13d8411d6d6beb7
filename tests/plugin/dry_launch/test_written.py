"""Which arguments a kernel writes to, read from Triton's IR of kernels of many forms."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, misc"

from __future__ import annotations

from typing import Any

import pytest
import torch
import triton
import triton.language as tl

from pytest_rocm_attn.dry_launch import dry_launch, storageless
from pytest_rocm_attn.dry_launch.written import runtime_arguments, written_arguments
from pytest_rocm_attn.mock.triton_driver import Event, listen

FLOATS = storageless([64 * 64], torch.float32)
INTEGERS = storageless([64], torch.int32)
ADDRESSES = storageless([64], torch.int64)


@triton.jit
def moving(x, y, z, table, n, SIZE: tl.constexpr):
    """Writes y in a loop and z in a branch; its loads of x and table move with them."""
    target = y + tl.arange(0, SIZE)
    source = x + tl.load(table + tl.arange(0, SIZE))
    total = tl.zeros((SIZE,), tl.float32)
    for _ in range(n):
        total += tl.load(source)
        source += SIZE
        tl.store(target, total)
        target += SIZE
    if n > 3:
        tl.atomic_add(z + tl.arange(0, SIZE), total)


@triton.jit
def choosing(x, y, limit, n):
    """Writes x or y."""
    if n > 3:
        target = x
    else:
        target = y
    while tl.load(limit) > n:
        tl.store(target + 1, n)
        target += 1


@triton.jit
def swapping(x, y, z, n):
    """Writes x and y, which change places."""
    target, other = x, y
    for _ in range(n):
        tl.store(target, tl.load(z))
        target, other = other, target


@triton.jit
def nested(x, y, n):
    """Writes y from a loop in a loop, with a reduction between."""
    target = y
    for _ in range(n):
        for _ in range(n):
            tl.store(target, tl.sum(tl.load(x + tl.arange(0, 64)), 0))
            target += 1


@triton.jit
def described(x, y, n, SIZE: tl.constexpr):
    """Writes y through a descriptor."""
    source = tl.make_tensor_descriptor(x, [n, SIZE], [SIZE, 1], [16, SIZE])
    target = tl.make_tensor_descriptor(y, [n, SIZE], [SIZE, 1], [16, SIZE])
    target.store([0, 0], source.load([0, 0]))


@triton.jit
def grouped(both, n, SIZE: tl.constexpr):
    """Writes the second of a tuple."""
    tl.store(both[1] + tl.arange(0, SIZE), tl.load(both[0] + tl.arange(0, SIZE)) + n)


@triton.jit
def reading(x, n):
    """Writes nothing."""
    tl.device_assert(tl.load(x) == n)


@triton.jit
def indirect(addresses, x):
    """Writes to an address that it loads."""
    tl.store(tl.load(addresses).to(tl.pointer_type(tl.float32)), tl.load(x))


@pytest.mark.parametrize(
    ("kernel", "arguments", "names"),
    [
        (moving, (FLOATS, FLOATS, FLOATS, INTEGERS, 5, 64), {"y", "z"}),
        (choosing, (FLOATS, FLOATS, INTEGERS, 5), {"x", "y"}),
        (swapping, (FLOATS, FLOATS, FLOATS, 5), {"x", "y"}),
        (nested, (FLOATS, FLOATS, 5), {"y"}),
        (described, (FLOATS, FLOATS, 64, 64), {"y"}),
        (grouped, ((FLOATS, FLOATS), 5, 64), {"both[1]"}),
        (reading, (FLOATS, 5), set()),
        (indirect, (ADDRESSES, FLOATS), None),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_arguments_that_a_kernel_writes_are_found(
    kernel: Any, arguments: tuple[Any, ...], names: set[str] | None
) -> None:
    events: list[Event] = []
    with dry_launch("gfx942"):
        stop = listen(events.append)
        kernel[(1,)](*arguments)
        stop()
    compiled = events[0].compiled
    found = written_arguments(compiled.asm["ttir"])
    if names is None:
        assert found is None
        return
    known = list(runtime_arguments(compiled.src.signature, arguments))
    assert found is not None
    pointers = {n for n, (_, value) in enumerate(known) if isinstance(value, torch.Tensor)}
    assert {known[n][0] for n in found & pointers} == names


def test_what_is_not_tritons_ir_shows_nothing() -> None:
    assert written_arguments("") is None
