"""TRITON_ATTN on the AMD GPU of this machine: the shipped cases, graphs, batch invariance."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_rocm_attn.conformance.tiers.numerics.case import Case, shipped
from pytest_rocm_attn.conformance.tiers.numerics.subjects import named

pytestmark = pytest.mark.rocm_attn_gpu

BACKEND, INVARIANT = named("TRITON_ATTN"), named("TRITON_ATTN-batch-invariant")
CASES = [case for case in shipped() if BACKEND.takes(case)]
ALONE = [case for case in shipped() if INVARIANT.takes(case)]
DECODES = [case for case in CASES if case.id.startswith(("decode-on-both", "one-long-decode"))]
REPLAYED = DECODES + [
    case
    for case in CASES
    if case.id.startswith(("mixed-batch", "fp8-cache", "sinks", "short-beside", "large-mixed"))
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_case_is_right(case: Case, on_gpu: Any) -> None:
    """Every element is within its error bound, nothing else is written."""
    on_gpu(BACKEND, case)


@pytest.mark.parametrize("case", REPLAYED, ids=lambda case: case.id)
def test_a_replayed_graph_is_right(case: Case, on_gpu: Any) -> None:
    """A HIP graph replayed on other queries, lengths and blocks is right."""
    on_gpu(BACKEND, case, check="replay")


@pytest.mark.parametrize("case", ALONE, ids=lambda case: case.id)
def test_each_request_is_computed_as_if_alone(case: Case, on_gpu: Any) -> None:
    """A request gives the same bits whatever else is in the batch."""
    on_gpu(INVARIANT, case)
