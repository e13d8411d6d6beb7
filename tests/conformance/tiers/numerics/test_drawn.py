"""Drawn numerics cases: the same for one seed, bounded in number, shrunk by what is easy to follow."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_rocm_attn.conformance.tiers.effort import Effort
from pytest_rocm_attn.conformance.tiers.numerics.case import Case, Result, shipped
from pytest_rocm_attn.conformance.tiers.numerics.drawn import SEARCHES, SHARE, SHARE_ON_GPU, draw


def seen_with(name: str, seed: int, examples: int = 400) -> list[Case]:
    seen: list[Case] = []

    def ask(case: Case) -> Result:
        seen.append(case)
        return Result("right", "")

    _, kinds = draw(SEARCHES[name], ask, Effort(seed, examples), name)
    assert kinds == {"right": len(seen)}
    return seen


@pytest.mark.parametrize("name", SEARCHES)
def test_a_seed_chooses_the_cases(name: str) -> None:
    first = seen_with(name, 1)
    assert first == seen_with(name, 1) != seen_with(name, 2)
    assert len(first) == 400 // SHARE["interpreter"]
    assert {case.kind for case in first} == {SEARCHES[name].kind}


def test_where_most_cases_compile_a_kernel_fewer_are_drawn() -> None:
    search, kinds = draw(
        SEARCHES["drawn-attention"],
        lambda _: Result("right", ""),
        Effort(0, 400),
        "x",
        evidence="rocm",
    )
    assert search.examples == kinds["right"] == 400 // SHARE_ON_GPU


def traits(case: Case) -> set[tuple[str, Any]]:
    """What a backend may support or not, of a case."""
    request = case.request
    plain = ("dtype", "head_size", "block_size", "kv_cache_dtype", "alibi", "has_sink")
    found = {(name, getattr(request, name)) for name in plain}
    if request.use_mla:  # the contract: block sizes of at least 16
        found -= {("block_size", request.block_size)}
        found |= {("block size of at least 16", (request.block_size or 16) >= 16)}
    found |= {("causal", case.causal), ("layout", case.layout)}
    found |= {("windowed", request.sliding_window is not None)}
    found |= {("capped", request.logits_soft_cap is not None)}
    return found | {("alibi with sinks", request.alibi and request.has_sink)}


@pytest.mark.parametrize("name", SEARCHES)
def test_what_is_required_is_what_every_backend_promises(name: str) -> None:
    """By the levels of the named cases in conformance/tiers/numerics/cases."""
    kind, level = SEARCHES[name].kind, SEARCHES[name].level
    named = [case for case in shipped() if (case.kind, case.level) == (kind, "required")]
    promised = set().union(*map(traits, named))
    beyond = set().union(*map(traits, seen_with(name, 3, 2000))) - promised
    assert bool(beyond) == (level == "advisory"), beyond


def test_the_smallest_case_that_goes_wrong_is_found() -> None:
    def ask(case: Case) -> Result:
        wrong = case.request.sliding_window is not None and any(new > 3 for new, _ in case.lengths)
        return Result("wrong", "off by one") if wrong else Result("right", "")

    search, _ = draw(SEARCHES["drawn-attention"], ask, Effort(0, 800), "x")
    assert search.found is not None
    drawn, finding = search.found
    assert finding.words == "off by one"
    assert len(drawn.case.lengths) == 1
    assert not drawn.case.request.has_sink
    assert drawn.case.request.kv_cache_dtype == "auto"
    assert drawn.case.layout == "dense"
    assert drawn.case.lengths == ((4, 4),)


def test_a_case_is_told_as_plain_data_and_back() -> None:
    for name in SEARCHES:
        for case in seen_with(name, 0, 160):
            assert Case.from_json(case.to_json()) == case
