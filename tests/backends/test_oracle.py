"""The oracle against answers worked out by hand, and against other formulations of attention."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention
from torch.nn.functional import scaled_dot_product_attention

from pytest_rocm_attn.backends.oracle import (
    attend,
    merge_states,
    mla_decode,
    paged_attention,
    ragged_attention,
    visible_keys,
)

E64 = torch.float64
ONE = torch.ones(1, 1, 1, dtype=E64)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=E64, generator=torch.Generator().manual_seed(seed))


# --- by hand ---------------------------------------------------------------------------------------


def test_causality_is_bottom_right_aligned() -> None:
    assert visible_keys(2, 3).tolist() == [[True, True, False], [True, True, True]]


def test_a_window_of_two_sees_the_token_itself_and_one_before() -> None:
    assert visible_keys(1, 3, window=2).tolist() == [[False, True, True]]


def test_a_window_of_two_that_is_not_causal_sees_one_on_either_side() -> None:
    assert visible_keys(3, 3, causal=False, window=2).tolist() == [
        [True, True, False],
        [True, True, True],
        [False, True, True],
    ]


def test_two_keys_with_weights_one_to_three() -> None:
    key = torch.tensor([0.0, math.log(3.0)], dtype=E64).reshape(2, 1, 1)
    value = torch.tensor([4.0, 8.0], dtype=E64).reshape(2, 1, 1)
    result = attend(ONE, key, value, scale=1.0)
    assert math.isclose(result.out.item(), 0.25 * 4 + 0.75 * 8)
    assert math.isclose(result.lse.item(), math.log(4.0))


def test_the_scale_multiplies_the_score() -> None:
    key = torch.tensor([0.0, 2.0], dtype=E64).reshape(2, 1, 1)
    value = torch.tensor([0.0, 1.0], dtype=E64).reshape(2, 1, 1)
    out = attend(ONE, key, value, scale=math.log(3.0) / 2).out
    assert math.isclose(out.item(), 0.75)


def test_a_soft_cap_bends_the_scaled_score() -> None:
    key = torch.tensor([0.0, 3.0], dtype=E64).reshape(2, 1, 1)
    value = torch.tensor([0.0, 1.0], dtype=E64).reshape(2, 1, 1)
    out = attend(ONE, key, value, scale=2.0, soft_cap=1.5).out
    score = 1.5 * math.tanh(2.0 * 3.0 / 1.5)
    assert math.isclose(out.item(), 1 / (1 + math.exp(-score)))


def test_alibi_lowers_the_score_by_the_slope_for_each_token_between() -> None:
    value = torch.tensor([0.0, 1.0], dtype=E64).reshape(2, 1, 1)
    slopes = torch.tensor([math.log(3.0)], dtype=E64)
    out = attend(ONE, 0 * value, value, scale=1.0, alibi_slopes=slopes).out
    assert math.isclose(out.item(), 0.75)


def test_alibi_comes_after_the_soft_cap() -> None:
    value = torch.tensor([0.0, 1.0], dtype=E64).reshape(2, 1, 1)
    slopes = torch.tensor([100.0], dtype=E64)
    out = attend(ONE, 0 * value, value, scale=1.0, soft_cap=0.1, alibi_slopes=slopes).out
    assert math.isclose(out.item(), 1.0)


def test_a_sink_takes_its_share_and_gives_no_value() -> None:
    sinks = torch.tensor([math.log(3.0)], dtype=E64)
    result = attend(0 * ONE, ONE, ONE, scale=1.0, sinks=sinks)
    assert math.isclose(result.out.item(), 0.25)
    assert math.isclose(result.lse.item(), math.log(4.0))


def test_a_sink_is_not_scaled() -> None:
    sinks = torch.tensor([math.log(3.0)], dtype=E64)
    assert math.isclose(attend(0 * ONE, ONE, ONE, scale=7.0, sinks=sinks).out.item(), 0.25)


@pytest.mark.parametrize("sink", [None, 0.5])
def test_a_token_that_sees_nothing_is_zero(sink: float | None) -> None:
    nothing = torch.ones(0, 1, 4)
    sinks = None if sink is None else torch.full((2,), sink, dtype=E64)
    result = attend(torch.ones(1, 2, 4), nothing, nothing, scale=1.0, sinks=sinks)
    assert result.out.eq(0).all()
    assert result.lse.eq(-torch.inf if sink is None else sink).all()


def test_a_query_head_reads_the_kv_head_of_its_group() -> None:
    value = torch.tensor([10.0, 20.0], dtype=E64).reshape(1, 2, 1)
    out = attend(torch.ones(1, 4, 1), torch.ones(1, 2, 1), value, scale=1.0).out
    assert out.flatten().tolist() == [10.0, 10.0, 20.0, 20.0]


def test_keys_that_no_token_sees_may_be_nan() -> None:
    key, value = normal(4, 1, 8), normal(4, 1, 8, seed=1)
    clean = attend(ONE.expand(1, 1, 8), key, value, scale=1.0, window=2)
    key[:2] = value[:2] = torch.nan
    assert torch.equal(attend(ONE.expand(1, 1, 8), key, value, scale=1.0, window=2).out, clean.out)


# --- the paged and ragged forms ----------------------------------------------------------------------


def test_a_ragged_batch_is_its_requests_one_by_one() -> None:
    query_lens, seq_lens, size = [2, 0, 1, 3], [5, 0, 9, 3], 8
    query = normal(6, 4, size)
    blocks = torch.tensor([[7, 2, 0], [0, 0, 0], [1, 5, 3], [6, 0, 0]], dtype=torch.int32)
    caches = torch.full((2, 8, 4, 2, size), torch.nan, dtype=E64)
    wanted, start = [], 0
    for i, (query_len, seq_len) in enumerate(zip(query_lens, seq_lens, strict=True)):
        kv = normal(2, seq_len, 2, size, seed=i + 1)
        for position in range(seq_len):
            caches[:, blocks[i, position // 4], position % 4] = kv[:, position]
        rows = query[start : start + query_len]
        wanted.append(attend(rows, kv[0], kv[1], scale=0.3).out)
        start += query_len
    result = paged_attention(
        query,
        caches[0],
        caches[1],
        query_start_loc=torch.tensor([0, 2, 2, 3, 6]),
        seq_lens=torch.tensor(seq_lens),
        block_table=blocks,
        scale=0.3,
    )
    torch.testing.assert_close(result.out, torch.cat(wanted))
    assert result.keys.tolist() == [4, 5, 9, 1, 2, 3]


def decoded_by_hand(code: int, bias: int) -> float:
    """Return what an e4m3 code stands for: sign, four bits of exponent, three of mantissa."""
    exponent, mantissa = code >> 3 & 15, code & 7
    size = (
        mantissa / 8 * 2.0 ** (1 - bias)
        if exponent == 0
        else (1 + mantissa / 8) * 2.0 ** (exponent - bias)
    )
    return -size if code & 128 else size


@pytest.mark.parametrize(
    ("dtype", "bias", "nans"),
    [
        pytest.param(torch.float8_e4m3fn, 7, {0x7F, 0xFF}, id="e4m3fn"),
        pytest.param(torch.float8_e4m3fnuz, 8, {0x80}, id="e4m3fnuz"),
    ],
)
def test_every_fp8_code_stands_for_its_value_times_the_scale(
    dtype: torch.dtype, bias: int, nans: set[int]
) -> None:
    codes = [code for code in range(256) if code not in nans]
    values = torch.tensor(codes, dtype=torch.uint8).view(dtype).reshape(1, 1, 1, -1)
    keys = torch.zeros_like(values.view(torch.uint8)).view(dtype)
    out = paged_attention(
        torch.ones(1, 1, len(codes)),
        keys,
        values,
        query_start_loc=torch.tensor([0, 1]),
        seq_lens=torch.tensor([1]),
        block_table=torch.tensor([[0]]),
        scale=1.0,
        v_scale=0.5,
    ).out
    assert out.flatten().tolist() == [0.5 * decoded_by_hand(code, bias) for code in codes]


def test_the_k_scale_multiplies_the_key() -> None:
    key = torch.tensor([0.0, 2.0]).to(torch.float8_e4m3fn).reshape(1, 2, 1, 1)
    out = paged_attention(
        ONE,
        key,
        key,
        query_start_loc=torch.tensor([0, 1]),
        seq_lens=torch.tensor([2]),
        block_table=torch.tensor([[0]]),
        scale=1.0,
        k_scale=math.log(3.0) / 2,
    ).out
    assert math.isclose(out.item(), 2 * 0.75)


# --- against other formulations ------------------------------------------------------------------------


def sdpa(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
) -> torch.Tensor:
    """torch's attention in float64, over [tokens, heads, size]; the KV heads are repeated."""
    group = query.shape[1] // key.shape[1]
    key, value = (rows.repeat_interleave(group, dim=1) for rows in (key, value))
    q, k, v = (rows.transpose(0, 1) for rows in (query, key, value))
    return scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale).transpose(0, 1)


@pytest.mark.parametrize("kv_heads", [1, 2, 4], ids=lambda n: f"{n} KV heads")
def test_grouped_heads_agree_with_torch(kv_heads: int) -> None:
    q, k, v = normal(7, 4, 16), normal(7, kv_heads, 16, seed=1), normal(7, kv_heads, 12, seed=2)
    causal = torch.ones(7, 7, dtype=torch.bool).tril()
    torch.testing.assert_close(attend(q, k, v, scale=0.25).out, sdpa(q, k, v, causal, 0.25))
    everything = attend(q, k, v, scale=0.25, causal=False).out
    torch.testing.assert_close(everything, sdpa(q, k, v, None, 0.25))


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "both directions"])
@pytest.mark.parametrize("window", [1, 3, 9], ids=lambda n: f"window {n}")
def test_windows_and_alibi_agree_with_torchs_masks(causal: bool, window: int) -> None:
    q, k, v = normal(3, 2, 8), normal(9, 2, 8, seed=1), normal(9, 2, 8, seed=2)
    slopes = torch.tensor([0.5, 0.125], dtype=E64)
    mask = torch.full((2, 3, 9), -torch.inf, dtype=E64)
    for token in range(3):
        for key in range(9):
            distance = 6 + token - key
            if abs(distance) < window and not (causal and distance < 0):
                mask[:, token, key] = -slopes * distance
    result = attend(q, k, v, scale=0.4, causal=causal, window=window, alibi_slopes=slopes)
    torch.testing.assert_close(result.out, sdpa(q, k, v, mask, 0.4))


def test_a_sink_agrees_with_a_further_key_whose_value_is_zero() -> None:
    q, k, v = normal(5, 2, 8), normal(5, 2, 8, seed=1), normal(5, 2, 8, seed=2)
    sinks = torch.tensor([1.5, -0.5], dtype=E64)
    # One more column: the sink's logit in the query, 1 in the sink's key, 0 in all others.
    q1 = torch.cat([q, (sinks / 0.3)[None, :, None].expand(5, 2, 1)], dim=2)
    k1 = torch.zeros(6, 2, 9, dtype=E64)
    k1[1:, :, :8], k1[0, :, 8] = k, 1.0
    v1 = torch.cat([torch.zeros(1, 2, 8, dtype=E64), v])
    mask = torch.ones(5, 6, dtype=torch.bool).tril(1)
    result = attend(q, k, v, scale=0.3, sinks=sinks)
    torch.testing.assert_close(result.out, sdpa(q1, k1, v1, mask, 0.3))


# Uncompiled on purpose: the definition, not its speed.
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_the_soft_cap_agrees_with_torchs_flex_attention() -> None:
    q, k, v = normal(6, 4, 16), normal(6, 4, 16, seed=1), normal(6, 4, 16, seed=2)

    def capped(score: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return 0.7 * torch.tanh(score / 0.7)

    query, key, value = (rows.transpose(0, 1)[None] for rows in (q, k, v))
    wanted = flex_attention(query, key, value, score_mod=capped, scale=0.5)
    assert isinstance(wanted, torch.Tensor)
    got = attend(q, k, v, scale=0.5, soft_cap=0.7, causal=False).out
    torch.testing.assert_close(got, wanted[0].transpose(0, 1))


def test_absorbed_mla_agrees_with_materialised_heads() -> None:
    heads, nope, rope, rank, value_size, seq_len = 3, 8, 4, 16, 6, 10
    latent, k_pe = normal(seq_len, rank), normal(seq_len, rope, seed=1)
    w_uk, w_uv = normal(rank, heads, nope, seed=2), normal(rank, heads, value_size, seed=3)
    q_nope, q_pe = normal(1, heads, nope, seed=4), normal(1, heads, rope, seed=5)
    key = torch.cat(
        [
            torch.einsum("sl,lnp->snp", latent, w_uk),
            k_pe[:, None, :].expand(seq_len, heads, rope),
        ],
        dim=2,
    )
    value = torch.einsum("sl,lnv->snv", latent, w_uv)
    query = torch.cat([q_nope, q_pe], dim=2)
    wanted = sdpa(query, key, value, None, 0.2)
    ragged = ragged_attention(
        query,
        key,
        value,
        query_start_loc=torch.tensor([0, 1]),
        key_start_loc=torch.tensor([0, seq_len]),
        scale=0.2,
    )
    torch.testing.assert_close(ragged.out, wanted)

    absorbed = torch.cat([torch.einsum("tnp,lnp->tnl", q_nope, w_uk), q_pe], dim=2)
    cache = torch.full((4, 4, rank + rope), torch.nan, dtype=E64)
    table = torch.tensor([[2, 0, 3]])
    for position in range(seq_len):
        row = torch.cat([latent[position], k_pe[position]])
        cache[table[0, position // 4], position % 4] = row
    decoded = mla_decode(
        absorbed,
        cache,
        seq_lens=torch.tensor([seq_len]),
        block_table=table,
        scale=0.2,
        value_size=rank,
    )
    torch.testing.assert_close(torch.einsum("tnl,lnv->tnv", decoded.out, w_uv), wanted)


def test_parts_of_the_keys_merge_into_the_whole() -> None:
    q, k, v = normal(2, 2, 8), normal(9, 2, 8, seed=1), normal(9, 2, 8, seed=2)
    whole = attend(q, k, v, scale=0.3, causal=False)
    cuts = [slice(0, 4), slice(4, 4), slice(4, 9)]
    parts = [attend(q, k[cut], v[cut], scale=0.3, causal=False) for cut in cuts]
    out, lse = merge_states([part.out for part in parts], [part.lse for part in parts])
    torch.testing.assert_close(out, whole.out)
    torch.testing.assert_close(lse, whole.lse)


@pytest.mark.parametrize("empty", [torch.inf, -torch.inf])
def test_an_empty_part_has_no_weight_whatever_it_holds(empty: float) -> None:
    out, lse = merge_states([ONE, torch.nan * ONE], [ONE[0], torch.full((1, 1), empty, dtype=E64)])
    assert out.item() == 1.0
    assert lse.item() == 1.0


def test_no_parts_at_all_merge_into_zero() -> None:
    out, lse = merge_states([torch.nan * ONE], [torch.full((1, 1), -torch.inf, dtype=E64)])
    assert out.item() == 0.0
    assert lse.item() == -torch.inf


# --- numbers that are not finite -------------------------------------------------------------------


def two_tokens(**changes: torch.Tensor) -> dict[str, Any]:
    """Return query, key and value of two new tokens with one head of two columns, all ones."""
    return {name: torch.ones(2, 1, 2, dtype=E64) for name in ("query", "key", "value")} | changes


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["key", "value"])
def test_what_a_token_does_not_see_changes_nothing(name: str, number: float) -> None:
    tensors = two_tokens()
    tensors[name][1, 0, 0] = number  # which the first token does not see
    first = attend(**tensors, scale=1.0).out[0]
    assert torch.equal(first, attend(**two_tokens(), scale=1.0).out[0])


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_visible_value_shows_in_its_column_alone(number: float) -> None:
    tensors = two_tokens()
    tensors["value"][0, 0, 0] = number
    out = attend(**tensors, scale=1.0).out[:, 0]
    expected = torch.tensor([[number, 1.0]] * 2, dtype=E64)
    torch.testing.assert_close(out, expected, equal_nan=True)


def test_a_key_whose_score_is_minus_infinity_has_no_weight_and_no_error() -> None:
    tensors = two_tokens(value=torch.tensor([[[5.0, 5.0]], [[7.0, 7.0]]], dtype=E64))
    tensors["key"][0, 0, 0] = -math.inf
    result = attend(**tensors, scale=1.0)
    assert result.out[:, 0, 0].tolist() == [0.0, 7.0]  # the first token has no other key
    assert result.score[1, 0] == 2.0


@pytest.mark.parametrize(
    ("sink", "expected"), [(math.inf, 0.0), (-math.inf, 1.0), (math.nan, math.nan)]
)
def test_a_sink_that_is_not_finite(sink: float, expected: float) -> None:
    result = attend(**two_tokens(), scale=1.0, sinks=torch.tensor([sink]))
    wanted = torch.full((2, 1, 2), expected, dtype=E64)
    torch.testing.assert_close(result.out, wanted, equal_nan=True)
    assert result.visible.isfinite().all()
