"""Judging: what a row expects, against what the selector did."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from pytest_rocm_attn.conformance.promise.contract import ExpectBackend, ExpectRefusal
from pytest_rocm_attn.conformance.promise.deviations import Claims
from pytest_rocm_attn.conformance.promise.got import CRASHES, Got, got_of
from pytest_rocm_attn.conformance.promise.mentions import missing
from pytest_rocm_attn.outcome import Crashed, Died, Rejected, Selected, TimedOut, Unrecognised

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_rocm_attn.conformance.promise.contract import Level, Row
    from pytest_rocm_attn.outcome import Outcome


NOTHING = Claims()


class Verdict(enum.StrEnum):
    """What became of an item that was not skipped. In order, the worst first.

    This is the one table of facts about verdicts; reports and pytest's summary are made from it.

    Attributes:
        letter: in pytest's progress line and in the matrix.
        fails: whether it turns the run red.
        category: under which pytest's own summary counts it.
        word: that ``pytest -v`` shows.
        colour: of word and letter in a terminal.
        meaning: in a few words, for a legend.
    """

    letter: str
    fails: bool
    category: str
    word: str
    colour: str
    meaning: str

    def __new__(
        cls,
        value: str,
        letter: str = "",
        fails: bool = False,
        category: str = "",
        word: str = "",
        colour: str = "",
        meaning: str = "",
    ) -> Self:
        # The defaults are for calls such as Verdict("pass"), which look a verdict up.
        self = str.__new__(cls, value)
        self._value_ = value
        self.letter, self.fails, self.category, self.word = letter, fails, category, word
        self.colour, self.meaning = colour, meaning
        return self

    # fmt: off
    ERROR = "error", "E", True, "error", "ERROR", "red", "could not be judged"
    CRASH = "crash", "C", True, "failed", "CRASH", "red", "the selector crashed, hung or died"
    FAIL = "fail", "F", True, "failed", "FAILED", "red", "a required promise is broken"
    STALE = "stale", "S", True, "failed", "STALE", "red", "declared as a deviation, but it holds"
    DEVIATION = "deviation", "d", False, "deviation", "DEVIATION", "yellow", "declared by the fork, and still so"
    ADVISORY = "advisory", "a", False, "advisory", "ADVISORY", "yellow", "beyond the contract, and not met"
    PASS = "pass", ".", False, "passed", "PASSED", "green", "as promised"
    # fmt: on

    @property
    def severity(self) -> int:
        """0 for the worst verdict, more for milder ones."""
        return list(Verdict).index(self)

    @classmethod
    def worst(cls, values: Iterable[str]) -> Verdict:
        """Return the worst of some verdicts, at least one, that a report gives by their values."""
        return min(map(cls, values), key=lambda verdict: verdict.severity)


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict, and why the row fell short.

    Attributes:
        verdict: the verdict.
        message: why it fell short, in words; "" when it did not.
        got: the results that fell short, as deviations pin them; of a failure, those not covered.
    """

    verdict: Verdict
    message: str = ""
    got: tuple[Got, ...] = ()


def judge(
    row: Row, outcome: Outcome, claims: Claims = NOTHING, *, strict: bool = False
) -> Judgement:
    """Judge one outcome.

    Args:
        row: what was promised.
        outcome: what the selector did.
        claims: what the fork declares about the row.
        strict: advisory rows fail as required ones do.
    """
    shortfall = shortfall_of(row.expect, outcome)
    return verdict_on(shortfall, row.level, [got_of(outcome)], claims, strict=strict)


def verdict_on(
    shortfall: str,
    level: Level,
    got: Sequence[Got] = (),
    claims: Claims = NOTHING,
    *,
    strict: bool = False,
) -> Judgement:
    """Judge a shortfall, or that there is none.

    Args:
        shortfall: in words, "" when what was promised holds.
        level: of the promise.
        got: the results that fell short; ignored if there is no shortfall.
        claims: what the fork declares about it: a declared result is a deviation, another one fails.
        strict: advisory promises fail as required ones do.
    """
    came = tuple(dict.fromkeys(got)) if shortfall else ()
    by = [claims.covering(each) for each in came]
    used = list(dict.fromkeys(entry for entry in by if entry is not None))
    idle = claims.idle(used)
    if shortfall and (not came or None in by):
        if level == "advisory" and not strict and not claims.entries:
            return Judgement(Verdict.ADVISORY, shortfall, came)
        if claims.entries and came:
            entry = idle or claims.entries[0]
            shortfall += (
                f"; the answer of a deviation changed: {entry.place} declares {entry.accepted}"
                f" ({entry.reason}), but the result is {came[by.index(None)]}; mend the selector, or"
                " declare the new answer"
            )
        unmet = tuple(each for each, entry in zip(came, by, strict=True) if entry is None)
        crashed = any(each.answer in CRASHES for each in unmet)
        return Judgement(Verdict.CRASH if crashed else Verdict.FAIL, shortfall, unmet)
    if idle is not None:
        holds = f"{shortfall}, and" if shortfall else "the row holds, but"
        return Judgement(
            Verdict.STALE,
            f"{holds} {idle.place} declares {idle.accepted} for it ({idle.reason});"
            " delete that entry or narrow its match",
            came,
        )
    if shortfall:
        reasons = "; ".join(dict.fromkeys(entry.reason for entry in used))
        return Judgement(Verdict.DEVIATION, f"{shortfall} (declared: {reasons})", came)
    return Judgement(Verdict.PASS)


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
