"""A pass is one launch, and at most one more that merges, repairs, or does both."""

from __future__ import annotations

import pytest
import torch

from pytest_rocm_attn.backends.kernels.attention import plan_attention
from pytest_rocm_attn.backends.launch_tiles import Tile


@pytest.mark.parametrize(
    ("new", "segments", "causal", "follows"),
    [
        (1, 1, True, set()),
        (1, 4, True, {"merge"}),
        (3, 1, True, {"repair"}),
        (3, 4, True, {"merge", "repairs"}),
        (3, 4, False, {"merge"}),
        (3, 1, False, set()),
    ],
)
def test_what_follows_the_attention_kernel(
    new: int, segments: int, causal: bool, follows: set[str]
) -> None:
    query = torch.empty(2 * new, 8, 64)
    cache = torch.empty(8, 16, 2, 64)
    plan = plan_attention(
        query, cache, cache, query, requests=2, pages=torch.zeros(2, 4, dtype=torch.int32),
        page_size=16, min_query_len=1, max_query_len=new, scale=1.0, tile=Tile(16, 16, 4, 1),
        segments=segments, causal=causal,
    )  # fmt: skip
    assert {name for name in ("repair", "merge", "repairs") if getattr(plan, name)} == follows
