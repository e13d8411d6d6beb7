"""Drafts: few entries, and none that covers what did not fail so."""

from __future__ import annotations

import random
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_rocm_attn.conformance.promise import contract, deviations
from pytest_rocm_attn.conformance.promise.got import Got
from pytest_rocm_attn.conformance.report import draft, explained
from pytest_rocm_attn.conformance.report.schema import completed
from pytest_rocm_attn.request import Request

if TYPE_CHECKING:
    from pytest_rocm_attn.conformance.promise.deviations import Item

ROWS = contract.load("pr-26980").rows
EVERY: set[Item] = {
    (cell.row.id, cell.gpu.gfx, "documented") for row in ROWS for cell in row.cells()
}
V33 = "ValueError: TRITON_MLA is not valid for this configuration. Reason: ['block_size not supported']"


OUTCOMES: dict[str, Any] = {
    "": {"kind": "selected", "words": "TRITON_ATTN", "backend": "TRITON_ATTN"},
    "refusal": {"kind": "rejected", "words": "ValueError: no"},
    "crash": {"kind": "crashed", "words": "crash: KeyError", "error": "KeyError"},
    **{
        name: {"kind": "selected", "words": name, "backend": name}
        for name in ("ROCM_ATTN", "ROCM_AITER_MLA")
    },
}


def record(item: Item, *came: tuple[str, str], expected: str = "TRITON_ATTN", **more: Any) -> Any:
    row_id, gfx, tier = item
    verdict = "fail" if came else "pass"
    short = [{"answer": answer, "message": text} for answer, text in came]
    return {
        "id": row_id,
        "tier": tier,
        "gpu": {"gfx": gfx, "aiter": "present"} if gfx else None,
        "evidence": "mock",
        "level": "required",
        "env": {},
        "request": asdict(Request()),
        "verdict": verdict,
        "expect": {"words": expected, "backend": expected},
        "outcome": OUTCOMES.get(came[0][0] if came else "", {}),
        "details": {},
        "fell_short": short,
    } | more


def filled(text: str, folder: Path) -> deviations.Deviations:
    file = folder / "draft.toml"
    text = text.replace('reason = ""', 'reason = "r"').replace('link   = ""', 'link = "#1"')
    file.write_text(text)
    return deviations.load(file)


@pytest.mark.parametrize("seed", range(6))
def test_patterns_match_what_is_wanted_and_nothing_else(seed: int) -> None:
    chance = random.Random(seed)
    words = sorted({word for row_id, *_ in EVERY for word in row_id.split("-")})
    themes = chance.sample(words, 3)
    wanted = {item for item in EVERY if any(f"-{theme}-" in item[0] for theme in themes)}
    wanted -= set(chance.sample(sorted(wanted), len(wanted) // 8))
    wanted |= set(chance.sample(sorted(EVERY), 5))
    found = draft.patterns(wanted, EVERY)
    assert {item for item in EVERY if any(deviations.matches(p, item) for p in found)} == wanted
    assert len(found) < len(wanted)


def test_a_family_of_rows_is_one_pattern() -> None:
    rows = [f"named-{name}-wins-over-aiter" for name in ("a", "b", "c")]
    every = {(row, gfx, "documented") for row in (*rows, "other") for gfx in ("gfx942", "gfx90a")}
    family = {item for item in every if item[0] != "other"}
    assert draft.patterns(family, every) == ["named-*-wins-over-aiter"]
    on_one = {item for item in family if item[1] == "gfx90a"}
    assert draft.patterns(on_one, every) == ["named-*-wins-over-aiter[gfx90a]"]
    assert draft.patterns({("law", "", "invariants")}, {("law", "", "invariants")}) == ["law"]


def test_an_entry_is_drafted_for_each_cause_and_covers_its_items_alone(
    tmp_path: Path,
) -> None:
    answers = {"triton": "ROCM_ATTN", "unified": "refusal", "mla": "ROCM_AITER_MLA"}
    came: dict[Item, str] = {}
    for item in EVERY:
        named = [name for name in answers if f"-{name}-" in item[0]]
        if named and item[1] != "gfx1201":
            came[item] = answers[named[0]]
    asked: dict[str, Any] = {
        row.id: {"env": dict(row.env), "request": asdict(row.request)} for row in ROWS
    }
    records = [
        record(item, (came[item], V33 if came[item] == "refusal" else ""), **asked[item[0]])
        if item in came
        else record(item, **asked[item[0]])
        for item in EVERY
    ]
    loaded = filled(draft.render(records, EVERY), tmp_path)
    causes = explained.causes_of(completed(records, "rows"), ())
    assert len(set(came.values())) <= len(loaded.entries) <= len(causes) + 2 < 10
    today = date(2026, 11, 29)
    for row_id, gfx, tier in EVERY:
        claims = loaded.about([row_id], gfx, tier, today)
        answer = came.get((row_id, gfx, tier))
        assert len(claims.entries) == (answer is not None)
        if answer is not None:
            assert claims.covering(Got(answer, V33)) is claims.entries[0]
    assert loaded.unused(EVERY, today) == {}


def test_what_a_run_did_not_select_is_not_covered() -> None:
    one = ("aiter-gives-aiter-fa", "gfx942", "documented")
    assert one in EVERY
    text = draft.render([record(one, ("ROCM_ATTN", ""))], EVERY)
    assert 'match  = "documented::aiter-gives-aiter-fa[gfx942]"' in text


def test_a_refusal_is_drafted_with_what_it_is_about(tmp_path: Path) -> None:
    items = sorted(EVERY)[:2]
    sizes = ("ValueError: FLEX_ATTENTION: head size 512", "ValueError: FLEX_ATTENTION: head_size 8")
    records = [record(i, ("refusal", text)) for i, text in zip(items, sizes, strict=True)]
    (entry,) = filled(draft.render(records, EVERY), tmp_path).entries
    assert entry.mentions == ("FLEX_ATTENTION", "head size")


def test_two_reasons_are_two_entries_and_a_list_of_names_is_no_reason(tmp_path: Path) -> None:
    items = sorted(EVERY)[:2]
    listing = "KeyError: unknown. Valid: TRITON_ATTN, ROCM_ATTN, TRITON_MLA, ROCM_AITER_FA"
    records = [record(items[0], ("refusal", V33)), record(items[1], ("crash", listing))]
    first, second = sorted(
        filled(draft.render(records, EVERY), tmp_path).entries, key=lambda entry: entry.answer
    )
    assert (first.answer, first.mentions) == ("crash", ("KeyError", "unknown"))
    assert (second.answer, second.mentions) == ("refusal", ("TRITON_MLA", "block size"))


def test_an_item_with_several_answers_and_reasons_is_in_an_entry_for_each(tmp_path: Path) -> None:
    item = ("sinks-build", "gfx942", "capabilities")
    many = record(
        item,
        ("refusal", "ROCM_ATTN: ValueError: no sinks"),
        ("refusal", "ROCM_ATTN: ValueError: no head size 8"),
        ("crash", "TypeError: gone"),
    )
    loaded = filled(draft.render([many], [item]), tmp_path)
    assert sorted((entry.answer, entry.mentions) for entry in loaded.entries) == [
        ("crash", ("TypeError",)),
        ("refusal", ("ROCM_ATTN", "head size")),
        ("refusal", ("ROCM_ATTN", "sink")),
    ]
    claims = loaded.about([item[0]], item[1], item[2], date(2026, 11, 29))
    for answer, message in (("refusal", "ROCM_ATTN: no sinks"), ("crash", "TypeError: gone")):
        assert claims.covering(Got(answer, message)) is not None
    assert claims.covering(Got("refusal", "ROCM_ATTN: this dtype")) is None
    assert claims.idle(claims.entries) is None


def test_wrong_results_of_two_backends_are_two_causes(tmp_path: Path) -> None:
    records = [
        record(
            (f"{name}::case", "", "numerics"),
            ("wrong", "error 3"),
            details={"backend": {"name": name}},
        )
        for name in ("TRITON_ATTN", "MINE")
    ]
    loaded = filled(draft.render(records, []), tmp_path)
    assert [entry.match for entry in loaded.entries] == [
        ("numerics::MINE::case",),
        ("numerics::TRITON_ATTN::case",),
    ]


def test_without_a_failure_nothing_is_drafted() -> None:
    assert draft.render([record(min(EVERY))], EVERY) == ""
