"""A layer on a GPU that is not the current one writes its results. Any two GPUs, AMD's or NVIDIA's."""

from __future__ import annotations

import pytest
import torch

from pytest_rocm_attn.backends.cache import concat_and_cache_mla, reshape_and_cache
from pytest_rocm_attn.conformance import adapters
from pytest_rocm_attn.conformance.tiers.numerics.case import shipped
from pytest_rocm_attn.conformance.tiers.numerics.judge import examine
from pytest_rocm_attn.conformance.tiers.numerics.subjects import (
    BY_KERNEL,
    REFERENCES,
    BackendUnderTest,
)

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.device_count() < 2, reason="needs two GPUs"
)

NAMES = (
    "mixed-batch-bfloat16",
    "one-long-decode-bfloat16",
    "fp8-cache-e4m3fn-bfloat16",
    "mla-decode-with-heads-num-heads-16",
    "mla-prefill-of-a-context-chunk",
)
CASES = {case.id: case for case in shipped()}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("backend", [*REFERENCES, *BY_KERNEL], ids=lambda backend: backend.name)
def test_a_backend_writes_what_lies_on_the_second_gpu(backend: BackendUnderTest, name: str) -> None:
    case = CASES[name]
    if not backend.takes(case):
        pytest.skip(f"{backend.name} is not asked for {name}")
    solver = adapters.load(backend.spec)
    assert isinstance(solver, type)
    for _ in range(2):  # the second time by what was planned and compiled the first
        with torch.cuda.device(0):
            finding = examine(solver(), case, torch.device("cuda", 1))
            assert torch.cuda.current_device() == 0
        if finding.kind == "declined":
            pytest.skip(finding.words)
        assert finding.kind == "right", finding.words


def test_the_caches_of_the_second_gpu_are_written() -> None:
    gpu = torch.device("cuda", 1)
    new = torch.ones(3, 2, 64, dtype=torch.float16, device=gpu)
    cache = torch.zeros(2, 2, 16, 2, 64, dtype=torch.float16, device=gpu)
    slots = torch.arange(3, device=gpu)
    latent = torch.zeros(2, 16, 576, dtype=torch.float16, device=gpu)
    rows = torch.ones(3, 576, dtype=torch.float16, device=gpu)
    with torch.cuda.device(0):
        reshape_and_cache(new, new, cache[:, 0], cache[:, 1], slots)
        concat_and_cache_mla(rows[:, :512], rows[:, 512:], latent, slots)
    assert int(cache.count_nonzero()) == 2 * new.numel()
    assert int(latent.count_nonzero()) == rows.numel()
