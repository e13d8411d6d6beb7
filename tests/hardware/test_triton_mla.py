"""TRITON_MLA on the AMD GPU of this machine: the shipped cases, graphs, batch invariance."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_rocm_attn.conformance.tiers.numerics.case import Case, shipped
from pytest_rocm_attn.conformance.tiers.numerics.subjects import named

pytestmark = pytest.mark.rocm_attn_gpu

BACKEND, INVARIANT = named("TRITON_MLA"), named("TRITON_MLA-batch-invariant")
CASES = [case for case in shipped() if BACKEND.takes(case)]
ALONE = [case for case in shipped() if INVARIANT.takes(case)]
REPLAYED = [
    case
    for case in CASES
    if case.id.startswith(("mla-decode-on-both", "mla-decode-of-one-long", "large-mla-decode"))
]


def refusal_of(case: Case) -> str:
    """Return words of the reason for which the backend declines a case.

    Source: docs/reference/backends.md#triton-mla.
    """
    few = case.kind == "mla-decode" and case.request.num_heads < 16
    return "16 to 128" if few else ""


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_case_is_right(case: Case, on_gpu: Any) -> None:
    """Every element, and the log-sum-exp of prefill, is within its error bound."""
    on_gpu(BACKEND, case, refusal=refusal_of(case))


@pytest.mark.parametrize("case", REPLAYED, ids=lambda case: case.id)
def test_a_replayed_graph_is_right(case: Case, on_gpu: Any) -> None:
    """A HIP graph replayed on other queries, lengths and blocks is right."""
    on_gpu(BACKEND, case, check="replay")


@pytest.mark.parametrize("case", ALONE, ids=lambda case: case.id)
def test_each_request_is_computed_as_if_alone(case: Case, on_gpu: Any) -> None:
    """A request gives the same bits whatever else is in the batch."""
    on_gpu(INVARIANT, case)
