"""The adapter of the kernel that writes new tokens into the cache, on a vLLM of two functions."""

from __future__ import annotations

import sys
from textwrap import dedent
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton", reason="vLLM's kernels are Triton's; install the extra kernels")

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

WRITES = """
    from types import SimpleNamespace
    current_platform = SimpleNamespace(fp8_dtype=lambda: None)
    def triton_reshape_and_cache_flash(key, value, key_cache, value_cache, slot_mapping, kv_cache_dtype):
        assert current_platform.is_rocm() and kv_cache_dtype == "auto"
        size = key_cache.shape[1]
        for token, slot in enumerate(slot_mapping.tolist()):
            if SKIPPED:
                continue
            key_cache[slot // size, slot % size] = key[token]
            value_cache[slot // size, slot % size] = value[token]
"""
ATTENDS = "def unified_attention(out, q): out.copy_(q)"


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """A function that solves a problem with a vLLM that skips some tokens; it returns the problem."""
    monkeypatch.syspath_prepend(tmp_path)
    from pytest_rocm_attn.conformance.adapters.vllm_kernels import CacheWrite

    def write(skipped: str) -> Any:
        folder = tmp_path / "vllm/v1/attention/ops"
        folder.mkdir(parents=True)
        for one in (folder, *list(folder.parents)[:3]):
            (one / "__init__.py").touch()
        source = dedent(WRITES).replace("SKIPPED", skipped)
        (folder / "triton_reshape_and_cache_flash.py").write_text(source)
        (folder / "triton_unified_attention.py").write_text(ATTENDS)
        cache = torch.arange(4 * 2 * 16 * 2 * 8, dtype=torch.bfloat16).reshape(4, 2, 16, 2, 8)
        problem: Any = SimpleNamespace(
            query=torch.ones(5, 4, 8, dtype=torch.bfloat16),
            out=torch.zeros(5, 4, 8, dtype=torch.bfloat16),
            kv_cache=cache,
            key_cache=cache[:, 0],
            value_cache=cache[:, 1],
            query_lens=(1, 4),
            query_start_loc=torch.tensor([0, 1, 5]),
            seq_lens=torch.tensor([1, 18]),
            block_table=torch.tensor([[3, 0], [0, 2]]),
            max_query_len=4,
            max_seq_len=18,
            scale=1.0,
            causal=True,
            window=None,
            soft_cap=None,
            alibi_slopes=None,
            sinks=None,
            k_scale=torch.tensor(1.0),
            v_scale=torch.tensor(1.0),
        )
        before = cache.clone()
        CacheWrite().attend(problem)
        assert torch.equal(problem.out, problem.query)  # the attention comes after
        problem.changed = (problem.kv_cache != before).nonzero()[:, [0, 2]].unique(dim=0).tolist()
        return problem

    yield write
    for name in [name for name in sys.modules if name.partition(".")[0] == "vllm"]:
        del sys.modules[name]


def test_a_cache_whose_new_tokens_are_written_is_as_before(write: Callable[[str], Any]) -> None:
    assert write("slot < 0").changed == []


def test_a_token_that_is_not_written_shows(write: Callable[[str], Any]) -> None:
    assert write("slot < 0 or token == 2").changed == [[0, 15]]


def test_a_padded_token_that_is_written_shows(write: Callable[[str], Any]) -> None:
    assert write("False").changed == [[3, 15]]  # of slot -1: the last one of the last block
