"""The upstream tier: what it says of cells that it did not reach."""

from __future__ import annotations

from pytest_rocm_attn.conformance.promise.verdict import Verdict
from pytest_rocm_attn.conformance.report.schema import Record, record
from pytest_rocm_attn.conformance.tiers.grid.upstream import UpstreamTier


def judged(**counts: int) -> Record:
    return record(
        *(None, Verdict.PASS),
        id="mla",
        tier="upstream",
        level="observed",
        source="vllm-0.12.0",
        again="",
        details={"counts": counts},
    )


def test_cells_that_there_was_no_time_for_are_counted() -> None:
    rows = [judged(cells=100, compared=60, advisory=2), judged(cells=50, compared=50, required=1)]
    (told,) = UpstreamTier.summary(rows)["told"]
    assert told.startswith("3 of 110 cells differ from their recording; 40 were not compared")


def test_a_run_that_reached_every_cell_has_nothing_to_add() -> None:
    assert UpstreamTier.summary([judged(cells=100, compared=100)])["told"] == []
