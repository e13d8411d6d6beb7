"""The first steps of a small fork's server, taken under the mock: what is seen of them, and what is not."""

from __future__ import annotations

import sys
from textwrap import dedent, indent
from typing import TYPE_CHECKING, Any

import pytest

from pytest_rocm_attn import compile_watch
from pytest_rocm_attn.gpu import Gpu
from pytest_rocm_attn.mock import mock_rocm

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_rocm_attn.conformance.adapters.start.started import Steps

pytest.importorskip("triton", reason="steps compile kernels; install the extra kernels")

BACKENDS = "v1/attention/backends/__init__"
PLAIN = """
    [[server.layer]]
    name = "attention"
    request = { head_size = 64 }
"""
COMMON = """
    from dataclasses import dataclass
    from typing import Any
    @dataclass
    class CommonAttentionMetadata:
        query_start_loc: Any
        seq_lens: Any
        seq_lens_cpu: Any
        num_actual_tokens: int
        max_query_len: int
        block_table_tensor: Any
        slot_mapping: Any
        causal: bool
"""
STEPPING = """
    import torch, triton
    import triton.language as tl
    class Builder:
        def __init__(self, spec, names, config, device):
            self.block, self.device = spec.block_size, device
        def build(self, common_prefix_len, common_attn_metadata):
            IN_BUILD
            return common_attn_metadata
    @triton.jit
    def add(x, y, n, BLOCK: tl.constexpr):
        where = tl.arange(0, BLOCK)
        tl.store(y + where, tl.load(x + where, where < n) + 1, where < n)
    @triton.jit
    def greedy(x, y, BLOCK: tl.constexpr):
        one = tl.arange(0, BLOCK)
        tile = tl.load(x + one[:, None] * BLOCK + one[None, :])
        tl.store(y + one[:, None] * BLOCK + one[None, :], tl.dot(tile, tl.trans(tile)))
    @triton.jit
    def ragged(x, BLOCK: tl.constexpr):
        one = tl.arange(0, BLOCK)
        tl.store(x + one, tl.load(x + tl.arange(0, 2 * BLOCK)))
    class Stepping(Impl):
        def forward(self, layer, query, key, value, kv_cache, metadata, output):
            assert kv_cache.is_cuda and query.shape == (metadata.num_actual_tokens, layer.num_heads, 64)
            assert metadata.query_start_loc.device.type == "cuda"
            torch.ops._C_cache_ops.reshape_and_cache_flash(
                key, value, kv_cache[0], kv_cache[1], metadata.slot_mapping, "auto",
                layer._k_scale, layer._v_scale)
            IN_FORWARD
            add[(1,)](query, output, 64, BLOCK=64)
"""
GROUP = """
            def create_metadata_builders(self, config, device, kernel_block_size=None):
                builder = self.backend.get_builder_cls()
                self.metadata_builders = [builder(self.kv_cache_spec, self.layer_names, config, device)]
"""


@pytest.fixture
def steps(small_fork: Callable[..., tuple[Any, Any]]) -> Callable[..., Steps]:
    """A function that takes the steps of a server of the fork, with these lines in its code."""

    def steps(
        described: str = PLAIN, *, build: str = "", forward: str = "", after: str = ""
    ) -> Steps:
        text = dedent(STEPPING)
        for mark, lines in (("IN_BUILD", build), ("IN_FORWARD", forward)):
            put = indent(dedent(lines).strip() or "pass", " " * 8)
            text = text.replace(f"        {mark}", put)
        impl = "def get_impl_cls(cls):\n                return "
        changes = (
            (BACKENDS, f"{impl}Impl", f"{impl}Stepping"),
            (BACKENDS, "get_builder_cls(cls): ...", "get_builder_cls(cls): return Builder"),
            (BACKENDS, "class Impl:", f"{indent(text, ' ' * 8).lstrip()}\n        class Impl:"),
            (BACKENDS, "class Stepping(Impl):", "class Stepping:"),
            (
                BACKENDS,
                "class Base:",
                "Stepping = type('Stepping', (Stepping, Impl), {})\n        class Base:",
            ),
            (
                BACKENDS,
                "class Rocm(Base):",
                f"{indent(dedent(after), ' ' * 8)}\n        class Rocm(Base):",
            ),
            ("v1/worker/utils", "kv_cache_group_id: int\n", f"kv_cache_group_id: int\n{GROUP}"),
        )
        with mock_rocm(Gpu("gfx942"), force=True):
            adapter, server = small_fork(described, *changes, more={"v1/attention/backend": COMMON})
            started = adapter.start(server, {}, Gpu("gfx942"))
        assert started.faults == []
        assert started.steps is not None
        found: Steps = started.steps
        return found

    return steps


def words(faults: list[Any]) -> list[str]:
    return [f"{'/'.join(f.layers)}: {f.doing}: {f.words or f.error}" for f in faults]


def test_steps_are_taken_on_a_device_that_is_not_there(steps: Callable[..., Steps]) -> None:
    found = steps()
    assert (words(found.faults), words(found.declined)) == ([], [])
    assert (found.taken, found.launches) == (3, 3)
    assert found.calls == ["_C_cache_ops::reshape_and_cache_flash"] * 3
    torch: Any = sys.modules["torch"]
    assert not hasattr(torch.ops._C_cache_ops, "reshape_and_cache_flash")  # nothing stays


def test_a_backend_changes_its_specification_before_the_cache_is_laid_out(
    steps: Callable[..., Steps],
) -> None:
    """As the runner has it from v0.29.0 to v0.31.0: no function of the worker's does it."""
    one_head = """
        def one_head(spec):
            import dataclasses
            return dataclasses.replace(spec, num_kv_heads=1)
        Base.customize_spec = staticmethod(one_head)
    """
    found = steps(after=one_head, forward="assert kv_cache.shape[3] != 1, 'one head'")
    assert words(found.faults) == [
        "attention: a prefill step, a decode step, a mixed step: one head"
    ]


def test_a_step_has_pinned_memory_a_stream_and_what_was_built_without_memory(
    steps: Callable[..., Steps],
) -> None:
    waiting = """
        assert torch.zeros(2).pin_memory().cuda().is_cuda
        torch.cuda.current_stream(0).synchronize()
        assert self.buffer.is_cuda and not self.buffer.is_meta
    """
    built = """
        def with_a_buffer(self, num_heads, head_size):
            self.buffer = torch.empty(9, device="meta")
        Impl.__init__ = with_a_buffer
    """
    found = steps(forward=waiting, after=built)
    assert (words(found.faults), words(found.declined), found.taken) == ([], [], 3)


def test_a_server_that_speculates_verifies_what_is_drafted(steps: Callable[..., Steps]) -> None:
    drafter = """
        speculation = { method = "eagle3", tokens = 3 }
        [[server.layer]]
        name = "attention"
        request = { head_size = 64 }
    """
    asks = "assert metadata.max_query_len != 4, 'four tokens'"
    (said,) = words(steps(drafter, forward=asks).faults)
    assert said == "attention: a speculative step: four tokens"


def test_a_drafter_that_is_not_causal_takes_the_step_that_drafts_and_no_other(
    steps: Callable[..., Steps],
) -> None:
    """vLLM's builders refuse other batches: "Non-causal MLA requires a uniform query block" (v0.27.1)."""
    drafter = """
        speculation = { method = "dflash", tokens = 3 }
        [[server.layer]]
        name = "attention"
        role = "drafter"
        request = { head_size = 64, use_non_causal = true }
    """
    asks = "assert metadata.query_start_loc.tolist() == [0, 4, 8], 'not uniform'"
    found = steps(drafter, forward=asks)
    assert (words(found.faults), found.taken) == ([], 1)


def test_a_kernel_that_does_not_compile_is_one_fault(steps: Callable[..., Steps]) -> None:
    found = steps(forward="ragged[(1,)](query, BLOCK=64)")
    (said,) = words(found.faults)
    assert said.startswith(
        "attention: a prefill step, a decode step, a mixed step: ragged does not compile for gfx942"
    )
    assert found.declined == []


def test_a_closed_kernel_that_is_given_what_it_does_not_take_is_a_fault(
    steps: Callable[..., Steps],
) -> None:
    """By its real parameters: the block is read off the cache that is handed over."""
    call = """
        import aiter
        cache = kv_cache[0].view(-1, 8, 8, 64)
        torch.ops.aiter.paged_attention_v1(
            output, None, query[:1], cache, cache, 1.0, metadata.block_table_tensor, None,
            metadata.seq_lens, 9, None, "auto", "NHD", 0.0, None, None)
    """
    (said,) = words(steps(forward=call).faults)
    assert said.startswith(
        "attention: a prefill step, a decode step, a mixed step: paged_attention_v1 is called with"
        " block size 8, and takes 16, 32"
    )


def test_a_kernel_that_the_builder_chooses_for_another_gpu_is_a_fault(
    steps: Callable[..., Steps],
) -> None:
    call = """
        from aiter.ops.triton.gluon.mla_gluon import mla_gluon
        q = torch.zeros(2, 8, 512, dtype=torch.bfloat16, device=self.device)
        if common_attn_metadata.max_query_len == 1:
            mla_gluon(q, q, q, q, None, None, 1.0)
    """
    (said,) = words(steps(build=call).faults)
    assert said.startswith(
        "attention: a decode step: mla_gluon is called with GPU gfx942, and takes gfx950"
    )


def test_a_kernel_of_triton_that_does_not_fit_is_a_fault(steps: Callable[..., Steps]) -> None:
    call = "greedy[(1,)](query, output.float(), BLOCK=256, num_warps=16)"
    (said,) = words(steps(forward=call).faults)
    assert "greedy does not fit gfx942" in said


def test_a_kernel_that_takes_too_long_to_compile_is_declined_once(
    steps: Callable[..., Steps], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compile_watch, "ends_within", lambda seconds, work: False)
    found = steps(forward="add[(1,)](query, output, 64, BLOCK=128)")
    assert (found.taken, found.faults) == (0, [])
    (said,) = words(found.declined)
    assert said.startswith("attention: a prefill step: compiling add for gfx942 with BLOCK=128")


def test_what_the_fork_raises_in_a_step_is_its_fault(steps: Callable[..., Steps]) -> None:
    refuses = 'raise NotImplementedError("only causal")'
    (said,) = words(steps(forward=refuses).faults)
    assert said == "attention: a prefill step, a decode step, a mixed step: only causal"


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("import no_such_package", "it needs no_such_package"),
        ("import aiter\naiter.pa_fwd_naive()", "the result of aiter.pa_fwd_naive is not known"),
        ("torch.cuda.Stream()", "needs a real GPU"),
        ("layer.of_another_age", "the server reads of_another_age of an attention layer"),
    ],
)
def test_what_cannot_be_done_here_is_declined_and_is_not_a_fault(
    steps: Callable[..., Steps], lines: str, reason: str
) -> None:
    found = steps(forward=lines)
    assert (found.taken, found.faults) == (0, [])
    (said,) = words(found.declined)
    assert reason in said


def test_an_operator_that_the_fork_leaves_unregistered_is_its_fault(
    steps: Callable[..., Steps],
) -> None:
    """As for sparse latent attention on gfx1151 (vllm-project/vllm#51530): an operator for AITER's GPUs alone."""
    registers = 'if False: register(op_name="of_another_gpu")'
    found = steps(after=registers, forward="torch.ops.servy.of_another_gpu(query)")
    (said,) = words(found.faults)
    assert "'_OpNamespace' 'servy' object has no attribute 'of_another_gpu'" in said


def test_an_operator_of_a_module_that_is_not_imported_is_no_fault(
    steps: Callable[..., Steps],
) -> None:
    found = steps(forward="torch.ops.servy.of_a_model(query)")
    assert found.faults == []
    (said,) = words(found.declined)
    assert "no attribute 'of_a_model'" in said
