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
from pytest_rocm_attn.conformance.promise.deviations import Claims, Deviation, Deviations
from pytest_rocm_attn.conformance.promise.history import KnownDefect
from pytest_rocm_attn.conformance.promise.reasons import Reason
from pytest_rocm_attn.conformance.promise.rows import (
    Expect,
    ExpectBackend,
    ExpectNever,
    ExpectRefusal,
    ExpectServed,
    Level,
    Row,
)
from pytest_rocm_attn.conformance.promise.verdict import Verdict, judge
from pytest_rocm_attn.outcome import Outcome

BACKEND = ExpectBackend("TRITON_ATTN")
REFUSAL = ExpectRefusal(("TRITON_MLA", "block size"))
GOOD_REFUSAL = Rejected("ValueError", "triton_mla does not support Block Size 8")
OUTCOMES: dict[str, Outcome] = {
    "ROCM_ATTN": Selected("ROCM_ATTN"),
    "refusal": Rejected("ValueError", "no"),
    "no-backend": Unrecognised("None"),
    "crash": Crashed("ImportError", "ImportError: aiter"),
    "timeout": TimedOut(1.0),
    "died": Died(11),
}


# As vLLM 0.33.0 puts it: the reasons, after a request in which every attribute is named.
LISTED = (
    "No valid attention backend found for rocm with AttentionSelectorConfig(head_size=128,"
    " dtype=torch.float16, block_size=None, has_sink=False). Reasons: {ROCM_ATTN: [head_size not"
    " supported], TRITON_ATTN: [head_size not supported, DCP not supported]}."
)


def test_a_refusal_is_compared_by_reason_and_not_by_the_words_of_its_request() -> None:
    refused = Rejected("ValueError", LISTED)
    for reason in (Reason.HEAD_SIZE, Reason.DCP):
        assert judge(row(ExpectRefusal((), (reason,))), refused).verdict is Verdict.PASS
    for reason in (Reason.DTYPE, Reason.SINKS, Reason.BLOCK_SIZE):
        found = judge(row(ExpectRefusal((), (reason,))), refused)
        assert found.verdict is Verdict.FAIL
        assert found.message.startswith(f"refused for dcp and head-size, not for {reason}: ")
    bare = judge(row(ExpectRefusal((), (Reason.DCP,))), Rejected("ValueError", "no"))
    assert bare.message == "refused without a known reason, not for dcp: ValueError: no"


def declared(answer: str, mentions: str = "") -> Claims:
    words = (mentions,) if mentions else ()
    entry = Deviation(("a-row",), answer, "we like it", "#1", words, None, "dev.toml", 3)
    return Deviations((entry,)).about(["a-row"], "gfx942", "documented", datetime.date.min)


def row(expect: Expect, level: Level = "required") -> Row:
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
        *(
            pytest.param(expect, outcome, Verdict.CRASH, id=f"{outcome}, expected {expect}")
            for expect in (BACKEND, REFUSAL)
            for outcome in (
                TimedOut(1.0),
                Died(11),
                Crashed("ImportError", "ImportError: TRITON_MLA block size"),
            )
        ),
        pytest.param(REFUSAL, Unrecognised("TRITON_MLA block size"), Verdict.FAIL, id="no refusal"),
    ],
)
def test_an_outcome_is_judged_by_what_the_row_expects(
    expect: ExpectBackend | ExpectRefusal, outcome: Outcome, verdict: Verdict
) -> None:
    judgement = judge(row(expect), outcome)
    assert judgement.verdict is verdict
    assert bool(judgement.message) is (verdict is not Verdict.PASS)


@pytest.mark.parametrize("outcome", [TimedOut(1.0), Died(11), Crashed("KeyError", "KeyError: 1")])
def test_an_advisory_row_that_crashes_fails_only_when_strict(outcome: Outcome) -> None:
    advisory = row(BACKEND, "advisory")
    assert judge(advisory, outcome).verdict is Verdict.ADVISORY
    assert judge(advisory, outcome, strict=True).verdict is Verdict.CRASH


def test_an_advisory_row_that_falls_short_fails_only_when_strict() -> None:
    advisory = row(BACKEND, "advisory")
    assert judge(advisory, Selected("ROCM_ATTN")).verdict is Verdict.ADVISORY
    assert judge(advisory, Selected("ROCM_ATTN"), strict=True).verdict is Verdict.FAIL
    assert judge(advisory, Selected("TRITON_ATTN"), strict=True).verdict is Verdict.PASS


@pytest.mark.parametrize("level", ["required", "advisory"])
@pytest.mark.parametrize("came", OUTCOMES)
@pytest.mark.parametrize("answer", OUTCOMES)
def test_a_declared_answer_is_a_deviation_and_any_other_fails(
    answer: str, came: str, level: Level
) -> None:
    judgement = judge(row(BACKEND, level), OUTCOMES[came], declared(answer))
    if answer == came:
        assert judgement.verdict is Verdict.DEVIATION
        assert "we like it" in judgement.message
    else:
        crashed = came in ("crash", "timeout", "died")
        assert judgement.verdict is (Verdict.CRASH if crashed else Verdict.FAIL)
        assert "expected TRITON_ATTN" in judgement.message
        assert "dev.toml:3 declares " in judgement.message
        assert judgement.got[0].answer == came


def test_a_refusal_for_another_reason_than_the_declared_one_fails() -> None:
    claims = declared("refusal", "block size")
    right = Rejected("ValueError", "block_size not supported")
    assert judge(row(BACKEND), right, claims).verdict is Verdict.DEVIATION
    other = judge(row(BACKEND), Rejected("ValueError", "head_size not supported"), claims)
    assert other.verdict is Verdict.FAIL
    assert "a deliberate refusal that mentions 'block size'" in other.message


def test_a_wrong_refusal_may_be_declared_in_place_of_a_right_one() -> None:
    vague = Rejected("ValueError", "TRITON_MLA: no")
    assert judge(row(REFUSAL), vague, declared("refusal")).verdict is Verdict.DEVIATION
    assert judge(row(REFUSAL), GOOD_REFUSAL, declared("refusal")).verdict is Verdict.STALE


def test_a_declared_success_is_stale() -> None:
    stale = judge(row(BACKEND), Selected("TRITON_ATTN"), declared("ROCM_ATTN"))
    assert stale.verdict is Verdict.STALE
    assert "dev.toml:3 declares ROCM_ATTN" in stale.message
    assert stale.verdict.fails


# --- what a fork keeps, and what it inherits ------------------------------------------------------

DELTA = Deviation(
    ("a-row",), "FLEX_ATTENTION", "it is faster", "#1", (), None, "dev.toml", 3, must_hold=True
)
KEPT = Claims(((DELTA, ("a-row",)),))


@pytest.mark.parametrize(
    ("expect", "outcome", "verdict"),
    [
        pytest.param(BACKEND, Selected("FLEX_ATTENTION"), Verdict.DEVIATION, id="it holds"),
        pytest.param(BACKEND, Selected("TRITON_ATTN"), Verdict.LOST, id="upstream's answer"),
        pytest.param(BACKEND, Selected("ROCM_ATTN"), Verdict.LOST, id="a third answer"),
        pytest.param(BACKEND, OUTCOMES["crash"], Verdict.LOST, id="a crash"),
        pytest.param(
            ExpectBackend("FLEX_ATTENTION"),
            Selected("FLEX_ATTENTION"),
            Verdict.CAUGHT_UP,
            id="upstream has it now",
        ),
    ],
)
def test_a_change_that_must_hold_is_kept_lost_or_caught_up_with(
    expect: ExpectBackend, outcome: Outcome, verdict: Verdict
) -> None:
    judged = judge(row(expect), outcome, KEPT)
    assert judged.verdict is verdict
    assert verdict.fails is (verdict is Verdict.LOST)
    assert verdict is Verdict.DEVIATION or "dev.toml:3" in judged.message


DEFECT = KnownDefect(
    "the-switch-is-dead",
    "Nothing reads it",
    "#7",
    ("a-row[gfx942]",),
    ("ROCM_ATTN",),
    until=(1, 0, 0),
)


@pytest.mark.parametrize(
    ("outcome", "gfx", "verdict"),
    [
        (Selected("ROCM_ATTN"), "gfx942", Verdict.INHERITED),
        (Selected("ROCM_ATTN"), "gfx90a", Verdict.FAIL),
        (Selected("FLEX_ATTENTION"), "gfx942", Verdict.FAIL),
        (OUTCOMES["crash"], "gfx942", Verdict.CRASH),
        (Selected("TRITON_ATTN"), "gfx942", Verdict.PASS),
    ],
)
def test_a_known_defect_explains_its_own_answer_alone(
    outcome: Outcome, gfx: str, verdict: Verdict
) -> None:
    judged = judge(row(BACKEND), outcome, defects=[DEFECT], gfx=gfx)
    assert judged.verdict is verdict
    if verdict is Verdict.INHERITED:
        assert judged.defect == "Nothing reads it, #7, fixed in 1.0.0"


@pytest.mark.parametrize(
    ("level", "verdict"),
    [("observed", Verdict.DIFFERS), ("advice", Verdict.ADVICE)],
)
def test_what_is_observed_or_advised_never_fails(level: Level, verdict: Verdict) -> None:
    for strict in (False, True):
        judged = judge(row(BACKEND, level), Selected("ROCM_ATTN"), strict=strict)
        assert judged.verdict is verdict
        assert not judged.verdict.fails


@pytest.mark.parametrize(
    ("expect", "outcome", "holds"),
    [
        (ExpectNever(("ROCM_ATTN",)), Selected("TRITON_ATTN"), True),
        (ExpectNever(("ROCM_ATTN",)), GOOD_REFUSAL, True),
        (ExpectNever(("ROCM_ATTN",)), Selected("ROCM_ATTN"), False),
        (ExpectNever(("ROCM_ATTN",)), OUTCOMES["crash"], False),
        (ExpectServed(), Selected("ROCM_ATTN"), True),
        (ExpectServed(), GOOD_REFUSAL, False),
        (ExpectServed(), OUTCOMES["no-backend"], False),
    ],
)
def test_any_backend_but_some_and_any_at_all(
    expect: ExpectNever | ExpectServed, outcome: Outcome, holds: bool
) -> None:
    assert (judge(row(expect), outcome).verdict is Verdict.PASS) is holds
