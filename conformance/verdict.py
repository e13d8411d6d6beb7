"""Judging: what a row expects, against what the selector did."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from pytest_rocm_attn.conformance.contract import ExpectBackend, ExpectRefusal
from pytest_rocm_attn.conformance.mentions import missing
from pytest_rocm_attn.outcome import Crashed, Died, Rejected, Selected, TimedOut, Unrecognised

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_rocm_attn.conformance.contract import Level, Row
    from pytest_rocm_attn.conformance.deviations import Deviation
    from pytest_rocm_attn.outcome import Outcome


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
        letter: str,
        fails: bool,
        category: str,
        word: str,
        colour: str,
        meaning: str,
    ) -> Self:
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
