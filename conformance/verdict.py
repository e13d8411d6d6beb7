"""Judging: what a row expects, against what the selector did."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_rocm_attn.conformance.contract import ExpectBackend, ExpectRefusal
from pytest_rocm_attn.conformance.mentions import missing
from pytest_rocm_attn.outcome import Crashed, Died, Rejected, Selected, TimedOut, Unrecognised

if TYPE_CHECKING:
    from pytest_rocm_attn.conformance.contract import Level, Row
    from pytest_rocm_attn.conformance.deviations import Deviation
    from pytest_rocm_attn.outcome import Outcome


class Verdict(enum.StrEnum):
    """The six verdicts of design.md section 2."""

    PASS = "pass"
    FAIL = "fail"
    CRASH = "crash"
    DEVIATION = "deviation"  # declared by the fork, and still so
    STALE = "stale"  # declared by the fork, and no longer so
    ADVISORY = "advisory"  # a row beyond the contract fell short

    @property
    def fails(self) -> bool:
        """Whether it turns the run red."""
        return self in (Verdict.FAIL, Verdict.CRASH, Verdict.STALE)


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict, and in words why the row fell short; "" when it did not."""

    verdict: Verdict
    message: str = ""


def judge(
    row: Row, outcome: Outcome, deviation: Deviation | None = None, *, strict: bool = False
) -> Judgement:
    """Judge one outcome.

    Args:
        row: what was promised.
        outcome: what the selector did.
        deviation: the fork's declaration that covers the row, if there is one.
        strict: advisory rows fail as required ones do.
    """
    return verdict_on(
        shortfall_of(row.expect, outcome),
        row.level,
        crashed=isinstance(outcome, Crashed | TimedOut | Died),
        deviation=deviation,
        strict=strict,
    )


def verdict_on(
    shortfall: str,
    level: Level,
    *,
    crashed: bool = False,
    deviation: Deviation | None = None,
    strict: bool = False,
) -> Judgement:
    """Judge a shortfall, or that there is none.

    Args:
        shortfall: in words, "" when what was promised holds.
        level: of the promise.
        crashed: the shortfall is a crash, a hang or a death.
        deviation: the fork's declaration that covers it, if there is one.
        strict: advisory promises fail as required ones do.
    """
    if deviation is not None:
        if shortfall:
            return Judgement(Verdict.DEVIATION, f"{shortfall} (declared: {deviation.reason})")
        return Judgement(
            Verdict.STALE,
            f"the row holds, but {deviation.file}:{deviation.line} declares a deviation for it"
            f" ({deviation.reason}); delete that entry or narrow its match",
        )
    if not shortfall:
        return Judgement(Verdict.PASS)
    if level == "advisory" and not strict:
        return Judgement(Verdict.ADVISORY, shortfall)
    if crashed:
        return Judgement(Verdict.CRASH, shortfall)
    return Judgement(Verdict.FAIL, shortfall)


def shortfall_of(expect: ExpectBackend | ExpectRefusal, outcome: Outcome) -> str:
    """Return in words how an outcome falls short of what was expected, or "" when it does not.

    A crash, a hang or a death satisfies no expectation, a refusal least of all.
    """
    match expect, outcome:
        case _, Crashed() | TimedOut() | Died() | Unrecognised():
            return f"expected {expect}, got {outcome}"
        case ExpectBackend(backend), Selected(selected):
            return "" if selected == backend else f"expected {backend}, got {selected}"
        case ExpectBackend(backend), Rejected():
            return f"expected {backend}, got a refusal: {outcome}"
        case _, Selected(selected):
            return f"expected {expect}, got {selected}"
        case ExpectRefusal(mentions), Rejected(_, message):
            unsaid = missing(mentions, message)
            if not unsaid:
                return ""
            words = ", ".join(map(repr, unsaid))
            return f"refused, but the message does not mention {words}: {outcome}"
    raise AssertionError(f"unjudged outcome {outcome!r}")
