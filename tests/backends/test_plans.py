"""What a step's first layer works out serves the layers after it, and only those that are alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask

from pytest_rocm_attn.backends import cache, flex_attention
from pytest_rocm_attn.backends.batch import Batch
from pytest_rocm_attn.backends.cache import (
    MOST_REMEMBERED,
    NHD,
    concat_and_cache_mla,
    reshape_and_cache,
)
from pytest_rocm_attn.backends.kernels import attention
from pytest_rocm_attn.backends.kernels import cache as cache_kernels
from pytest_rocm_attn.backends.kernels.launcher import Launch
from pytest_rocm_attn.backends.plans import Recent
from pytest_rocm_attn.backends.triton_attn import TritonAttention
from pytest_rocm_attn.backends.triton_mla import TritonMLA
from pytest_rocm_attn.dry_launch import dry_launch
from pytest_rocm_attn.request import Request

TOKENS, HEADS, SIZE, BLOCKS = 4, 8, 64, 8


@pytest.fixture(autouse=True)
def _on_gfx942() -> Iterator[None]:
    with dry_launch("gfx942"):
        yield


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The keyword arguments of every plan that is made; nothing is launched."""
    made: list[dict[str, Any]] = []
    plan = attention.plan_attention

    def noted(*args: Any, **kwargs: Any) -> attention.AttentionPlan:
        made.append(kwargs)
        return plan(*args, **kwargs)

    monkeypatch.setattr(attention, "plan_attention", noted)
    monkeypatch.setattr(Launch, "__call__", lambda *_: None)
    return made


def decodes(seq_len: int = 100) -> Batch:
    table = torch.arange(TOKENS * BLOCKS, dtype=torch.int32).reshape(TOKENS, BLOCKS)
    return Batch.build([1] * TOKENS, [seq_len] * TOKENS, table, torch.full((TOKENS,), -1))


def layer(**fields: Any) -> TritonAttention:
    scale = fields.pop("scale", 1.0)
    request = Request(num_heads=HEADS, num_kv_heads=2, head_size=SIZE, **fields)
    return TritonAttention(request, torch.device("cpu"), scale=scale)


def tensors() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    query = torch.zeros(TOKENS, HEADS, SIZE, dtype=torch.bfloat16)
    stored = torch.zeros(TOKENS * BLOCKS, 2, 16, 2, SIZE, dtype=torch.bfloat16)
    return query, stored, torch.empty_like(query)


def test_layers_that_are_alike_plan_a_step_once(planned: list[dict[str, Any]]) -> None:
    batch = decodes()
    for _ in range(3):
        query, stored, out = tensors()  # each layer has its own
        layer().forward(query, stored, batch, out)
    assert len(planned) == 1


def test_the_next_step_is_planned_anew(planned: list[dict[str, Any]]) -> None:
    query, stored, out = tensors()
    for seq_len in (100, 120):
        layer().forward(query, stored, decodes(seq_len), out)
    assert len(planned) == 2


OTHERS: dict[str, tuple[dict[str, Any], Callable[..., Any]]] = {
    "a window": ({"sliding_window": 9}, lambda *same: same),
    "a soft cap": ({"logits_soft_cap": 5.0}, lambda *same: same),
    "another scale": ({"scale": 0.5}, lambda *same: same),
    "rows that lie apart": (
        {},
        lambda query, stored, out: (query.repeat(1, 2, 1)[:, :HEADS], stored, out),
    ),
    "an output that lies apart": (
        {},
        lambda query, stored, out: (query, stored, out.repeat(1, 2, 1)[:, :HEADS]),
    ),
    "a cache of halves": (
        {},
        lambda query, stored, out: (
            query,
            stored.transpose(0, 1).contiguous().mT.mT.transpose(0, 1),
            out,
        ),
    ),
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_layer_that_differs_has_a_plan_of_its_own(
    what: str, planned: list[dict[str, Any]]
) -> None:
    batch = decodes()
    layer().forward(*with_batch(tensors(), batch))
    fields, change = OTHERS[what]
    layer(**fields).forward(*with_batch(change(*tensors()), batch))
    assert len(planned) == 2


def with_batch(given: tuple[torch.Tensor, ...], batch: Batch) -> tuple[Any, ...]:
    query, stored, out = given
    return query, stored, batch, out


def test_latent_layers_plan_a_step_once_and_differ_by_their_heads(
    planned: list[dict[str, Any]],
) -> None:
    batch = decodes()
    stored = torch.zeros(TOKENS * BLOCKS, 16, 576, dtype=torch.bfloat16)
    for heads in (16, 16, 32):
        request = Request(use_mla=True, num_heads=heads)
        query = torch.zeros(TOKENS, heads, 576, dtype=torch.bfloat16)
        out = torch.empty(TOKENS, heads, 512, dtype=torch.bfloat16)
        TritonMLA(request, torch.device("cpu"), scale=1.0).decode(query, stored, batch, out)
    assert len(planned) == 2


def test_writes_that_lie_the_same_are_planned_once_and_others_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = []
    plan = cache_kernels.plan_reshape_and_cache

    def noted(*args: Any, **kwargs: Any) -> Any:
        made.append(kwargs["block_size"])
        return plan(*args, **kwargs)

    monkeypatch.setattr(cache, "_plans", Recent(MOST_REMEMBERED))
    monkeypatch.setattr(cache_kernels, "plan_reshape_and_cache", noted)
    monkeypatch.setattr(Launch, "__call__", lambda *_: None)
    rows = torch.zeros(3, 2, 48, dtype=torch.bfloat16)
    slots = torch.zeros(3, dtype=torch.int64)
    for block_size in (80, 80, 96):
        stored = torch.zeros(2, 2, block_size, 2, 48, dtype=torch.bfloat16)
        reshape_and_cache(rows, rows, stored[0], stored[1], slots, NHD)
    assert made == [80, 96]


def test_a_process_that_writes_all_lengths_remembers_a_bounded_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cache, "_plans", Recent(MOST_REMEMBERED))
    monkeypatch.setattr(Launch, "__call__", lambda *_: None)
    stored = torch.zeros(2, 2, 16, 1, 8, dtype=torch.bfloat16)
    for tokens in range(1, MOST_REMEMBERED + 50):
        rows = torch.zeros(tokens, 1, 8, dtype=torch.bfloat16)
        reshape_and_cache(rows, rows, stored[0], stored[1], torch.zeros(tokens, dtype=torch.int64))
        assert len(cache._plans) <= MOST_REMEMBERED


def test_what_is_used_again_and_again_outlasts_what_came_once() -> None:
    kept: Recent[str] = Recent(3)
    kept.keep("decode", "plan")
    for length in range(10):
        kept.keep(length, "once")
        assert kept.get("decode") == "plan"
    assert len(kept) == 3
    assert [length for length in range(10) if kept.get(length)] == [8, 9]


def test_latent_writes_that_lie_the_same_are_planned_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    plan = cache_kernels.plan_concat_and_cache_mla

    def noted(*args: Any, **kwargs: Any) -> Any:
        made.append(args[3])
        return plan(*args, **kwargs)

    monkeypatch.setattr(cache, "_plans", Recent(MOST_REMEMBERED))
    monkeypatch.setattr(cache_kernels, "plan_concat_and_cache_mla", noted)
    monkeypatch.setattr(Launch, "__call__", lambda *_: None)
    for tokens in (3, 3, 5, 3):
        rows = torch.zeros(tokens, 576, dtype=torch.bfloat16)
        stored = torch.zeros(2, 16, 576, dtype=torch.bfloat16)
        slots = torch.zeros(tokens, dtype=torch.int64)
        concat_and_cache_mla(rows[:, :512], rows[:, 512:], stored, slots)
    assert made == [3, 5]


def test_flex_attention_makes_its_mask_once_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def noted(*args: Any, **kwargs: Any) -> Any:
        made.append(args)
        return create_block_mask(*args, **kwargs)

    monkeypatch.setattr(flex_attention, "create_block_mask", noted)
    request = Request(num_heads=HEADS, num_kv_heads=2, head_size=SIZE)
    batch = decodes()
    for _ in range(3):
        query, stored, out = tensors()
        flex = flex_attention.FlexAttention(request, torch.device("cpu"), scale=1.0)
        flex.forward(query, stored.transpose(0, 1).contiguous(), batch, out)
    assert len(made) == 1
