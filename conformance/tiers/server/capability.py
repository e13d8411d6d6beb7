"""The check of answers that depend on a compute capability, which is CUDA's number."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_rocm_attn.conformance.isolation import Question
from pytest_rocm_attn.conformance.tiers.capabilities.check import Defect, check
from pytest_rocm_attn.flags import USE_AITER
from pytest_rocm_attn.request import Request

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_rocm_attn.conformance.tiers.capabilities.check import CheckItem
    from pytest_rocm_attn.gpu import Gpu

_SWITCHED = {"by-default": {}, "with-aiter-on": {USE_AITER: "1"}}


def capability_question(gpu: Gpu, flags: str) -> Question:
    """Return the question which answers change with an impossible capability."""
    return Question.of(gpu, _SWITCHED[flags], Request(), "capability")


@check(
    "no-answer-rests-on-a-capability-{flags}",
    "no backend is chosen, and no predicate answers, by a compute capability",
    "conformance/adapters/capability.py",
    over=lambda _: [{"flags": flags} for flags in _SWITCHED],
    asks=lambda gpu, flags: [capability_question(gpu, flags)],
    level="advisory",
    environ=lambda flags: _SWITCHED[flags],
)
def rests_on_no_capability(item: CheckItem, flags: str) -> Iterator[Defect]:
    answer = item.ask(capability_question(item.gpu, flags))
    if answer.trouble:
        yield Defect(f"it cannot be asked: {answer.trouble}", deliberate=answer.deliberate)
        return
    for change in answer.data["changes"]:
        yield Defect(
            f"the answer is {change['is']}, and {change['becomes']} on a GPU of the impossible"
            f" capability {change['capability']}: a number of CUDA's decides",
            environ=_SWITCHED[flags],
            value=change["asked"],
        )


CHECKS = (rests_on_no_capability,)
