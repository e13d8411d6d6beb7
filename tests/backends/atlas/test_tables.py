"""The tables hold all of a policy, and refuse what the page could not show."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from pytest_rocm_attn.backends.atlas import tables as written
from pytest_rocm_attn.backends.atlas.tables import tables
from pytest_rocm_attn.backends.policy import (
    PR_26980,
    Branch,
    GivesWay,
    Policy,
    Predicate,
    Rule,
)
from pytest_rocm_attn.backends.releases import policy_of
from pytest_rocm_attn.flags import variable
from pytest_rocm_attn.request import Request


def names(kind: Any) -> set[str]:
    """Return the fields that make one of these."""
    return {field.name for field in fields(kind) if field.init}


@pytest.fixture(scope="module")
def old() -> dict[str, Any]:
    """The tables of two policies that are quick to write."""
    return tables(("pr-26980", "0.11.2"))


def test_every_field_of_a_policy_is_in_the_tables(old: dict[str, Any]) -> None:
    policy = old["policies"]["pr-26980"]
    (branch, *_), rule = policy["branches"], policy["branches"][1]["rules"][0]
    assert names(Policy) <= set(policy)
    assert names(Branch) <= set(branch)
    # `yes` of a predicate is only part of what the rule says when it applies.
    assert names(Rule) <= set(rule)
    assert names(Predicate) - {"yes"} <= set(rule["when"][0])
    gives_way = policy_of("0.33").gives_way
    assert gives_way is not None
    assert names(GivesWay) == set(written._Pool().gives_way(gives_way))


def test_variables_and_fields_are_those_that_the_policies_and_requests_have(
    old: dict[str, Any],
) -> None:
    read = {*PR_26980.reads, *policy_of("0.11").reads, "VLLM_MLA_DISABLE"}
    assert set(old["variables"]) == read
    assert all(one["default"] == variable(name).default for name, one in old["variables"].items())
    assert set(old["fields"]) == names(Request)
    assert old["newest"] == "0.11.2"


def test_sources_are_addresses_that_open(old: dict[str, Any]) -> None:
    sources = {old["strings"][limit[5]] for limit in old["limits"]}
    assert any(text.startswith("https://") for text in sources)
    assert not [text for text in sources if ".md#" in text]


@pytest.mark.parametrize("beyond", ["{request.head_size:>8}", "{policy.name}", "100% {{sic}}"])
def test_a_text_that_the_page_cannot_fill_in_is_refused(beyond: str) -> None:
    limit = replace(PR_26980.limits["TRITON_ATTN"][0], beyond=beyond)
    with pytest.raises(ValueError, match=r"cannot fill in"):
        written._Pool().limit(limit)
