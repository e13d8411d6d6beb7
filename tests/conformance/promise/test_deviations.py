"""Deviations: what covers what, what has run out, and that each mistake is one line that helps."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import pytest

from pytest_rocm_attn.conformance.promise import contract, deviations
from pytest_rocm_attn.conformance.promise.deviations import Claims, Deviation, Deviations, may_name
from pytest_rocm_attn.conformance.promise.got import CRASH, REFUSAL, Got
from pytest_rocm_attn.errors import DeviationsError

ENTRY = """
[[deviation]]
match  = "explicit-*"
answer = "refusal"
reason = "we have no such kernel"
link   = "ROCm/vllm#958"
until  = 2027-01-31
"""


TODAY = date(2026, 11, 29)


def deviation(
    *match: str, answer: str = "ROCM_ATTN", until: date | None = None, mentions: str = ""
) -> Deviation:
    words = (mentions,) if mentions else ()
    return Deviation(match, answer, "why", "#1", words, until, "mine.toml", 1)


def covers(entry: Deviation, row: str, gfx: str, tier: str = "documented") -> bool:
    return bool(Deviations((entry,)).about([row], gfx, tier, TODAY).entries)


def load_text(folder: Path, text: str) -> deviations.Deviations:
    file = folder / "mine.toml"
    file.write_text(text, encoding="utf-8")
    return deviations.load(file)


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(DeviationsError) as caught:
        load_text(folder, text)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- what covers what -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "row", "gfx", "covered"),
    [
        ("aiter-gives-aiter-fa", "aiter-gives-aiter-fa", "gfx942", True),
        ("aiter-gives-aiter-fa", "aiter-gives-aiter-fa", "gfx90a", True),
        ("aiter-gives-aiter-fa", "aiter-gives-aiter-fa-for-fp16", "gfx942", False),
        ("aiter-gives-*", "aiter-gives-aiter-fa", "gfx942", True),
        ("*-fa", "aiter-gives-aiter-fa", "gfx942", True),
        ("aiter-gives-aiter-f?", "aiter-gives-aiter-fa", "gfx942", True),
        ("aiter-gives-aiter-fa[gfx942]", "aiter-gives-aiter-fa", "gfx942", True),
        ("aiter-gives-aiter-fa[gfx942]", "aiter-gives-aiter-fa", "gfx90a", False),
        ("aiter-*[gfx9*]", "aiter-gives-aiter-fa", "gfx90a", True),
        ("aiter-*[gfx9*]", "aiter-gives-aiter-fa", "gfx1100", False),
        ("*[gfx1201]", "anything", "gfx1201", True),
    ],
)
def test_a_pattern_covers_rows_or_with_a_bracket_cells(
    pattern: str, row: str, gfx: str, covered: bool
) -> None:
    assert covers(deviation(pattern), row, gfx) is covered


def test_brackets_are_literal_and_no_character_class() -> None:
    assert not covers(deviation("row-[ab]"), "row-a", "gfx942")
    assert covers(deviation("row-a[gfx94?]"), "row-a", "gfx942")
    assert not covers(deviation("row-a[!x]"), "row-a", "y")


def test_upper_and_lower_case_differ() -> None:
    assert not covers(deviation("Row"), "row", "gfx942")


def test_any_pattern_of_a_list_is_enough() -> None:
    entry = deviation("one", "two[gfx942]")
    assert covers(entry, "one", "gfx90a")
    assert covers(entry, "two", "gfx942")
    assert not covers(entry, "two", "gfx90a")


FA, TRITON = Got("ROCM_AITER_FA"), Got("TRITON_ATTN")


def claims(*entries: Deviation, row: str = "row", gfx: str = "gfx942") -> Claims:
    return Deviations(entries).about([row], gfx, "documented", TODAY)


def test_an_entry_covers_the_answer_that_it_declares_and_no_other() -> None:
    declared = claims(deviation("row", answer="ROCM_AITER_FA"))
    assert declared.covering(FA) is declared.entries[0]
    for other in (TRITON, Got(REFUSAL, "ROCM_AITER_FA"), Got(CRASH, "ROCM_AITER_FA")):
        assert declared.covering(other) is None


def test_a_refusal_is_pinned_by_what_its_message_mentions() -> None:
    entry = deviation("row", answer=REFUSAL, mentions="block size")
    assert entry.accepts(Got(REFUSAL, "ValueError: block_size not supported"))
    assert not entry.accepts(Got(REFUSAL, "ValueError: head_size not supported"))
    assert not entry.accepts(Got(CRASH, "TypeError: block_size"))


def test_an_exception_may_stand_above_the_rule_and_not_below_it() -> None:
    rule = deviation("row*", answer="ROCM_AITER_FA")
    exception = deviation("row", answer="TRITON_ATTN")
    above, below = claims(exception, rule), claims(rule, exception)
    assert above.covering(TRITON) is exception
    assert above.idle([exception]) is None
    assert above.covering(FA) is rule
    assert above.idle([rule]) is exception  # what it says of the row is no longer so
    assert below.idle([exception]) is rule
    assert below.idle([rule]) is exception


def test_entries_for_several_answers_of_one_item_are_each_in_use_or_stale() -> None:
    first, second = deviation("row", answer=REFUSAL), deviation("row", answer=CRASH)
    both = claims(first, second)
    assert both.idle([first, second]) is None
    assert both.idle([first]) is second
    assert both.idle([second]) is first
    assert both.idle([]) is first


def test_an_item_may_be_named_by_one_of_several_names() -> None:
    entry = deviation("grid::a-rule")
    found = Deviations((entry,)).about(["mla", "a-rule"], "gfx942", "grid", TODAY)
    assert found.entries == (entry,)


def test_an_expired_entry_speaks_for_nothing_and_shadows_nothing() -> None:
    expired = deviation("one", until=date(2026, 1, 1))
    live = deviation("one")
    both = Deviations((expired, live))
    assert both.about(["one"], "gfx942", "documented", TODAY).entries == (live,)
    assert both.unused(CELLS, TODAY) == {}


@pytest.mark.parametrize(
    ("pattern", "tier", "ids", "possible"),
    [
        ("numerics::MINE::*", "numerics", "*::*", True),
        ("numerics::MINE::*", "numerics", "TRITON_ATTN::*", False),
        ("num*::?INE::a", "numerics", "MINE::*", True),
        ("MINE::*[gfx942]", "launch", "MINE::*", True),
        ("documented::row-*", "numerics", "*", False),
        ("row-*", "invariants", "*", True),
        ("row", "numerics", "*::*", False),
    ],
)
def test_what_a_pattern_may_name_is_known_without_the_items(
    pattern: str, tier: str, ids: str, possible: bool
) -> None:
    assert may_name(pattern, tier, ids) is possible


def test_an_entry_holds_through_its_last_day() -> None:
    entry = deviation("row", until=date(2027, 1, 31))
    assert not entry.expired(date(2027, 1, 31))
    assert entry.expired(date(2027, 2, 1))


def test_an_entry_without_a_last_day_never_expires() -> None:
    assert not deviation("row").expired(date.max)


@pytest.mark.parametrize(
    ("pattern", "tier", "covered"),
    [
        ("documented::row-*", "documented", True),
        ("documented::row-*", "numerics", False),
        ("numerics::row-a[gfx942]", "numerics", True),
        ("numerics::row-a[gfx90a]", "numerics", False),
        ("*::row-a", "numerics", True),
        ("row-a", "numerics", True),
        ("BACKEND::row-a", "numerics", False),
        ("num*::row-a", "documented", False),
        ("row-a[gfx942]", "documented", True),
        ("num*::*", "numerics", True),
    ],
)
def test_a_pattern_names_a_tier_or_speaks_for_all(pattern: str, tier: str, covered: bool) -> None:
    assert covers(deviation(pattern), "row-a", "gfx942", tier) is covered


def test_two_colons_after_anything_but_a_tier_belong_to_the_rows_id() -> None:
    assert covers(deviation("BACKEND::*"), "BACKEND::case", "", "numerics")
    assert covers(deviation("numerics::BACKEND::*"), "BACKEND::case", "", "numerics")
    assert not covers(deviation("documented::BACKEND::*"), "BACKEND::case", "", "numerics")


def test_a_pattern_for_one_tier_does_not_shadow_another_tiers(tmp_path: Path) -> None:
    entry = '[[deviation]]\nmatch = "{}"\nanswer = "crash"\nreason = "r"\nlink = "#1"\n'
    load_text(tmp_path, entry.format("numerics::row") + entry.format("documented::row"))
    with pytest.raises(DeviationsError, match="can never apply"):
        load_text(tmp_path, entry.format("row") + entry.format("documented::row[gfx942]"))


CELLS = [
    (name, gfx, "documented")
    for name, gfx in (("one", "gfx942"), ("one", "gfx90a"), ("two", "gfx942"))
]


def test_entries_that_speak_for_no_cell_are_unused() -> None:
    used, dead = deviation("one"), deviation("three")
    assert deviations.Deviations((used, dead)).unused(CELLS, TODAY) == {dead: dead.match}


def test_a_dead_pattern_does_not_hide_behind_a_live_one() -> None:
    entries = deviations.Deviations((deviation("one", "three", "four"),))
    assert list(entries.unused(CELLS, TODAY).values()) == [("three", "four")]


def test_an_entry_is_unused_where_earlier_ones_speak_for_all_its_cells() -> None:
    first = deviation("one[gfx942]", "one[gfx90a]")
    late = deviation("one")
    assert deviations.Deviations((first, late)).unused(CELLS, TODAY) == {late: late.match}
    other = deviation("one", answer="TRITON_ATTN")
    assert deviations.Deviations((first, other)).unused(CELLS, TODAY) == {}


def test_without_entries_nothing_is_found_and_nothing_is_unused() -> None:
    assert claims().covering(FA) is None
    assert claims().idle([]) is None
    assert deviations.Deviations().unused(CELLS, TODAY) == {}


# --- reading --------------------------------------------------------------------------------------


def test_an_entry_holds_what_the_file_says(tmp_path: Path) -> None:
    (entry,) = load_text(tmp_path, ENTRY).entries
    assert entry == Deviation(
        match=("explicit-*",),
        answer="refusal",
        reason="we have no such kernel",
        link="ROCm/vllm#958",
        until=date(2027, 1, 31),
        file=str(tmp_path / "mine.toml"),
        line=2,
    )


def test_a_list_of_patterns_is_one_entry_and_a_last_day_may_be_left_out(tmp_path: Path) -> None:
    text = ENTRY.replace('"explicit-*"', '["one", "two[gfx942]"]').replace(
        "until  = 2027-01-31\n", ""
    )
    (entry,) = load_text(tmp_path, text).entries
    assert entry.match == ("one", "two[gfx942]")
    assert entry.until is None


def test_an_empty_file_declares_nothing(tmp_path: Path) -> None:
    assert load_text(tmp_path, "# nothing yet\n").entries == ()


def test_the_line_is_that_of_the_header_and_not_of_text_that_looks_like_one(
    tmp_path: Path,
) -> None:
    text = '''# deviations
  [[ deviation ]]  # indented
match = "one"
answer = "crash"
reason = """
[[deviation]]
is how an entry begins
"""
link = "#1"

[["deviation"]]
match = "two"
answer = "crash"
reason = "quoted"
link = "#2"
'''
    assert [entry.line for entry in load_text(tmp_path, text).entries] == [2, 11]


@pytest.mark.parametrize(
    "link",
    [
        "https://github.com/ROCm/vllm/issues/958",
        "http://tracker/1",
        "ROCm/vllm#958",
        "#958",
        "SWDEV-1",
    ],
)
def test_a_link_is_a_url_or_names_an_issue(tmp_path: Path, link: str) -> None:
    assert load_text(tmp_path, ENTRY.replace("ROCm/vllm#958", link)).entries[0].link == link


# (what to replace in ENTRY, with what, the field, and words of what is wrong and of the remedy)
MISTAKES = {
    "an unknown key": ("until ", "untill ", "untill", "unknown key. Did you mean 'until'?"),
    "a missing pattern": ('match  = "explicit-*"\n', "", "match", "missing; add it: a pattern"),
    "a missing answer": (
        'answer = "refusal"\n',
        "",
        "answer",
        "missing; add it: the one answer that is accepted: a backend's name, or one of refusal,",
    ),
    "an unknown answer": ('"refusal"', '"refuse"', "answer", "unknown. Did you mean 'refusal'?"),
    "an unknown backend": ('"refusal"', '"ROCM_ATN"', "answer", "Did you mean 'ROCM_ATTN'"),
    "several answers": ('"refusal"', '["refusal"]', "answer", "it must be the one answer that"),
    "an empty mention": ("until ", 'mentions = [" "]\nuntil ', "mentions", "holds an empty word"),
    "a mention of no message": (
        '"refusal"',
        '"ROCM_ATTN"\nmentions = ["x"]',
        "mentions",
        "belongs to an answer with a message, and ROCM_ATTN has none; remove it",
    ),
    "a missing reason": ('reason = "we have no such kernel"\n', "", "reason", "missing; add it"),
    "a missing link": ('link   = "ROCm/vllm#958"\n', "", "link", "missing; add it: an http(s)"),
    "an empty pattern": ('"explicit-*"', '" "', "match", "is empty; give a pattern"),
    "an empty list of patterns": ('"explicit-*"', "[]", "match", "is empty; give a pattern"),
    "an empty pattern in a list": ('"explicit-*"', '["x", ""]', "match", "is empty; give a"),
    "a pattern that is a number": ('"explicit-*"', "3", "match", "it must be a pattern"),
    "an empty reason": ('"we have no such kernel"', '""', "reason", "is empty; say why"),
    "a text for a link": ('"ROCm/vllm#958"', '"ask Bob"', "link", "'ask Bob' is not a link; give"),
    "a link without a host": ('"ROCm/vllm#958"', '"https://"', "link", "is not a link; give"),
    "a date in quotes": ("2027-01-31", '"2027-01-31"', "until", "a date without quotes"),
    "a date with a time": ("2027-01-31", "2027-01-31T00:00:00", "until", "a date without quotes"),
}


@pytest.mark.parametrize(("old", "new", "field", "words"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_with_file_entry_field_and_remedy(
    tmp_path: Path, old: str, new: str, field: str, words: str
) -> None:
    assert ENTRY.count(old) == 1
    other = ENTRY.replace("explicit-*", "other")
    message = refusal(tmp_path, other + ENTRY.replace(old, new))
    assert message.startswith(f"{tmp_path / 'mine.toml'}: entry 2 (line 9): {field}: ")
    assert words in message


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ("explicit-*", "explicit-*"),
        ("explicit-*", "explicit-triton-*"),
        ("explicit-*", "explicit-triton-attn[gfx942]"),
        ("*[gfx9*]", "explicit-*[gfx942]"),
        ("*", "?*"),
        ("**", "*"),
        ("*?", "?*"),
        ("a*b*c", "a-b-*-c"),
        ("row", "row[*]"),
    ],
)
def test_a_pattern_that_an_earlier_one_covers_wholly_is_refused(
    tmp_path: Path, earlier: str, later: str
) -> None:
    text = ENTRY.replace("explicit-*", earlier) + ENTRY.replace("explicit-*", later)
    message = refusal(tmp_path, text)
    assert f"entry 2 (line 9): match: {later!r} can never apply: {earlier!r} (line 2)" in message
    assert "; remove it, or move it above" in message


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ("explicit-triton-*", "explicit-*"),
        ("explicit-*[gfx942]", "explicit-*"),
        ("explicit-?", "explicit-*"),
        ("explicit-*", "implicit-*"),
        ("a*b", "a*"),
        ("?*", "*"),
        ("*[gfx942]", "*[gfx94?]"),
    ],
)
def test_patterns_that_only_overlap_are_let_through(
    tmp_path: Path, earlier: str, later: str
) -> None:
    text = ENTRY.replace("explicit-*", earlier) + ENTRY.replace("explicit-*", later)
    assert len(load_text(tmp_path, text).entries) == 2


def test_a_pattern_may_stand_in_two_entries_for_two_answers(tmp_path: Path) -> None:
    text = ENTRY + ENTRY.replace('"refusal"', '"crash"')
    assert [entry.answer for entry in load_text(tmp_path, text).entries] == ["refusal", "crash"]


@pytest.mark.parametrize(
    ("earlier", "later", "applies"),
    [
        ("until = 2027-01-31\n", "", True),
        ("until = 2027-01-31\n", "until = 2027-02-01\n", True),
        ("until = 2027-01-31\n", "until = 2027-01-31\n", False),
        ("", "until = 2027-02-01\n", False),
    ],
)
def test_an_entry_may_take_over_when_an_earlier_one_expires(
    tmp_path: Path, earlier: str, later: str, applies: bool
) -> None:
    plain = ENTRY.replace("until  = 2027-01-31\n", "")
    text = plain + earlier + plain + later
    if applies:
        assert len(load_text(tmp_path, text).entries) == 2
    else:
        assert "can never apply" in refusal(tmp_path, text)


def test_a_pattern_listed_twice_in_one_entry_is_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path, ENTRY.replace('"explicit-*"', '["one", "one"]'))
    assert "entry 1 (line 2): match: 'one' can never apply" in message


def test_patterns_of_many_stars_are_compared_at_once(tmp_path: Path) -> None:
    """Without a memory this comparison takes exponential time."""
    text = ENTRY.replace("explicit-*", "*a" * 30 + "*b") + ENTRY.replace("explicit-*", "a" * 60)
    assert len(load_text(tmp_path, text).entries) == 2


def test_an_inline_list_is_refused_because_its_entries_have_no_line(tmp_path: Path) -> None:
    text = 'deviation = [{ match = "one", reason = "why", link = "#1" }]\n'
    assert "deviation: is an inline list; write [[deviation]] above" in refusal(tmp_path, text)


def documented(tmp_path: Path) -> Deviations:
    page = (Path(__file__).parents[3] / "docs" / "deviations.md").read_text("utf-8")
    (text,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    return load_text(tmp_path, text)


def test_the_example_of_the_documentation_speaks_for_rows_of_the_shipped_contract(
    tmp_path: Path,
) -> None:
    loaded = documented(tmp_path)
    assert [(entry.answer, entry.until) for entry in loaded.entries] == [
        ("refusal", None),
        ("TRITON_ATTN", date(2027, 3, 31)),
        ("TRITON_MLA", date(2027, 3, 31)),
    ]
    found = loaded.about(["aiter-gives-aiter-fa-for-fp16"], "gfx90a", "documented", TODAY)
    assert found.entries == (loaded.entries[1],)
    assert not loaded.about(["aiter-gives-aiter-fa"], "gfx942", "documented", TODAY).entries
    rows = contract.load("pr-26980").rows
    cells = [(cell.row.id, cell.gpu.gfx, "documented") for row in rows for cell in row.cells()]
    assert loaded.unused(cells, TODAY) == {}
