"""The arguments that the AITER backends pass, against the real functions of AMD's wheel.

Slow: aiter's import takes half a minute. ROCM_ATTN_AITER_PYTHON is an interpreter with amd-aiter and
what it imports, torch, triton and this distribution; default: this one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

PYTHON = os.environ.get("ROCM_ATTN_AITER_PYTHON", sys.executable)
PROBE = "from importlib.metadata import version; print(version('amd-aiter'))"
# Every call is bound to the real function's signature and then not made.
CALL = """
import json, sys
import torch
from pytest_rocm_attn.mock import mock_rocm
mock_rocm("gfx942", real_aiter=True).enter()
from pytest_rocm_attn.backends.aiter_function import AiterFunction, parameters
from pytest_rocm_attn.backends.batch import Batch
from pytest_rocm_attn.backends.rocm_aiter_fa import RocmAiterFlashAttention
from pytest_rocm_attn.backends.rocm_aiter_mla import RocmAiterMLA
from pytest_rocm_attn.backends.rocm_aiter_unified_attn import RocmAiterUnifiedAttention
from pytest_rocm_attn.request import Request

calls = []

def call(self, backend, **arguments):
    function = self.find(backend)
    bound = self.bound(backend, arguments)
    calls.append([backend, self.name, function.__module__, sorted(bound)])
    missing = [name for name, needed in parameters(function).items() if needed and name not in bound]
    assert not missing, missing
    return bound["q"].new_zeros(*bound["q"].shape[:2], bound["v"].shape[2]) if "v" in bound else None

AiterFunction.call = call
cpu = torch.device("cpu")
for fields in ({}, {"sliding_window": 8}, {"kv_cache_dtype": "fp8"}, {"logits_soft_cap": 5.0}):
    for cls in (RocmAiterFlashAttention, RocmAiterUnifiedAttention):
        layer = cls(Request(dtype="float16", head_size=64, **fields), cpu, scale=0.1)
        cache = torch.zeros(layer.cache_shape(4), dtype=layer.cache_dtype)
        table = torch.arange(3, dtype=torch.int32)[:, None]
        batch = Batch.build([1, 2, 4], [5, 6, 4], table, torch.full((7,), -1))
        query = torch.zeros(7, 32, 64, dtype=torch.float16)
        one = torch.ones(())
        scales = {"k_scale": one, "v_scale": one} if layer.fp8 else {}
        layer.forward(query, cache, batch, torch.zeros_like(query), **scales)
layer = RocmAiterMLA(Request(use_mla=True), cpu, scale=0.1)
cache = torch.zeros(layer.cache_shape(2), dtype=torch.bfloat16)
batch = Batch.build([1], [20], torch.tensor([[0, 1]], dtype=torch.int32), torch.full((1,), -1))
query, out = (torch.zeros(1, 16, n, dtype=torch.bfloat16) for n in (576, 512))
layer.decode(query, cache, batch, out)
starts = torch.tensor([0, 4], dtype=torch.int32)
query, key, value, out = (torch.zeros(4, 16, n, dtype=torch.bfloat16) for n in (192, 192, 128, 128))
layer.prefill(query, key, value, out, query_start_loc=starts, key_start_loc=starts,
              max_query_len=4, max_key_len=4)
print("CALLS " + json.dumps(calls))
"""


def test_every_call_fits_the_real_function() -> None:
    probe = subprocess.run([PYTHON, "-c", PROBE], capture_output=True, text=True, check=False)
    if probe.returncode:
        pytest.skip(
            f"{PYTHON} has no amd-aiter; install it somewhere and name its python in"
            " ROCM_ATTN_AITER_PYTHON"
        )
    done = subprocess.run(
        [PYTHON, "-c", CALL], capture_output=True, text=True, check=False, timeout=600
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("CALLS ")]
    assert lines, done.stderr[-3000:]
    calls = json.loads(lines[0].removeprefix("CALLS "))
    assert {(backend, name) for backend, name, _, _ in calls} == {
        ("ROCM_AITER_FA", "flash_attn_varlen_func"),
        ("ROCM_AITER_FA", "paged_attention_v1"),
        ("ROCM_AITER_FA", "unified_attention"),
        ("ROCM_AITER_UNIFIED_ATTN", "unified_attention"),
        ("ROCM_AITER_MLA", "mla_decode_fwd"),
        ("ROCM_AITER_MLA", "flash_attn_varlen_func"),
    }
    assert all(
        "softmax_scale" in names or "scale" in names or "sm_scale" in names
        for _, _, _, names in calls
    )
