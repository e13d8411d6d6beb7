"""FLEX_ATTENTION on the CPU, uncompiled: judged by the oracle, and what it refuses. No Triton needed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pytest_rocm_attn.backends.batch import Batch
from pytest_rocm_attn.backends.flex_attention import FlexAttention
from pytest_rocm_attn.backends.under_test import FlexAttn
from pytest_rocm_attn.conformance.tiers.numerics.case import Case, shipped
from pytest_rocm_attn.conformance.tiers.numerics.judge import examine
from pytest_rocm_attn.errors import BackendInputError, BackendLimitError
from pytest_rocm_attn.request import Request

CPU = torch.device("cpu")
ALWAYS = [
    "decode-on-both-sides-of-every-tile-edge-float32",
    "mixed-batch-bfloat16",
    "nothing-but-requests-without-new-tokens",
    "heads-in-groups-num-kv-heads-4",
    "sliding-window-33",
    "both-directions-with-a-window-sliding-window-5",
    "block-size-not-a-power-of-two-48",
    "sinks-bfloat16",
    "alibi-float16",
    "soft-cap-1.5-float16",
    "fp8-cache-e4m3fn-float16",
]
CASES = [
    pytest.param(case, id=case.id, marks=() if case.id in ALWAYS else (pytest.mark.slow,))
    for case in shipped()
    if case.kind == "attention" and not case.needs and not case.batch_invariant
]


def claims(case: Case) -> bool:
    """Whether FLEX_ATTENTION computes the case by docs/reference/backends.md#flex-attention."""
    request = case.request
    fp8 = request.kv_cache_dtype.startswith("fp8")
    return not (fp8 or request.alibi or request.logits_soft_cap or request.has_sink)


@pytest.mark.parametrize("case", CASES)
def test_a_case_is_right_or_refused(case: Case) -> None:
    finding = examine(FlexAttn(), case, CPU)
    assert finding.kind == ("right" if claims(case) else "declined"), finding.words


def test_every_name_is_a_case() -> None:
    assert sorted(set(ALWAYS) - {case.id for case in shipped()}) == []


def layer(**fields: Any) -> FlexAttention:
    return FlexAttention(Request(num_heads=4, num_kv_heads=2, **fields), CPU, scale=0.125)


@pytest.mark.parametrize("block_size", [1, 5, 48])
@pytest.mark.parametrize("head_size", [7, 40])
def test_any_block_size_and_head_size(block_size: int, head_size: int) -> None:
    mine = layer(head_size=head_size, block_size=block_size, dtype="float32")
    generator = torch.Generator().manual_seed(0)
    cache = torch.randn(mine.cache_shape(30), generator=generator)
    blocks = -(-20 // block_size)
    table = torch.arange(1, blocks + 1, dtype=torch.int32)[None]
    batch = Batch.build([3], [20], table, torch.full((3,), -1))
    query = torch.randn(3, 4, head_size, generator=generator)
    out = mine.forward(query, cache, batch, torch.full_like(query, torch.nan), check=True)
    key, value = (
        half[table[0].long()].flatten(0, 1)[:20].repeat_interleave(2, dim=1).transpose(0, 1)
        for half in cache
    )
    mask = torch.ones(3, 20, dtype=torch.bool).tril(17)
    wanted = torch.nn.functional.scaled_dot_product_attention(
        query.transpose(0, 1), key, value, attn_mask=mask, scale=0.125
    )
    torch.testing.assert_close(out, wanted.transpose(0, 1))


def test_rows_beyond_the_last_request_are_left_alone() -> None:
    mine = layer(head_size=32, dtype="float32")
    table = torch.ones(1, 1, dtype=torch.int32)
    batch = Batch(
        query_start_loc=torch.tensor([0, 2], dtype=torch.int32),
        seq_lens=torch.tensor([5], dtype=torch.int32),
        block_table=table,
        slot_mapping=torch.full((4,), -1),  # two rows of padding, as a captured graph has
        min_query_len=2,
        max_query_len=2,
        max_seq_len=5,
    )
    out = torch.full((4, 4, 32), 7.0)
    mine.forward(torch.ones(4, 4, 32), torch.ones(mine.cache_shape(2)), batch, out)
    assert out[2:].eq(7.0).all()
    assert out[:2].eq(1.0).all()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"kv_cache_dtype": "fp8"}, "kv_cache_dtype 'fp8': it must be one of auto, bfloat16"),
        ({"alibi": True}, "ALiBi"),
        ({"logits_soft_cap": 30.0}, "soft cap; got 30.0"),
        ({"has_sink": True}, "sinks"),
        ({"attn_type": "encoder_decoder"}, "encoder_decoder attention"),
        ({"use_mla": True}, "MLA"),
        ({"use_mm_prefix": True}, "multimodal prefix"),
    ],
)
def test_what_it_does_not_do_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(
        BackendLimitError, match="FLEX_ATTENTION.*reference/backends/#flex-attention"
    ) as caught:
        layer(**fields)
    assert words in str(caught.value)


def test_a_cache_in_the_order_of_triton_attn_is_refused() -> None:
    mine = layer(head_size=32, dtype="float32")
    batch = Batch.build([1], [5], torch.ones(1, 1, dtype=torch.int32), torch.full((1,), -1))
    out = torch.full((1, 4, 32), torch.nan)
    with pytest.raises(BackendInputError, match="kv_cache has shape"):
        mine.forward(torch.ones(1, 4, 32), torch.ones(3, 2, 16, 2, 32), batch, out)
    assert out.isnan().all()
