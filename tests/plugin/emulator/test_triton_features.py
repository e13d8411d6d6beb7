"""What Triton's language has beside attention: atomics, scans, sorts, products, autotuners, barriers."""

# Kernels are written in Triton's language, whose decorators and values have no types.
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, misc"

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import triton
import triton.language as tl

from pytest_rocm_attn.emulator.triton_launch import Emulation
from pytest_rocm_attn.errors import EmulationFault
from pytest_rocm_attn.gpu import Gpu
from pytest_rocm_attn.mock.triton_driver import activate


@triton.jit
def histogram(x_ptr, counts_ptr, n, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < n
    x = tl.load(x_ptr + offsets, mask=mask, other=0)
    tl.atomic_add(counts_ptr + x, 1, mask=mask)


@triton.jit
def atomics(x_ptr, total_ptr, largest_ptr, swapped_ptr, BLOCK: tl.constexpr):
    x = tl.load(x_ptr + tl.program_id(0) * BLOCK + tl.arange(0, BLOCK))
    tl.atomic_add(total_ptr, tl.sum(x, 0))
    tl.atomic_max(largest_ptr, tl.max(x, 0))
    tl.atomic_cas(swapped_ptr, 7, 9)


@triton.jit
def old_values(counter_ptr, memory_ptr, tickets_ptr, old_ptr, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(tickets_ptr + offsets, tl.atomic_add(counter_ptr + offsets * 0, 1))
    most = tl.atomic_max(memory_ptr + offsets, offsets)
    least = tl.atomic_min(memory_ptr + offsets, 100)
    bits = tl.atomic_xor(memory_ptr + offsets, 5)
    tl.store(old_ptr + offsets, most + 1000 * least + 1000000 * bits)


@triton.jit
def scan_and_sort(x_ptr, sums_ptr, sorted_ptr, places_ptr, BLOCK: tl.constexpr):
    offsets = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + offsets)
    tl.store(sums_ptr + offsets, tl.cumsum(x, 0))
    tl.debug_barrier()
    tl.store(sorted_ptr + offsets, tl.sort(x))
    tl.store(places_ptr, tl.argmax(x, 0))


@triton.autotune([triton.Config({"BLOCK": 16}), triton.Config({"BLOCK": 32})], key=["K"])
@triton.jit
def product(a_ptr, b_ptr, c_ptr, K, N: tl.constexpr, BLOCK: tl.constexpr):
    rows, columns = tl.arange(0, N)[:, None], tl.arange(0, N)[None, :]
    total = tl.zeros((N, N), tl.float32)
    for start in range(0, K, BLOCK):
        inner = start + tl.arange(0, BLOCK)
        a = tl.load(a_ptr + rows * K + inner[None, :])
        b = tl.load(b_ptr + inner[:, None] * N + columns)
        total = tl.dot(a, b, total)
    tl.store(c_ptr + rows * N + columns, total)


@triton.jit
def arithmetic(x_ptr, y_ptr, out_ptr, BLOCK: tl.constexpr):
    offsets = tl.arange(0, BLOCK)
    x, y = tl.load(x_ptr + offsets), tl.load(y_ptr + offsets)
    out = x // y + x % y + (x >> 3) + (x ^ y) * tl.abs(y) + tl.where(x < y, x, -y)
    tl.store(out_ptr + offsets, out)


@triton.jit
def small_product(a_ptr, b_ptr, c_ptr, M: tl.constexpr, K: tl.constexpr, into: tl.constexpr):
    rows, columns, inner = tl.arange(0, M), tl.arange(0, M), tl.arange(0, K)
    a = tl.load(a_ptr + rows[:, None] * K + inner[None, :])
    b = tl.load(b_ptr + inner[:, None] * M + columns[None, :])
    tl.store(c_ptr + rows[:, None] * M + columns[None, :], tl.dot(a, b, out_dtype=into))


@triton.jit
def extremes(x_ptr, y_ptr, high_ptr, low_ptr, BLOCK: tl.constexpr):
    offsets = tl.arange(0, BLOCK)
    x, y = tl.load(x_ptr + offsets), tl.load(y_ptr + offsets)
    every: tl.constexpr = tl.PropagateNan.ALL
    tl.store(high_ptr + offsets, tl.maximum(x, y, propagate_nan=every))
    tl.store(low_ptr + offsets, tl.minimum(x, y, propagate_nan=every))


@triton.jit
def asserts(x_ptr, limit, BLOCK: tl.constexpr):
    offsets = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + offsets)
    tl.device_assert(x < limit, "too large")
    tl.store(x_ptr + offsets, x + 1)


EVERY_TARGET = ["gfx90a", "gfx942", "gfx950", "gfx1100", "gfx1201"]


@pytest.fixture(params=EVERY_TARGET[1:])
def emulation(request: pytest.FixtureRequest) -> Iterator[Emulation]:
    """Executes what is launched, on each target."""
    emulation = Emulation(limit=200_000)
    undo = activate(Gpu(request.param), emulation)
    yield emulation
    undo()


def test_atomics_of_lanes_that_meet_all_count(emulation: Emulation) -> None:
    x = torch.randint(0, 5, (300,), generator=torch.Generator().manual_seed(1), dtype=torch.int32)
    counts = torch.zeros(5, dtype=torch.int32)
    histogram[(3,)](x, counts, 300, BLOCK=128)
    assert counts.tolist() == torch.bincount(x, minlength=5).tolist()


def test_atomics_of_numbers(emulation: Emulation) -> None:
    x = torch.arange(256, dtype=torch.float32) / 4
    total, swapped = torch.zeros(1), torch.tensor([7], dtype=torch.int32)
    largest = torch.zeros(1)
    atomics[(2,)](x, total, largest, swapped, BLOCK=128)
    assert (total.item(), largest.item(), swapped.item()) == (x.sum().item(), 63.75, 9)


@pytest.mark.parametrize("emulation", EVERY_TARGET, indirect=True)
def test_atomics_return_what_was_there(emulation: Emulation) -> None:
    counter, memory = torch.zeros(1, dtype=torch.int32), torch.full((128,), -7, dtype=torch.int32)
    tickets, old = torch.zeros(128, dtype=torch.int32), torch.zeros(128, dtype=torch.int32)
    old_values[(2,)](counter, memory, tickets, old, BLOCK=64)
    place = torch.arange(128)
    assert sorted(tickets.tolist()) == place.tolist()
    assert counter.item() == 128
    assert old.tolist() == (-7 + 1000 * place + 1000000 * place.clamp(max=100)).tolist()
    assert memory.tolist() == (place.clamp(max=100) ^ 5).tolist()


def test_scans_and_sorts(emulation: Emulation) -> None:
    x = torch.randperm(128, generator=torch.Generator().manual_seed(2)).to(torch.int32)
    sums, ordered, place = (torch.zeros_like(x) for _ in range(3))
    scan_and_sort[(1,)](x, sums, ordered, place, BLOCK=128)
    assert sums.tolist() == x.cumsum(0).tolist()
    assert ordered.tolist() == list(range(128))
    assert place[0].item() == x.argmax().item()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_an_autotuned_product(emulation: Emulation, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    a, b = (torch.randn(32, 64, generator=generator).to(dtype) for _ in range(2))
    c = torch.zeros(32, 32)
    product[(1,)](a, b.T.contiguous(), c, 64, N=32)
    torch.testing.assert_close(c, a.float() @ b.float().T, rtol=1e-3, atol=1e-3)
    assert emulation.launches >= 3  # both candidates, and the one that was chosen


NUMBERS = [
    (torch.int8, torch.int32, tl.int32),
    (torch.float64, torch.float64, tl.float64),
    (torch.float16, torch.float16, tl.float16),
]


@pytest.mark.parametrize(
    ("emulation", "dtype", "result", "into"),
    [
        (gfx, *kinds)
        for gfx in EVERY_TARGET
        for kinds in NUMBERS
        # Triton 3.6.0 cannot compile it: an assertion in its DotOpToLLVM/MFMA.cpp.
        if (gfx, kinds[0]) != ("gfx942", torch.float64)
    ]
    + [
        ("gfx950", kind, torch.float32, tl.float32)
        for kind in (torch.float8_e4m3fn, torch.float8_e5m2)
    ],
    indirect=["emulation"],
)
@pytest.mark.parametrize("size", [16, 32])
def test_products_of_other_numbers(
    emulation: Emulation, dtype: torch.dtype, result: torch.dtype, into: tl.dtype, size: int
) -> None:
    generator = torch.Generator().manual_seed(6)
    limit = 128 if dtype == torch.int8 else 4
    depth = 128 if result == torch.float32 else 64  # gfx950 has products of fp8 so deep
    a = torch.randint(-limit, limit, (size, depth), generator=generator)
    b = torch.randint(-limit, limit, (depth, size), generator=generator)
    c = torch.zeros(size, size, dtype=result)
    small_product[(1,)](a.to(dtype), b.to(dtype), c, M=size, K=depth, into=into)
    assert c.tolist() == (a @ b).tolist()
    (assembly,) = emulation.executed
    matrices = re.search(r"\tv_(mfma|wmma)_(i32|f64|f32|f16)_", assembly)
    assert matrices is not None or dtype == torch.float64  # which RDNA multiplies one by one


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.int16])
def test_arithmetic_of_integers(emulation: Emulation, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(4)
    x = torch.randint(-150, 150, (128,), generator=generator).to(dtype)
    y = torch.randint(1, 100, (128,), generator=generator).to(dtype)
    y[::3] *= -1
    out = torch.zeros_like(x)
    arithmetic[(1,)](x, y, out, BLOCK=128)
    quotient: Any = torch.div(x, y, rounding_mode="trunc")  # as in C, which Triton follows
    expected = (
        quotient + torch.fmod(x, y) + (x >> 3) + (x ^ y) * y.abs() + torch.where(x < y, x, -y)
    )
    assert out.tolist() == expected.to(dtype).tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_extremes_that_keep_a_nan(emulation: Emulation, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(5)
    x, y = (torch.randn(128, generator=generator).to(dtype) for _ in range(2))
    x[::5], y[::7], x[1], y[2] = torch.nan, torch.nan, torch.inf, -torch.inf
    high, low = torch.zeros_like(x), torch.zeros_like(x)
    extremes[(1,)](x, y, high, low, BLOCK=128)
    torch.testing.assert_close(high, torch.maximum(x, y), rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(low, torch.minimum(x, y), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("emulation", EVERY_TARGET, indirect=True)
def test_an_assertion_holds_or_is_a_fault(emulation: Emulation) -> None:
    x = torch.arange(64, dtype=torch.int32)
    asserts[(1,)](x, 100, BLOCK=64, debug=True)
    assert x.tolist() == list(range(1, 65))
    with pytest.raises(
        EmulationFault, match=r"device_assert failed.*'too large'.*test_triton_features.py:\d+"
    ):
        asserts[(1,)](x, 10, BLOCK=64, debug=True)
