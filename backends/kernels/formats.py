"""Numbers as a cache stores them and as matrix units take them, converted by what each GPU has for it.

Every result is exact or rounded to nearest: backends/error_bounds.py counts on it. Each function is
tested on the emulated instructions of each GPU (tests/backends/kernels/test_formats.py).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.language.target_info import current_target

from pytest_rocm_attn.triton_interpreter import repair

repair()
NO_FP8, E4M3FN, E4M3FNUZ = 0, 7, 8  # how the cache is stored: the exponent bias names the flavour
FP8_BIAS = {torch.float8_e4m3fn: E4M3FN, torch.float8_e4m3fnuz: E4M3FNUZ}


@triton.constexpr_function
def compiled_for():
    """Return backend and architecture that a kernel is compiled for; nothing in the interpreter."""
    target = None if triton.knobs.runtime.interpret else current_target()
    return ("", "") if target is None else (target.backend, target.arch)


@triton.constexpr_function
def rounds_to_bfloat16():
    """Return whether the GPU rounds to bfloat16 by one instruction, or is not an AMD GPU."""
    backend, arch = compiled_for()
    return backend != "hip" or arch in ("gfx950", "gfx1250")


@triton.jit
def round_weights(p, DTYPE: tl.constexpr):
    """Round to nearest; p is 0 or more, or NaN.

    Without an instruction for it, the general conversion takes six for each number. Two are enough here:
    ties may go up, and what becomes of a NaN does not matter, as the sum of p is NaN as well.
    """
    if DTYPE == tl.bfloat16 and not rounds_to_bfloat16():
        bits = p.to(tl.uint32, bitcast=True) + 0x8000
        return (bits >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    return p.to(DTYPE)


@triton.jit
def convert_exactly(y, DTYPE: tl.constexpr):
    """Convert float32 that DTYPE holds exactly, or NaN."""
    if DTYPE == tl.bfloat16:
        return (y.to(tl.uint32, bitcast=True) >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    return y.to(DTYPE)


@triton.constexpr_function
def decodes_e4m3(flavour):
    """Return whether the GPU has an instruction that decodes this flavour of e4m3."""
    backend, arch = compiled_for()
    if backend == "cuda":
        return flavour == E4M3FN and arch >= 89
    return (
        arch
        in {E4M3FN: ("gfx950", "gfx1200", "gfx1201", "gfx1250"), E4M3FNUZ: ("gfx942",)}[flavour]
    )


@triton.constexpr_function
def needs_assembly_for_e4m3():
    """Return whether Triton (3.6.0) decodes e4m3 by hand there, although the GPU has an instruction."""
    return compiled_for()[1] in ("gfx1200", "gfx1201")


@triton.jit
def dequantise(x, DTYPE: tl.constexpr, FP8: tl.constexpr):
    """Decode e4m3 bytes, exactly: every value is a number of DTYPE as well.

    By the GPU's instruction if it has one for the flavour, else by placing the bits in a float16 and
    correcting the exponent.
    """
    if decodes_e4m3(FP8):
        if needs_assembly_for_e4m3():
            y = tl.inline_asm_elementwise(
                "v_cvt_f32_fp8 $0, $1", "=v,v", [x.to(tl.uint32)], tl.float32, is_pure=True, pack=1
            )
        elif FP8 == 7:
            y = x.to(tl.float8e4nv, bitcast=True).to(tl.float32)
        else:
            y = x.to(tl.float8e4b8, bitcast=True).to(tl.float32)
    else:
        # The bits in their places of a float32 are a number 2**-120 or 2**-119 as large, subnormal or not.
        # A code of NaN is found in the float32: the byte would be taken out of its word once more.
        bits = x.to(tl.int8, bitcast=True).to(tl.int32) << 20
        bits = bits.to(tl.uint32, bitcast=True) & 0x87F00000
        y = bits.to(tl.float32, bitcast=True)
        if FP8 == 7:  # e4m3fn: bias 7 against float32's 127; both all-ones codes are NaN
            y = y * (2.0**120)
            y = tl.where(tl.abs(y) > 448.0, float("nan"), y)
        else:  # e4m3fnuz: bias 8; the only NaN is negative zero's code
            y = tl.where(bits == 0x80000000, float("nan"), y * (2.0**119))
    return convert_exactly(y, DTYPE)
