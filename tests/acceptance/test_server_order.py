"""A report of the tier server is the same whatever was asked before, in the same process or in others.

Slow; needs a release unpacked: see test_real_vllm.py.
"""

from __future__ import annotations

from typing import Any

import pytest

RELEASE, GPU = "0.33.0", "gfx942"
# Items whose questions look at what is imported, counted or remembered, and servers that import much.
ITEMS = (
    "llama-3-70b-with-an-eagle-drafter-steps-with-aiter-on",
    "deepseek-v3-2-steps-by-default",
    "a-device-is-the-same-for-platform-and-runtime-under-hip",
    "a-device-is-the-same-for-platform-and-runtime-under-rocr-and-hip",
    "questions-before-the-workers-leave-the-runtime-alone",
    "predicates-know-what-the-gpu-has-by-default",
    "no-answer-rests-on-a-capability-by-default",
    "no-answer-rests-on-a-capability-with-aiter-on",
    "llama-3-8b-batch-invariant-steps-with-aiter-on-and-a-shuffled-cache",
    "gemma-4-31b-steps-by-default",  # its configuration asks for FlashAttention 4
)


def said(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return what a report says of each item, without times."""
    return {name: (row["verdict"], row["outcome"], row["details"]) for name, row in rows.items()}


@pytest.mark.slow
def test_a_report_does_not_depend_on_what_was_asked_before(server_rows: Any) -> None:
    together = said(server_rows(RELEASE, GPU, *ITEMS))
    assert together.keys() == {*ITEMS}
    verdicts = {name: verdict for name, (verdict, *_) in together.items()}
    assert verdicts["no-answer-rests-on-a-capability-by-default"] == "advisory"
    assert (
        verdicts["a-device-is-the-same-for-platform-and-runtime-under-rocr-and-hip"] == "advisory"
    )
    assert said(server_rows(RELEASE, GPU, *reversed(ITEMS))) == together
    for name in ITEMS:
        assert said(server_rows(RELEASE, GPU, name)) == {name: together[name]}
