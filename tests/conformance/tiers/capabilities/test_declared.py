"""What a class declares against what its implementation does, on answers as a process gives them."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_rocm_attn.conformance.tiers.capabilities import declared
from pytest_rocm_attn.conformance.tiers.capabilities.answers import Answer, Inapplicable
from pytest_rocm_attn.conformance.tiers.capabilities.declared import build_question, plain_layer
from pytest_rocm_attn.gpu import Gpu
from pytest_rocm_attn.outcome import Told
from pytest_rocm_attn.request import Request

GFX942 = Gpu("gfx942")
QUESTION = build_question(GFX942, "X", Request(), {})
LIMITS: dict[str, Any] = {
    "head_size": {"by": "own", "takes": [64, 128], "not": [72]},
    "use_mla": {"by": "own", "takes": [False], "not": [True]},
}
REFUSED = {"error": "ValueError", "message": "no\nreally", "deliberate": True, "traceback": ""}


def answer(data: dict[str, Any]) -> Answer:
    return Answer(QUESTION, Told(data), data)


class Item:
    """An item whose class declares LIMITS, and whose implementation is built with these results."""

    gpu = GFX942

    def __init__(self, *results: tuple[str, Any, Any]) -> None:
        self.counts: dict[str, int] = {}
        self._results = [*results]

    def declared(self, backend: str) -> Answer:
        return answer({"limits": LIMITS, "decides": True})

    def ask(self, question: Any) -> Answer:
        return answer({"results": self._results})


def found(check: Any, item: Any) -> list[tuple[str, str]]:
    return [(defect.value, defect.wrong) for defect in check.find(item, backend="X")]


BUILT, REFUSES = declared.CHECKS


def test_a_value_that_is_declared_and_cannot_be_built_is_a_finding() -> None:
    item = Item(("head_size", 64, REFUSED), ("head_size", 128, None), ("head_size", 72, REFUSED))
    ((value, wrong),) = found(BUILT, item)
    assert value == "head_size=64"
    assert wrong == "X declares that it takes it, and cannot be built: ValueError: no"
    assert item.counts == {"values": 3}


def test_a_value_that_is_declared_not_to_be_taken_and_is_built_is_a_finding() -> None:
    item = Item(("head_size", 72, None), ("head_size", 128, None))
    ((value, wrong),) = found(REFUSES, item)
    assert value == "head_size=72"
    assert "the selector alone keeps it away" in wrong
    assert found(BUILT, item) == []


def test_a_value_of_which_the_class_says_nothing_is_not_judged() -> None:
    item = Item(("has_sink", True, REFUSED), ("head_size", 128, None))
    assert found(BUILT, item) == [] == found(REFUSES, item)


def test_what_needs_a_device_is_not_judged() -> None:
    item = Item(("head_size", 64, {**REFUSED, "ours": True}), ("head_size", 128, None))
    assert found(BUILT, item) == []


def test_a_backend_that_cannot_be_built_at_all_is_another_checks_finding() -> None:
    with pytest.raises(Inapplicable, match="cannot be built for a plain layer: no"):
        found(BUILT, Item(("head_size", 64, REFUSED)))


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, Request(dtype="bfloat16", block_size=16)),
        (
            {
                "use_mla": {"by": "own", "takes": [True], "not": [False]},
                "use_sparse": {"by": "own", "takes": [False], "not": [True]},
                "block_size": {"by": "own", "takes": [1], "not": [16, 64]},
                "dtype": {"by": "own", "takes": ["float16"], "not": ["bfloat16"]},
            },
            Request(use_mla=True, head_size=576, dtype="float16", block_size=1),
        ),
    ],
)
def test_a_plain_layer_is_of_the_kind_that_the_class_declares(
    limits: dict[str, Any], expected: Request
) -> None:
    assert plain_layer(answer({"limits": limits, "decides": True})) == expected
