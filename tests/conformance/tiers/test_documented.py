"""What a row of the documented tier says besides its verdict."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from pytest_rocm_attn.conformance.isolation import Observation
from pytest_rocm_attn.conformance.promise.verdict import Judgement, Verdict
from pytest_rocm_attn.conformance.tiers.documented import CellItem
from pytest_rocm_attn.outcome import Selected


def details(*dropped: str) -> Any:
    item: Any = SimpleNamespace(
        observation=Observation(Selected("TRITON_ATTN"), dropped=dropped),
        judgement=Judgement(Verdict.PASS),
        known=lambda: {"details": {"note": "of the row"}},
        _compared_with_upstream=dict,
    )
    return CellItem.fields(item)["details"]


def test_a_row_says_what_the_selector_could_not_be_asked() -> None:
    assert details() == {"note": "of the row"}
    assert details("use_dcp", "use_rswa") == {
        "note": "of the row",
        "not asked": "use_dcp, use_rswa",
    }
