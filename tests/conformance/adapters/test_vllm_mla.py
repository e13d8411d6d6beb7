"""The adapter to vLLM's MLA decode, on a package that is made like vLLM's and asks the oracle."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from pytest_rocm_attn.conformance.adapters.vllm_mla import HOMES, MlaDecode
from pytest_rocm_attn.conformance.tiers.numerics.case import shipped
from pytest_rocm_attn.conformance.tiers.numerics.lane import Lane
from pytest_rocm_attn.errors import BackendUnderTestError

if TYPE_CHECKING:
    from pathlib import Path

SPEC = "pytest_rocm_attn.conformance.adapters.vllm_mla:MlaDecode"
CASES = {case.id: case for case in shipped()}
# vLLM 0.12.0, attention/ops/triton_decode_attention.py: names; 0.33.0 adds scales and is_mla.
KERNEL = """
import torch
from pytest_rocm_attn.backends.oracle import mla_decode

def decode_attention_fwd(q, k_buffer, v_buffer, o, lse, req_to_token, b_seq_len, attn_logits,
                         num_kv_splits, sm_scale, page_size, logit_cap=0.0):
    requests, heads, _ = q.shape
    assert k_buffer.shape[1:] == (page_size, 1, 576)
    assert v_buffer.shape == (*k_buffer.shape[:3], 512)
    assert v_buffer.data_ptr() == k_buffer.data_ptr()
    assert lse.shape == (requests, heads)
    assert attn_logits.shape == (requests, heads, num_kv_splits, 513)
    assert attn_logits.dtype == torch.float32
    o.copy_(mla_decode(q, k_buffer.squeeze(2), seq_lens=b_seq_len, block_table=req_to_token,
                       scale=sm_scale).out)
"""


@pytest.mark.parametrize("home", HOMES)
def test_every_argument_arrives_from_either_home(
    home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    *parents, name = home.split(".")
    place = tmp_path
    for parent in parents:
        place = place / parent
        place.mkdir()
        (place / "__init__.py").touch()
    (place / f"{name}.py").write_text(KERNEL)
    monkeypatch.syspath_prepend(tmp_path)
    names = ("mla-decode-with-block-size-64", "mla-decode-with-strided-tensors")
    with contextlib.closing(Lane(SPEC, 120.0)) as lane:
        for case in names:
            found = lane.ask(CASES[case])
            assert found.kind == "right", (case, found.words, found.traceback)
        declined = lane.ask(CASES["alibi-float16"])
        assert declined.kind == "declined"


def test_without_vllm_the_error_says_where_it_was_sought() -> None:
    with pytest.raises(BackendUnderTestError, match=r"put its source on\s+PYTHONPATH") as caught:
        MlaDecode()
    assert HOMES[0] in str(caught.value)
