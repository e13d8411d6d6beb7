"""The error bounds let an honestly rounded attention pass, and no wrong one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pytest_rocm_attn.backends import oracle
from pytest_rocm_attn.backends.error_bounds import FORMATS, lse_bound, output_bound
from pytest_rocm_attn.backends.oracle import Reference, attend, visible_keys

DTYPES = [
    pytest.param(dtype, id=str(dtype).removeprefix("torch."))
    for dtype in (torch.float16, torch.bfloat16, torch.float32)
]
TOKENS, KEYS, HEADS, SIZE, SCALE = 9, 200, 4, 64, 64**-0.5
FEATURES: dict[str, dict[str, Any]] = {
    "plain": {},
    "window": {"window": 60},
    "soft cap": {"soft_cap": 4.0},
    "alibi": {"alibi_slopes": torch.tensor([0.5, 0.1, 0.02, 0.004])},
    "sinks": {"sinks": torch.tensor([3.0, 5.0, 1.0, 7.0])},
}
IN_DTYPE = {"query": 4.0, "key": 1.0, "value": 1.0}  # standard deviations: scores of some size


def rows(dtype: torch.dtype, seed: int = 0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    heads = {"query": (TOKENS, HEADS), "key": (KEYS, HEADS), "value": (KEYS, HEADS)}
    return {
        name: (size * torch.randn(*heads[name], SIZE, generator=generator)).to(dtype)
        for name, size in IN_DTYPE.items()
    }


def excess(out: torch.Tensor, reference: Reference, dtype: torch.dtype) -> float:
    """Return the largest error over its bound."""
    bound = output_bound(reference, dtype, SIZE)
    return float(((out.double() - reference.out).abs() / bound).max())


def rounded_attention(
    given: dict[str, Any], dtype: torch.dtype, tile: int, features: dict[str, Any]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention as a kernel computes it: float32, tiles, online softmax, weights and output rounded."""
    q, k, v = (given[name].float().transpose(0, 1) for name in ("query", "key", "value"))
    seen = visible_keys(TOKENS, KEYS, window=features.get("window"))
    position = torch.arange(KEYS - TOKENS, KEYS)
    top = torch.full((HEADS, TOKENS, 1), -torch.inf)
    total = torch.zeros(HEADS, TOKENS, 1)
    if "sinks" in features:
        top, total = features["sinks"].float()[:, None, None].expand_as(top), total + 1
    acc = torch.zeros(HEADS, TOKENS, SIZE)
    for start in range(0, KEYS, tile):
        cut = slice(start, start + tile)
        s = q @ k[:, cut].transpose(1, 2) * SCALE
        if "soft_cap" in features:
            s = features["soft_cap"] * torch.tanh(s / features["soft_cap"])
        if "alibi_slopes" in features:
            distance = torch.arange(KEYS)[cut][None] - position[:, None]
            s = s + features["alibi_slopes"][:, None, None] * distance
        s = s.masked_fill(~seen[:, cut], -torch.inf)
        higher = torch.maximum(top, s.amax(2, keepdim=True))
        anchor = higher.masked_fill(higher == -torch.inf, 0.0)
        p, decay = torch.exp(s - anchor), torch.exp(top - anchor)
        total = total * decay + p.sum(2, keepdim=True)
        acc = acc * decay + p.to(dtype).float() @ v[:, cut]
        top = higher
    lse = (top + torch.log(total))[:, :, 0]
    return (acc / total).to(dtype).transpose(0, 1), lse


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tile", [16, 128])
@pytest.mark.parametrize("name", FEATURES)
def test_an_honestly_rounded_attention_is_within(dtype: torch.dtype, tile: int, name: str) -> None:
    given = rows(dtype)
    reference = attend(**given, scale=SCALE, **FEATURES[name])
    out, lse = rounded_attention(given, dtype, tile, FEATURES[name])
    assert excess(out, reference, dtype) <= 1
    assert ((lse.double() - reference.lse).abs() <= lse_bound(reference, dtype, SIZE)).all()


def without(features: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in features.items() if key != name}


# What a kernel may get wrong, each with exact arithmetic: (features, its scale, its features).
WRONG = {
    "a scale that is 1% too large": ("plain", 1.01 * SCALE, {}),
    "a window that is one too wide": ("window", SCALE, {"window": 61}),
    "a window that is one too narrow": ("window", SCALE, {"window": 59}),
    "no window": ("window", SCALE, {}),
    "no soft cap": ("soft cap", SCALE, {}),
    "no ALiBi": ("alibi", SCALE, {}),
    "ALiBi of the next head": (
        "alibi",
        SCALE,
        {"alibi_slopes": FEATURES["alibi"]["alibi_slopes"].roll(1)},
    ),
    "no sink": ("sinks", SCALE, {}),
    "a scaled sink": ("sinks", SCALE, {"sinks": FEATURES["sinks"]["sinks"] * SCALE}),
    "no causality": ("plain", SCALE, {"causal": False}),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_attention_is_beyond(dtype: torch.dtype, wrong: str) -> None:
    right, scale, features = WRONG[wrong]
    given = rows(dtype)
    reference = attend(**given, scale=SCALE, **FEATURES[right])
    out = attend(**given, scale=scale, **features).out.to(dtype)
    assert excess(out, reference, dtype) > 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("missing", ["first", "last"])
def test_a_key_less_is_beyond(dtype: torch.dtype, missing: str) -> None:
    given = rows(dtype)
    reference = attend(**given, scale=SCALE, causal=False)
    cut = slice(1, None) if missing == "first" else slice(None, -1)
    fewer = given | {name: given[name][cut] for name in ("key", "value")}
    out = attend(**fewer, scale=SCALE, causal=False).out.to(dtype)
    assert excess(out, reference, dtype) > 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_wrong_log_sum_exp_is_beyond(dtype: torch.dtype) -> None:
    given = rows(dtype)
    reference = attend(**given, scale=SCALE)
    wrong = attend(**given, scale=SCALE * 1.01).lse
    assert ((wrong - reference.lse).abs() > lse_bound(reference, dtype, SIZE)).any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_formats_are_torchs(dtype: torch.dtype) -> None:
    info = torch.finfo(dtype)
    form = FORMATS[dtype]
    assert (form.unit, form.normal) == (info.eps / 2, info.smallest_normal)
    assert form.subnormal == info.smallest_normal * info.eps


def test_a_cache_rounded_to_the_model_dtype_gets_more_room_and_no_more_than_it_needs() -> None:
    dtype = torch.bfloat16
    given = rows(dtype)
    given["key"], given["value"] = (
        given[name].float().to(torch.float8_e4m3fn).double() for name in ("key", "value")
    )
    scale = 0.3  # no power of two: its product has to be rounded
    exact = given | {name: scale * given[name] for name in ("key", "value")}
    reference = attend(**exact, scale=SCALE)
    rounded = given | {name: exact[name].to(dtype) for name in ("key", "value")}
    out, _ = rounded_attention(rounded, dtype, 16, {})
    bound = output_bound(reference, dtype, SIZE, rounds_cache=True)
    assert ((out.double() - reference.out).abs() <= bound).all()
    forgotten = attend(**given, scale=SCALE).out  # the scales were not applied
    assert ((forgotten - reference.out).abs() > bound).any()


def test_where_nothing_is_seen_only_zero_will_do() -> None:
    empty = oracle.Reference.empty(3, 2, 4)
    bound = output_bound(empty, torch.float16, 64)
    assert (bound <= FORMATS[torch.float16].subnormal).all()
