"""ROCM_ATTN's choice of decode kernel. Its numbers: tests/backends/hip and the numerics tier."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from pytest_rocm_attn.backends.rocm_attn import RocmAttention, decode_refusal
from pytest_rocm_attn.backends.under_test import RocmAttnTriton
from pytest_rocm_attn.conformance.tiers.launch.judge import examine
from pytest_rocm_attn.conformance.tiers.launch.tier import shipped
from pytest_rocm_attn.errors import BackendLimitError
from pytest_rocm_attn.flags import Flags
from pytest_rocm_attn.gpu import Gpu
from pytest_rocm_attn.request import Request


@pytest.mark.parametrize("gfx", ["gfx90a", "gfx942", "gfx950", "gfx1100", "gfx1201"])
@pytest.mark.parametrize("head_size", [64, 128])
@pytest.mark.parametrize("block_size", [16, 32])
@pytest.mark.parametrize("heads", [(8, 8), (16, 1)])
def test_the_hip_kernel_serves_its_limits(
    gfx: str, head_size: int, block_size: int, heads: tuple[int, int]
) -> None:
    request = Request(
        head_size=head_size,
        block_size=block_size,
        num_heads=heads[0],
        num_kv_heads=heads[1],
        alibi=True,
        kv_cache_dtype="fp8",
    )
    assert decode_refusal(request, gfx, 131072, Flags({})) == ""


# docs/reference/backends.md#rocm-attn, the gate's table.
@pytest.mark.parametrize(
    ("fields", "target", "tokens", "environ", "words"),
    [
        ({}, "gfx1030", 100, {}, "gfx1030"),
        ({}, "", 100, {}, "not of AMD"),
        ({"sliding_window": 128}, "gfx942", 100, {}, "sliding window"),
        ({"logits_soft_cap": 30.0}, "gfx942", 100, {}, "soft cap"),
        ({"has_sink": True}, "gfx942", 100, {}, "sinks"),
        ({"dtype": "float32"}, "gfx942", 100, {}, "float32"),
        ({"head_size": 96}, "gfx942", 100, {}, "head size 96"),
        ({"block_size": 64}, "gfx942", 100, {}, "block size 64"),
        ({"num_heads": 32, "num_kv_heads": 1}, "gfx942", 100, {}, "32 query heads"),
        ({}, "gfx942", 131073, {}, "131073 tokens"),
        ({}, "gfx942", 100, {"VLLM_ROCM_CUSTOM_PAGED_ATTN": "0"}, "VLLM_ROCM_CUSTOM_PAGED_ATTN"),
        (
            {},
            "gfx942",
            100,
            {"VLLM_ROCM_USE_AITER": "1", "VLLM_ROCM_USE_AITER_PAGED_ATTN": "1"},
            "VLLM_ROCM_USE_AITER_PAGED_ATTN",
        ),
    ],
)
def test_beyond_its_limits_the_reason_is_given(
    fields: dict[str, Any], target: str, tokens: int, environ: dict[str, str], words: str
) -> None:
    request = Request(**fields)
    assert words in decode_refusal(request, target, tokens, Flags(environ))


def test_one_aiter_switch_alone_leaves_the_hip_kernel() -> None:
    for name in ("VLLM_ROCM_USE_AITER", "VLLM_ROCM_USE_AITER_PAGED_ATTN"):
        assert decode_refusal(Request(), "gfx942", 100, Flags({name: "1"})) == ""


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"head_size": 72}, "head size 72"),
        ({"block_size": 24}, "block size 24"),
        ({"kv_cache_dtype": "fp8_e5m2"}, "fp8_e5m2"),
        ({"attn_type": "encoder_only"}, "encoder_only"),
        ({"use_mla": True}, "MLA"),
    ],
)
def test_what_the_backend_does_not_do_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(BackendLimitError, match=words) as error:
        RocmAttention(Request(**fields), torch.device("cpu"), scale=0.1)
    assert str(error.value).startswith("ROCM_ATTN does not support")
    assert "reference/backends/#rocm-attn" in str(error.value)


@pytest.mark.mock_rocm("gfx942")
def test_a_device_without_a_number_is_the_current_one(mock_rocm: object) -> None:
    """Tensors on it say cuda:0, which must not read as another device."""
    layer = RocmAttention(Request(), torch.device("cuda"), scale=0.1)
    assert layer.device == torch.device("cuda", 0)
    assert layer.target.name == "gfx942"


SPILLED = ("prefill-with-alibi", "prefill-with-a-sliding-window-and-sinks", "prefill-in-float32")


@pytest.mark.parametrize(
    ("gfx", "family"),
    [
        pytest.param(gfx, name, marks=() if number == 0 else pytest.mark.slow)
        for number, (name, gfx) in enumerate(itertools.product(SPILLED, ("gfx942", "gfx950")))
    ],
)
def test_prefill_over_the_split_layout_spills_no_registers(
    gfx: str, family: str, mock_rocm: Any
) -> None:
    """Its addresses take more of them than those of TRITON_ATTN's layout."""
    mock_rocm(gfx)
    (case,) = (case for case in shipped() if case.id == family)
    finding = examine(RocmAttnTriton(), case, Gpu(gfx))
    assert finding.kind == "right", finding.words
