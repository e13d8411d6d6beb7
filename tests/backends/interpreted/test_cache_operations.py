"""Cache operations by Triton, against their definition in plain torch, and that against offsets by hand."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from pytest_rocm_attn.backends.cache import (
    FP8_MAX,
    LAYOUTS,
    NHD,
    SHUFFLED,
    SPLIT,
    Layout,
    cache_shape,
    check_slots,
    concat_and_cache_mla,
    concat_and_cache_mla_reference,
    quantise,
    reshape_and_cache,
    reshape_and_cache_reference,
)
from pytest_rocm_attn.errors import BackendInputError

FLAVOURS = [
    pytest.param(torch.float8_e4m3fn, id="e4m3fn"),
    pytest.param(torch.float8_e4m3fnuz, id="e4m3fnuz"),
]
MODEL = [torch.float16, torch.bfloat16, torch.float32]
BLOCKS, BLOCK_SIZE, HEADS = 5, 16, 3
SLOTS = [17, -1, 0, 79, -1, 33, 32, 47]  # ends of blocks, padding among them


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return 30 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def poisoned(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Return memory whose every byte is 0xA5, which is no value that the tests write."""
    return torch.full((*shape, dtype.itemsize), 0xA5, dtype=torch.uint8).view(dtype)[..., 0]


def raw(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.uint8)


def caches(layout: Layout, dtype: torch.dtype, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    x = 16 // dtype.itemsize
    key, value = (
        poisoned(cache_shape(axes, BLOCKS, BLOCK_SIZE, HEADS, size, x), dtype)
        for axes in (layout.key, layout.value)
    )
    return key, value


# --- the kernels agree with the definition --------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
@pytest.mark.parametrize("dtype", MODEL, ids=str)
@pytest.mark.parametrize("size", [64, 80])
def test_new_rows_reach_their_slots_and_nothing_else_is_written(
    layout: Layout, dtype: torch.dtype, size: int
) -> None:
    key, value = (normal(len(SLOTS) + 2, HEADS, size, seed=i).to(dtype) for i in (1, 2))
    slots = torch.tensor(SLOTS)
    got, wanted = caches(layout, dtype, size), caches(layout, dtype, size)
    reshape_and_cache(key, value, got[0], got[1], slots, layout)
    reshape_and_cache_reference(key, value, wanted[0], wanted[1], slots, layout)
    for ours, theirs in zip(got, wanted, strict=True):
        assert torch.equal(raw(ours), raw(theirs))
        written = (raw(ours).view(dtype) != raw(poisoned((1,), dtype)).view(dtype)).sum()
        assert written == sum(slot >= 0 for slot in SLOTS) * HEADS * size


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_fp8_rows_are_quantised_to_the_bit(
    layout: Layout, flavour: torch.dtype, dtype: torch.dtype
) -> None:
    key, value = (normal(len(SLOTS), HEADS, 64, seed=i).to(dtype) for i in (1, 2))
    slots = torch.tensor(SLOTS)
    got, wanted = caches(layout, flavour, 64), caches(layout, flavour, 64)
    k, v = torch.tensor(0.3), torch.tensor(0.07)
    reshape_and_cache(key, value, got[0], got[1], slots, layout, k_scale=k, v_scale=v)
    reshape_and_cache_reference(
        key, value, wanted[0], wanted[1], slots, layout, k_scale=float(k), v_scale=float(v)
    )
    for ours, theirs in zip(got, wanted, strict=True):
        assert torch.equal(raw(ours), raw(theirs))


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_every_kind_of_number_is_quantised_as_torch_does(flavour: torch.dtype) -> None:
    largest = FP8_MAX[flavour]
    codes = torch.arange(256, dtype=torch.uint8).view(flavour).float()
    codes = codes[codes.isfinite()].sort().values
    numbers = torch.cat(
        [
            codes,
            (codes[1:] + codes[:-1]) / 2,  # ties
            codes * 1.001,
            torch.tensor([0.0, -0.0, 1e-9, -1e-9, largest * 4, -largest * 4, 3e38, torch.nan]),
            torch.tensor([torch.inf, -torch.inf]),
        ]
    )
    rows = torch.zeros(-(-len(numbers) // 16) * 16)
    rows[: len(numbers)] = numbers
    rows = rows.reshape(-1, 1, 16)
    slots = torch.arange(len(rows))
    key, value = (torch.zeros(len(rows), 1, 1, 16).to(flavour) for _ in range(2))
    one = torch.tensor(1.0)
    reshape_and_cache(rows, rows, key, value, slots, k_scale=one, v_scale=one)
    stored = raw(key).flatten()[: len(numbers)]
    expected = numbers.clamp(-largest, largest).to(flavour).view(torch.uint8)
    assert torch.equal(stored, expected)


def test_a_strided_source_and_a_strided_cache() -> None:
    fused = normal(len(SLOTS), 3 * HEADS * 64).half()
    key, value = (
        part.view(len(SLOTS), HEADS, 64) for part in fused[:, HEADS * 64 :].chunk(2, dim=1)
    )
    slots = torch.tensor(SLOTS)
    shape = (BLOCKS, 2, BLOCK_SIZE, HEADS, 64)
    got, wanted = poisoned(shape, torch.float16), poisoned(shape, torch.float16)
    reshape_and_cache(key, value, got[:, 0], got[:, 1], slots)
    reshape_and_cache_reference(key, value, wanted[:, 0], wanted[:, 1], slots, NHD)
    assert torch.equal(raw(got), raw(wanted))


@pytest.mark.parametrize("slots", [[], [-1, -1]])
def test_no_slot_no_write(slots: list[int]) -> None:
    rows = normal(2, HEADS, 64).half()
    got = caches(NHD, torch.float16, 64)
    reshape_and_cache(rows, rows, got[0], got[1], torch.tensor(slots, dtype=torch.int64))
    assert all(torch.equal(raw(cache), torch.full_like(raw(cache), 0xA5)) for cache in got)


@pytest.mark.parametrize("stored", [torch.float16, torch.float8_e4m3fn, torch.float8_e4m3fnuz])
def test_latent_rows_reach_their_slots(stored: torch.dtype) -> None:
    latent, rope = normal(len(SLOTS), 512).half(), normal(len(SLOTS), 64, seed=1).half()
    slots = torch.tensor(SLOTS)
    got, wanted = (poisoned((BLOCKS, BLOCK_SIZE, 576), stored) for _ in range(2))
    fp8 = stored in FP8_MAX
    scale = torch.tensor(0.25) if fp8 else None
    concat_and_cache_mla(latent, rope, got, slots, scale=scale)
    concat_and_cache_mla_reference(latent, rope, wanted, slots, scale=0.25)
    assert torch.equal(raw(got), raw(wanted))
    if not fp8:
        assert torch.equal(got[1, 1], torch.cat([latent[0], rope[0]]))
        assert torch.equal(got[4, 15, 512:], rope[3])


# --- the definition agrees with the offsets that docs/reference/backends.md#rocm-attn and
# #rocm-aiter-fa give ------------------------


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_an_element_lies_where_the_layout_says(layout: Layout) -> None:
    size, x = 32, 8
    key, value = normal(1, HEADS, size).half(), normal(1, HEADS, size, seed=1).half()
    key_cache, value_cache = caches(layout, torch.float16, size)
    block, offset = 3, 13
    slots = torch.tensor([block * BLOCK_SIZE + offset])
    reshape_and_cache_reference(key, value, key_cache, value_cache, slots, layout)
    flat_k, flat_v = key_cache.flatten(), value_cache.flatten()
    for h, d in itertools.product(range(HEADS), range(size)):
        head = block * HEADS + h
        nhd = ((block * BLOCK_SIZE + offset) * HEADS + h) * size + d
        split_k = (head * (size // x) + d // x) * BLOCK_SIZE * x + offset * x + d % x
        split_v = (head * size + d) * BLOCK_SIZE + offset
        shuffled_v = head * size * BLOCK_SIZE + offset // x * size * x + d * x + offset % x
        at = {
            NHD.name: (nhd, nhd),
            SPLIT.name: (split_k, split_v),
            SHUFFLED.name: (split_k, shuffled_v),
        }[layout.name]
        assert flat_k[at[0]] == key[0, h, d]
        assert flat_v[at[1]] == value[0, h, d]


def test_quantising_divides_by_the_scale_and_saturates() -> None:
    codes = quantise(torch.tensor([1.0, 1000.0, -1000.0]), torch.float8_e4m3fn, 0.5)
    assert codes.view(torch.float8_e4m3fn).tolist() == [2.0, 448.0, -448.0]


# --- refusals -------------------------------------------------------------------------------------------

GOOD: dict[str, Any] = {
    "key": normal(4, HEADS, 64).half(),
    "value": normal(4, HEADS, 64).half(),
    "slot_mapping": torch.tensor([1, 2, 3, -1]),
}
META = torch.device("meta")
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "a key without heads": ({"key": normal(4, 64).half()}, "(4, 64)"),
    "another dtype of value": ({"value": normal(4, HEADS, 64)}, "torch.float32"),
    "another shape of value": ({"value": normal(4, HEADS, 32).half()}, "(4, 3, 32)"),
    "fewer rows than slots": ({"slot_mapping": torch.arange(9)}, "4 rows for 9 slots"),
    "32-bit slots": ({"slot_mapping": torch.tensor([1], dtype=torch.int32)}, "torch.int32"),
    "slots with a stride": ({"slot_mapping": torch.arange(8)[::2]}, "stride 2"),
    "a transposed key": (
        {"key": normal(4, 64, HEADS).half().mT, "value": normal(4, HEADS, 64).half()},
        "stride",
    ),
    "a transposed value": ({"value": normal(4, 64, HEADS).half().mT}, "value has stride"),
    "slots elsewhere": ({"slot_mapping": torch.arange(4, device=META)}, "on meta"),
    "a cache of another dtype": ({"dtype": torch.bfloat16}, "torch.bfloat16"),
    "an fp8 cache without scales": ({"dtype": torch.float8_e4m3fn}, "k_scale is missing"),
    "a scale for each head": (
        {"dtype": torch.float8_e4m3fn, "k_scale": torch.ones(3), "v_scale": torch.ones(3)},
        "one float32",
    ),
    "a cache of another layout": ({"layout": SPLIT}, "layout split"),
    "a cache of other heads": ({"heads": 2}, "(5, 16, 2, 64)"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_be_written_is_refused_and_nothing_is_written(what: str) -> None:
    changes, words = BAD[what]
    given = GOOD | changes
    dtype, heads = given.pop("dtype", torch.float16), given.pop("heads", HEADS)
    stored = [poisoned((BLOCKS, BLOCK_SIZE, heads, 64), dtype) for _ in range(2)]
    with pytest.raises(BackendInputError) as caught:
        reshape_and_cache(**given, key_cache=stored[0], value_cache=stored[1])
    assert words in str(caught.value)
    assert "nothing was written" in str(caught.value)
    assert all(torch.equal(raw(cache), torch.full_like(raw(cache), 0xA5)) for cache in stored)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"k_pe": normal(4, 64)}, "torch.float32"),
        ({"k_pe": normal(3, 64).half()}, "3 rows for 4 slots"),
        ({"k_pe": normal(4, 32).half()}, "expected [blocks, block size, 544]"),
        ({"cache": poisoned((5, 16, 576), torch.float8_e4m3fn)}, "scale is missing"),
        ({"cache": poisoned((5, 16, 576), torch.float32)}, "torch.float32"),
    ],
)
def test_latent_rows_that_cannot_be_written_are_refused(
    changes: dict[str, Any], words: str
) -> None:
    given: dict[str, Any] = {
        "kv_c": normal(4, 512).half(),
        "k_pe": normal(4, 64).half(),
        "cache": poisoned((5, 16, 576), torch.float16),
        "slot_mapping": torch.tensor([1, 2, 3, -1]),
    } | changes
    with pytest.raises(BackendInputError, match=words.replace("[", r"\[")):
        concat_and_cache_mla(**given)
    assert torch.equal(raw(given["cache"]), torch.full_like(raw(given["cache"]), 0xA5))


def test_a_slot_beyond_the_cache_is_named_on_request() -> None:
    check_slots(torch.tensor([0, -1, 79]), 5, 16)
    with pytest.raises(BackendInputError, match=r"slot_mapping\[1\] is 80; .* 5 blocks of 16"):
        check_slots(torch.tensor([0, 80]), 5, 16)


def test_a_split_axis_must_divide() -> None:
    with pytest.raises(BackendInputError, match="dim has 20 elements"):
        cache_shape(SPLIT.key, 1, 16, 1, 20, 8)
