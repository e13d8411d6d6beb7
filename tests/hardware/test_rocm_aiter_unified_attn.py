"""ROCM_AITER_UNIFIED_ATTN on the AMD GPU of this machine, with AMD's aiter."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_rocm_attn.conformance.tiers.numerics.case import Case, shipped
from pytest_rocm_attn.conformance.tiers.numerics.subjects import named

pytestmark = [pytest.mark.rocm_attn_gpu, pytest.mark.rocm_attn_aiter]

BACKEND = named("ROCM_AITER_UNIFIED_ATTN")
CASES = [case for case in shipped() if BACKEND.takes(case)]
REPLAYED = [
    case
    for case in CASES
    if case.request.dtype != "float32"
    and case.id.startswith(("decode-on-both", "one-long-decode", "short-beside", "mixed-batch"))
]


def refusal_of(case: Case) -> str:
    """Return words of the reason for which the backend declines a case.

    Source: docs/reference/backends.md#rocm-aiter-unified-attn.
    """
    if case.request.dtype == "float32":
        return "float32"
    return "" if case.causal else "not causal"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_case_is_right(case: Case, on_gpu: Any) -> None:
    """Every element is within its error bound, nothing else is written."""
    on_gpu(BACKEND, case, refusal=refusal_of(case), own_fp8=True)


@pytest.mark.parametrize("case", REPLAYED, ids=lambda case: case.id)
def test_a_replayed_graph_is_right(case: Case, on_gpu: Any) -> None:
    """A HIP graph replayed on other queries, lengths and blocks is right."""
    on_gpu(BACKEND, case, check="replay")
