"""The AITER backends against the oracle, over stand-ins for aiter's functions.

Evidence: routing, gathering, indexing and arguments are ours and run for real; the functions they
call are stand-ins with the signatures of vLLM 0.12.0's pin (docs/reference/aiter.md#functions),
computed by the oracle. tests/acceptance/test_aiter_signatures.py holds the arguments against the
real ones.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch

from pytest_rocm_attn.backends import aiter_function
from pytest_rocm_attn.backends.batch import Batch
from pytest_rocm_attn.backends.cache import NHD, reshape_and_cache_reference
from pytest_rocm_attn.backends.oracle import attend
from pytest_rocm_attn.backends.rocm_aiter_fa import RocmAiterFlashAttention, Route, route
from pytest_rocm_attn.backends.rocm_aiter_mla import RocmAiterMLA
from pytest_rocm_attn.backends.rocm_aiter_unified_attn import RocmAiterUnifiedAttention
from pytest_rocm_attn.errors import BackendInputError, BackendLimitError
from pytest_rocm_attn.request import Request

CPU = torch.device("cpu")
CALLS: list[str] = []


def _window(window_size: tuple[int, ...]) -> int | None:
    return None if window_size[0] < 0 else window_size[0] + 1


def flash_attn_varlen_func(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    min_seqlen_q: int = 0,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    logits_soft_cap: float = 0.0,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    alibi_slopes: torch.Tensor | None = None,
    return_lse: bool = False,
) -> torch.Tensor:
    CALLS.append(f"varlen {len(cu_seqlens_q) - 1}")
    assert cu_seqlens_q.dtype == cu_seqlens_k.dtype == torch.int32
    assert softmax_scale is not None
    out = q.new_empty(*q.shape[:2], v.shape[2])
    starts_q, starts_k = cu_seqlens_q.tolist(), cu_seqlens_k.tolist()
    assert max(b - a for a, b in itertools.pairwise(starts_k)) == max_seqlen_k
    for i in range(len(starts_q) - 1):
        rows, keys = slice(*starts_q[i : i + 2]), slice(*starts_k[i : i + 2])
        out[rows] = attend(
            q[rows],
            k[keys],
            v[keys],
            scale=softmax_scale,
            causal=causal,
            window=_window(window_size),
            soft_cap=logits_soft_cap or None,
            alibi_slopes=alibi_slopes,
        ).out
    return out


def paged_attention_v1(
    out: torch.Tensor,
    workspace_buffer: torch.Tensor,
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    scale: float,
    block_tables: torch.Tensor,
    cu_query_lens: torch.Tensor | None,
    context_lens: torch.Tensor,
    max_context_len: int,
    alibi_slopes: torch.Tensor | None,
    kv_cache_dtype: str,
    kv_cache_layout: str,
    logits_soft_cap: float,
    k_scale: torch.Tensor,
    v_scale: torch.Tensor,
    fp8_out_scale: torch.Tensor | None = None,
    partition_size: int = 256,
    mtp: int = 1,
) -> torch.Tensor:
    CALLS.append(f"paged {len(context_lens)}")
    assert kv_cache_layout == "NHD"
    assert cu_query_lens is None
    partitions = -(-max_context_len // partition_size)
    requests, heads, size = query.shape
    needed = requests * heads * partitions * (size * query.element_size() + 8)
    assert workspace_buffer.dtype == torch.uint8
    assert workspace_buffer.numel() >= needed
    assert (kv_cache_dtype == "fp8") == (key_cache.element_size() == 1)
    for i, seq_len in enumerate(context_lens.tolist()):
        out[i : i + 1] = attend(
            query[i : i + 1],
            _read(key_cache, block_tables[i], seq_len, k_scale),
            _read(value_cache, block_tables[i], seq_len, v_scale),
            scale=scale,
            soft_cap=logits_soft_cap or None,
            alibi_slopes=alibi_slopes,
        ).out
    return out


def unified_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    max_seqlen_q: int,
    seqused_k: torch.Tensor,
    max_seqlen_k: int,
    softmax_scale: float,
    causal: bool,
    window_size: tuple[int, int],
    block_table: torch.Tensor,
    softcap: float,
    q_descale: None,
    k_descale: torch.Tensor | None,
    v_descale: torch.Tensor | None,
    alibi_slopes: torch.Tensor | None = None,
    output_scale: torch.Tensor | None = None,
    qq_bias: torch.Tensor | None = None,
    sinks: torch.Tensor | None = None,
) -> None:
    CALLS.append(f"unified {len(seqused_k)}")
    assert causal
    assert q_descale is None
    starts = cu_seqlens_q.tolist()
    for i, seq_len in enumerate(seqused_k.tolist()):
        rows = slice(*starts[i : i + 2])
        one = torch.ones(len(seqused_k), k.shape[2])
        k_scale, v_scale = (one if s is None else s for s in (k_descale, v_descale))
        assert k_scale.shape == one.shape
        out[rows] = attend(
            q[rows],
            _read(k, block_table[i], seq_len, k_scale[i, 0]),
            _read(v, block_table[i], seq_len, v_scale[i, 0]),
            scale=softmax_scale,
            window=_window(window_size),
            soft_cap=softcap or None,
            alibi_slopes=alibi_slopes,
            sinks=sinks,
        ).out


def mla_decode_fwd(
    q: torch.Tensor,
    kv_buffer: torch.Tensor,
    o: torch.Tensor,
    qo_indptr: torch.Tensor,
    kv_indptr: torch.Tensor,
    kv_indices: torch.Tensor,
    kv_last_page_lens: torch.Tensor,
    max_seqlen_q: int,
    sm_scale: float | None = None,
    logit_cap: float = 0.0,
) -> tuple[None, None]:
    CALLS.append(f"mla {len(kv_last_page_lens)}")
    assert kv_buffer.shape[1:] == (1, 1, 576)
    assert kv_last_page_lens.eq(1).all()
    assert sm_scale is not None
    starts = kv_indptr.tolist()
    for i in range(len(q)):
        rows = kv_buffer[kv_indices[starts[i] : starts[i + 1]].long(), 0]
        o[i : i + 1] = attend(q[i : i + 1], rows, rows[..., :512], scale=sm_scale).out
    return None, None


def _read(
    cache: torch.Tensor, table: torch.Tensor, seq_len: int, scale: torch.Tensor
) -> torch.Tensor:
    """Return the first seq_len rows of a request: [seq_len, KV heads, D] float64."""
    rows = cache[table[: math.ceil(seq_len / cache.shape[1])].long()].flatten(0, 1)[:seq_len]
    return rows.double() * scale.double()


@pytest.fixture(autouse=True)
def _stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    functions: dict[str, Any] = {
        function.__name__: function
        for function in (
            flash_attn_varlen_func,
            paged_attention_v1,
            unified_attention,
            mla_decode_fwd,
        )
    }
    monkeypatch.setattr(aiter_function, "_find", lambda name, places: functions[name])
    monkeypatch.setattr(f"{__name__}.CALLS", [])


class Problem:
    """A ragged batch over a cache in random block order, what it does not use being NaN."""

    def __init__(self, layer: Any, query_lens: list[int], seq_lens: list[int]) -> None:
        draw = torch.Generator().manual_seed(0)
        request, block = layer.request, layer.block_size
        needed = [math.ceil(length / block) for length in seq_lens]
        order = torch.randperm(sum(needed) + 2, generator=draw).to(torch.int32)
        table = torch.zeros(len(seq_lens), max(needed), dtype=torch.int32)
        for i, count in enumerate(needed):
            table[i, :count] = order[sum(needed[:i]) : sum(needed[:i]) + count]
        slots = torch.cat(
            [
                table[i, torch.arange(n) // block].long() * block + torch.arange(n) % block
                for i, n in enumerate(seq_lens)
            ]
        )
        self.layer, self.query_lens, self.seq_lens = layer, query_lens, seq_lens
        shape = (sum(seq_lens), request.num_kv_heads, request.head_size)
        self.keys, self.values = (
            torch.randn(shape, generator=draw).to(layer.dtype) for _ in range(2)
        )
        cache = torch.full(layer.cache_shape(len(order)), torch.nan, dtype=layer.dtype)
        self.cache = cache.to(layer.cache_dtype)
        reshape_and_cache_reference(
            self.keys, self.values, self.cache[0], self.cache[1], slots, NHD
        )
        if layer.fp8:
            self.keys, self.values = (
                rows.to(layer.cache_dtype).to(layer.dtype) for rows in (self.keys, self.values)
            )
        tokens = sum(query_lens)
        self.query = torch.randn(
            tokens + 3, request.num_heads, request.head_size, generator=draw
        ).to(layer.dtype)
        self.batch = Batch.build(query_lens, seq_lens, table, torch.full((tokens,), -1))

    def check(self) -> None:
        """Run the layer and compare: float16 apart from one rounding of the output."""
        out = torch.full_like(self.query, torch.nan)
        one = torch.ones(())
        scales = {"k_scale": one, "v_scale": one} if self.layer.fp8 else {}
        self.layer.forward(self.query, self.cache, self.batch, out, check=True, **scales)
        row = key = 0
        request = self.layer.request
        for new, seq_len in zip(self.query_lens, self.seq_lens, strict=True):
            exact = attend(
                self.query[row : row + new],
                self.keys[key : key + seq_len],
                self.values[key : key + seq_len],
                scale=self.layer.scale,
                window=request.sliding_window,
                soft_cap=request.logits_soft_cap,
                alibi_slopes=self.layer.alibi_slopes,
                sinks=self.layer.sinks,
            ).out
            torch.testing.assert_close(out[row : row + new], exact.to(out.dtype))
            row, key = row + new, key + seq_len
        assert out[row:].isnan().all()  # rows beyond the real tokens are left alone


def make(cls: Any, **fields: Any) -> Any:
    request = Request(dtype="float16", num_heads=4, num_kv_heads=2, **{"head_size": 64, **fields})
    draw = torch.Generator().manual_seed(1)
    return cls(
        request,
        CPU,
        scale=0.125,
        alibi_slopes=torch.rand(4, generator=draw) if request.alibi else None,
        sinks=torch.randn(4, generator=draw) if request.has_sink else None,
    )


# Two decodes, two extends, two prefills and a request without new tokens, in no order.
MIXED = ([3, 1, 20, 0, 1, 7, 33], [30, 5, 20, 9, 40, 64, 33])
FEATURES: dict[str, dict[str, Any]] = {
    "plain": {},
    "block size 32": {"block_size": 32},
    "soft cap": {"logits_soft_cap": 5.0},
    "alibi": {"alibi": True},
    "window": {"sliding_window": 8},
    "fp8 cache": {"kv_cache_dtype": "fp8"},
}


@pytest.mark.parametrize("features", list(FEATURES.values()), ids=list(FEATURES))
@pytest.mark.parametrize("cls", [RocmAiterFlashAttention, RocmAiterUnifiedAttention])
def test_a_mixed_batch_is_attention(cls: Any, features: dict[str, Any]) -> None:
    Problem(make(cls, **features), *MIXED).check()


def test_unified_attention_knows_sinks() -> None:
    Problem(make(RocmAiterUnifiedAttention, has_sink=True), *MIXED).check()


def test_each_route_takes_its_function() -> None:
    Problem(make(RocmAiterFlashAttention), *MIXED).check()
    assert CALLS == ["varlen 2", "varlen 2", "paged 2"]


def test_a_window_sends_decodes_through_unified_attention() -> None:
    Problem(make(RocmAiterFlashAttention, sliding_window=8), *MIXED).check()
    assert CALLS == ["varlen 2", "varlen 2", "unified 2"]


def test_lengths_are_read_and_parts_made_once_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    routed = []

    def noted(batch: Batch) -> Any:
        routed.append(batch)
        return route(batch)

    monkeypatch.setattr("pytest_rocm_attn.backends.rocm_aiter_fa.route", noted)
    problem = Problem(make(RocmAiterFlashAttention), *MIXED)
    for _ in range(3):
        problem.check()
    assert len(routed) == 1
    assert CALLS == ["varlen 2", "varlen 2", "paged 2"] * 3


def test_latent_pages_are_listed_once_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = []
    pages = RocmAiterMLA._pages

    def noted(self: RocmAiterMLA, batch: Batch) -> Any:
        listed.append(batch)
        return pages(self, batch)

    monkeypatch.setattr(RocmAiterMLA, "_pages", noted)
    layer = mla()
    table = torch.arange(4, dtype=torch.int32).reshape(2, 2)
    batch = Batch.build([1, 1], [20, 7], table, torch.full((2,), -1))
    cache = bf16(*layer.cache_shape(4))
    for _ in range(3):
        layer.decode(bf16(2, 16, 576), cache, batch, bf16(2, 16, 512))
    assert len(listed) == 1


def test_long_extends_are_gathered_in_parts_that_fit_the_workspace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pytest_rocm_attn.backends.rocm_aiter_fa.WORKSPACE_TOKENS", 70)
    Problem(make(RocmAiterFlashAttention), [2, 3, 4, 2], [40, 30, 90, 50]).check()
    assert CALLS == ["varlen 2", "varlen 1", "varlen 1"]


def test_requests_are_routed_by_what_they_do() -> None:
    table = torch.zeros(4, 3, dtype=torch.int32)
    batch = Batch.build([1, 4, 4, 0], [1, 4, 9, 5], table, torch.full((9,), -1))
    groups = route(batch)
    assert {where: group.requests for where, group in groups.items()} == {
        Route.DECODE: (0,),
        Route.PREFILL: (1,),
        Route.EXTEND: (2,),
    }
    assert groups[Route.EXTEND].rows.tolist() == [5, 6, 7, 8]


@pytest.mark.parametrize(
    ("cls", "fields", "words"),
    [
        (RocmAiterFlashAttention, {"head_size": 96}, "head size 96"),
        (RocmAiterFlashAttention, {"block_size": 8}, "block size 8"),
        (RocmAiterUnifiedAttention, {"attn_type": "encoder"}, "encoder attention"),
        (RocmAiterUnifiedAttention, {"kv_cache_dtype": "fp8_inc"}, "fp8_inc"),
    ],
)
def test_what_a_backend_does_not_do_is_refused(cls: Any, fields: Any, words: str) -> None:
    with pytest.raises(BackendLimitError, match=words):
        make(cls, **fields)


@pytest.mark.parametrize("cls", [RocmAiterFlashAttention, RocmAiterUnifiedAttention])
def test_a_batch_that_is_not_causal_is_refused_and_nothing_written(cls: Any) -> None:
    problem = Problem(make(cls), [2], [5])
    batch = Batch.build(
        [2], [5], problem.batch.block_table, problem.batch.slot_mapping, causal=False
    )
    out = torch.full_like(problem.query, torch.nan)
    with pytest.raises(BackendLimitError, match="not causal"):
        problem.layer.forward(problem.query, problem.cache, batch, out)
    assert out.isnan().all()
    assert CALLS == []


def mla(heads: int = 16, **fields: Any) -> RocmAiterMLA:
    request = Request(use_mla=True, num_heads=heads, **fields)
    return RocmAiterMLA(request, CPU, scale=192**-0.5)


@pytest.mark.parametrize("block_size", [1, 16, 64])
def test_mla_decodes_over_any_block_size(block_size: int) -> None:
    layer = mla(block_size=block_size)
    draw = torch.Generator().manual_seed(0)
    seq_lens = [1, 16, 37]
    needed = [math.ceil(n / block_size) for n in seq_lens]
    order = torch.randperm(sum(needed) + 1, generator=draw).to(torch.int32)
    table = torch.full((3, max(needed)), -1, dtype=torch.int32)
    for i, count in enumerate(needed):
        table[i, :count] = order[sum(needed[:i]) : sum(needed[:i]) + count]
    cache = torch.randn(layer.cache_shape(len(order)), generator=draw).to(torch.bfloat16)
    query = torch.randn(3, 16, 576, generator=draw).to(torch.bfloat16)
    out = torch.full((3, 16, 512), torch.nan, dtype=torch.bfloat16)
    batch = Batch.build([1, 1, 1], seq_lens, table, torch.full((3,), -1))
    layer.decode(query, cache, batch, out, check=True)
    for i, seq_len in enumerate(seq_lens):
        rows = cache[table[i, : needed[i]].long()].flatten(0, 1)[:seq_len, None]
        exact = attend(query[i : i + 1], rows, rows[..., :512], scale=layer.scale).out
        torch.testing.assert_close(out[i : i + 1], exact.to(torch.bfloat16))


def test_mla_prefills_with_its_own_scale() -> None:
    layer = mla()
    draw = torch.Generator().manual_seed(0)
    query, key = (torch.randn(9, 16, 192, generator=draw).bfloat16() for _ in range(2))
    value = torch.randn(9, 16, 128, generator=draw).bfloat16()
    out = torch.full_like(value, torch.nan)
    starts = torch.tensor([0, 4, 9], dtype=torch.int32)
    layer.prefill(
        query,
        key,
        value,
        out,
        query_start_loc=starts,
        key_start_loc=starts,
        max_query_len=5,
        max_key_len=5,
    )
    for rows in (slice(0, 4), slice(4, 9)):
        exact = attend(query[rows], key[rows], value[rows], scale=192**-0.5).out
        torch.testing.assert_close(out[rows], exact.bfloat16())


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"heads": 24}, "24 query heads: it must be one of"),
        ({"dtype": "float16"}, "float16"),
        ({"kv_cache_dtype": "fp8"}, "'fp8'"),
        ({"sliding_window": 4}, "sliding window of 4"),
        ({"use_sparse": True}, "anything but dense MLA"),
    ],
)
def test_mla_refuses_what_it_does_not_do(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(BackendLimitError, match=words):
        mla(**fields)


def bf16(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.bfloat16)


def ints(*values: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype)


MLA_STEPS: dict[str, tuple[dict[str, Any], str]] = {
    "query heads": ({"query": bf16(1, 8, 576)}, "query has shape (1, 8, 576)"),
    "strided query": ({"query": bf16(1, 32, 576)[:, ::2]}, "expected (1, 16, 576), contiguous"),
    "cache dimensions": ({"cache": bf16()}, "cache has shape ()"),
    "two tokens": (
        {"batch": ([2], [4], 2)},
        "decodes one token per request, causally; got 2 tokens",
    ),
    "no token": ({"batch": ([1, 0], [4, 4], 1)}, "one token per request, got 1 for 2 requests"),
    "narrow table": (
        {"batch": ([1], [17], 1)},
        "a request has 17 tokens, block_table has 1 blocks",
    ),
}


@pytest.mark.parametrize("what", MLA_STEPS)
def test_mla_refuses_a_decode_that_does_not_fit_before_any_call(what: str) -> None:
    changes, words = MLA_STEPS[what]
    layer = mla()
    query_lens, seq_lens, tokens = changes.get("batch", ([1], [4], 1))
    table = torch.zeros(len(query_lens), 1, dtype=torch.int32)
    batch = Batch.build(query_lens, seq_lens, table, torch.full((tokens,), -1))
    out = torch.full((tokens, 16, 512), torch.nan, dtype=torch.bfloat16)
    query = changes.get("query", bf16(tokens, 16, 576))
    with pytest.raises((BackendInputError, BackendLimitError)) as caught:
        layer.decode(query, changes.get("cache", bf16(*layer.cache_shape(1))), batch, out)
    assert words in str(caught.value)
    assert out.isnan().all()
    assert CALLS == []


MLA_PREFILLS: dict[str, tuple[dict[str, Any], str]] = {
    "value rows": ({"value": bf16(8, 16, 128)}, "value has shape (8, 16, 128)"),
    "starts": ({"key_start_loc": ints(0, 9, 9)}, "query_start_loc has shape (2,)"),
    "starts of 64 bits": (
        {"key_start_loc": ints(0, 9, dtype=torch.int64)},
        "key_start_loc is torch.int64",
    ),
}


@pytest.mark.parametrize("what", MLA_PREFILLS)
def test_mla_refuses_a_prefill_that_does_not_fit_before_any_call(what: str) -> None:
    changes, words = MLA_PREFILLS[what]
    given: dict[str, Any] = {
        "query": bf16(5, 16, 192),
        "key": bf16(9, 16, 192),
        "value": bf16(9, 16, 128),
        "out": torch.full((5, 16, 128), torch.nan, dtype=torch.bfloat16),
        "query_start_loc": ints(0, 5),
        "key_start_loc": ints(0, 9),
        "max_query_len": 5,
        "max_key_len": 9,
    } | changes
    with pytest.raises(BackendInputError) as caught:
        mla().prefill(**given)
    assert words in str(caught.value)
    assert given["out"].isnan().all()
    assert CALLS == []
