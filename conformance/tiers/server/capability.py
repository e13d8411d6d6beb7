"""The check of answers that depend on a compute capability, which is CUDA's number."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_rocm_attn.conformance.tiers.capabilities.check import Defect
from pytest_rocm_attn.conformance.tiers.server.answered import SWITCHED, answered, over_switched

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_rocm_attn.conformance.tiers.capabilities.answers import Answer
    from pytest_rocm_attn.conformance.tiers.capabilities.check import CheckItem


@answered(
    "no-answer-rests-on-a-capability-{flags}",
    "no backend is chosen, and no predicate answers, by a compute capability",
    "conformance/adapters/capability.py",
    "capability",
    over=over_switched,
    environ=lambda flags: SWITCHED[flags],
)
def rests_on_no_capability(item: CheckItem, answer: Answer, flags: str) -> Iterator[Defect]:
    for change in answer.data["changes"]:
        yield Defect(
            f"the answer is {change['is']}, and {change['becomes']} on a GPU of the impossible"
            f" capability {change['capability']}: a number of CUDA's decides",
            environ=SWITCHED[flags],
            value=change["asked"],
        )


CHECKS = (rests_on_no_capability,)
