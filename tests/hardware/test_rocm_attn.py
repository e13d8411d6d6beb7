"""ROCM_ATTN on the AMD GPU of this machine: as it chooses, by HIP alone, and by Triton alone."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_rocm_attn.backends.rocm_attn import MATRIX_TARGETS
from pytest_rocm_attn.conformance.tiers.numerics.case import Case, shipped
from pytest_rocm_attn.conformance.tiers.numerics.subjects import named
from pytest_rocm_attn.gpu import known_gpus

pytestmark = pytest.mark.rocm_attn_gpu

BACKEND, HIP = named("ROCM_ATTN"), named("ROCM_ATTN-hip")
PLAIN, TRITON = named("ROCM_ATTN-plain-hip"), named("ROCM_ATTN-triton")
# docs/reference/backends.md#rocm-attn: head sizes, and the gate of the HIP decode.
HEAD_SIZES = (32, 64, 80, 96, 128, 160, 192, 224, 256)
CASES = [case for case in shipped() if BACKEND.takes(case)]
# GPUs whose matrix instructions the HIP source has.
MATRIX = tuple(gfx for gfx in known_gpus() if gfx in MATRIX_TARGETS)


def refusal_of(case: Case) -> str:
    """Return words of the reason for which the backend declines a case."""
    size = case.request.head_size
    return "" if size in HEAD_SIZES else f"head size {size}"


def reaches_hip(case: Case) -> bool:
    """Whether the HIP kernel serves the decodes of a case, and it has some."""
    request = case.request
    return (
        request.dtype in ("float16", "bfloat16")
        and request.head_size in (64, 128)
        and request.block_size in (16, 32)
        and request.num_heads // request.num_kv_heads <= 16
        and request.sliding_window is None
        and request.logits_soft_cap is None
        and not request.has_sink
        and any(new == 1 for new, _ in case.lengths)
        and max(total for _, total in case.lengths) <= 131072
        and case.layout != "strided"  # its output's heads lie apart
    )


HIP_CASES = [case for case in CASES if reaches_hip(case)]
REPLAYED = [
    case
    for case in HIP_CASES
    if case.id.startswith(("decode-on-both", "mixed-batch", "fp8-cache", "block-size", "one-long"))
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_case_is_right(case: Case, on_gpu: Any) -> None:
    """Every element is within its error bound, nothing else is written."""
    on_gpu(BACKEND, case, refusal=refusal_of(case))


@pytest.mark.rocm_attn_gpu(*MATRIX)
@pytest.mark.parametrize("case", HIP_CASES, ids=lambda case: case.id)
def test_a_case_that_the_hip_kernel_serves_is_right_by_it(case: Case, on_gpu: Any) -> None:
    """The matrix kernel, built on the spot, is right; nothing falls back to Triton."""
    on_gpu(HIP, case)


@pytest.mark.parametrize("case", HIP_CASES, ids=lambda case: case.id)
def test_the_plain_hip_kernel_is_right(case: Case, on_gpu: Any) -> None:
    """The kernel without matrix instructions is right."""
    on_gpu(PLAIN, case)


@pytest.mark.parametrize("case", HIP_CASES, ids=lambda case: case.id)
def test_with_the_hip_kernel_switched_off_triton_is_right(case: Case, on_gpu: Any) -> None:
    """VLLM_ROCM_CUSTOM_PAGED_ATTN=0 gives the Triton decode, which is right."""
    on_gpu(TRITON, case)


@pytest.mark.rocm_attn_gpu(*MATRIX)
@pytest.mark.parametrize("case", REPLAYED, ids=lambda case: case.id)
def test_a_replayed_graph_of_the_hip_kernel_is_right(case: Case, on_gpu: Any) -> None:
    """A HIP graph of the HIP decode, replayed on other queries, lengths and blocks, is right."""
    on_gpu(HIP, case, check="replay")
