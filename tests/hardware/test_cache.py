"""The cache operations on the AMD GPU of this machine, against their definition in plain torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pytest_rocm_attn.backends.cache import (
    LAYOUTS,
    Layout,
    cache_shape,
    concat_and_cache_mla,
    concat_and_cache_mla_reference,
    reshape_and_cache,
    reshape_and_cache_reference,
)

MODEL = [torch.float16, torch.bfloat16, torch.float32]
FP8 = [torch.float8_e4m3fn, torch.float8_e4m3fnuz]
BLOCKS, BLOCK_SIZE, HEADS = 5, 16, 3
SLOTS = torch.tensor([17, -1, 0, 79, -1, 33, 32, 47])  # ends of blocks, padding among them
CPU = torch.device("cpu")


def rows(*shape: int, seed: int) -> torch.Tensor:
    return 30 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def poisoned(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Return memory whose every byte is 0xA5, which is no value that the tests write."""
    return torch.full((*shape, dtype.itemsize), 0xA5, dtype=torch.uint8).view(dtype)[..., 0]


def written(
    operation: Any, device: torch.device, layout: Layout, dtype: torch.dtype, stored: torch.dtype
) -> list[torch.Tensor]:
    """Return both caches after an operation wrote some rows to them, on a device."""
    key, value = (rows(len(SLOTS), HEADS, 64, seed=i).to(dtype).to(device) for i in (1, 2))
    caches = [
        poisoned(cache_shape(axes, BLOCKS, BLOCK_SIZE, HEADS, 64, 16 // stored.itemsize), stored)
        .contiguous()
        .to(device)
        for axes in (layout.key, layout.value)
    ]
    scales: dict[str, Any] = {}
    if stored in FP8:
        scales = {"k_scale": 0.3, "v_scale": 0.07}
        if operation is not reshape_and_cache_reference:
            scales = {name: torch.tensor(scale, device=device) for name, scale in scales.items()}
    operation(key, value, *caches, SLOTS.to(device), layout, **scales)
    return caches


def written_latent(
    operation: Any, device: torch.device, dtype: torch.dtype, stored: torch.dtype
) -> torch.Tensor:
    """Return a latent cache after an operation wrote some rows to it, on a device."""
    kv_c, k_pe = (rows(len(SLOTS), n, seed=n).to(dtype).to(device) for n in (512, 64))
    cache = poisoned((BLOCKS, BLOCK_SIZE, 576), stored).contiguous().to(device)
    scale: Any = 0.3 if operation is concat_and_cache_mla_reference else torch.tensor(0.3)
    scale = scale.to(device) if isinstance(scale, torch.Tensor) else scale
    operation(kv_c, k_pe, cache, SLOTS.to(device), **({"scale": scale} if stored in FP8 else {}))
    return cache


KINDS = [(dtype, dtype) for dtype in MODEL] + [(d, f) for d in MODEL[:2] for f in FP8]


@pytest.mark.rocm_attn_gpu
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
@pytest.mark.parametrize(("dtype", "stored"), KINDS, ids=str)
def test_new_rows_reach_their_slots_and_nothing_else_is_written(
    layout: Layout, dtype: torch.dtype, stored: torch.dtype, device: torch.device, same_bytes: Any
) -> None:
    """The cache is the same to the bit as by plain torch."""
    got = written(reshape_and_cache, device, layout, dtype, stored)
    wanted = written(reshape_and_cache_reference, CPU, layout, dtype, stored)
    for ours, theirs in zip(got, wanted, strict=True):
        same_bytes(ours, theirs)


@pytest.mark.rocm_attn_gpu
@pytest.mark.parametrize(("dtype", "stored"), KINDS, ids=str)
def test_latent_rows_reach_their_slots(
    dtype: torch.dtype, stored: torch.dtype, device: torch.device, same_bytes: Any
) -> None:
    """The latent cache is the same to the bit as by plain torch."""
    got = written_latent(concat_and_cache_mla, device, dtype, stored)
    same_bytes(got, written_latent(concat_and_cache_mla_reference, CPU, dtype, stored))


# --- on any machine: what judges finds wrong subjects ------------------------------------------------------


def one_slot_off(key: Any, value: Any, keys: Any, values: Any, slots: Any, *rest: Any) -> None:
    shifted = torch.where(slots == 33, 34, slots)
    reshape_and_cache_reference(key, value, keys, values, shifted, *rest)


def writes_padding(key: Any, value: Any, keys: Any, values: Any, slots: Any, *rest: Any) -> None:
    reshape_and_cache_reference(key, value, keys, values, slots.abs(), *rest)


def halves_swapped(key: Any, value: Any, keys: Any, values: Any, slots: Any, *rest: Any) -> None:
    reshape_and_cache_reference(value, key, keys, values, slots, *rest)


@pytest.mark.parametrize("wrong", [one_slot_off, writes_padding, halves_swapped])
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_a_wrong_operation_is_found(wrong: Any, layout: Layout, same_bytes: Any) -> None:
    args = CPU, layout, torch.bfloat16, torch.bfloat16
    wanted = written(reshape_and_cache_reference, *args)
    for ours, theirs in zip(written(reshape_and_cache_reference, *args), wanted, strict=True):
        same_bytes(ours, theirs)
    with pytest.raises(AssertionError, match="bytes differ"):
        for ours, theirs in zip(written(wrong, *args), wanted, strict=True):
            same_bytes(ours, theirs)
