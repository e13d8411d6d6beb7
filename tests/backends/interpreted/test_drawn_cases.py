"""Batches and features that nobody thought of, drawn by hypothesis, on the layers over a paged cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings

from pytest_rocm_attn.backends.under_test import TritonAttn, TritonAttnInvariant
from pytest_rocm_attn.conformance.tiers.numerics.judge import examine
from pytest_rocm_attn.conformance.tiers.strategies import attention_cases

if TYPE_CHECKING:
    from pytest_rocm_attn.conformance.tiers.numerics.case import Case

CPU = torch.device("cpu")
FEW = settings(
    max_examples=6,
    derandomize=True,
    database=None,
    deadline=None,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=[HealthCheck.too_slow],
)
MANY = settings(FEW, max_examples=150)


def check(case: Case) -> None:
    for backend in (TritonAttn(), TritonAttnInvariant()):
        finding = examine(backend, case, CPU)
        assert finding.kind == "right", finding.words


@FEW
@given(attention_cases())
def test_a_drawn_case_is_right(case: Case) -> None:
    check(case)


@pytest.mark.slow
@MANY
@given(attention_cases())
def test_many_drawn_cases_are_right(case: Case) -> None:
    check(case)
