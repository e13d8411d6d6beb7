"""The plan of a tier is the one list that names and items are made from."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from pytest_rocm_attn.conformance.run.settings import read
from pytest_rocm_attn.conformance.tiers import TIERS, tier_class
from pytest_rocm_attn.conformance.tiers.base import Planned, first_question
from pytest_rocm_attn.conformance.tiers.documented import CellItem
from pytest_rocm_attn.conformance.tiers.items import ConformanceItem
from pytest_rocm_attn.gpu import Aiter, Gpu

if TYPE_CHECKING:
    from pytest_rocm_attn.conformance.tiers.settings import Settings


@pytest.fixture
def settings(pytestconfig: pytest.Config) -> Settings:
    """Settings of a run of all tiers on a selector that is not a pure function."""
    found = read(pytestconfig)
    return dataclasses.replace(found, subject=dataclasses.replace(found.subject, pure=False))


# The plan of upstream needs a release with a recording: tests/conformance/tiers/grid/test_upstream.py.
@pytest.mark.parametrize("tier", [tier for tier in TIERS if tier != "upstream"])
def test_every_item_of_a_plan_has_a_name_of_its_own_and_a_class(
    settings: Settings, tier: str
) -> None:
    if tier == "invariants":
        pytest.importorskip("hypothesis")
    plan = list(tier_class(tier).plan(settings))
    names = [planned.name for planned in plan]
    assert names
    assert len(set(names)) == len(names)
    for planned in plan:
        assert issubclass(planned.item, ConformanceItem)
        row_id, bracket, gfx = planned.name.removesuffix("]").partition("[")
        assert (row_id, gfx) == (planned.row_id, planned.gfx)
        assert bool(bracket) is (planned.gpu is not None)


def test_the_first_question_is_about_the_first_gpu_that_a_plan_is_about() -> None:
    gpu = Gpu("gfx942", Aiter.ABSENT)
    plan = [Planned("no-gpu", CellItem), Planned("one", CellItem, gpu)]
    question = first_question([*plan, Planned("other", CellItem, Gpu("gfx90a"))])
    assert question is not None
    assert question.gpu == gpu
    assert first_question(plan[:1]) is None
