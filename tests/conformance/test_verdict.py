"""Judging: every kind of outcome against every kind of expectation."""

from __future__ import annotations

import datetime

import pytest

from pytest_rocm_attn import (
    Crashed,
    Died,
    Gpu,
    Rejected,
    Request,
    Selected,
    TimedOut,
    Unrecognised,
)
from pytest_rocm_attn.conformance.contract import ExpectBackend, ExpectRefusal, Level, Row
from pytest_rocm_attn.conformance.deviations import Deviation
from pytest_rocm_attn.conformance.verdict import Verdict, judge
from pytest_rocm_attn.outcome import Outcome

BACKEND = ExpectBackend("TRITON_ATTN")
REFUSAL = ExpectRefusal(("TRITON_MLA", "block size"))
GOOD_REFUSAL = Rejected("ValueError", "triton_mla does not support Block Size 8")
DEVIATION = Deviation(("a-row",), "we like it", "https://example.org/1", None, "dev.toml", 3)


def row(expect: ExpectBackend | ExpectRefusal, level: Level = "required") -> Row:
    return Row("a-row", "the text", level, {}, (Gpu("gfx942"),), Request(), expect, "rows.toml")


@pytest.mark.parametrize(
    ("expect", "outcome", "verdict"),
    [
        pytest.param(BACKEND, Selected("TRITON_ATTN"), Verdict.PASS, id="the backend"),
        pytest.param(BACKEND, Selected("ROCM_ATTN"), Verdict.FAIL, id="another backend"),
        pytest.param(BACKEND, Unrecognised("None"), Verdict.FAIL, id="no backend at all"),
        pytest.param(BACKEND, GOOD_REFUSAL, Verdict.FAIL, id="a refusal of what is promised"),
        pytest.param(REFUSAL, GOOD_REFUSAL, Verdict.PASS, id="a refusal, words in any case"),
        pytest.param(
            REFUSAL, Rejected("ValueError", "TRITON_MLA: no"), Verdict.FAIL, id="half the words"
        ),
        pytest.param(REFUSAL, Selected("TRITON_MLA"), Verdict.FAIL, id="an answer to a refusal"),
        pytest.param(REFUSAL, TimedOut(1.0), Verdict.CRASH, id="a hang is no refusal"),
        pytest.param(REFUSAL, Died(11), Verdict.CRASH, id="a death is no refusal"),
        pytest.param(
            REFUSAL,
            Crashed("ImportError", "ImportError: TRITON_MLA block size"),
            Verdict.CRASH,
            id="a crash is no refusal, whatever it says",
        ),
    ],
)
def test_an_outcome_is_judged_by_what_the_row_expects(
    expect: ExpectBackend | ExpectRefusal, outcome: Outcome, verdict: Verdict
) -> None:
    judgement = judge(row(expect), outcome)
    assert judgement.verdict is verdict
    assert bool(judgement.message) is (verdict is not Verdict.PASS)


def test_an_advisory_row_that_falls_short_fails_only_when_strict() -> None:
    advisory = row(BACKEND, "advisory")
    assert judge(advisory, Selected("ROCM_ATTN")).verdict is Verdict.ADVISORY
    assert judge(advisory, Selected("ROCM_ATTN"), strict=True).verdict is Verdict.FAIL
    assert judge(advisory, Selected("TRITON_ATTN"), strict=True).verdict is Verdict.PASS


def test_a_declared_shortfall_is_a_deviation_and_a_declared_success_is_stale() -> None:
    assert judge(row(BACKEND), Selected("ROCM_ATTN"), DEVIATION).verdict is Verdict.DEVIATION
    stale = judge(row(BACKEND), Selected("TRITON_ATTN"), DEVIATION)
    assert stale.verdict is Verdict.STALE
    assert "dev.toml:3" in stale.message
    assert stale.verdict.fails


def test_a_deviation_may_expire() -> None:
    entry = Deviation(("a",), "r", "l", datetime.date(2026, 1, 1), "f", 1)
    assert entry.expired(datetime.date(2026, 1, 2))
    assert not entry.expired(datetime.date(2026, 1, 1))
