"""Compiled divisions against IEEE 754: the source of instructions that only such a sequence uses."""

# Kernels are written in Triton's language, whose decorators and values have no types.
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, misc"

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from pytest_rocm_attn.emulator.triton_launch import Emulation
from pytest_rocm_attn.gpu import Gpu
from pytest_rocm_attn.mock.triton_driver import activate

COUNT = 4096


@triton.jit
def divide(x_ptr, y_ptr, out_ptr, BLOCK: tl.constexpr):
    offsets = tl.arange(0, BLOCK)
    x, y = tl.load(x_ptr + offsets), tl.load(y_ptr + offsets)
    tl.store(out_ptr + offsets, tl.div_rn(x, y) if x.dtype == tl.float32 else x / y)


def numbers(random: Any, kind: Any) -> Any:
    """Return random bits, edges among them, and numbers whose quotients are near the ends of the range."""
    info, size = np.finfo(kind), np.dtype(kind).itemsize
    bits = random.integers(0, 1 << 63, COUNT, dtype=np.uint64) * 2 + random.integers(
        0, 2, COUNT, dtype=np.uint64
    )
    found = bits.astype(f"u{size}").view(kind)
    edges = np.array([0, -0.0, 1, -1, np.inf, -np.inf, np.nan, info.tiny, info.smallest_subnormal,
                      info.max, info.eps, 3, 7.5, info.tiny * 1.5], kind)  # fmt: skip
    found[: COUNT // 4] = edges[random.integers(0, len(edges), COUNT // 4)]
    found[COUNT // 4 : COUNT // 2] = random.normal(size=COUNT // 4)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", [np.float32, np.float64], ids=["f32", "f64"])
@pytest.mark.parametrize("gfx", ["gfx942", "gfx1100", "gfx1201"])
def test_a_compiled_division_is_rounded_as_ieee_754_says(gfx: str, kind: Any) -> None:
    random = np.random.default_rng(1)
    x, y = numbers(random, kind), numbers(random, kind)
    out = torch.zeros(COUNT, dtype=torch.from_numpy(x).dtype)
    assemblies = []
    emulation = Emulation(limit=20_000)

    def launched(*launch: Any) -> None:
        assemblies.append(launch[1].asm["amdgcn"])
        emulation(*launch)

    undo = activate(Gpu(gfx), launched)
    try:
        divide[(1,)](torch.from_numpy(x), torch.from_numpy(y), out, BLOCK=COUNT)
    finally:
        undo()
    for name in ("v_div_scale_", "v_div_fmas_", "v_div_fixup_"):
        assert name + ("f64" if kind is np.float64 else "f32") in assemblies[0]
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(out.numpy(), x / y)
