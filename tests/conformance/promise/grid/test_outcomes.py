"""Outcomes as codes: what two runs of one selector share, and when two outcomes are alike."""

from __future__ import annotations

import pytest

from pytest_rocm_attn import Crashed, Died, Rejected, Selected, TimedOut, Unrecognised
from pytest_rocm_attn.conformance.promise.grid.outcomes import (
    TEXT_LIMIT,
    Behaviour,
    OutcomeCodes,
    behaviour,
    in_order,
    normalised,
    normalised_text,
)
from pytest_rocm_attn.outcome import Outcome


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        pytest.param("no <Backend object at 0x7f3a2b10>", "no <Backend object at 0x...>", id="id"),
        pytest.param("at 0x1f here", "at 0x... here", id="a short address"),
        pytest.param("block size 0x10", "block size 0x10", id="a number in hexadecimal stays"),
        pytest.param("cannot open /usr/lib/x/libaiter.so: no", "cannot open .../libaiter.so: no"),
        pytest.param(r"cannot open C:\a\b\libaiter.dll", "cannot open .../libaiter.dll"),
        pytest.param("fp8 and/or bf16, n/a", "fp8 and/or bf16, n/a", id="slashes in prose stay"),
        pytest.param("see https://example.org/a/b", "see https://example.org/a/b", id="URL stays"),
        pytest.param('File "x.py", line 31', 'File "x.py", line N', id="line number"),
        pytest.param("one of {'b', 'a', 'c'}", "one of {'a', 'b', 'c'}", id="a set is sorted"),
        pytest.param("{'b': 'a', 'c': 1}", "{'b': 'a', 'c': 1}", id="a dict keeps its order"),
        pytest.param(
            "none for Config(head_size=128, dtype=(1, 2)) on rocm",
            "none for Config(...) on rocm",
            id="repr",
        ),
        pytest.param("Attention(MLA) is off", "Attention(MLA) is off", id="prose in parentheses"),
        pytest.param("A(x=1) and B(y=C(z=2))", "A(...) and B(...)", id="two reprs, one nested"),
        pytest.param("cut in Config(head_size=1", "cut in Config(...)", id="a repr that was cut"),
        pytest.param("two\n  lines\t\x1b[31m", "two lines [31m", id="one line, printable"),
        pytest.param("", "", id="nothing"),
    ],
)
def test_a_text_loses_what_differs_between_runs(text: str, kept: str) -> None:
    assert normalised_text(text) == kept


def test_a_text_of_any_length_is_cut() -> None:
    assert len(normalised_text("word " * 100_000)) == TEXT_LIMIT
    assert len(normalised_text("(" * 100_000)) == TEXT_LIMIT


def test_normalising_twice_changes_nothing_more() -> None:
    once = normalised_text("x /a/b/c Config(a=1) {'b', 'a'} at 0x12 " * 20)
    assert normalised_text(once) == once


def test_a_crash_keeps_the_last_line_of_its_traceback() -> None:
    crash = Crashed("KeyError", 'Traceback:\n  File "/a/b/c.py", line 3\nKeyError: /a/b/x\n')
    assert normalised(crash) == Crashed("KeyError", "KeyError: .../x")


def test_a_crash_without_traceback_keeps_its_error() -> None:
    assert normalised(Crashed("KeyError", "")) == Crashed("KeyError", "KeyError")


def test_codes_are_equal_exactly_where_normalised_outcomes_are() -> None:
    codes = OutcomeCodes()
    first = codes.code(Rejected("ValueError", "no <X object at 0x7f3a2b10>"))
    second = codes.code(Rejected("ValueError", "no <X object at 0x7f3a2b99>"))
    third = codes.code(Rejected("RuntimeError", "no <X object at 0x7f3a2b10>"))
    assert (first, second, third) == (0, 0, 1)
    assert codes.outcomes[0] == Rejected("ValueError", "no <X object at 0x...>")


def test_codes_go_on_from_given_outcomes() -> None:
    codes = OutcomeCodes([Selected("A"), Selected("B")])
    assert codes.code(Selected("B")) == 1
    assert codes.code(Selected("C")) == 2


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(Selected("A"), Selected("B"), id="two backends"),
        pytest.param(Selected("A"), Rejected("ValueError", "A"), id="a refusal"),
        pytest.param(Crashed("KeyError", ""), Crashed("TypeError", ""), id="two crashes"),
        pytest.param(Rejected("ValueError", ""), Crashed("ValueError", ""), id="refusal and crash"),
        pytest.param(TimedOut(1.0), Died(9), id="a hang and a death"),
        pytest.param(Unrecognised("A"), Selected("A"), id="no backend"),
    ],
)
def test_behaviour_tells_apart(one: Outcome, other: Outcome) -> None:
    assert behaviour(one) != behaviour(other)
    assert str(behaviour(one)) != str(behaviour(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(Rejected("ValueError", "a"), Rejected("RuntimeError", "b"), id="refusals"),
        pytest.param(Crashed("KeyError", "a"), Crashed("KeyError", "b"), id="crashes of one kind"),
        pytest.param(Died(9), Died(None, 3), id="deaths"),
        pytest.param(Unrecognised("a"), Unrecognised("b"), id="no backend"),
    ],
)
def test_behaviour_ignores_words(one: Outcome, other: Outcome) -> None:
    assert behaviour(one) == behaviour(other)


def test_behaviour_reads_as_words() -> None:
    assert str(behaviour(Selected("TRITON_ATTN"))) == "TRITON_ATTN"
    assert str(behaviour(Rejected("ValueError", "no"))) == "a refusal"
    assert behaviour(Crashed("KeyError", "x")) == Behaviour("Crashed", "KeyError")


def test_the_order_of_outcomes_does_not_depend_on_their_arrival() -> None:
    outcomes: list[Outcome] = [Selected("B"), Rejected("ValueError", "x"), Selected("A"), Died(9)]
    assert in_order(outcomes) == in_order(reversed(outcomes))
