"""Drawn numerics cases: the same for one seed, bounded in number, shrunk by what is easy to follow."""

from __future__ import annotations

import pytest

from pytest_rocm_attn.conformance.effort import Effort
from pytest_rocm_attn.conformance.numerics.case import Case
from pytest_rocm_attn.conformance.numerics.drawn import SHARE, SHARE_ON_GPU, draw
from pytest_rocm_attn.conformance.numerics.finding import Finding
from pytest_rocm_attn.conformance.numerics.searches import SEARCHES


def seen_with(name: str, seed: int, examples: int = 400) -> list[Case]:
    seen: list[Case] = []

    def ask(case: Case) -> Finding:
        seen.append(case)
        return Finding("right", "")

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
        lambda _: Finding("right", ""),
        Effort(0, 400),
        "x",
        evidence="rocm",
    )
    assert search.examples == kinds["right"] == 400 // SHARE_ON_GPU


@pytest.mark.parametrize("name", SEARCHES)
def test_what_is_required_is_what_every_backend_promises(name: str) -> None:
    """By the levels of the named cases in conformance/numerics/cases."""
    cases = seen_with(name, 3, 2000)
    beyond = [
        case
        for case in cases
        if case.kind == "attention"
        and (
            not case.causal
            or (case.request.alibi and case.request.has_sink)
            or case.request.head_size not in (64, 128)
            or case.request.block_size not in (16, 32)
        )
    ]
    assert bool(beyond) == (SEARCHES[name].level == "advisory")


def test_the_smallest_case_that_goes_wrong_is_found() -> None:
    def ask(case: Case) -> Finding:
        wrong = case.request.sliding_window is not None and any(new > 3 for new, _ in case.lengths)
        return Finding("wrong", "off by one") if wrong else Finding("right", "")

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
