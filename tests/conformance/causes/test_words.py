"""How restrictions and causes are said."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_rocm_attn.conformance.causes.conditions import Given
from pytest_rocm_attn.conformance.causes.words import given_words

A, B = "TRITON_ATTN", "ROCM_ATTN"
CHOICE, MASTER = "VLLM_ATTENTION_BACKEND", "VLLM_ROCM_USE_AITER"


@pytest.mark.parametrize(
    ("name", "values", "others", "words"),
    [
        pytest.param(MASTER, (None,), ("0", "1"), f"{MASTER} unset", id="unset"),
        pytest.param(MASTER, (None, "0"), ("1",), f"{MASTER} unset or 0", id="unset or a value"),
        pytest.param(MASTER, ("0", "1"), (None,), f"{MASTER} set", id="any value"),
        pytest.param(MASTER, ("0",), (None, "1"), f"{MASTER}=0", id="one value"),
        pytest.param(MASTER, ("1", "true"), ("yes",), f"{MASTER}=1", id="one meaning"),
        pytest.param(MASTER, ("1", "true"), ("TRUE",), f"{MASTER}=1 or true", id="not all of it"),
        pytest.param(MASTER, ("", " 1"), ("0",), f"{MASTER}='' or ' 1'", id="blanks"),
        pytest.param("VLLM_NEW", ("a", "b"), ("c",), "VLLM_NEW=a or b", id="undeclared"),
        pytest.param(CHOICE, (None,), (A, B), "no explicit backend", id="none named"),
        pytest.param(CHOICE, (A, B), (None,), "an explicit backend is given", id="any named"),
        pytest.param(CHOICE, (A,), (None, B), f"explicit {A}", id="one named"),
        pytest.param(CHOICE, (None, A), (B,), f"no explicit backend or explicit {A}", id="none or"),
        pytest.param(
            CHOICE, tuple("ABCDEF"), (None, "G"), "an explicit backend other than G", id="all but"
        ),
        pytest.param("gfx", ("gfx942",), ("gfx90a",), "gfx gfx942", id="one GPU"),
        pytest.param("block_size", (None, 8), (1,), "block_size in 8, none", id="not given"),
        pytest.param(
            "block_size", (1, 2, 3, 4, 5), (6, 7), "block_size other than 6 and 7", id="most"
        ),
        pytest.param("use_mla", (True,), (False,), "use_mla", id="true"),
        pytest.param("use_mla", (False,), (True,), "not use_mla", id="false"),
    ],
)
def test_a_restriction_in_words(
    name: str, values: tuple[Any, ...], others: tuple[Any, ...], words: str
) -> None:
    assert given_words(Given(name, values, others)) == words
