"""What closed kernels need, held against calls."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_rocm_attn.conformance.adapters.closed.signatures import aiter_of
from pytest_rocm_attn.conformance.adapters.kernel_needs import NEEDS, broken


@pytest.mark.parametrize(
    ("kernel", "facts", "part"),
    [
        ("paged_attention_v1", {"GPU": "gfx942", "block size": 544}, "block size 544"),
        ("paged_attention_v1", {"GPU": "gfx942", "block size": 16}, ""),
        (
            "paged_attention_v1",
            {"queries of a request": 4, "mtp": 1},
            "queries of a request 4, with mtp 1, and takes 1",
        ),
        ("paged_attention_v1", {"queries of a request": 4, "mtp": 4}, ""),
        ("mla_gluon", {"GPU": "gfx942", "heads": 8}, "GPU gfx942, and takes gfx950"),
        ("mla_gluon", {"GPU": "gfx950", "heads": 8}, ""),
        # Of what is not known nothing is said.
        ("paged_attention_v1", {"GPU": "gfx942"}, ""),
        ("a_kernel_of_which_nothing_is_known", {"GPU": "gfx942", "block size": 1}, ""),
    ],
)
def test_a_call_is_held_against_what_the_kernel_takes(
    kernel: str, facts: dict[str, Any], part: str
) -> None:
    found = list(broken(kernel, facts, aiter_of("0.25.1")))
    assert len(found) == bool(part)
    assert all(part in words for words in found)


def test_every_need_names_its_source() -> None:
    assert all(len(need.source) > 10 and need.takes for need in NEEDS)
