"""What each field of declarations.toml means, on entries made for it; test_releases.py has those of releases."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_rocm_attn import Gpu, Request
from pytest_rocm_attn.backends.declarations import Declared, limits

CLASS = "vllm.v1.attention.backends.made.MadeBackend"
ENTRY = {
    "heads": "any",
    "dtypes": "bfloat16",
    "caches": "auto",
    "blocks": "any",
    "types": "decoder",
    "yes": "",
}


def refusals(
    entry: dict[str, Any], request: dict[str, Any], gfx: str = "gfx942"
) -> list[tuple[str, str]]:
    """Return rule and words of each limit that a class does not meet."""
    layer: Any = {"block_size": 16, **request}
    asked, gpu = Request(**layer), Gpu(gfx)
    found = limits("MADE", Declared(CLASS, ENTRY | entry, "0.33.0"), (0, 33))
    return [(one.rule, one.refusal(asked, gpu)) for one in found if not one.holds(asked, gpu)]


def rules(entry: dict[str, Any], request: dict[str, Any], gfx: str = "gfx942") -> list[str]:
    return [rule for rule, _ in refusals(entry, request, gfx)]


@pytest.mark.parametrize(
    ("heads", "taken", "refused"),
    [
        ("64 128", (64, 128), (32, 96, 256)),
        ("32..", (32, 33, 512), (31,)),
        ("16..64/8", (16, 24, 64), (8, 20, 72)),
        ("16..64", (16, 17, 64), (15, 65)),
        ("any", (1, 512), ()),
        ("", (), (64,)),
    ],
)
def test_a_list_has_values_or_ranges(
    heads: str, taken: tuple[int, ...], refused: tuple[int, ...]
) -> None:
    for size in taken:
        assert rules({"heads": heads}, {"head_size": size}) == [], size
    for size in refused:
        assert rules({"heads": heads}, {"head_size": size}) == ["head-size"], size


def test_a_class_that_declares_nothing_refuses_in_words() -> None:
    ((rule, words),) = refusals({"caches": ""}, {})
    assert (rule, words) == (
        "kv-cache-dtype",
        "does not support kv_cache_dtype auto: it declares none",
    )
    ((rule, words),) = refusals({"gpus": ""}, {})
    assert rule == "compute-capability"
    assert words.endswith(": it takes no AMD GPU")


@pytest.mark.parametrize(
    ("blocks", "taken", "refused", "words"),
    [
        ("16", (16, 48, None), (8, 24), "a multiple of 16"),
        ("16 24", (16, 24, 72), (8, 20), "a multiple of 16 or 24"),
        ("exactly 16 64", (16, 64, None), (32, 128), "exactly 16 or 64"),
    ],
)
def test_blocks_are_multiples_of_a_size_or_exactly_one(
    blocks: str, taken: tuple[int | None, ...], refused: tuple[int, ...], words: str
) -> None:
    for size in taken:
        assert rules({"blocks": blocks}, {"block_size": size}) == [], size
    for size in refused:
        ((rule, said),) = refusals({"blocks": blocks}, {"block_size": size})
        assert rule == "block-size"
        assert said == f"does not support block size {size}: it must be {words}"


def test_a_pair_of_head_size_and_cache_may_be_refused_on_some_gpus_too() -> None:
    everywhere = {"caches": "auto fp8", "except": "64 fp8"}
    for head, cache, found in (
        (64, "fp8", ["combination"]),
        (64, "auto", []),
        (128, "fp8", []),
    ):
        asked = {"head_size": head, "kv_cache_dtype": cache}
        assert rules(everywhere, asked) == found
    there = {"caches": "auto fp8", "except_on": {"64 fp8": "gfx1030"}}
    asked = {"head_size": 64, "kv_cache_dtype": "fp8"}
    assert rules(there, asked, "gfx1030") == ["combination"]
    assert rules(there, asked) == []


def test_a_cache_that_is_not_declared_may_be_refused_twice() -> None:
    once, twice = ["kv-cache-dtype"], ["kv-cache-dtype", "combination"]
    for entry, fp8, other in (
        ({}, once, once),
        ({"undeclared": "words of its own"}, twice, twice),
        ({"undeclared": "words of its own", "twice": "fp8"}, twice, once),
    ):
        assert rules(entry, {"kv_cache_dtype": "fp8"}) == fp8
        assert rules(entry, {"kv_cache_dtype": "fp8_e5m2"}) == other
        assert rules(entry, {}) == []


@pytest.mark.parametrize(
    ("feature", "request_", "rule"),
    [
        ("mm_prefix", {"use_mm_prefix": True}, "mm-prefix"),
        ("sinks", {"has_sink": True}, "sinks"),
        ("per_head_quant_scales", {"use_per_head_quant_scales": True}, "per-head-quant-scales"),
        ("sliding_window", {"sliding_window": 1024}, "sliding-window"),
        ("rswa", {"use_rswa": True}, "rswa"),
        ("non_causal", {"use_non_causal": True}, "non-causal"),
        ("batch_invariance", {"use_batch_invariant": True}, "batch-invariance"),
        ("kv_connector", {"use_kv_connector": True}, "kv-connector"),
        ("pcp", {"use_pcp": True}, "pcp"),
        ("dcp", {"use_dcp": True}, "dcp"),
        ("adaptive_verification", {"use_adaptive_verification": True}, "adaptive-verification"),
    ],
)
def test_a_feature_that_a_class_does_not_declare_is_refused_if_a_layer_needs_it(
    feature: str, request_: dict[str, Any], rule: str
) -> None:
    assert rules({}, request_) == [rule]
    assert rules({"yes": feature}, request_) == []
    assert rules({"yes_on": {feature: "gfx942"}}, request_) == []
    assert rules({"yes_on": {feature: "gfx950"}}, request_) == [rule]
    assert rules({}, {}) == []
