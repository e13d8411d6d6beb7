"""One change of a selector is one cause, whatever it does to how many rows.

The selectors are the policy of vLLM 0.33.0 with one thing changed: a rule moved or dropped, a
condition of a rule ignored, a limit of the backends not checked.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import asdict, fields
from typing import Any

import pytest

from pytest_rocm_attn import Flags
from pytest_rocm_attn.backends import select
from pytest_rocm_attn.backends.policy import Branch, Policy, Rule
from pytest_rocm_attn.backends.releases import policy_of
from pytest_rocm_attn.conformance.promise import contract, upstream
from pytest_rocm_attn.conformance.promise.contract import Contract
from pytest_rocm_attn.conformance.promise.rows import RowOnGpu
from pytest_rocm_attn.conformance.promise.verdict import Verdict, judge
from pytest_rocm_attn.conformance.report import explained
from pytest_rocm_attn.conformance.report.schema import name_of, outcome_fields
from pytest_rocm_attn.conformance.report.schema import record as row_of
from pytest_rocm_attn.conformance.tiers.documented import _expectation
from pytest_rocm_attn.errors import FlagError, SelectionError
from pytest_rocm_attn.flags import ATTENTION_BACKEND, EXPLICIT
from pytest_rocm_attn.outcome import Outcome, Rejected, Selected

RELEASE = "0.33.0"
Mutation = Callable[[Policy], Policy]


@functools.cache
def judged_by() -> Contract:
    return contract.load("vllm").at(upstream.given(RELEASE))


def answer(policy: Policy, cell: RowOnGpu) -> Outcome | None:
    """Return what a policy answers; None to what is not about a layer's backend."""
    environ, named = dict(cell.row.env), cell.row.named
    if EXPLICIT in environ:  # the release does not read it, and refuses nothing
        return None
    if named is not None:
        if named.asks != "layer" or named.per_kind:
            return None
        if named.backend is not None and named.backend.lower() != "auto":
            environ[ATTENTION_BACKEND] = named.backend.upper()
    environ = {name: text for name, text in environ.items() if name in policy.reads}
    try:
        return Selected(select(cell.row.request, Flags(environ), cell.gpu, policy).backend)
    except (SelectionError, FlagError) as error:
        return Rejected("ValueError", str(error))


def rows_of(policy: Policy, but: Iterable[str] = ()) -> list[Any]:
    """Return the rows of a run on a policy, without those of some names."""
    rows = []
    for cell in (cell for row in judged_by().rows for cell in row.cells()):
        outcome, row = answer(policy, cell), cell.row
        if outcome is None:
            continue
        found = judge(row, outcome, defects=judged_by().defects, gfx=cell.gpu.gfx)
        rows.append(
            row_of(
                cell.gpu,
                found.verdict,
                id=row.id,
                tier="documented",
                level=row.level,
                env=dict(row.env),
                request=asdict(row.request),
                named=asdict(row.named) if row.named else None,
                expect=_expectation(row),
                source=row.source,
                again="",
                outcome=outcome_fields(outcome),
                message=found.message,
                details={"defect": found.defect} if found.defect else {},
            )
        )
    return [row for row in rows if name_of(row) not in but]


@functools.cache
def wrong_anyhow() -> frozenset[str]:
    """Return the rows that the unchanged policy fails, as its words or names differ."""
    rows = rows_of(policy_of(RELEASE))
    return frozenset(name_of(row) for row in rows if Verdict(row["verdict"]).fails)


def failing_causes(mutation: Mutation) -> list[Any]:
    rows = rows_of(mutation(policy_of(RELEASE)), wrong_anyhow())
    causes = explained.causes_of(rows, ())
    return [cause for cause in causes if Verdict(cause["verdict"]).fails]


# --- mutations ------------------------------------------------------------------------------------


def changed(of: Any, **changes: Any) -> Any:
    return type(of)(**{f.name: getattr(of, f.name) for f in fields(of) if f.init} | changes)


def rules(kind: str, change: Callable[[list[Rule]], list[Rule]]) -> Mutation:
    def mutation(policy: Policy) -> Policy:
        def of(branch: Branch) -> Branch:
            if branch.name != kind:
                return branch
            found: Branch = changed(branch, rules=tuple(change(list(branch.rules))))
            return found

        whole: Policy = changed(policy, branches=tuple(map(of, policy.branches)))
        return whole

    return mutation


def swapped(kind: str, one: str, other: str) -> Mutation:
    def change(of: list[Rule]) -> list[Rule]:
        names = [rule.name for rule in of]
        a, b = names.index(one), names.index(other)
        of[a], of[b] = of[b], of[a]
        return of

    return rules(kind, change)


def dropped(kind: str, name: str) -> Mutation:
    return rules(kind, lambda of: [rule for rule in of if rule.name != name])


def ignoring(kind: str, name: str, condition: str) -> Mutation:
    def change(of: list[Rule]) -> list[Rule]:
        (rule,) = (rule for rule in of if rule.name == name)
        left = tuple(each for each in rule.when if condition not in each.yes)
        assert len(left) < len(rule.when)
        without = changed(rule, when=left)
        return [without if each is rule else each for each in of]

    return rules(kind, change)


def unchecked(limit: str) -> Mutation:
    def mutation(policy: Policy) -> Policy:
        left = {
            name: tuple(one for one in limits if one.rule != limit)
            for name, limits in policy.limits.items()
        }
        assert left != policy.limits
        found: Policy = changed(policy, limits=left)
        return found

    return mutation


MUTANTS: dict[str, tuple[Mutation, str]] = {
    "MLA's two backends swapped": (
        swapped("mla", "aiter-mla", "triton-mla"),
        "AITER=1, MLA layers: ROCM_AITER_MLA -> TRITON_MLA, on gfx942 and gfx950.",
    ),
    "the default and the last resort swapped": (
        swapped("ordinary", "rocm-attn", "triton-attn"),
        (
            "Default for ordinary layers: ROCM_ATTN, ROCM_AITER_UNIFIED_ATTN or ROCM_AITER_FA ->"
            " TRITON_ATTN, on every GPU."
        ),
    ),
    "the default dropped": (
        dropped("ordinary", "rocm-attn"),
        (
            "Default for all layers: ROCM_ATTN -> TRITON_ATTN, ROCM_AITER_UNIFIED_ATTN or ROCM_AITER_FA,"
            " on every GPU."
        ),
    ),
    "the switch of MHA ignored": (
        ignoring("ordinary", "aiter-flash-attention", "VLLM_ROCM_USE_AITER_MHA"),
        (
            "AITER_MHA=0, all layers with sinks: ROCM_AITER_UNIFIED_ATTN -> ROCM_AITER_FA, on gfx942 and"
            " gfx950."
        ),
    ),
    "the switch of MLA ignored": (
        ignoring("mla", "aiter-mla", "VLLM_ROCM_USE_AITER_MLA"),
        "AITER_MLA=0: TRITON_MLA -> ROCM_AITER_MLA, on gfx942 and gfx950.",
    ),
    "sinks not checked": (
        unchecked("sinks"),
        (
            "Default for all layers with sinks: TRITON_ATTN, ROCM_AITER_UNIFIED_ATTN or another answer ->"
            " ROCM_ATTN, TRITON_MLA or ROCM_AITER_MLA_SPARSE, on every GPU."
        ),
    ),
    "block sizes not checked": (
        unchecked("block-size"),
        (
            "Default for all layers with block size 1, 2, 4 or 8: a refusal -> TRITON_MLA or ROCM_ATTN, on"
            " every GPU."
        ),
    ),
    "kinds of attention not checked": (
        unchecked("attention-type"),
        "All layers with attn type encoder_decoder: another one -> ROCM_ATTN.",
    ),
    "decode context parallelism not checked": (
        unchecked("dcp"),
        "Default for all layers with DCP: a refusal -> a backend, on every GPU.",
    ),
    "connectors not checked": (
        unchecked("kv-connector"),
        "All layers with a KV connector: a refusal -> the named one.",
    ),
}


@pytest.mark.parametrize(("mutation", "what"), MUTANTS.values(), ids=MUTANTS)
def test_one_change_is_one_cause_that_says_what_it_does(mutation: Mutation, what: str) -> None:
    assert [cause["what"] for cause in failing_causes(mutation)] == [what]


@pytest.mark.slow
def test_hardly_any_change_has_more_than_two_causes() -> None:
    policy = policy_of(RELEASE)
    mutations: dict[str, Mutation] = {}
    for branch in policy.branches:
        names = [rule.name for rule in branch.rules]
        for one, other in ((a, b) for a in names for b in names if a < b):
            mutations[f"{one} <-> {other}"] = swapped(branch.name, one, other)
        mutations |= {f"no {name}": dropped(branch.name, name) for name in names if names[1:]}
        for rule in branch.rules:
            for each in rule.when:
                mutation = ignoring(branch.name, rule.name, each.yes)
                mutations[f"{rule.name} ignores: {each.yes}"] = mutation
    limits = {limit.rule for of in policy.limits.values() for limit in of}
    mutations |= {f"unchecked {limit}": unchecked(limit) for limit in limits}
    counts = {name: len(failing_causes(mutation)) for name, mutation in mutations.items()}
    many = [name for name, count in counts.items() if count > 2]
    assert len(counts) > 60
    # Each changes three behaviours: what is chosen by default and with AITER, or on RDNA 4; what is chosen for sparse
    # layers, what is granted by name, and what a refusal says.
    assert sorted(many) == ["aiter-unified <-> aiter-unified-on-rdna4", "unchecked mla"]
    assert all(counts[name] <= 3 for name in many)


def test_advice_about_the_release_is_not_put_together_with_what_a_fork_broke(record: Any) -> None:
    aiter = {"VLLM_ROCM_USE_AITER": "1"}
    other = {"kind": "selected", "words": "ROCM_ATTN", "backend": "ROCM_ATTN"}
    expect = {"words": "ROCM_AITER_FA", "backend": "ROCM_AITER_FA"}
    both = {"env": aiter, "expect": expect, "outcome": other}
    rows = [
        *(record(id=f"broken-{n}", verdict="fail", **both) for n in range(30)),
        *(record(id=f"advised-{n}", level="advice", verdict="advice", **both) for n in range(2)),
    ]
    causes = explained.causes_of(rows, ())
    assert [(cause["verdict"], cause["count"]) for cause in causes] == [("fail", 30), ("advice", 2)]
    assert all(len(cause["totals"]) == 1 for cause in causes)


@pytest.mark.parametrize("mutation", [mutation for mutation, _ in MUTANTS.values()][:3])
def test_each_item_that_does_not_pass_is_in_one_cause_and_no_other_is_in_any(
    mutation: Mutation,
) -> None:
    rows = rows_of(mutation(policy_of(RELEASE)))
    causes = explained.causes_of(rows, ())
    told = [name for cause in causes for name in cause["items"]]
    assert sorted(told) == sorted(name_of(row) for row in rows if row["verdict"] != "pass")


def test_a_question_with_two_answers_expected_says_where_it_is_asked(record: Any) -> None:
    rows = [
        record(id="promised", verdict="fail", outcome=other_than_expected()),
        record(
            id="advised",
            level="advice",
            verdict="advice",
            expect={"words": "ROCM_AITER_FA", "backend": "ROCM_AITER_FA"},
            outcome=other_than_expected(),
        ),
        record(id="elsewhere", env={"VLLM_ROCM_USE_AITER": "1"}),
    ]
    said = [cause["what"] for cause in explained.causes_of(rows, ())]
    assert said == [
        "No variables, a plain layer: TRITON_ATTN -> ROCM_ATTN.",
        "Default for all layers: ROCM_AITER_FA -> ROCM_ATTN, on gfx942.",
    ]


def other_than_expected() -> dict[str, str]:
    return {"kind": "selected", "words": "ROCM_ATTN", "backend": "ROCM_ATTN"}
