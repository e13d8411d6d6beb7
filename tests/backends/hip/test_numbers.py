"""device.h's own conversions of 16-bit and 8-bit numbers against torch's, bit for bit."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from pytest_rocm_attn.backends.hip.matrix_layout import SHAPES


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_widening_is_exact_for_every_bit_pattern(
    emulator: Callable[..., Any], dtype: torch.dtype
) -> None:
    library = emulator(SHAPES[0]).library
    brain = int(dtype is torch.bfloat16)
    wanted = torch.arange(65536, dtype=torch.int32).to(torch.uint16).view(dtype).float()
    found = torch.tensor([library.widen_16(brain, bits) for bits in range(65536)])
    torch.testing.assert_close(found, wanted, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_narrowing_rounds_to_nearest_even(emulator: Callable[..., Any], dtype: torch.dtype) -> None:
    library = emulator(SHAPES[0]).library
    brain = int(dtype is torch.bfloat16)
    representable = torch.arange(65536, dtype=torch.int32).to(torch.uint16).view(dtype).float()
    finite = representable[representable.isfinite()].sort().values
    halves = (finite[1:].double() + finite[:-1].double()) / 2  # ties
    draw = torch.Generator().manual_seed(0)
    near = halves[torch.randint(len(halves), (4000,), generator=draw)]
    values = torch.cat([finite[::37].double(), near, near * (1 + 1e-7), near * (1 - 1e-7)]).float()
    special = torch.tensor([math.inf, -math.inf, math.nan, 65519.0, 65520.0, 3e38, 1e-45, -0.0])
    for value in torch.cat([values, special]):
        bits = library.narrow_16(brain, float(value))
        found = torch.tensor([bits], dtype=torch.int32).to(torch.uint16).view(dtype)
        wanted = value.to(dtype).reshape(1)
        if value.isnan():
            assert found.isnan().all()
        else:
            assert torch.equal(found.view(torch.int16), wanted.view(torch.int16)), float(value)


@pytest.mark.parametrize(
    ("dtype", "bias"), [(torch.float8_e4m3fn, 7), (torch.float8_e4m3fnuz, 8)], ids=str
)
def test_every_fp8_value_is_exact(
    emulator: Callable[..., Any], dtype: torch.dtype, bias: int
) -> None:
    library = emulator(SHAPES[0]).library
    wanted = torch.arange(256, dtype=torch.uint8).view(dtype).float()
    found = torch.tensor([library.widen_e4m3(bias, byte) for byte in range(256)])
    torch.testing.assert_close(found, wanted, rtol=0, atol=0, equal_nan=True)
