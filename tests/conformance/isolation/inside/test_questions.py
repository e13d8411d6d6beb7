"""The process of the selector under test: what it reports of a question besides the answer."""

from __future__ import annotations

import pytest

from pytest_rocm_attn.conformance.isolation.inside import questions
from pytest_rocm_attn.conformance.isolation.question import Question
from pytest_rocm_attn.gpu import Gpu
from pytest_rocm_attn.outcome import Selected
from pytest_rocm_attn.request import Request


class WithoutAConfiguration:
    """An adapter to a fork whose configuration cannot be made, as where it finds no platform."""

    def select(self, request: Request, environ: object, gpu: object) -> Selected:
        return Selected("TRITON_ATTN")

    def refresh(self) -> bool:
        return True

    def prepare(self, gpu: object) -> None:
        pass

    def not_asked(self, request: Request) -> tuple[str, ...]:
        raise RuntimeError("Failed to infer device type")

    def unfilled(self) -> tuple[str, ...]:
        return ()

    def platform_found(self) -> dict[str, object]:
        return {"platform": "none", "is_rocm": False}


@pytest.mark.parametrize("kind", ["select", "platform"])
def test_what_cannot_be_asked_is_no_reason_to_lose_the_answer(kind: str) -> None:
    question = Question(Gpu("gfx942"), (), Request(), kind)
    adapter = WithoutAConfiguration()
    seen = questions._observe(adapter, question)
    assert seen.dropped == ()
    if kind == "select":
        assert seen.outcome == Selected("TRITON_ATTN")
