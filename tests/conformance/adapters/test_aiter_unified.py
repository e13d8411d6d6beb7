"""The adapter to aiter's unified attention, on a package that is made like AMD's and asks the oracle."""

from __future__ import annotations

import contextlib
import sys
import types
from typing import TYPE_CHECKING

import pytest

from pytest_rocm_attn import aiter_probe
from pytest_rocm_attn.conformance.adapters.aiter_unified import HOMES, UnifiedAttention
from pytest_rocm_attn.conformance.tiers.numerics.case import shipped
from pytest_rocm_attn.conformance.tiers.numerics.lane import Lane
from pytest_rocm_attn.errors import BackendUnderTestError
from pytest_rocm_attn.gpu import Aiter

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_rocm_attn.conformance.tiers.numerics.case import Result

SPEC = "pytest_rocm_attn.conformance.adapters.aiter_unified:UnifiedAttention"
CASES = {case.id: case for case in shipped()}
# docs/reference/aiter.md#unified-attention: names and defaults; what it does is the oracle's.
KERNEL = """
import torch
from pytest_rocm_attn.backends.oracle import paged_attention

def unified_attention(q, k, v, out, cu_seqlens_q, max_seqlen_q, seqused_k, max_seqlen_k,
                      softmax_scale, causal, window_size, block_table, softcap, q_descale,
                      k_descale, v_descale, alibi_slopes=None, output_scale=None, qq_bias=None,
                      sinks=None):
    assert torch.cuda.is_available() and torch.version.hip, "aiter was imported without a GPU"
    assert causal and q_descale is None
    assert k_descale.shape == v_descale.shape == (len(seqused_k), k.shape[2])
    assert max_seqlen_k == int(seqused_k.max()) and max_seqlen_q <= max_seqlen_k
    left, right = window_size
    assert right == (-1 if left == -1 else 0)
    out.copy_(paged_attention(
        q, k, v, query_start_loc=cu_seqlens_q, seq_lens=seqused_k, block_table=block_table,
        scale=softmax_scale, causal=True, window=None if left == -1 else left + 1,
        soft_cap=softcap or None, alibi_slopes=alibi_slopes, sinks=sinks,
        k_scale=float(k_descale.flatten()[0]), v_scale=float(v_descale.flatten()[0])).out)
"""


def make_aiter(folder: Path, home: str, kernel: str = KERNEL) -> None:
    """Write a package that the probe takes for AMD's, with the function in one of its homes."""
    for file in ("jit/core.py", "mla.py", "ops/__init__.py", "__init__.py"):
        path = folder / "aiter" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    *parents, name = home.split(".")
    place = folder
    for parent in parents:
        place = place / parent
        place.mkdir(exist_ok=True)
        (place / "__init__.py").touch()
    (place / f"{name}.py").write_text(kernel)


def ask(folder: Path, monkeypatch: pytest.MonkeyPatch, *cases: str) -> list[Result]:
    """Return what comes of cases in a worker that finds the package in a folder."""
    monkeypatch.syspath_prepend(folder)
    with contextlib.closing(Lane(SPEC, 120.0)) as lane:
        found = [lane.ask(CASES[case]) for case in cases]
        assert lane.evidence == "interpreter"
        assert "unused slots" in lane.allowance
    return found


def test_every_argument_arrives_where_no_gpu_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_aiter(tmp_path, HOMES[1])
    right = (
        *("mixed-batch-float16", "sinks-with-a-window", "soft-cap-with-a-window"),
        *("fp8-cache-e4m3fnuz-float16", "alibi-float16", "strided-tensors-head-size-80-bfloat16"),
        "nothing-but-requests-without-new-tokens",
    )
    *found, both = ask(tmp_path, monkeypatch, *right, "both-directions")
    for name, finding in zip(right, found, strict=True):
        assert finding.kind == "right", (name, finding.words, finding.traceback)
    assert (both.kind, both.words) == ("declined", "attention that is not causal")


@pytest.mark.slow
def test_a_newer_home_is_found_and_what_it_gets_wrong_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_aiter(tmp_path, HOMES[0], KERNEL.replace("else left + 1", "else left"))
    plain, window = ask(tmp_path, monkeypatch, "alibi-float16", "sinks-with-a-window")
    assert plain.kind == "right"
    assert window.kind == "wrong"


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (Aiter.ABSENT, "pip install amd-aiter"),
        (Aiter.BROKEN, "--force-reinstall amd-aiter"),
        (Aiter.IMPOSTOR, "pip uninstall aiter"),
    ],
)
def test_without_amds_aiter_the_error_says_which_and_what_mends_it(
    monkeypatch: pytest.MonkeyPatch, state: Aiter, words: str
) -> None:
    monkeypatch.setattr(aiter_probe, "probe", lambda: aiter_probe.Probe(state, "as was found"))
    with pytest.raises(BackendUnderTestError) as caught:
        UnifiedAttention()
    assert f"AMD's aiter is {state.value}: as was found; " in str(caught.value)
    assert words in str(caught.value)


def test_without_the_function_the_error_names_its_homes(monkeypatch: pytest.MonkeyPatch) -> None:
    probed = aiter_probe.Probe(Aiter.PRESENT, "amd-aiter 9.9 in /there")
    monkeypatch.setattr(aiter_probe, "probe", lambda: probed)
    for home in HOMES:
        monkeypatch.setitem(sys.modules, home, types.ModuleType(home))
    with pytest.raises(BackendUnderTestError) as caught:
        UnifiedAttention()
    assert all(f"{home}: module" in str(caught.value) for home in HOMES)
    assert str(caught.value).endswith("amd-aiter 9.9 in /there")
