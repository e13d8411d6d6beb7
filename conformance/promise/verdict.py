"""Judging: what a row expects, against what the selector did."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from pytest_rocm_attn.conformance.promise.deviations import Claims
from pytest_rocm_attn.conformance.promise.got import CRASHES, Got, got_of
from pytest_rocm_attn.conformance.promise.mentions import missing
from pytest_rocm_attn.conformance.promise.reasons import reasons_in
from pytest_rocm_attn.conformance.promise.rows import (
    ExpectBackend,
    ExpectNever,
    ExpectRefusal,
    ExpectServed,
)
from pytest_rocm_attn.outcome import Crashed, Died, Rejected, Selected, TimedOut, Unrecognised

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_rocm_attn.conformance.promise.history import KnownDefect
    from pytest_rocm_attn.conformance.promise.rows import Expect, Level, Row
    from pytest_rocm_attn.outcome import Outcome


NOTHING = Claims()


class Verdict(enum.StrEnum):
    """The result of an item that was not skipped. In order, the worst first.

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
    LOST = "lost-delta", "L", True, "failed", "LOST", "red", "an intended change of the fork is gone"
    DEVIATION = "deviation", "d", False, "deviation", "DEVIATION", "yellow", "declared by the fork, and still so"
    INHERITED = "inherited-defect", "i", False, "inherited", "INHERITED", "yellow", "a known defect of the release that it is judged by"
    ADVISORY = "advisory", "a", False, "advisory", "ADVISORY", "yellow", "beyond the contract, and not met"
    DIFFERS = "differs", "o", False, "differing", "DIFFERS", "yellow", "not as its upstream's code, which promises nothing here"
    ADVICE = "advice", "v", False, "advice", "ADVICE", "yellow", "valid, but upstream has something better"
    CAUGHT_UP = "caught-up", "u", False, "caught-up", "CAUGHT-UP", "green", "upstream has the fork's change now"
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


# The verdict of a shortfall that is not required.
_MILD: dict[Level, Verdict] = {
    "advisory": Verdict.ADVISORY,
    "observed": Verdict.DIFFERS,
    "advice": Verdict.ADVICE,
}


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict, and why the row fell short.

    Attributes:
        verdict: the verdict.
        message: why it fell short, in words; "" when it did not.
        got: the results that fell short, as deviations pin them; of a failure, those not covered.
        defect: the known defect that explains it, with its report and its repair; "" for none.
    """

    verdict: Verdict
    message: str = ""
    got: tuple[Got, ...] = ()
    defect: str = ""


def judge(
    row: Row,
    outcome: Outcome,
    claims: Claims = NOTHING,
    *,
    strict: bool = False,
    defects: Iterable[KnownDefect] = (),
    gfx: str = "",
) -> Judgement:
    """Judge one outcome.

    Args:
        row: what was promised.
        outcome: what the selector did.
        claims: what the fork declares about the row.
        strict: advisory rows fail as required ones do.
        defects: known defects of the release that the row is a promise of.
        gfx: the target.
    """
    shortfall, got = shortfall_of(row.expect, outcome), got_of(outcome)
    if (lost := _delta(row, got, claims, shortfall)) is not None:
        return lost
    if shortfall and not claims.entries:
        named = (row.named.backend if row.named else None) or ""
        for defect in defects:
            if defect.explains(row.id, gfx, got, named):
                words = f"{shortfall} ({defect.story})"
                return Judgement(Verdict.INHERITED, words, (got,), defect.story)
    return verdict_on(shortfall, row.level, [got], claims, strict=strict)


def _delta(row: Row, got: Got, claims: Claims, shortfall: str) -> Judgement | None:
    """Judge the first change that the fork says must hold; None if it declares none."""
    delta = next((entry for entry in claims.entries if entry.must_hold), None)
    if delta is None:
        return None
    if not delta.accepts(got):
        return Judgement(
            Verdict.LOST,
            f"{delta.place} says that {delta.accepted} must hold ({delta.reason}, {delta.link}), but"
            f" the result is {got}",
            (got,),
        )
    if not shortfall:
        return Judgement(
            Verdict.CAUGHT_UP,
            f"upstream promises {row.expect} too, which {delta.place} declares; delete that entry",
            (got,),
        )
    return Judgement(Verdict.DEVIATION, f"{shortfall} (declared: {delta.reason})", (got,))


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
        if level in _MILD and not (strict and level == "advisory") and not claims.entries:
            return Judgement(_MILD[level], shortfall, came)
        if claims.entries and came:
            entry = idle or claims.entries[0]
            shortfall += (
                f"; the answer of a deviation changed: {entry.place} declares {entry.accepted}"
                f" ({entry.reason}), but the result is {came[by.index(None)]}; change the selector, or"
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


def shortfall_of(expect: Expect, outcome: Outcome) -> str:
    """Return in words how an outcome falls short of what was expected, or "" when it does not.

    A crash, a hang or a death satisfies no expectation, a refusal least of all.
    """
    match expect, outcome:
        case _, Crashed() | TimedOut() | Died() | Unrecognised():
            return f"expected {expect}, got {outcome}"
        case ExpectServed(), Selected():
            return ""
        case ExpectNever(backends), Selected(selected):
            return f"expected {expect}, got {selected}" if selected in backends else ""
        case ExpectNever(), Rejected():
            return ""
        case ExpectServed(), Rejected():
            return f"expected {expect}, got a refusal: {outcome}"
        case ExpectBackend(backend), Selected(selected):
            return "" if selected == backend else f"expected {backend}, got {selected}"
        case ExpectBackend(backend), Rejected():
            return f"expected {backend}, got a refusal: {outcome}"
        case _, Selected(selected):
            return f"expected {expect}, got {selected}"
        case ExpectRefusal(mentions, reasons), Rejected(_, message):
            given = reasons_in(message)
            if other := [reason for reason in reasons if reason not in given]:
                for_ = f"for {' and '.join(sorted(given))}" if given else "without a known reason"
                return f"refused {for_}, not for {' and '.join(other)}: {outcome}"
            if unsaid := missing(mentions, message):
                words = ", ".join(map(repr, unsaid))
                return f"refused, but the message does not mention {words}: {outcome}"
            return ""
    raise AssertionError(f"unjudged outcome {outcome!r}")
