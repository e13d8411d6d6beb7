"""ROCM_AITER_MLA on the AMD GPU of this machine, with AMD's aiter: decode."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pytest_rocm_attn.conformance.tiers.numerics.case import Case, shipped
from pytest_rocm_attn.conformance.tiers.numerics.subjects import named

pytestmark = [pytest.mark.rocm_attn_aiter, pytest.mark.rocm_attn_gpu("gfx942", "gfx950")]

BACKEND = named("ROCM_AITER_MLA")
CASES = [case for case in shipped() if BACKEND.takes(case)]
# What no other backend does: pages of one token.
ONE_TOKEN_BLOCKS = [
    replace(case, id=f"{case.id}-in-blocks-of-1", request=replace(case.request, block_size=1))
    for case in CASES
    if case.request.dtype == "bfloat16" and case.request.num_heads in (16, 128)
]


def refusal_of(case: Case) -> str:
    """Return words of the reason for which the backend declines a case.

    Source: docs/reference/backends.md#rocm-aiter-mla.
    """
    if case.request.dtype != "bfloat16":
        return case.request.dtype
    heads = case.request.num_heads
    return "" if heads in (16, 128) else f"{heads} query heads"


@pytest.mark.parametrize("case", [*CASES, *ONE_TOKEN_BLOCKS], ids=lambda case: case.id)
def test_a_case_is_right(case: Case, on_gpu: Any) -> None:
    """Every element is within its error bound, nothing else is written."""
    on_gpu(BACKEND, case, refusal=refusal_of(case))
