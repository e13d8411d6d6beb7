"""Request: its defaults, its normal form, and what it refuses."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from pytest_rocm_attn.errors import RequestError
from pytest_rocm_attn.request import Request


def test_an_ordinary_request_has_the_contracts_defaults() -> None:
    request = Request()
    assert (request.head_size, request.num_heads, request.num_kv_heads) == (128, 32, 8)
    assert (request.dtype, request.kv_cache_dtype, request.block_size) == ("bfloat16", "auto", 16)
    assert request.attn_type == "decoder"
    assert request.sliding_window is request.logits_soft_cap is None
    switches = ("use_mla", "use_sparse", "has_sink", "alibi", "use_mm_prefix")
    assert [getattr(request, name) for name in switches] == [False] * 5


def test_an_mla_request_has_the_latent_head_and_the_heads_of_deepseek_over_eight_ranks() -> None:
    request = Request(use_mla=True)
    assert (request.head_size, request.num_heads, request.num_kv_heads) == (576, 16, 1)
    assert Request(use_mla=True, head_size=320).head_size == 320


@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (2, 1), (4, 1), (8, 2), (16, 4), (12, 3)])
def test_kv_heads_are_a_quarter_of_the_heads(heads: int, kv_heads: int) -> None:
    assert Request(num_heads=heads).num_kv_heads == kv_heads


@pytest.mark.parametrize(
    ("short", "name"),
    [
        ("fp16", "float16"),
        ("half", "float16"),
        ("bf16", "bfloat16"),
        ("fp32", "float32"),
        ("float32", "float32"),
    ],
)
def test_short_dtype_names_mean_the_same_request(short: str, name: str) -> None:
    assert Request(dtype=short).dtype == name
    assert Request(dtype=short) == Request(dtype=name)
    assert hash(Request(dtype=short)) == hash(Request(dtype=name))


@pytest.mark.parametrize(
    ("field", "value", "wanted"),
    [
        ("head_size", -1, "a positive number of elements"),
        ("block_size", 0, "a positive number of tokens, or none"),
        ("block_size", -16, "a positive number of tokens, or none"),
        ("sliding_window", 0, "a positive number of tokens, or none"),
        ("num_heads", -2, "a positive number"),
        ("num_kv_heads", -1, "a positive divisor of num_heads=32"),
        ("num_kv_heads", 5, "a positive divisor of num_heads=32"),
        ("num_kv_heads", 64, "a positive divisor of num_heads=32"),
        ("logits_soft_cap", 0.0, "a positive number, or none"),
        ("logits_soft_cap", -3.0, "a positive number, or none"),
        ("dtype", "bfloat", "one of float16, bfloat16, float32. Did you mean 'bfloat16'"),
        ("dtype", "int8", "one of float16, bfloat16, float32."),
        ("kv_cache_dtype", "fp8_e4m4", "one of auto, float16, bfloat16, fp8, fp8_e4m3,"),
        ("attn_type", "DECODER", "one of decoder, encoder, encoder_only, encoder_decoder."),
    ],
)
def test_a_field_out_of_range_is_named_with_its_value(field: str, value: Any, wanted: str) -> None:
    with pytest.raises(RequestError) as caught:
        Request(**{field: value})
    assert str(caught.value).startswith(f"request: {field} is {value!r}; it must be {wanted}")


@pytest.mark.parametrize(
    ("field", "value", "wanted"),
    [
        ("head_size", "128", "an int"),
        ("head_size", 128.0, "an int"),
        ("head_size", True, "an int"),
        ("num_heads", None, "an int"),
        ("block_size", "16", "an int or None"),
        ("sliding_window", False, "an int or None"),
        ("logits_soft_cap", "30", "a number or None"),
        ("dtype", None, "a string"),
        ("attn_type", 1, "a string"),
        ("use_mla", "no", "True or False"),
        ("has_sink", 1, "True or False"),
    ],
)
def test_a_field_of_another_type_is_named_with_its_value(
    field: str, value: Any, wanted: str
) -> None:
    with pytest.raises(RequestError) as caught:
        Request(**{field: value})
    assert str(caught.value) == f"request: {field} is {value!r}; it must be {wanted}"


def test_the_smallest_legal_values_are_taken() -> None:
    request = Request(
        head_size=1,
        block_size=1,
        sliding_window=1,
        num_heads=1,
        num_kv_heads=1,
        logits_soft_cap=0.1,
    )
    assert request.num_kv_heads == 1
    assert Request(num_heads=32, num_kv_heads=32).num_kv_heads == 32
    assert Request(block_size=None).block_size is None


def test_a_request_tells_what_is_special_about_it_in_field_order() -> None:
    assert Request().non_default() == {}
    assert Request(use_mla=True).non_default() == {"use_mla": True}
    request = Request(has_sink=True, block_size=None, head_size=64, num_heads=32)
    assert list(request.non_default().items()) == [
        ("head_size", 64),
        ("block_size", None),
        ("has_sink", True),
    ]
    mla = Request(use_mla=True, head_size=576, num_heads=128)
    assert mla.non_default() == {"use_mla": True, "num_heads": 128}


def test_a_request_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Request().head_size = 64  # type: ignore[misc]  # the checker refuses it too
