"""A number that is not finite changes the results of the tokens that see it, however the keys are split."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pytest_rocm_attn.backends import oracle
from pytest_rocm_attn.backends.kernels import attention
from pytest_rocm_attn.backends.launch_tiles import Tile

NEW, LENGTHS, PAGE, HEADS, SIZE = (3, 1, 3), (24, 9, 3), 8, 8, 32
TILE = Tile(16, 16, 1, 1)  # two tokens of 8 heads: a request of three takes two programs

FEATURES: dict[str, dict[str, Any]] = {
    "causal": {},
    "whole request": {"causal": False},
    "window": {"window": 12},
    "window both ways": {"causal": False, "window": 9},
    "sinks": {"sinks": torch.tensor([0.0, 1.0, torch.inf, -torch.inf] * 2)},
}


def poisoned() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Query, keys and values of which few are not finite, most of them seen by some tokens only."""
    torch.manual_seed(3)
    blocks = 3 * len(NEW)
    query = torch.randn(sum(NEW), HEADS, SIZE)
    key, value = (torch.randn(blocks, PAGE, 1, SIZE) for _ in range(2))
    key[2, 7, 0, 3] = torch.nan  # the first request's last key, seen by its last token
    value[2, 6, 0, 5] = torch.inf  # the one before
    value[1, 3, 0, 9] = -torch.inf  # in the middle of its keys
    value[3, 5, 0, 1] = torch.nan  # of a request with one token
    key[6, 2, 0, 0] = torch.inf  # the last key of the shortest request
    return query, key, value


@pytest.mark.filterwarnings(
    "ignore:.*encountered in:RuntimeWarning"
)  # numpy, of what is not finite
@pytest.mark.parametrize(
    ("feature", "segments", "columns"),
    [*((feature, 2, 4096) for feature in FEATURES), ("causal", 1, 4096), ("causal", 3, 64)],
)
def test_only_tokens_that_see_it_are_changed(
    feature: str, segments: int, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """columns: of all segments in one program that merges; few of them, and a row takes two programs."""
    monkeypatch.setattr(attention, "MERGE_ELEMENTS", columns)
    query, key, value = poisoned()
    fields = FEATURES[feature]
    starts = torch.tensor([0, *torch.tensor(NEW).cumsum(0).tolist()], dtype=torch.int32)
    lengths = torch.tensor(LENGTHS, dtype=torch.int32)
    table = torch.arange(3 * len(NEW), dtype=torch.int32).reshape(len(NEW), 3)
    shape = {"causal": fields.get("causal", True), "window": fields.get("window")}
    out = torch.full_like(query, 7.0)
    plan = attention.plan_attention(
        query, key, value, out, requests=len(NEW), pages=table, page_size=PAGE, min_query_len=1,
        max_query_len=max(NEW), scale=0.2, tile=TILE, segments=segments, **shape,
    )  # fmt: skip
    assert (plan.merge is not None) == (segments > 1)
    plan(
        query, key, value, out, query_start_loc=starts, seq_lens=lengths, pages=table,
        sinks=fields.get("sinks"),
    )  # fmt: skip
    expected = oracle.paged_attention(
        query, key, value, query_start_loc=starts, seq_lens=lengths, block_table=table, scale=0.2,
        sinks=fields.get("sinks"), **shape,
    ).out.float()  # fmt: skip
    assert expected.isfinite().any()
    assert expected.isnan().any()
    torch.testing.assert_close(out, expected, atol=1e-4, rtol=1e-4, equal_nan=True)
