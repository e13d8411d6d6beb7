"""Every kernel of the HIP source on the AMD GPU of this machine, by matrix instructions and plain."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from pytest_rocm_attn.backends.rocm_attn import MATRIX_TARGETS
from pytest_rocm_attn.conformance.tiers.numerics.case import Case
from pytest_rocm_attn.conformance.tiers.numerics.subjects import named
from pytest_rocm_attn.gpu import known_gpus
from pytest_rocm_attn.request import Request

pytestmark = pytest.mark.rocm_attn_gpu

HIP, PLAIN = named("ROCM_ATTN-hip"), named("ROCM_ATTN-plain-hip")
MATRIX = tuple(gfx for gfx in known_gpus() if gfx in MATRIX_TARGETS)
# Both sides of a page, of a partition (256 tokens) and of several.
LENGTHS = ((1, 1), (1, 15), (1, 16), (1, 17), (1, 255), (1, 256), (1, 257), (1, 1025))


def kernels() -> list[Case]:
    """Return a case for each kernel that is compiled, at several ratios of heads."""
    kinds = itertools.product(
        ("float16", "bfloat16"), ("auto", "e4m3fn", "e4m3fnuz"), (64, 128), (16, 32), (1, 3, 8, 16)
    )
    return [
        Case(
            id=f"{dtype}-{cache}-head-{head_size}-block-{block_size}-group-{group}",
            why="each compiled kernel, with heads that fill a matrix operand and that do not",
            kind="attention",
            request=Request(
                dtype=dtype,
                kv_cache_dtype="auto" if cache == "auto" else "fp8",
                head_size=head_size,
                block_size=block_size,
                num_heads=2 * group,
                num_kv_heads=2,
                alibi=number % 3 == 0,
            ),
            lengths=LENGTHS,
            fp8="e4m3fnuz" if cache == "e4m3fnuz" else "e4m3fn",
        )
        for number, (dtype, cache, head_size, block_size, group) in enumerate(kinds)
    ]


@pytest.mark.rocm_attn_gpu(*MATRIX)
@pytest.mark.parametrize("case", kernels(), ids=lambda case: case.id)
def test_a_matrix_kernel_is_right(case: Case, on_gpu: Any) -> None:
    """Decode by MFMA, or WMMA, is within its error bound."""
    on_gpu(HIP, case)


@pytest.mark.parametrize("case", kernels(), ids=lambda case: case.id)
def test_a_plain_kernel_is_right(case: Case, on_gpu: Any) -> None:
    """Decode without matrix instructions is within its error bound."""
    on_gpu(PLAIN, case)
