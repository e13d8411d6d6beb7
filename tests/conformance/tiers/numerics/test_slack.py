"""A backend that says that it reads unused slots: they hold numbers, which it must still not count."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from pytest_rocm_attn.conformance.tiers.numerics.build import build
from pytest_rocm_attn.conformance.tiers.numerics.case import shipped
from pytest_rocm_attn.conformance.tiers.numerics.judge import (
    SLACK,
    examine,
    reference_of,
    slack_for,
)
from pytest_rocm_attn.problem import PagedAttention

CPU = torch.device("cpu")
CASES = {case.id: case for case in shipped()}
PAGED = ["mixed-batch-float16", "fp8-cache-e4m3fnuz-float16", "cache-with-heads-before-slots-fp8"]


class Right:
    reads_unused_slots = True

    def attend(self, problem: Any) -> None:
        problem.out.copy_(reference_of(problem).out)

    mla_decode = attend


class MultipliesByZero(Right):
    """As a kernel that loads whole tiles and masks the weights: 0 times a number, or times NaN."""

    def attend(self, problem: Any) -> None:
        super().attend(problem)
        new, request = 0, 0
        size = problem.key_cache.shape[1]
        for request, length in enumerate(problem.query_lens):
            total = int(problem.seq_lens[request])
            if length and total % size:
                block = problem.block_table[request, total // size]
                unused = problem.value_cache[block, total % size :].float()
                problem.out[new : new + length] += 0 * unused.sum()
            new += length


class CountsOneMore(Right):
    """Takes the slot after the last token for a token."""

    def attend(self, problem: Any) -> None:
        size = problem.key_cache.shape[1]
        more = (problem.seq_lens % size != 0) & (problem.seq_lens > 0)
        longer = replace(problem, seq_lens=problem.seq_lens + more.to(torch.int32))
        problem.out.copy_(reference_of(longer).out)


@pytest.mark.parametrize("case", PAGED)
def test_what_is_read_and_not_counted_is_right_where_it_is_said(case: str) -> None:
    assert examine(MultipliesByZero(), CASES[case], CPU).kind == "right"
    silent = MultipliesByZero()
    silent.reads_unused_slots = False
    finding = examine(silent, CASES[case], CPU)
    assert (finding.kind, "nan" in finding.words) == ("wrong", True)


@pytest.mark.parametrize("case", PAGED)
def test_what_is_counted_is_found_all_the_same(case: str) -> None:
    finding = examine(CountsOneMore(), CASES[case], CPU)
    assert finding.kind == "wrong"
    assert finding.ratio > 1


@pytest.mark.parametrize("case", [*PAGED, "mla-decode-of-one-long-request"])
def test_only_slots_of_the_requests_own_blocks_hold_numbers(case: str) -> None:
    made = [
        build(CASES[case], CPU, slack=slack).problem for slack in (slack_for(Right()), torch.nan)
    ]
    caches = [p.kv_cache if isinstance(p, PagedAttention) else p.latent_cache for p in made]  # type: ignore[union-attr]  # no prefill here
    ours, strict = (cache.float() for cache in caches)
    held = ~strict.isnan()
    assert torch.equal(ours[held], strict[held])
    slack = ours[~held & ~ours.isnan()]
    assert len(slack) > 0
    assert ((slack - SLACK).abs() < SLACK / 10).all()
    assert ours[0].isnan().all()  # nobody's


def test_the_others_get_nan() -> None:
    assert torch.tensor(slack_for(object())).isnan()
