"""ROCM_AITER_FA on the AMD GPU of this machine, with AMD's aiter."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_rocm_attn.conformance.tiers.numerics.case import Case, shipped
from pytest_rocm_attn.conformance.tiers.numerics.subjects import named

pytestmark = [
    pytest.mark.rocm_attn_gpu,
    pytest.mark.rocm_attn_aiter,
    pytest.mark.rocm_attn_gpu("gfx90a", "gfx942", "gfx950"),
]

BACKEND = named("ROCM_AITER_FA")
CASES = [case for case in shipped() if BACKEND.takes(case)]


def refusal_of(case: Case) -> str:
    """Return words of the reason for which the backend declines a case.

    Source: docs/reference/backends.md#rocm-aiter-fa.
    """
    if case.request.dtype == "float32":
        return "float32"
    if case.request.head_size not in (64, 128, 256):
        return f"head size {case.request.head_size}"
    return "" if case.causal else "not causal"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_case_is_right(case: Case, on_gpu: Any) -> None:
    """Every element is within its error bound, nothing else is written."""
    on_gpu(BACKEND, case, refusal=refusal_of(case), own_fp8=True)
