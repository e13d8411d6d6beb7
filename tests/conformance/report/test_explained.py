"""Causes: each item that does not pass is in exactly one, and what is one change is one cause."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import asdict
from typing import Any

import pytest

from pytest_rocm_attn.conformance.promise import contract
from pytest_rocm_attn.conformance.promise.naming import Named
from pytest_rocm_attn.conformance.promise.rows import ExpectBackend
from pytest_rocm_attn.conformance.promise.verdict import Verdict
from pytest_rocm_attn.conformance.report import explained
from pytest_rocm_attn.conformance.report.schema import name_of
from pytest_rocm_attn.request import Request

CELLS = [cell for row in contract.load("pr-26980").rows for cell in row.cells()]


def selected(backend: str) -> dict[str, Any]:
    return {"kind": "selected", "words": backend, "backend": backend}


OTHERS: tuple[dict[str, Any], ...] = (
    selected("FLEX_ATTENTION"),
    selected("ROCM_ATTN"),
    {"kind": "rejected", "words": "ValueError: no", "error": "ValueError", "message": "no"},
    {"kind": "crashed", "words": "crash: KeyError: 1", "error": "KeyError"},
    {"kind": "timedout", "words": "no answer within 5 s"},
)


def rows_of(record: Any, seed: int) -> list[Any]:
    """Return the contract's rows, of which some fall short at random and some by a rule."""
    chance = random.Random(seed)
    rows = []
    for cell in CELLS:
        expect = cell.row.expect
        typed = {"backend": expect.backend} if isinstance(expect, ExpectBackend) else {"rejects": 1}
        by_rule = cell.row.request.dtype == "float16" or "VLLM_ROCM_USE_AITER" in cell.row.env
        verdict = "pass"
        if by_rule or chance.random() < 0.1:
            kinds = ("fail", "crash") if cell.row.level == "required" else ("advisory",)
            verdict = chance.choice((*kinds, "deviation", "stale"))
        outcome = chance.choice(OTHERS) if verdict != "pass" else {"kind": "selected"}
        rows.append(
            record(
                id=cell.row.id,
                gpu={"gfx": cell.gpu.gfx, "aiter": cell.gpu.aiter.value},
                env=dict(cell.row.env),
                request=asdict(cell.row.request),
                level=cell.row.level,
                expect={"words": str(expect), **typed},
                verdict=verdict,
                outcome=outcome,
                message="" if verdict == "pass" else "it differs",
            )
        )
    return rows


@pytest.mark.parametrize("seed", range(2))
def test_each_item_that_does_not_pass_is_in_exactly_one_cause(record: Any, seed: int) -> None:
    rows = rows_of(record, seed)
    causes = explained.causes_of(rows, ())
    told = Counter(name for cause in causes for name in cause["items"])
    assert told == Counter(name_of(row) for row in rows if row["verdict"] != "pass")
    by_name = {name_of(row): row for row in rows}
    for cause in causes:
        verdicts = Counter(by_name[name]["verdict"] for name in cause["items"])
        assert cause["count"] == len(cause["items"])
        assert cause["totals"] == dict(verdicts)
        assert cause["verdict"] == Verdict.worst(verdicts)
    fails = [Verdict(cause["verdict"]).fails for cause in causes]
    assert fails == sorted(fails, reverse=True)


def test_one_change_is_one_cause_whatever_it_means_for_the_run(record: Any) -> None:
    aiter = {"VLLM_ROCM_USE_AITER": "1"}
    flex = selected("FLEX_ATTENTION")
    rows = [
        record(id="default", verdict="fail", outcome=flex),
        record(id="sinks", verdict="fail", outcome=flex, request=asdict(Request(has_sink=True))),
        record(id="aiter", env=aiter, level="advisory", verdict="advisory", outcome=flex),
        record(id="mla", request=asdict(Request(use_mla=True))),
    ]
    (cause,) = explained.causes_of(rows, ())
    assert (cause["verdict"], cause["totals"]) == ("fail", {"fail": 2, "advisory": 1})
    assert cause["what"] == "Default for ordinary layers: TRITON_ATTN -> FLEX_ATTENTION, on gfx942."
    assert cause["smallest"] == "no variables; gfx942, aiter present; a plain layer"


def test_an_example_says_what_is_named(record: Any) -> None:
    named = asdict(Named("rocm_attn", (("sliding_window", "TRITON_ATTN"),)))
    rows = [record(id="named", verdict="fail", named=named, outcome=selected("FLEX_ATTENTION"))]
    (cause,) = explained.causes_of(rows, ())
    assert cause["smallest"] == (
        "no variables; 'rocm_attn' named, 'TRITON_ATTN' named for sliding_window;"
        " gfx942, aiter present; a plain layer"
    )


def test_an_item_that_passes_is_in_no_cause_though_another_asks_the_same(record: Any) -> None:
    rows = [
        record(id="promised"),
        record(id="advised", level="advice", verdict="advice", outcome=selected("ROCM_ATTN")),
        record(id="also", verdict="fail", outcome=selected("FLEX_ATTENTION")),
    ]
    causes = explained.causes_of(rows, ())
    assert [cause["items"] for cause in causes] == [
        ["documented::also[gfx942]"],
        ["documented::advised[gfx942]"],
    ]


def test_items_of_other_tiers_share_a_cause_if_the_same_thing_is_wrong(record: Any) -> None:
    def build(name: str, gfx: str, wrong: str) -> Any:
        return record(
            id=name,
            tier="capabilities",
            verdict="fail",
            gpu={"gfx": gfx, "aiter": "present"},
            expect={"words": "it can be built"},
            fell_short=[{"answer": "crash", "message": wrong}],
        )

    causes = explained.causes_of(
        [
            build(
                "sinks-build", "gfx942", "X cannot be built: TypeError: object at 0x7f00aa11bb22"
            ),
            build(
                "sizes-build", "gfx950", "X cannot be built: TypeError: object at 0x7f99cc33dd44"
            ),
            build("sizes-build", "gfx90a", "Y cannot be built: KeyError"),
        ],
        (),
    )
    assert [(cause["count"], cause["gpus"]) for cause in causes] == [
        (2, ["gfx942", "gfx950"]),
        (1, ["gfx90a"]),
    ]
    assert causes[0]["what"].startswith(
        "2 items, such as sinks-build: X cannot be built: TypeError"
    )


def test_cases_of_one_backend_share_a_cause_if_they_end_alike(record: Any) -> None:
    ends = {
        "a": ("crash", "RuntimeError", "raised RuntimeError: 1"),
        "b": ("crash", "RuntimeError", "raised RuntimeError: 2"),
        "c": ("crash", "TypeError", "raised TypeError: 1"),
        "d": ("died", "SIGSEGV", "the process was killed by SIGSEGV (11)"),
        "e": ("timeout", "", "no answer within 5 s"),
        "f": ("died", "SIGSEGV", "the process was killed by SIGSEGV (11)"),
    }
    rows = [
        record(
            id=f"Ours::{case}",
            tier="numerics",
            verdict="crash",
            env=None,
            outcome={"kind": "crashed", "words": words, "error": error},
            details={"backend": {"name": "Ours"}},
            fell_short=[{"answer": answer, "message": words}],
        )
        for case, (answer, error, words) in ends.items()
    ]
    causes = explained.causes_of(rows, ())
    told = sorted("".join(name.split("::")[2][0] for name in cause["items"]) for cause in causes)
    assert told == ["ab", "c", "df", "e"]


def test_items_that_a_known_defect_explains_are_its_cause(record: Any) -> None:
    defect = "0.33.0 refuses block size 8, vllm-project/vllm#1"
    rows = [
        record(id=name, verdict="inherited-defect", details={"defect": defect}, outcome=OTHERS[0])
        for name in ("a", "b")
    ]
    (cause,) = explained.causes_of([*rows, record(id="c")], ())
    assert (cause["what"], cause["count"], cause["verdict"]) == (defect, 2, "inherited-defect")


def test_what_is_stale_says_which_entry_to_delete(record: Any) -> None:
    row = record(verdict="stale", message="d.toml:1 declares ROCM_ATTN for it; delete the entry")
    (cause,) = explained.causes_of([row], ())
    assert (
        cause["what"]
        == "triton-is-the-default: d.toml:1 declares ROCM_ATTN for it; delete the entry"
    )
