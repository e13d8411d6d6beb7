"""FLEX_ATTENTION on the AMD GPU of this machine, compiled by torch."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_rocm_attn.conformance.tiers.numerics.case import Case, shipped
from pytest_rocm_attn.conformance.tiers.numerics.subjects import named

pytestmark = pytest.mark.rocm_attn_gpu

BACKEND = named("FLEX_ATTENTION")
CASES = [case for case in shipped() if BACKEND.takes(case)]


def refusal_of(case: Case) -> str:
    """Return words of the reason for which the backend declines a case.

    Source: docs/reference/backends.md#flex-attention.
    """
    request = case.request
    refusals = (
        (request.kv_cache_dtype.startswith("fp8"), "kv_cache_dtype"),
        (request.alibi, "ALiBi"),
        (request.logits_soft_cap is not None, "soft cap"),
        (request.has_sink, "sinks"),
    )
    return next((words for refused, words in refusals if refused), "")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_case_is_right(case: Case, on_gpu: Any) -> None:
    """Every element is within its error bound, nothing else is written."""
    on_gpu(BACKEND, case, refusal=refusal_of(case))
