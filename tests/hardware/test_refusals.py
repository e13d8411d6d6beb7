"""Bad input on the AMD GPU of this machine: refused before any launch, and nothing is written."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from pytest_rocm_attn.backends.batch import Batch
from pytest_rocm_attn.backends.flex_attention import FlexAttention
from pytest_rocm_attn.backends.rocm_aiter_fa import RocmAiterFlashAttention
from pytest_rocm_attn.backends.rocm_aiter_mla import RocmAiterMLA
from pytest_rocm_attn.backends.rocm_aiter_unified_attn import RocmAiterUnifiedAttention
from pytest_rocm_attn.backends.rocm_attn import RocmAttention
from pytest_rocm_attn.backends.triton_attn import TritonAttention
from pytest_rocm_attn.backends.triton_mla import TritonMLA
from pytest_rocm_attn.request import Request

NEEDS_AITER = [pytest.mark.rocm_attn_gpu, pytest.mark.rocm_attn_aiter]
ON_CDNA = [*NEEDS_AITER, pytest.mark.rocm_attn_gpu("gfx90a", "gfx942", "gfx950")]
PAGED = [
    pytest.param(TritonAttention, id="TRITON_ATTN", marks=pytest.mark.rocm_attn_gpu),
    pytest.param(RocmAttention, id="ROCM_ATTN", marks=pytest.mark.rocm_attn_gpu),
    pytest.param(FlexAttention, id="FLEX_ATTENTION", marks=pytest.mark.rocm_attn_gpu),
    pytest.param(RocmAiterUnifiedAttention, id="ROCM_AITER_UNIFIED_ATTN", marks=NEEDS_AITER),
    pytest.param(RocmAiterFlashAttention, id="ROCM_AITER_FA", marks=ON_CDNA),
]
LATENT = [
    pytest.param(TritonMLA, id="TRITON_MLA", marks=pytest.mark.rocm_attn_gpu),
    pytest.param(
        RocmAiterMLA,
        id="ROCM_AITER_MLA",
        marks=[*NEEDS_AITER, pytest.mark.rocm_attn_gpu("gfx942", "gfx950")],
    ),
]


class Step:
    """One decode of two requests, right but for what a test changes.

    Args:
        cls: the layer's class.
        device: where it runs.
    """

    def __init__(self, cls: Any, device: torch.device) -> None:
        self.latent = cls in (TritonMLA, RocmAiterMLA)
        request = Request(use_mla=self.latent, num_heads=16, dtype="bfloat16")
        self.layer = cls(request, device, scale=0.1)
        columns = (576, 512) if self.latent else (request.head_size,) * 2
        self.cache = torch.zeros(self.layer.cache_shape(6), dtype=torch.bfloat16, device=device)
        self.query, self.out = (
            torch.full((2, 16, n), 0.5, dtype=torch.bfloat16, device=device) for n in columns
        )
        table = torch.tensor([[1, 2], [3, 4]], dtype=torch.int32, device=device)
        slots = torch.full((2,), -1, device=device)
        self.batch = Batch.build([1, 1], [20, 30], table, slots)

    def run(self) -> None:
        call = self.layer.decode if self.latent else self.layer.forward
        call(self.query, self.cache, self.batch, self.out, check=True)


def elsewhere(step: Step) -> str:
    step.query = step.query.cpu()
    return "is on cpu"


def other_heads(step: Step) -> str:
    step.query = step.query[:, :8]
    return "query has shape"


def other_dtype(step: Step) -> str:
    step.query = step.query.half()
    return "float16"


def beyond_the_cache(step: Step) -> str:
    step.batch.block_table[1, 1] = 6
    return "block_table[1, 1] is 6"


def too_few_blocks(step: Step) -> str:
    step.batch = replace(step.batch, block_table=step.batch.block_table[:, :1], max_seq_len=30)
    return "30 tokens"


MISTAKES = [elsewhere, other_heads, other_dtype, beyond_the_cache, too_few_blocks]


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("cls", [*PAGED, *LATENT])
def test_a_mistake_is_refused_and_nothing_is_written(
    cls: Any, mistake: Any, device: torch.device, refused: Any, record_property: Any
) -> None:
    """Input that does not fit is refused by name, before any launch."""
    step = Step(cls, device)
    record_property("rocm_attn_backend", step.layer.name)
    refused(step.run, mistake(step), step.out)
    fresh = Step(cls, device)
    fresh.run()  # without the mistake it is computed
    assert (fresh.out == 0).all()  # the cache holds zeros


@pytest.mark.parametrize(
    ("cls", "fields", "words"),
    [
        pytest.param(*row, marks=mark, id=f"{row[0].name if hasattr(row[0], 'name') else row[0]}")
        for row, mark in (
            ((TritonAttention, {"block_size": 24}, "block size 24"), pytest.mark.rocm_attn_gpu),
            ((RocmAttention, {"head_size": 72}, "head size 72"), pytest.mark.rocm_attn_gpu),
            ((FlexAttention, {"has_sink": True}, "sinks"), pytest.mark.rocm_attn_gpu),
            (
                (TritonMLA, {"use_mla": True, "sliding_window": 4}, "sliding window"),
                pytest.mark.rocm_attn_gpu,
            ),
            ((RocmAiterUnifiedAttention, {"dtype": "float32"}, "float32"), NEEDS_AITER),
            ((RocmAiterFlashAttention, {"head_size": 96}, "head size 96"), ON_CDNA),
            ((RocmAiterMLA, {"use_mla": True, "num_heads": 24}, "24 query heads"), ON_CDNA),
        )
    ],
)
def test_beyond_its_limits_a_backend_is_not_built(
    cls: Any, fields: dict[str, Any], words: str, device: torch.device, refused: Any
) -> None:
    """What a backend does not do is refused when the layer is built, naming value and source."""
    nothing = torch.zeros(1, device=device)
    refused(lambda: cls(Request(**fields), device, scale=0.1), words, nothing)


# --- on any machine: what judges finds wrong subjects ------------------------------------------------------


def test_input_that_is_not_refused_is_found(refused: Any) -> None:
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        refused(lambda: None, "words", torch.zeros(3))


def test_a_refusal_after_the_output_was_written_is_found(refused: Any) -> None:
    from pytest_rocm_attn.errors import BackendInputError

    out = torch.zeros(3)

    def late() -> None:
        out[1] = 1
        raise BackendInputError("too late")

    with pytest.raises(AssertionError, match="bytes differ"):
        refused(late, "too late", out)


def test_a_refusal_for_another_reason_is_found(refused: Any) -> None:
    from pytest_rocm_attn.errors import BackendInputError

    def other() -> None:
        raise BackendInputError("the weather")

    with pytest.raises(AssertionError):
        refused(other, "block_table", torch.zeros(3))


@pytest.mark.parametrize("cls", [FlexAttention])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_mistakes_are_mistakes(cls: Any, mistake: Any, refused: Any) -> None:
    """On a CPU, where FLEX_ATTENTION runs: a right step is computed, a wrong one refused."""
    step = Step(cls, torch.device("cpu"))
    step.run()
    assert (step.out == 0).all()
    step = Step(cls, torch.device("cpu"))
    words = mistake(step)
    if mistake is elsewhere:
        return  # here it is at home
    refused(step.run, words, step.out)
