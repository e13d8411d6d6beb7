"""What Triton's interpreter has to get right before it can judge kernels, and this folder's own set-up."""

# The body of a kernel is Triton's language, not Python's, as in backends/kernels.
# mypy: disable-error-code="untyped-decorator, no-untyped-def"

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from triton.runtime import interpreter

from pytest_rocm_attn.triton_interpreter import repair

repair()


@triton.jit
def _cast_kernel(source, target, size: tl.constexpr):
    i = tl.arange(0, size)
    tl.store(target + i, tl.load(source + i).to(target.dtype.element_ty))


@triton.jit
def _dot_kernel(a, b, out, size: tl.constexpr):
    i = tl.arange(0, size)
    at = i[:, None] * size + i[None, :]
    tl.store(out + at, tl.dot(tl.load(a + at), tl.load(b + at)))


@triton.jit
def _add_kernel(a, b, out, larger, size: tl.constexpr):
    i = tl.arange(0, size)
    x = tl.load(a + i)
    y = tl.load(b + i)
    tl.store(out + i, x + y)
    tl.store(larger + i, x > y)


@triton.jit
def _sum_kernel(a, out, rows: tl.constexpr, size: tl.constexpr):
    row, i = tl.arange(0, rows), tl.arange(0, size)
    start = tl.full([rows], 1.5, tl.bfloat16)
    tl.store(out + row, start + tl.sum(tl.load(a + row[:, None] * size + i[None, :]), axis=1))


@triton.jit
def _masked_kernel(source, target, program, size: tl.constexpr):
    i = tl.arange(0, size)
    ours = tl.program_id(0) == program
    tl.store(target + i, tl.load(source + i, mask=ours, other=-1.0), mask=(i < size - 1) & ours)


@triton.jit
def _count_kernel(limit, out):
    last = tl.load(limit)
    total = 0
    for i in range(last):
        total += i
    tl.store(out, total)


@triton.jit
def _doubled(x):
    return x + x


@triton.jit
def _power_kernel(out, times: tl.constexpr):
    x = tl.full([16], 1.0, tl.float32)
    for _ in range(times):
        x = _doubled(x)
    tl.store(out + tl.arange(0, 16), x)


def numbers(size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def test_this_process_interprets() -> None:
    assert os.environ["TRITON_INTERPRET"] == "1"
    assert triton.knobs.runtime.interpret


@pytest.mark.parametrize("with_zeros", [False, True])
def test_bfloat16_is_rounded_to_nearest_even(with_zeros: bool) -> None:
    source = numbers(1024)
    # Ties, both ways; subnormals; infinities and NaN.
    source[:8] = torch.tensor(
        [1.00390625, 1.01171875, 1e-40, -1e-40, torch.inf, -torch.inf, torch.nan, 3.4e38]
    )
    if with_zeros:
        source[8:16] = 0.0
        source[12:16] = -0.0
    target = torch.empty(1024, dtype=torch.bfloat16)
    _cast_kernel[(1,)](source, target, 1024)
    assert torch.equal(target.isnan(), source.isnan())
    kept = ~source.isnan()
    assert torch.equal(target[kept].view(torch.int16), source.bfloat16()[kept].view(torch.int16))


def test_bfloat16_is_widened_exactly() -> None:
    source = numbers(1024).bfloat16()
    target = torch.empty(1024)
    _cast_kernel[(1,)](source, target, 1024)
    assert torch.equal(target, source.float())


@pytest.mark.parametrize("stored", [torch.float8_e4m3fn, torch.float8_e4m3fnuz], ids=str)
def test_fp8_codes_are_widened_exactly(stored: torch.dtype) -> None:
    codes = torch.arange(256, dtype=torch.uint8).view(stored)
    finite = codes.float().isfinite()
    target = torch.empty(256)
    _cast_kernel[(1,)](codes, target, 256)
    assert torch.equal(target[finite], codes.float()[finite])


def test_a_product_of_bfloat16_matrices() -> None:
    a, b = numbers(256).bfloat16().reshape(16, 16), numbers(256, 1).bfloat16().reshape(16, 16)
    out = torch.empty(16, 16)
    _dot_kernel[(1,)](a, b, out, 16)
    torch.testing.assert_close(out, a.float() @ b.float())


def test_sums_and_comparisons_of_bfloat16() -> None:
    a, b = numbers(64).bfloat16(), numbers(64, 1).bfloat16()
    out, larger = torch.empty(64, dtype=torch.bfloat16), torch.empty(64, dtype=torch.bool)
    _add_kernel[(1,)](a, b, out, larger, 64)
    assert torch.equal(out, a + b)
    assert torch.equal(larger, a > b)


def test_a_loaded_number_bounds_a_loop() -> None:
    out = torch.zeros(1, dtype=torch.int32)
    _count_kernel[(1,)](torch.tensor([5], dtype=torch.int32), out)
    assert out.item() == 10


@pytest.mark.parametrize("source", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "wanted",
    [torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz],
)
def test_fp8_is_the_nearest_number_and_of_two_the_even_one(
    wanted: torch.dtype, source: torch.dtype
) -> None:
    every = torch.arange(256).to(torch.uint8)
    value = every.view(wanted).double()
    every, value = every[value.isfinite()], value[value.isfinite()]
    given = (numbers(2048) * torch.exp2(numbers(2048, seed=1) * 4)).to(source)
    # Ties, numbers that round up to the next power of two, subnormal ones, and one that is too large.
    given[:8] = torch.tensor([1.0625, 1.1875, 1.97, 7.73, -0.0017, 0.0031, 2.0**14, -0.0])
    target = torch.empty(2048, dtype=wanted)
    _cast_kernel[(1,)](given, target, 2048)
    away = (given.double()[:, None] - value[None, :]).abs()
    nearest = away == away.amin(dim=1, keepdim=True)
    even = nearest & (every % 2 == 0)[None, :]
    allowed = torch.where(even.any(dim=1, keepdim=True), even, nearest)
    got = (target.double()[:, None] == value[None, :]) & allowed
    assert bool(got.any(dim=1).all())


def test_bfloat16_has_constants_and_sums() -> None:
    a = numbers(4 * 32).reshape(4, 32).bfloat16()
    out = torch.zeros(4, dtype=torch.bfloat16)
    _sum_kernel[(1,)](a, out, 4, 32)
    wanted = a.float().sum(dim=1).bfloat16().float() + 1.5
    assert torch.equal(out, wanted.bfloat16())


def test_functions_of_the_language_are_replaced_once_in_a_launch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, replaced = torch.zeros(16), []
    patch = interpreter._patch_builtin

    def counted(*given: Any) -> None:
        replaced.append(given)
        patch(*given)

    monkeypatch.setattr(interpreter, "_patch_builtin", counted)
    counts = []
    for times in (1, 9, 1):
        replaced.clear()
        _power_kernel[(2,)](out, times)
        counts.append(len(replaced))
        assert out.tolist() == [2.0**times] * 16
    assert counts[0] == counts[1] == counts[2] > 0


def test_one_comparison_masks_all_lanes() -> None:
    source, target = torch.arange(8.0), torch.zeros(8)
    _masked_kernel[(1,)](source, target, 1, 8)
    assert target.tolist() == [0.0] * 8
    _masked_kernel[(1,)](source, target, 0, 8)
    assert target.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 0.0]
