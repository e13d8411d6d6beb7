"""The policy table: its shape, its sources, and that the interpreter does not depend on it."""

from __future__ import annotations

import builtins
import dataclasses
import re
from typing import Any

import pytest

from pytest_rocm_attn.backends import PR_26980, Policy, Step, select
from pytest_rocm_attn.backends.capabilities import LIMITS_0_12_0, NEEDS_AITER, Limit
from pytest_rocm_attn.backends.policy import GFX9, Branch, Predicate, Rule, flag
from pytest_rocm_attn.errors import SelectionError
from pytest_rocm_attn.flags import Flags
from pytest_rocm_attn.gpu import Gpu
from pytest_rocm_attn.registry import CLASS_PATHS, ROCM_BACKENDS
from pytest_rocm_attn.request import Request


def test_every_backend_of_rocm_can_be_had_and_has_its_limits() -> None:
    chosen = {rule.backend for branch in PR_26980.branches for rule in branch.rules}
    named = {name for branch in PR_26980.branches for name in branch.named}
    assert chosen | named == set(ROCM_BACKENDS) == set(LIMITS_0_12_0)


def test_a_backend_belongs_to_one_kind_of_request() -> None:
    named = [name for branch in PR_26980.branches for name in branch.named]
    assert len(named) == len(set(named))
    for branch in PR_26980.branches:
        if branch.named:
            assert {rule.backend for rule in branch.rules} <= set(branch.named)


def test_every_kind_ends_in_a_rule_that_always_applies() -> None:
    for branch in PR_26980.branches:
        assert branch.rules[-1].when == ()
        assert all(rule.when for rule in branch.rules[:-1])
    last = PR_26980.branches[-1]
    assert last.takes(Request())
    assert last.takes(Request(use_mla=True, use_sparse=True))


def test_the_policy_reads_the_six_variables_of_the_contract() -> None:
    assert PR_26980.reads == (
        "VLLM_ATTENTION_BACKEND",
        "VLLM_ROCM_USE_AITER",
        "VLLM_ROCM_USE_AITER_MLA",
        "VLLM_ROCM_USE_AITER_UNIFIED_ATTENTION",
        "VLLM_ROCM_USE_AITER_MHA",
        "VLLM_V1_USE_PREFILL_DECODE_ATTENTION",
    )


CITED = re.compile(r"docs/reference/contract\.md#[\w-]+(, #[\w-]+)*")


def test_every_rule_cites_rows_of_the_contract() -> None:
    """tests/docs/test_citations.py resolves them."""
    for branch in PR_26980.branches:
        for source in (branch.source, branch.named_source, *(r.source for r in branch.rules)):
            assert CITED.fullmatch(source), (branch.name, source)


def test_every_limit_cites_a_row_or_what_vllm_raises_there() -> None:
    """The state of the aiter package, which no release asks for, cites the import."""
    for limit in {limit for limits in LIMITS_0_12_0.values() for limit in limits}:
        if limit in NEEDS_AITER:
            assert re.search("import|amd-aiter", limit.source), limit.rule
        elif raised := re.findall(r": (\w+)", limit.source):
            assert limit.source.startswith("vLLM 0.12.0"), (limit.rule, limit.source)
            assert all(issubclass(getattr(builtins, name), Exception) for name in raised)
        else:
            assert CITED.fullmatch(limit.source), (limit.rule, limit.source)


def test_rules_and_limits_have_names_of_their_own() -> None:
    rules = [rule.name for branch in PR_26980.branches for rule in branch.rules]
    rules += [branch.name for branch in PR_26980.branches]
    assert len(rules) == len(set(rules))
    for limits in LIMITS_0_12_0.values():
        names = [limit.rule for limit in limits]
        assert len(names) == len(set(names))
        assert not set(names) & set(rules)


AITER = ["aiter-installed", "aiter-is-amds", "aiter-imports"]
MLA = ["attention-type", "no-alibi", "no-sliding-window", "no-soft-cap"]


# The order is that of the trace: what the GPU and the machine lack first, then the request.
@pytest.mark.parametrize(
    ("backend", "limits"),
    [
        ("TRITON_ATTN", ["block-size-multiple-of-16", "auto-or-fp8-cache", "attention-type"]),
        (
            "ROCM_ATTN",
            [
                "block-size-multiple-of-16",
                "listed-head-size",
                "attention-type",
                "no-alibi-with-sinks",
            ],
        ),
        (
            "ROCM_AITER_UNIFIED_ATTN",
            [*AITER, "block-size-multiple-of-16", "listed-head-size", "attention-type"],
        ),
        (
            "ROCM_AITER_FA",
            ["gfx9-only", *AITER, "block-size-multiple-of-16", "no-sinks", "attention-type"],
        ),
        ("FLEX_ATTENTION", ["no-fp8-cache", "no-alibi", "no-soft-cap", "attention-type"]),
        ("TRITON_MLA", ["block-size-at-least-16", "no-fp8-cache", *MLA]),
        ("ROCM_AITER_MLA", [*AITER, "heads-16-or-128", *MLA]),
        ("ROCM_AITER_TRITON_MLA", [*AITER, "heads-16-or-128", *MLA]),
        ("ROCM_AITER_MLA_SPARSE", ["no-fp8-cache", "block-size-1"]),
    ],
)
def test_a_backend_has_the_limits_at_which_0_12_0_raises(backend: str, limits: list[str]) -> None:
    served = PR_26980.served[backend]
    assert [step.rule for step in served] == [*limits, "decision"]
    assert [step.answer for step in served] == ["yes"] * len(limits) + [backend]


def test_the_rules_of_each_kind_have_their_names() -> None:
    assert {b.name: [rule.name for rule in b.rules] for b in PR_26980.branches} == {
        "sparse-mla": ["sparse-default"],
        "mla": ["aiter-mla", "block-size-1-mla", "mla-default"],
        "ordinary": ["aiter-unified", "aiter-flash-attention", "prefill-decode", "default"],
    }


def test_the_trace_of_a_sparse_layer_says_that_the_name_is_not_looked_at() -> None:
    flags = Flags({"VLLM_ATTENTION_BACKEND": "TRITON_MLA"})
    trace = select(Request(use_sparse=True, block_size=1), flags, Gpu("gfx942")).trace
    assert trace[1] == Step(
        "named",
        "no",
        "there is one backend for it, so VLLM_ATTENTION_BACKEND is not looked at",
        "docs/reference/contract.md#q21",
    )
    assert [step.rule for step in trace] == [
        "sparse-mla",
        "named",
        "sparse-default",
        "no-fp8-cache",
        "block-size-1",
        "decision",
    ]


def test_a_rule_says_of_every_question_what_it_is_when_the_answer_is_yes() -> None:
    rule = Rule("both", "ROCM_ATTN", (flag("VLLM_ROCM_USE_AITER"), GFX9), "a source")
    assert rule.applies == Step(
        "both",
        "yes",
        "VLLM_ROCM_USE_AITER is on and the GPU is gfx9 (gfx90a, gfx942, gfx950)",
        "a source",
    )
    assert [step for _, step in rule.asks] == [
        Step("both", "no", "VLLM_ROCM_USE_AITER is off", "a source"),
        Step("both", "no", "the GPU is not gfx9 (gfx90a, gfx942, gfx950)", "a source"),
    ]
    assert Rule("default", "ROCM_ATTN", (), "s").applies.reason == "nothing else was asked for"


def another_policy(*rules: Rule, limits: tuple[Limit, ...] = ()) -> Policy:
    """A made-up release: one kind of request, ROCM_ATTN and TRITON_ATTN."""
    branch = Branch(
        name="all",
        takes=lambda request: not request.use_sparse,
        yes="it is attention",
        no="it is not",
        named=("ROCM_ATTN", "TRITON_ATTN"),
        not_named="is gone",
        named_source="release notes",
        rules=rules,
        source="release notes",
    )
    return Policy("made up", (branch,), {"ROCM_ATTN": limits, "TRITON_ATTN": ()})


def test_another_release_is_another_table() -> None:
    small = Predicate(
        lambda request, flags, gpu: request.head_size < 64, "the head is small", "it is not small"
    )
    policy = another_policy(
        Rule("small", "TRITON_ATTN", (small,), "p. 1"), Rule("rest", "ROCM_ATTN", (), "p. 2")
    )
    assert select(Request(head_size=32), Flags(), Gpu("gfx1100"), policy).backend == "TRITON_ATTN"
    large = select(Request(), Flags({"VLLM_ROCM_USE_AITER": "1"}), Gpu("gfx942"), policy)
    assert large == (
        "ROCM_ATTN",
        CLASS_PATHS["ROCM_ATTN"],
        (
            Step("all", "yes", "it is attention", "release notes"),
            Step("named", "no", "VLLM_ATTENTION_BACKEND names no backend", "release notes"),
            Step("small", "no", "it is not small", "p. 1"),
            Step("rest", "yes", "nothing else was asked for", "p. 2"),
            Step("decision", "ROCM_ATTN", "ROCM_ATTN serves the request", CLASS_PATHS["ROCM_ATTN"]),
        ),
    )
    assert policy.reads == ("VLLM_ATTENTION_BACKEND",)
    with pytest.raises(SelectionError, match="FLEX_ATTENTION is gone"):
        select(
            Request(), Flags({"VLLM_ATTENTION_BACKEND": "FLEX_ATTENTION"}), Gpu("gfx942"), policy
        )


def test_a_switch_that_would_not_help_is_not_offered() -> None:
    never = Limit("never", lambda request, gpu: False, "", "is broken", "", "p. 3")
    aiter = flag("VLLM_ROCM_USE_AITER")
    policy = another_policy(
        Rule("aiter", "ROCM_ATTN", (aiter,), "p. 1"),
        Rule("rest", "ROCM_ATTN", (), "p. 2"),
        limits=(never,),
    )
    with pytest.raises(SelectionError) as caught:
        select(Request(), Flags({"VLLM_ROCM_USE_AITER": "1"}), Gpu("gfx942"), policy)
    assert str(caught.value) == (
        "ROCM_ATTN (chosen by the rule aiter) is broken."
        " Remedy: set VLLM_ATTENTION_BACKEND to TRITON_ATTN. Source: p. 3"
    )


def test_every_switch_that_would_help_is_offered_whatever_its_parse_rule() -> None:
    never = Limit("never", lambda request, gpu: False, "", "is broken", "", "p. 3")
    aiter, invariant = flag("VLLM_ROCM_USE_AITER"), flag("VLLM_BATCH_INVARIANT")
    policy = another_policy(
        Rule("both", "ROCM_ATTN", (aiter, invariant), "p. 1"),
        Rule("one", "ROCM_ATTN", (invariant,), "p. 1"),  # so AITER=0 would not help
        Rule("rest", "TRITON_ATTN", (), "p. 2"),
        limits=(never,),
    )
    environ = {"VLLM_ROCM_USE_AITER": "1", "VLLM_BATCH_INVARIANT": "1"}
    with pytest.raises(SelectionError) as caught:
        select(Request(), Flags(environ), Gpu("gfx942"), policy)
    assert str(caught.value) == (
        "ROCM_ATTN (chosen by the rule both) is broken."
        " Remedy: set VLLM_ATTENTION_BACKEND to TRITON_ATTN;"
        " or set VLLM_BATCH_INVARIANT=0, which gives TRITON_ATTN. Source: p. 3"
    )


def test_a_policy_without_an_end_is_an_error_of_the_policy() -> None:
    with pytest.raises(AssertionError, match="branch all: no rule applies"):
        select(Request(), Flags(), Gpu("gfx942"), another_policy())
    with pytest.raises(AssertionError, match="policy made up: no branch takes Request"):
        select(Request(use_sparse=True), Flags(), Gpu("gfx942"), another_policy())


@pytest.mark.parametrize("record", [PR_26980, PR_26980.branches[0], LIMITS_0_12_0["ROCM_ATTN"][0]])
def test_the_table_cannot_be_changed(record: Any) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(record, dataclasses.fields(record)[0].name, "other")
