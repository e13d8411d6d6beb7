"""Contracts by age: which rows hold in a release, what ended them, and which defects are known."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import pytest

from pytest_rocm_attn.backends import select
from pytest_rocm_attn.conformance.promise import contract, release, upstream
from pytest_rocm_attn.conformance.promise.contract import Contract
from pytest_rocm_attn.conformance.promise.got import Got
from pytest_rocm_attn.conformance.promise.grid.design import standard
from pytest_rocm_attn.conformance.promise.naming import Named
from pytest_rocm_attn.conformance.promise.release import Release
from pytest_rocm_attn.conformance.promise.rows import ExpectBackend
from pytest_rocm_attn.conformance.promise.verdict import Verdict, judge
from pytest_rocm_attn.conformance.tiers.capabilities import classes, server
from pytest_rocm_attn.conformance.tiers.capabilities.check import plan_of
from pytest_rocm_attn.conformance.tiers.capabilities.classes import keeps
from pytest_rocm_attn.conformance.tiers.invariants.laws import LAWS
from pytest_rocm_attn.errors import ContractError, FlagError, SelectionError
from pytest_rocm_attn.flags import EXPLICIT, Flags
from pytest_rocm_attn.gpu import Gpu
from pytest_rocm_attn.options import TIERS
from pytest_rocm_attn.outcome import Outcome, Rejected, Selected
from pytest_rocm_attn.request import Request

HEAD = """
id = "ours"
title = "t"
source = "s"
by_age = true
[gpus]
both = ["gfx942", "gfx1201"]
"""
ROW = """
[[case]]
id = "plain"
source = "PR #1"
grade = "P"
level = "required"
platform = { gfx = "both" }
"""
EARLY = f'{ROW}until = "0.19.0"\nby = "#2"\nexpect = {{ backend = "TRITON_ATTN" }}\n'
LATE = f'{ROW}since = "0.19.0"\nexpect = {{ backend = "ROCM_ATTN" }}\n'
DEFECT = """
[[defect]]
id = "the-switch-is-dead"
what = "Nothing reads the switch"
link = "#3"
match = ["plain[gfx942]"]
answers = ["FLEX_ATTENTION"]
since = "0.20.0"
until = "0.21.0"
"""


def load(folder: Path, *texts: str) -> Contract:
    file = folder / "ours.toml"
    head, _, gpus = HEAD.partition("[gpus]")
    file.write_text(f"{head}[gpus]{gpus}" + "\n".join(texts), "utf-8")
    return contract.load(str(file))


def refusal(folder: Path, *texts: str) -> str:
    with pytest.raises(ContractError) as caught:
        load(folder, *texts)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def at(found: Contract, release: str) -> Contract:
    return found.at(upstream.given(release))


def test_a_row_holds_from_its_first_release_to_before_its_last(tmp_path: Path) -> None:
    found = load(tmp_path, EARLY, LATE)
    for meant, backend in [("0.18.1", "TRITON_ATTN"), ("0.19.0", "ROCM_ATTN")]:
        (row,) = at(found, meant).rows
        assert row.expect == ExpectBackend(backend)
        assert [gpu.gfx for gpu in row.gpus] == ["gfx942", "gfx1201"]


def test_what_upstream_changed_on_purpose_is_kept_with_its_cause(tmp_path: Path) -> None:
    found = load(tmp_path, EARLY, LATE)
    assert at(found, "0.18.1").ended == ()
    assert [(row.id, row.by) for row in at(found, "0.33.0").ended] == [("plain", "#2")]


def test_listed_values_make_a_row_each(tmp_path: Path) -> None:
    text = ROW + (
        'named = ["TRITON_ATTN", "rocm_attn"]\nenv = { VLLM_ROCM_USE_AITER = ["0", "1"] }\n'
        "expect = { named = true }\n"
    )
    rows = load(tmp_path, text).rows
    assert [row.id for row in rows] == [
        *("plain-triton-attn-0", "plain-triton-attn-1", "plain-rocm-attn-0", "plain-rocm-attn-1"),
    ]
    assert rows[3].named == Named("rocm_attn")
    assert rows[3].expect == ExpectBackend("ROCM_ATTN")
    assert rows[3].env == {"VLLM_ROCM_USE_AITER": "1"}


@pytest.mark.parametrize(
    ("answer", "gfx", "release", "known"),
    [
        ("FLEX_ATTENTION", "gfx942", "0.20.0", True),
        ("TRITON_ATTN", "gfx942", "0.20.0", False),
        ("FLEX_ATTENTION", "gfx1201", "0.20.0", False),
        ("FLEX_ATTENTION", "gfx942", "0.21.0", False),
    ],
)
def test_a_defect_explains_its_own_answer_on_its_own_items_in_its_own_releases(
    tmp_path: Path, answer: str, gfx: str, release: str, known: bool
) -> None:
    defects = at(load(tmp_path, LATE, DEFECT), release).defects
    assert any(defect.explains("plain", gfx, Got(answer)) for defect in defects) is known


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (
            [ROW + "expect = { served = true }", ROW + "expect = { served = true }"],
            "'plain' is taken by a row in",
        ),
        ([LATE.replace('"P"', '"W"')], "is 'required' with a source of grade W"),
        ([LATE.replace('grade = "P"\n', "")], "grade: missing"),
        ([LATE.replace("0.19.0", "soon")], "is not a release"),
        ([EARLY.replace('by = "#2"\n', "")], "belongs to until"),
        ([LATE.replace("expect", 'until = "0.18.0"\nby = "#2"\nexpect')], "is not after"),
        ([LATE, DEFECT.replace("FLEX_ATTENTION", "FLEX")], "'FLEX' is unknown"),
        ([LATE, DEFECT.replace("#3", "somewhere")], "is not a link"),
    ],
    ids=[
        "an id twice",
        "a weak source",
        "no grade",
        "no release",
        "no cause",
        "an early end",
        "answer",
        "link",
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, texts: list[str], words: str) -> None:
    assert words in refusal(tmp_path, *texts)


def test_ages_belong_to_a_contract_by_age(tmp_path: Path) -> None:
    file = tmp_path / "plain.toml"
    file.write_text(LATE.replace("both", "gfx942"), "utf-8")
    with pytest.raises(ContractError, match="grade: belongs to a contract by age"):
        contract.load(str(file))


# --- the shipped history --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped() -> Contract:
    return contract.load("vllm")


def test_the_appendix_is_in_it_word_for_word(shipped: Contract) -> None:
    """But for the variable that names a backend, which became what is named."""
    rows = at(shipped, "0.12.0").rows
    found = {row.id: row for row in rows}
    for row in contract.load("pr-26980").rows:
        if row.level == "required":
            aged = found[row.id]
            name = row.env.get("VLLM_ATTENTION_BACKEND")
            env = {**aged.env, **({"VLLM_ATTENTION_BACKEND": name} if name else {})}
            assert (env, aged.expect, aged.request) == (row.env, row.expect, row.request)
            assert aged.named == Named(name)
            gpus = [gpu for one in rows if one.id == row.id for gpu in one.gpus]
            assert sorted(gpus, key=str) == sorted(row.gpus, key=str)


def test_the_text_of_the_appendix_counts_in_its_own_release_only(shipped: Contract) -> None:
    assert at(shipped, "0.12.0").is_original
    assert not at(shipped, "0.13.0").is_original


def test_no_row_outlives_a_variable_that_it_sets(shipped: Contract) -> None:
    for meant, gone in [
        ("0.15.0", "VLLM_V1_USE_PREFILL_DECODE_ATTENTION"),
        ("0.19.0", "VLLM_ROCM_CUSTOM_PAGED_ATTN"),
    ]:
        setting = {row.id for row in at(shipped, meant).rows if gone in row.env}
        assert not {name for name in setting if not name.endswith(("-is-gone-0", "-is-gone-1"))}


def test_every_row_cites_upstream(shipped: Contract) -> None:
    for row in shipped.rows:
        assert "/work/" not in row.source, row.id
    assert all(defect.link for defect in shipped.defects)


def test_every_defect_is_about_items_that_are_there(shipped: Contract) -> None:
    from pytest_rocm_attn.conformance.promise.deviations import matches

    items = {
        "documented": {row.id for row in shipped.rows},
        "capabilities": {
            planned.row_id
            for check in (keeps(shipped.capabilities), *classes.CHECKS, *server.CHECKS)
            for planned in plan_of([check], Gpu("gfx942"))
        },
        "invariants": {law.id for law in LAWS},
        "grid": {
            rule.id
            for one in ("0.12.0", "0.33.0")  # before and after the rules of PR #26980
            for rule in contract.rules_of(at(shipped, one))
        }
        | {family.name for family in standard().families},
    }
    for defect in shipped.defects:
        for pattern in defect.match:
            tier, _, _ = pattern.rpartition("::")
            tier = tier or "documented"
            if tier not in items:
                assert tier in TIERS, pattern
                continue
            named = itertools.product(items[tier], ("gfx942", "gfx1201"), (tier,))
            assert any(matches(pattern, item) for item in named), pattern


# --- against the reference's policies -------------------------------------------------------------


@pytest.mark.parametrize("one", upstream.shapes(), ids=release.words)
def test_what_a_release_promises_is_what_the_reference_selects_by_its_policy(
    shipped: Contract, one: Release
) -> None:
    """The policies were read off the releases' code, the rows off their documents."""
    name = release.words(one)
    promised = at(shipped, name)
    by = "--attention-backend" if one >= (0, 13, 0) else EXPLICIT
    judged: Counter[str] = Counter()
    own = {cell.gpu.gfx for cell in promised.cells()}
    for cell in promised.cells((*own, *promised.relatives)):
        row, gpu = cell.row, cell.gpu
        assert row.named is not None
        # A policy knows layers alone, and has the variable that is gone for an option.
        if row.named.asks != "layer" or row.named.per_kind or EXPLICIT in row.env:
            continue
        env = {**row.env, **({by: row.named.backend} if row.named.backend is not None else {})}
        outcome = asked(row.request, env, gpu, name)
        found = judge(row, outcome, defects=promised.defects, gfx=gpu.gfx)
        assert not found.verdict.fails, (f"{row.id}[{gpu.gfx}]", found.message)
        judged[found.verdict] += 1
    assert judged[Verdict.PASS] > 10


def asked(request: Request, env: dict[str, str], gpu: Gpu, policy: str) -> Outcome:
    try:
        return Selected(select(request, Flags(env), gpu, policy=policy).backend)
    except (SelectionError, FlagError) as error:
        return Rejected(type(error).__name__, str(error))


def test_a_target_without_rows_has_those_that_are_promised_by_family(tmp_path: Path) -> None:
    relatives = '[relatives]\ngfx1201 = ["gfx1200"]\n'
    listed = LATE.replace('"plain"', '"listed"').replace('"both"', '["gfx942", "gfx1201"]')
    found = load(tmp_path, relatives, LATE, listed)
    lent = {cell.id for cell in found.cells(["gfx1200", "gfx942"]) if cell.gpu.gfx == "gfx1200"}
    assert lent == {"plain[gfx1200]"}, "a row that lists its targets is about these alone"
    assert "gfx1200" not in {cell.gpu.gfx for cell in found.cells()}


# --- rows of another contract ---------------------------------------------------------------------

INCLUDES = HEAD.replace("[gpus]", 'includes = { pr-26980 = "0.12.0" }\n[gpus]')
END = '[[ended]]\nuntil = "0.19.0"\nby = "#2"\nwhy = "it changed"\n'


def included(folder: Path, ended: str) -> Contract:
    file = folder / "aged.toml"
    file.write_text(INCLUDES + END + ended, "utf-8")
    return contract.load(str(file))


def gpus_at(found: Contract, meant: str, row_id: str) -> set[str]:
    return {gpu.gfx for row in at(found, meant).rows if row.id == row_id for gpu in row.gpus}


def test_rows_of_another_contract_hold_from_its_release_and_name_backends_as_users_do(
    tmp_path: Path,
) -> None:
    found = included(tmp_path, 'rows = ["nothing-set-gives-triton-attn"]')
    assert at(found, "0.11.2").rows == ()
    named = {row.id: row.named for row in at(found, "0.33.0").rows}
    assert named["explicit-triton-attn-wins-over-aiter"] == Named("TRITON_ATTN")
    assert "nothing-set-gives-triton-attn" not in named


def test_a_row_may_end_on_some_targets_and_go_on_elsewhere(tmp_path: Path) -> None:
    found = included(tmp_path, 'rows = ["aiter-gives-aiter-fa"]\ngfx = ["gfx90a"]')
    assert gpus_at(found, "0.18.1", "aiter-gives-aiter-fa") == {"gfx90a", "gfx942", "gfx950"}
    assert gpus_at(found, "0.19.0", "aiter-gives-aiter-fa") == {"gfx942", "gfx950"}


def test_an_end_may_be_about_the_rows_that_set_a_variable(tmp_path: Path) -> None:
    gone = "VLLM_V1_USE_PREFILL_DECODE_ATTENTION"
    found = included(tmp_path, f'rows = ["*"]\nsets = ["{gone}"]')
    assert any(gone in row.env for row in at(found, "0.18.1").rows)
    later = at(found, "0.19.0")
    assert not any(gone in row.env for row in later.rows)
    assert all(gone in row.env for row in later.ended)
    assert {row.why for row in later.ended} == {"it changed"}


def test_an_end_of_nothing_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"'no-such-\*' matches no row"):
        included(tmp_path, 'rows = ["no-such-*"]')
