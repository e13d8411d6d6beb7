"""Bad input to the layers: refused with value, limit and source, before any launch, nothing written."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pytest_rocm_attn.backends.batch import Batch
from pytest_rocm_attn.backends.kernels.launcher import Launch
from pytest_rocm_attn.backends.triton_attn import TritonAttention
from pytest_rocm_attn.backends.triton_mla import TritonMLA
from pytest_rocm_attn.errors import BackendInputError, BackendLimitError
from pytest_rocm_attn.request import Request

CPU, META = torch.device("cpu"), torch.device("meta")
HEADS, KV_HEADS, SIZE, BLOCK_SIZE, BLOCKS, TOKENS = 4, 2, 64, 16, 6, 6


@pytest.fixture(autouse=True)
def _no_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    def launched(*args: object, **kwargs: object) -> None:
        pytest.fail("a kernel was launched")

    monkeypatch.setattr(Launch, "__call__", launched)


def ints(*values: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype)


def metadata(**changes: Any) -> Batch:
    fields: dict[str, Any] = {
        "query_start_loc": ints(0, 5, 6),
        "seq_lens": ints(20, 40),
        "block_table": torch.tensor([[1, 2, 0], [3, 4, 5]], dtype=torch.int32),
        "slot_mapping": torch.arange(TOKENS),
        "min_query_len": 1,
        "max_query_len": 5,
        "max_seq_len": 40,
    }
    return Batch(**fields | changes)


def refused(call: Any, words: str, out: torch.Tensor) -> None:
    before = out.clone()
    with pytest.raises((BackendInputError, BackendLimitError)) as caught:
        call()
    message = str(caught.value)
    assert words in message
    assert "\n" not in message
    if not out.is_meta:
        assert torch.equal(out.view(torch.uint8), before.view(torch.uint8))


# --- what a layer does not do ----------------------------------------------------------------------------

ATTN_LIMITS: dict[str, tuple[dict[str, Any], str]] = {
    "block size": ({"block_size": 24}, "block size 24: it must be a multiple of 16"),
    "block size below 16": ({"block_size": 1}, "block size 1:"),
    "small head": ({"head_size": 16}, "head size 16: it must be 32 to 256"),
    "large head": ({"head_size": 288}, "head size 288: it must be 32 to 256"),
    "cache dtype": ({"kv_cache_dtype": "fp8_ds_mla"}, "kv_cache_dtype 'fp8_ds_mla'"),
    "another 16-bit cache": ({"kv_cache_dtype": "float16"}, "kv_cache_dtype 'float16'"),
    "encoder": ({"attn_type": "encoder_only"}, "encoder_only attention"),
    "mla": ({"use_mla": True}, "MLA"),
    "sparse": ({"use_sparse": True}, "sparse"),
    "prefix": ({"use_mm_prefix": True}, "multimodal prefix"),
}
MLA_LIMITS: dict[str, tuple[dict[str, Any], str]] = {
    "dtype": ({"dtype": "float32"}, "dtype float32: it must be float16 or bfloat16"),
    "block size": ({"block_size": 8}, "block size 8: it must be a multiple of 16"),
    "head size": ({"head_size": 320}, "head size 320: it must be 576"),
    "few heads": ({"num_heads": 8}, "8 heads: it must be 16 to 128"),
    "many heads": ({"num_heads": 256}, "256 heads: it must be 16 to 128"),
    "cache dtype": ({"kv_cache_dtype": "fp8"}, "kv_cache_dtype 'fp8'"),
    "alibi": ({"alibi": True}, "ALiBi"),
    "sinks": ({"has_sink": True}, "sinks"),
    "window": ({"sliding_window": 9}, "a sliding window of 9"),
    "soft cap": ({"logits_soft_cap": 5.0}, "a soft cap of 5.0"),
    "encoder": ({"attn_type": "encoder"}, "encoder attention"),
    "not mla": ({"use_mla": False}, "anything but dense MLA"),
}


@pytest.mark.parametrize("what", ATTN_LIMITS)
def test_triton_attn_names_value_limit_and_source(what: str) -> None:
    changes, words = ATTN_LIMITS[what]
    with pytest.raises(
        BackendLimitError, match="TRITON_ATTN.*reference/backends/#triton-attn"
    ) as caught:
        TritonAttention(Request(**changes), CPU, scale=1.0)
    assert words in str(caught.value)


@pytest.mark.parametrize("what", MLA_LIMITS)
def test_triton_mla_names_value_limit_and_source(what: str) -> None:
    changes, words = MLA_LIMITS[what]
    with pytest.raises(
        BackendLimitError, match="TRITON_MLA.*reference/backends/#triton-mla"
    ) as caught:
        TritonMLA(Request(**{"use_mla": True} | changes), CPU, scale=1.0)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("request_fields", "given", "words"),
    [
        ({"alibi": True}, {}, "alibi_slopes missing"),
        ({}, {"sinks": torch.zeros(HEADS)}, "sinks given"),
        ({"has_sink": True}, {"sinks": torch.zeros(3)}, "sinks has shape (3,), expected (4,)"),
        ({"alibi": True}, {"alibi_slopes": torch.zeros(HEADS, device=META)}, "on meta"),
        ({}, {"scale": 0.0}, "positive finite number, got 0.0"),
        ({}, {"scale": float("nan")}, "positive finite number, got nan"),
        ({}, {"scale": float("inf")}, "positive finite number, got inf"),
    ],
)
def test_a_layer_and_its_request_must_agree(
    request_fields: dict[str, Any], given: dict[str, Any], words: str
) -> None:
    request = Request(num_heads=HEADS, num_kv_heads=KV_HEADS, head_size=SIZE, **request_fields)
    with pytest.raises((BackendInputError, BackendLimitError)) as caught:
        TritonAttention(request, CPU, **{"scale": 1.0} | given)
    assert words in str(caught.value)


def test_slopes_and_sinks_with_a_stride_are_read_as_they_are() -> None:
    request = Request(num_heads=HEADS, num_kv_heads=KV_HEADS, head_size=SIZE, has_sink=True)
    layer = TritonAttention(request, CPU, scale=1.0, sinks=torch.arange(8.0)[::2])
    assert layer.sinks is not None
    assert layer.sinks.is_contiguous()
    assert layer.sinks.tolist() == [0.0, 2.0, 4.0, 6.0]


# --- a step whose tensors disagree -----------------------------------------------------------------------


def half(*shape: int, **more: Any) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.float16, **more)


CACHE = (BLOCKS, 2, BLOCK_SIZE, KV_HEADS, SIZE)
STEPS: dict[str, tuple[dict[str, Any], str]] = {
    "too few queries": ({"query": half(5, HEADS, SIZE)}, "query has shape (5, 4, 64)"),
    "queries of other heads": ({"query": half(TOKENS, 8, SIZE)}, "query has shape (6, 8, 64)"),
    "flat queries": ({"query": half(TOKENS, HEADS * SIZE)}, "query has shape (6, 256)"),
    "a scalar query": ({"query": half()}, "query has shape ()"),
    "transposed queries": ({"query": half(TOKENS, SIZE, HEADS).mT}, "dense last dimension"),
    "queries of another dtype": (
        {"query": torch.zeros(TOKENS, HEADS, SIZE)},
        "query is torch.float32, the layer's dtype is torch.float16",
    ),
    "queries elsewhere": ({"query": half(TOKENS, HEADS, SIZE, device=META)}, "query is on meta"),
    "an output of another size": ({"out": half(TOKENS, HEADS, 32)}, "out has shape (6, 4, 32)"),
    "an output of another dtype": (
        {"out": torch.zeros(TOKENS, HEADS, SIZE)},
        "out is torch.float32",
    ),
    "an output elsewhere": ({"out": half(TOKENS, HEADS, SIZE, device=META)}, "out is on meta"),
    "a cache without halves": ({"kv_cache": half(BLOCKS, BLOCK_SIZE, KV_HEADS, SIZE)}, "expected"),
    "a cache of another block size": (
        {"kv_cache": half(BLOCKS, 2, 32, KV_HEADS, SIZE)},
        "kv_cache has shape (6, 2, 32, 2, 64), expected (-1, 2, 16, 2, 64)",
    ),
    "a cache of another dtype": ({"kv_cache": torch.zeros(CACHE)}, "kv_cache is torch.float32"),
    "a cache elsewhere": ({"kv_cache": half(*CACHE, device=META)}, "kv_cache is on meta"),
    "metadata elsewhere": (
        {
            "batch": metadata(
                query_start_loc=ints(0, 5, 6).to(META),
                seq_lens=ints(20, 40).to(META),
                block_table=torch.zeros(2, 3, dtype=torch.int32, device=META),
                slot_mapping=torch.arange(TOKENS, device=META),
            )
        },
        "block_table is on meta",
    ),
    "a table that is too narrow": (
        {"batch": metadata(max_seq_len=49)},
        "a request has 49 tokens, block_table has 3 blocks of 16",
    ),
}
FP8_STEPS: dict[str, tuple[dict[str, Any], str]] = {
    "no scale": ({"k_scale": None}, "k_scale is missing"),
    "a scale a head": ({"v_scale": torch.ones(KV_HEADS)}, "v_scale is torch.float32 (2,)"),
    "a scale of another dtype": ({"k_scale": half(1)}, "k_scale is torch.float16 (1,)"),
    "a scale elsewhere": ({"k_scale": torch.ones((), device=META)}, "k_scale is on meta"),
    "the other flavour": (
        {"kv_cache": torch.zeros(CACHE).to(torch.float8_e4m3fnuz)},
        "kv_cache is torch.float8_e4m3fnuz, expected torch.float8_e4m3fn",
    ),
}


def step(kv_cache_dtype: str, **changes: Any) -> dict[str, Any]:
    stored = torch.float8_e4m3fn if kv_cache_dtype == "fp8" else torch.float16
    scale = torch.ones(()) if kv_cache_dtype == "fp8" else None
    return {
        "query": half(TOKENS, HEADS, SIZE),
        "kv_cache": torch.zeros(CACHE).to(stored),
        "batch": metadata(),
        "out": torch.full((TOKENS, HEADS, SIZE), torch.nan, dtype=torch.float16),
        "k_scale": scale,
        "v_scale": scale,
    } | changes


def layer(kv_cache_dtype: str) -> TritonAttention:
    request = Request(
        num_heads=HEADS,
        num_kv_heads=KV_HEADS,
        head_size=SIZE,
        dtype="float16",
        kv_cache_dtype=kv_cache_dtype,
    )
    return TritonAttention(request, CPU, scale=1.0)


@pytest.mark.parametrize(
    ("cache", "what"),
    [*(("auto", what) for what in STEPS), *(("fp8", what) for what in FP8_STEPS)],
)
def test_a_step_that_disagrees_is_refused(cache: str, what: str) -> None:
    changes, words = (STEPS if cache == "auto" else FP8_STEPS)[what]
    given = step(cache, **changes)
    refused(lambda: layer(cache).forward(**given), words, given["out"])


def test_the_steps_above_are_refused_for_what_they_change_alone() -> None:
    for cache in ("auto", "fp8"):
        with pytest.raises(pytest.fail.Exception, match="a kernel was launched"):
            layer(cache).forward(**step(cache))


@pytest.mark.parametrize(
    ("cache", "what"),
    [
        *(("auto", what) for what, (changes, _) in STEPS.items() if "batch" not in changes),
        *(("fp8", what) for what in FP8_STEPS),
    ],
)
def test_a_step_that_disagrees_is_refused_after_one_that_was_right(
    cache: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a step's first layer was found to agree in is not looked at again."""
    changes, words = (STEPS if cache == "auto" else FP8_STEPS)[what]
    attention, right = layer(cache), step(cache)
    with monkeypatch.context() as patched:
        patched.setattr(Launch, "__call__", lambda *_: None)
        attention.forward(**right)
    given = right | changes
    refused(lambda: layer(cache).forward(**given), words, given["out"])


# --- what only a look at the device can tell, on request ---------------------------------------------------

POINTERS: dict[str, tuple[dict[str, Any], str]] = {
    "a block beyond the cache": (
        {"block_table": torch.tensor([[1, 2, 0], [3, 6, 5]], dtype=torch.int32)},
        "block_table[1, 1] is 6; the cache has blocks 0 to 5",
    ),
    "a negative block": (
        {"block_table": torch.tensor([[1, -1, 0], [3, 4, 5]], dtype=torch.int32)},
        "block_table[0, 1] is -1",
    ),
    "a slot beyond the cache": (
        {"slot_mapping": torch.tensor([0, 1, 2, 3, 4, 96])},
        "slot_mapping[5] is 96",
    ),
    "a request beyond its row": (
        {"seq_lens": ints(20, 60)},
        "block_table row 1 has 3 blocks; 60 tokens need 4",
    ),
}


@pytest.mark.parametrize("what", POINTERS)
def test_what_points_outside_is_refused_on_request(what: str) -> None:
    changes, words = POINTERS[what]
    given = step("auto", batch=metadata(**changes))
    refused(lambda: layer("auto").forward(**given, check=True), words, given["out"])


def test_entries_that_no_kernel_follows_may_be_anything() -> None:
    table = torch.tensor([[1, 2, 999], [3, 4, 5]], dtype=torch.int32)
    metadata(block_table=table).check(BLOCKS, BLOCK_SIZE)


# --- metadata ----------------------------------------------------------------------------------------------

BATCHES: dict[str, tuple[dict[str, Any], str]] = {
    "64-bit lengths": ({"seq_lens": ints(20, 40, dtype=torch.int64)}, "seq_lens is torch.int64"),
    "a start too few": ({"query_start_loc": ints(0, 5)}, "query_start_loc has shape (2,)"),
    "another number of rows": ({"block_table": torch.zeros(3, 3).int()}, "block_table has shape"),
    "a flat table": ({"block_table": torch.zeros(6).int()}, "block_table has shape (6,)"),
    "a transposed table": ({"block_table": torch.zeros(3, 2).int().T}, "block_table has stride"),
    "32-bit slots": ({"slot_mapping": ints(0, 1)}, "slot_mapping is torch.int32"),
    "lengths elsewhere": ({"seq_lens": ints(20, 40).to(META)}, "seq_lens is on meta"),
    "a shortest above the longest": ({"min_query_len": 9}, "min_query_len 9 and max_query_len 5"),
}


@pytest.mark.parametrize("what", BATCHES)
def test_metadata_that_disagrees_is_refused(what: str) -> None:
    changes, words = BATCHES[what]
    refused(lambda: metadata(**changes), words, torch.zeros(1))


@pytest.mark.parametrize(
    ("queries", "totals", "slots", "words"),
    [
        ([3], [2], 3, "request 0 has 3 new tokens of 2"),
        ([1, 1], [2], 2, "2 query lengths, 1 sequence lengths"),
        ([1], [2], 5, "1 new tokens for 5 slots"),
    ],
)
def test_lengths_that_disagree_are_refused(
    queries: list[int], totals: list[int], slots: int, words: str
) -> None:
    table = torch.zeros(len(totals), 1, dtype=torch.int32)
    with pytest.raises(BackendInputError, match=words):
        Batch.build(queries, totals, table, torch.arange(slots))


# --- MLA -----------------------------------------------------------------------------------------------------


def mla() -> TritonMLA:
    return TritonMLA(Request(use_mla=True, num_heads=16, dtype="float16"), CPU, scale=1.0)


def mla_step(**changes: Any) -> dict[str, Any]:
    return {
        "query": half(2, 16, 576),
        "cache": half(BLOCKS, BLOCK_SIZE, 576),
        "batch": metadata(
            query_start_loc=ints(0, 1, 2), slot_mapping=torch.arange(2), max_query_len=1
        ),
        "out": torch.full((2, 16, 512), torch.nan, dtype=torch.float16),
    } | changes


MLA_STEPS: dict[str, tuple[dict[str, Any], str]] = {
    "query heads": ({"query": half(2, 8, 576)}, "query has shape (2, 8, 576)"),
    "query width": ({"query": half(2, 16, 512)}, "expected (2, 16, 576)"),
    "query dtype": ({"query": torch.zeros(2, 16, 576)}, "query is torch.float32"),
    "query device": ({"query": half(2, 16, 576, device=META)}, "query is on meta"),
    "out width": ({"out": half(2, 16, 576)}, "out has shape (2, 16, 576)"),
    "cache block size": ({"cache": half(BLOCKS, 32, 576)}, "cache has shape (6, 32, 576)"),
    "cache dimensions": ({"cache": half()}, "cache has shape ()"),
    "two tokens": (
        {"batch": metadata(query_start_loc=ints(0, 1, 2), slot_mapping=torch.arange(2))},
        "one token per request, causally; got 5 tokens",
    ),
    "narrow table": (
        {
            "batch": metadata(
                query_start_loc=ints(0, 1, 2),
                slot_mapping=torch.arange(2),
                max_query_len=1,
                max_seq_len=49,
            )
        },
        "a request has 49 tokens, block_table has 3 blocks of 16",
    ),
}


@pytest.mark.parametrize("what", MLA_STEPS)
def test_an_mla_decode_that_disagrees_is_refused(what: str) -> None:
    changes, words = MLA_STEPS[what]
    given = mla_step(**changes)
    refused(lambda: mla().decode(**given), words, given["out"])


MLA_PREFILLS: dict[str, tuple[dict[str, Any], str]] = {
    "key width": ({"key": half(9, 16, 128)}, "key has shape (9, 16, 128), expected (9, 16, 192)"),
    "value rows": ({"value": half(8, 16, 128)}, "value has shape (8, 16, 128)"),
    "lse dtype": ({"lse": half(16, 5)}, "lse is torch.float16"),
    "lse order": ({"lse": torch.zeros(5, 16)}, "expected float32 (16, 5)"),
    "starts": ({"key_start_loc": ints(0, 9, 9)}, "query_start_loc has shape (2,)"),
    "starts of 64 bits": (
        {"key_start_loc": ints(0, 9, dtype=torch.int64)},
        "key_start_loc is torch.int64",
    ),
    "starts elsewhere": ({"query_start_loc": ints(0, 5).to(META)}, "query_start_loc is torch"),
}


@pytest.mark.parametrize("what", MLA_PREFILLS)
def test_an_mla_prefill_that_disagrees_is_refused(what: str) -> None:
    changes, words = MLA_PREFILLS[what]
    given: dict[str, Any] = {
        "query": half(5, 16, 192),
        "key": half(9, 16, 192),
        "value": half(9, 16, 128),
        "out": torch.full((5, 16, 128), torch.nan, dtype=torch.float16),
        "query_start_loc": ints(0, 5),
        "key_start_loc": ints(0, 9),
        "max_query_len": 5,
    } | changes
    refused(lambda: mla().prefill(**given), words, given["out"])
