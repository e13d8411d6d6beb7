"""Conversions of numbers in the attention kernel, as each GPU's own instructions do them (emulated)."""

# The body of a kernel is Triton's language, not Python's, as in backends/kernels.
# mypy: disable-error-code="untyped-decorator, no-untyped-def"

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

from pytest_rocm_attn.backends.kernels.formats import FP8_BIAS, dequantise, round_weights
from pytest_rocm_attn.mock import mock_rocm

# With instructions for e4m3fnuz, for e4m3fn through Triton and through assembly, and with none.
TARGETS = ("gfx942", "gfx950", "gfx1201", "gfx1100", "gfx90a")
COUNT = 4096


@triton.jit
def _decode_kernel(bytes_ptr, out_ptr, FP8: tl.constexpr, COUNT: tl.constexpr):
    index = tl.arange(0, COUNT)
    decoded = dequantise(tl.load(bytes_ptr + index), out_ptr.dtype.element_ty, FP8)
    tl.store(out_ptr + index, decoded)


@triton.jit
def _round_kernel(weights_ptr, out_ptr, COUNT: tl.constexpr):
    index = tl.arange(0, COUNT)
    tl.store(out_ptr + index, round_weights(tl.load(weights_ptr + index), out_ptr.dtype.element_ty))


@pytest.mark.parametrize("target", TARGETS)
def test_every_byte_of_either_flavour_is_decoded_exactly(target: str) -> None:
    stored = torch.arange(256, dtype=torch.int32).to(torch.uint8)
    with mock_rocm(target, emulate=True):
        for flavour, code in FP8_BIAS.items():
            expected = stored.view(flavour).float()
            for dtype in (torch.bfloat16, torch.float16, torch.float32):
                out = torch.zeros(256, dtype=dtype, device="cuda")
                _decode_kernel[(1,)](stored.cuda(), out, code, 256, num_warps=1)
                torch.testing.assert_close(
                    out.cpu().float(), expected, rtol=0, atol=0, equal_nan=True
                )


@pytest.mark.parametrize("target", ["gfx942", "gfx950", "gfx1201"])
@pytest.mark.parametrize(("dtype", "unit"), [(torch.bfloat16, 2.0**-8), (torch.float16, 2.0**-11)])
def test_weights_are_rounded_to_the_nearest_number(
    target: str, dtype: torch.dtype, unit: float
) -> None:
    """The bound of backends/error_bounds.py: `unit` relative, for numbers that are not subnormal."""
    torch.manual_seed(0)
    weights = torch.rand(COUNT) * 2.0 ** torch.randint(-12, 1, (COUNT,))
    ties = 1 + unit * torch.arange(1, 16)  # half between two numbers, and numbers themselves
    weights[:18] = torch.cat([torch.tensor([0.0, 1.0, 2.0**-14]), ties / 2])
    with mock_rocm(target, emulate=True):
        out = torch.zeros(COUNT, dtype=dtype, device="cuda")
        _round_kernel[(1,)](weights.cuda(), out, COUNT, num_warps=1)
        rounded = out.cpu()
    error = (rounded.double() - weights.double()).abs()
    assert bool((error <= unit * weights.double() + 2.0**-25 * (dtype == torch.float16)).all())
    # Nearest, not merely close: no other number of the format is nearer.
    best = (weights.to(dtype).double() - weights.double()).abs()
    assert bool((error <= best).all())


@pytest.mark.parametrize("target", ["gfx942", "gfx1201"])
def test_an_infinite_weight_stays_infinite(target: str) -> None:
    weights = torch.full((64,), torch.inf)
    with mock_rocm(target, emulate=True):
        out = torch.zeros(64, dtype=torch.bfloat16, device="cuda")
        _round_kernel[(1,)](weights.cuda(), out, 64, num_warps=1)
        assert bool(out.cpu().isinf().all())
