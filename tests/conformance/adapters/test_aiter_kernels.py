"""The adapters to what aiter's functions choose, on a package that is made like AMD's."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

torch = pytest.importorskip("torch")

from pytest_rocm_attn import aiter_probe
from pytest_rocm_attn.conformance.adapters import aiter_kernels
from pytest_rocm_attn.conformance.tiers.launch.problems import storageless_problem
from pytest_rocm_attn.conformance.tiers.launch.tier import shipped as families
from pytest_rocm_attn.conformance.tiers.numerics.case import shipped
from pytest_rocm_attn.conformance.tiers.numerics.judge import METHODS, examine
from pytest_rocm_attn.gpu import Aiter, Gpu

if TYPE_CHECKING:
    from pathlib import Path

FAMILIES = {case.id: case for case in families()}
CASES = FAMILIES | {case.id: case for case in shipped()}
# What a release declares and compiles in the first call.
CORE = """
def compile_ops(name, **kwargs):
    def decorator(function):
        def build(*args, **kwargs):
            raise SystemExit("hipcc")
        return build
    return decorator
"""
MHA = """
import torch
from ..jit.core import compile_ops

@compile_ops("module_fmha_v3_varlen_fwd")
def fmha_v3_varlen_fwd(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window_size_left: int): ...

@compile_ops("module_mha_varlen_fwd")
def mha_varlen_fwd(q, k, v, window_size_left, out=None): ...

def flash_attn_varlen_func(q, k, v, cu_seqlens_q, cu_seqlens_k, causal, window_size=(-1, -1), logits_soft_cap=0.0,
                           alibi_slopes=None, return_lse=False):
    assert q.is_meta and len(cu_seqlens_q) == len(cu_seqlens_k)
    choose = fmha_v3_varlen_fwd if q.shape[-1] == 128 and window_size[0] < 0 else mha_varlen_fwd
    return choose(q, k, v, window_size[0])
"""
MLA = """
import torch
from aiter.ops.attention import mla_decode_stage1_asm_fwd

def mla_decode_fwd(q, kv_buffer, o, qo_indptr, kv_indptr, kv_indices, max_seqlen_q, sm_scale=None):
    assert q.shape[1] in (16, 128), f"{q.shape[1]} heads are not supported"
    torch.arange(3, device="cuda")
    mla_decode_stage1_asm_fwd(q, kv_buffer, max_seqlen_q, work_metadata=None)
"""
STAGE = """
from ..jit.core import compile_ops

@compile_ops("module_mla_asm")
def mla_decode_stage1_asm_fwd(Q, KV, max_seqlen_q, work_metadata=None): ...
"""
COMMON = """
import torch
from csrc.cpp_itfs.pa.pa import paged_attention_rocm as core
from ..jit.core import compile_ops

@compile_ops("module_attention_asm")
def _pa_fwd_asm(Q, K, out_=None): ...

def paged_attention_common(Q, K, V, exp_sums, max_logits, tmp_out, block_tables, context_lens, scale, max_seq_len,
                           kv_cache_dtype="auto"):
    assert K.shape[1:] == (V.shape[1], V.shape[3] // K.shape[4], V.shape[2] * V.shape[4], V.shape[4])
    _pa_fwd_asm(Q, K) if len(Q) > 1000 and LIMIT else core(Q, K, V, int(K.size(3)))
"""
TEMPLATE = "def paged_attention_rocm(query, key_cache, value_cache, block_size): raise SystemExit"
# Names and defaults of a release, and the oracle's work.
FLASH = """
import torch
from pytest_rocm_attn.backends.oracle import paged_attention

def flash_attn_varlen_func(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, softmax_scale=None,
                           causal=False, window_size=(-1, -1), alibi_slopes=None, return_lse=False):
    if window_size != (-1, -1):
        raise ValueError("Sliding Window is not supported yet")
    starts = cu_seqlens_k.tolist()
    lengths = [last - first for first, last in zip(starts, starts[1:])]
    assert 0 not in cu_seqlens_q.diff().tolist(), "a request without a new token"
    table = torch.arange(len(lengths) * max(lengths), dtype=torch.int32).reshape(len(lengths), -1)
    cache = k.new_zeros(2, table.numel(), 1, *k.shape[1:])
    for i, (first, length) in enumerate(zip(starts, lengths)):
        cache[:, table[i, :length].long(), 0] = torch.stack([k[first:first + length], v[first:first + length]])
    found = paged_attention(
        q, cache[0], cache[1], query_start_loc=cu_seqlens_q, seq_lens=torch.tensor(lengths, dtype=torch.int32),
        block_table=table, scale=softmax_scale, causal=causal,
        alibi_slopes=None if alibi_slopes is None else alibi_slopes[0])
    return found.out.to(q.dtype)
"""
DECODE = """
import torch, triton.language as tl
from pytest_rocm_attn.backends.oracle import paged_attention

def paged_attention_decode(output, query, key_cache, value_cache, seq_lens, block_tables, attn_scale, max_seq_len,
                           compute_type, k_scale, v_scale, num_seq_partitions=0, alibi_slopes=None):
    assert compute_type == {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}[query.dtype]
    starts = torch.arange(len(seq_lens) + 1, dtype=torch.int32)
    output.copy_(paged_attention(
        query, key_cache.transpose(1, 2), value_cache.transpose(1, 2), query_start_loc=starts, seq_lens=seq_lens,
        block_table=block_tables, scale=attn_scale, causal=True, alibi_slopes=alibi_slopes,
        k_scale=float(k_scale), v_scale=float(v_scale)).out)
"""


Ask = Callable[..., tuple[str, str]]


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ask]:
    """A function that returns the kind and the words of what an adapter does with a case on a GPU."""
    monkeypatch.syspath_prepend(tmp_path)
    probed = aiter_probe.Probe(Aiter.PRESENT, "amd-aiter in a folder")
    monkeypatch.setattr(aiter_probe, "probe", lambda: probed)

    def ask(adapter: str, case: str, files: dict[str, str], gfx: str = "gfx942") -> tuple[str, str]:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            for parent in path.relative_to(tmp_path).parents:
                (tmp_path / parent / "__init__.py").touch()
            path.write_text(text)
        gpu = SimpleNamespace(gcnArchName=f"{gfx}:sramecc+:xnack-")
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: gpu)
        made = getattr(aiter_kernels, adapter)()
        one = CASES[case]
        if case in FAMILIES:
            problem = storageless_problem(one, Gpu(gfx))
            try:
                getattr(made, METHODS[one.kind])(problem)
            except (NotImplementedError, aiter_kernels.UnfitKernelError) as error:
                return type(error).__name__, str(error)
            return "returned", ""
        result = examine(made, one, torch.device("cpu"))
        return result.kind, result.words

    yield ask
    for name in [name for name in sys.modules if name.partition(".")[0] in ("aiter", "csrc")]:
        del sys.modules[name]


def chosen(answer: tuple[str, str]) -> str:
    """Return the kernel that was chosen."""
    kind, words = answer
    assert kind == "NotImplementedError", words
    return words.partition(" chooses ")[2].partition(" on ")[0]


def test_the_choice_between_assembly_and_ck_is_recorded(ask: Ask) -> None:
    files = {"aiter/jit/core.py": CORE, "aiter/ops/mha.py": MHA}
    adapter = "CompiledFlashAttention"
    assert chosen(ask(adapter, "prefill-head-size-128", files)) == "fmha_v3_varlen_fwd"
    assert chosen(ask(adapter, "prefill-head-size-64", files)) == "mha_varlen_fwd"
    assert chosen(ask(adapter, "mla-prefill-bfloat16", files)) == "mha_varlen_fwd"
    # After the call, each function is the release's own again.
    with pytest.raises(SystemExit):
        sys.modules["aiter.ops.mha"].mha_varlen_fwd()


def test_a_kernel_that_the_gpu_lacks_is_an_error_and_its_own_limits_are_refusals(ask: Ask) -> None:
    files = {"aiter/jit/core.py": CORE, "aiter/ops/mha.py": MHA}
    kind, words = ask("CompiledFlashAttention", "prefill-head-size-128", files, "gfx90a")
    assert kind == "UnfitKernelError"
    assert words.startswith(
        "fmha_v3_varlen_fwd is called with GPU gfx90a, and takes gfx942, gfx950"
    )
    kind, words = ask("CompiledFlashAttention", "prefill-of-the-largest-heads", files)
    assert kind == "NotImplementedError"
    assert words.startswith("mha_varlen_fwd is called with head size 512, and takes 8, 16, ... 256")


def test_a_version_that_builds_both_into_one_module_lacks_neither(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata, "version", lambda _: "0.1.7.post2")
    files = {"aiter/jit/core.py": CORE, "aiter/ops/mha.py": MHA}
    answer = ask("CompiledFlashAttention", "prefill-head-size-128", files, "gfx90a")
    assert chosen(answer) == "fmha_v3_varlen_fwd"


def test_the_first_stage_of_latent_decode_is_recorded(ask: Ask) -> None:
    files = {"aiter/jit/core.py": CORE, "aiter/ops/attention.py": STAGE, "aiter/mla.py": MLA}
    adapter = "CompiledMlaDecode"
    assert chosen(ask(adapter, "mla-decode-num-heads-16", files)) == "mla_decode_stage1_asm_fwd"
    assert ask(adapter, "mla-decode-num-heads-32", files) == (
        "NotImplementedError",
        "32 heads are not supported",
    )
    _, words = ask(adapter, "mla-decode-in-large-blocks", files)
    assert words.startswith("mla_decode_stage1_asm_fwd is called with dtype float16")


def test_kernels_that_are_built_from_templates_are_recorded(ask: Ask) -> None:
    files = {
        "aiter/jit/core.py": CORE,
        "aiter/ops/attention.py": COMMON.replace("LIMIT", "Q.shape[2] == 128"),
        "csrc/cpp_itfs/pa/pa.py": TEMPLATE,
    }
    adapter = "CompiledPagedAttention"
    assert chosen(ask(adapter, "decode-head-size-64", files)) == "paged_attention_rocm"
    both = "paged_attention_rocm and pa_fwd_asm"
    assert chosen(ask(adapter, "decode-head-size-128", files)) == both
    assert ask(adapter, "prefill-head-size-128", files)[1].startswith("more than one new token")
    kind, words = ask(adapter, "decode-head-size-128", files, "gfx1201")
    assert (kind, words[:43]) == ("UnfitKernelError", "paged_attention_rocm is called with GPU gfx")


def test_a_large_batch_that_gets_a_kernel_of_other_heads_is_an_error(ask: Ask) -> None:
    files = {
        "aiter/jit/core.py": CORE,
        "aiter/ops/attention.py": COMMON.replace("LIMIT", "True"),
        "csrc/cpp_itfs/pa/pa.py": TEMPLATE,
    }
    kind, words = ask("CompiledPagedAttention", "decode-head-size-256", files)
    assert kind == "UnfitKernelError"
    assert words.startswith("pa_fwd_asm is called with head size 256, and takes 128")


def test_keys_and_values_arrive_in_a_row(ask: Ask) -> None:
    files = {"aiter/ops/triton/mha.py": FLASH}
    empty = "nothing-but-requests-without-new-tokens"
    for case in ("mixed-batch-float16", "alibi-float16", "both-directions", empty):
        assert ask("FlashAttention", case, files)[0] == "right"
    assert ask("FlashAttention", "sinks-float16", files)[1].endswith("has no sink")
    assert ask("FlashAttention", "sliding-window-16", files) == (
        "declined",
        "Sliding Window is not supported yet",
    )


def test_a_decode_gets_the_cache_by_heads(ask: Ask) -> None:
    pytest.importorskip("triton", reason="compute_type is a type of Triton's")
    files = {"aiter/ops/triton/attention/pa_decode.py": DECODE}
    case = "decode-on-both-sides-of-every-tile-edge-bfloat16"
    assert ask("PagedDecode", case, files)[0] == "right"
    assert ask("PagedDecode", "mixed-batch-float16", files)[0] == "declined"
    wrong = {
        name: text.replace("seq_lens=seq_lens", "seq_lens=seq_lens - 1")
        for name, text in files.items()
    }
    for name in [name for name in sys.modules if name.startswith("aiter")]:
        del sys.modules[name]
    assert ask("PagedDecode", case, wrong)[0] == "wrong"
