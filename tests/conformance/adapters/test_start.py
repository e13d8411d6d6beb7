"""Starting a server of a small fork whose parts are where vLLM keeps them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_rocm_attn.conformance.adapters import LacksError
from pytest_rocm_attn.errors import SelectorError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_rocm_attn.conformance.adapters.start.started import Started

pytest.importorskip("torch", reason="vLLM's selectors take torch dtypes; install the extra kernels")

WHISPER = """
    encoder_decoder = true
    [[server.layer]]
    name = "decoder"
    request = { head_size = 64 }
    [[server.layer]]
    name = "cross"
    request = { head_size = 64, attn_type = "encoder_decoder" }
"""
PLAIN = """
    [[server.layer]]
    name = "attention"
    request = { head_size = 64 }
"""


@pytest.fixture
def start(small_fork: Callable[..., tuple[Any, Any]]) -> Callable[..., Started]:
    """A function that starts a described server of the fork, some of whose text is replaced first."""

    def start(
        described: str, *changes: tuple[str, str, str], more: dict[str, str] | None = None
    ) -> Started:
        adapter, server = small_fork(described, *changes, more=more)
        found: Started = adapter.start(server, {})
        return found

    return start


def words(started: Started) -> list[str]:
    return [f"{'/'.join(f.layers)}: {f.doing}: {f.words or f.error}" for f in started.faults]


def test_a_server_of_one_layer_starts(start: Callable[..., Started]) -> None:
    started = start(PLAIN)
    assert started.backends == {"attention": "ROCM_ATTN"}
    assert words(started) == []
    assert started.asked["attention"]["head_size"] == "64"
    # A release without this part is not said to have passed it.
    assert started.left_out == ["a choice among layouts of the cache"]


def test_fields_that_only_a_server_fills_are_named(start: Callable[..., Started]) -> None:
    assert start(PLAIN).not_filled == ["from_another_age"]


def test_layers_whose_blocks_lie_in_each_other_are_both_named(
    start: Callable[..., Started],
) -> None:
    started = start(WHISPER)
    assert started.backends == {"decoder": "ROCM_ATTN", "cross": "TRITON_ATTN"}
    (fault,) = started.faults
    assert fault.layers == ("decoder", "cross")
    assert "decoder (ROCM_ATTN) has shape (2, 13, 16, 8, 64)" in fault.words
    assert "cross (TRITON_ATTN) has shape (13, 2, 16, 8, 64)" in fault.words


def test_layers_whose_blocks_are_the_same_bytes_share_a_cache(
    start: Callable[..., Started],
) -> None:
    shape = "return (2, blocks, size, heads, head_size)"
    alike = ("v1/attention/backends/__init__", shape, "return (blocks, 2, size, heads, head_size)")
    assert words(start(WHISPER, alike)) == []


def test_a_runner_that_mends_the_layout_is_believed(start: Callable[..., Started]) -> None:
    """As the runner of vLLM 0.25.1 does: its views are compared, not the shapes of the classes."""
    mended = """views[name] = raw.view(spec.dtype).view(shape)
                        if shape[0] == 2:
                            page = raw.numel() // spec.dtype.itemsize // shape[1]
                            kept = views[name].stride()
                            views[name].as_strided_(shape, (page // 2, page, *kept[2:]))"""
    change = (
        "v1/worker/gpu_model_runner",
        "views[name] = raw.view(spec.dtype).view(shape)",
        mended,
    )
    assert words(start(WHISPER, change)) == []


def test_layers_without_a_common_kernel_block_are_all_named(start: Callable[..., Started]) -> None:
    change = (
        "v1/attention/backends/__init__",
        "class Triton(Base):",
        "class Triton(Base):\n            sizes = [32]",
    )
    (said,) = words(start("block_size = 32" + WHISPER, change))
    assert said.startswith("decoder/cross: finding a common kernel block of ")
    assert "decoder (ROCM_ATTN): [(16, False)]; cross (TRITON_ATTN): [(32, False)]" in said
    assert said.endswith("No common block size")


def test_what_a_backend_says_that_it_does_not_is_held_against_the_server(
    start: Callable[..., Started],
) -> None:
    (said,) = words(start('connector = "Any"' + PLAIN))
    assert said == (
        "attention: needing use_kv_connector: ROCM_ATTN is selected, and says by"
        " supports_kv_connector() that it does not"
    )


def test_what_a_backend_lacks_of_several_needs_together_is_held_against_the_server(
    start: Callable[..., Started],
) -> None:
    """As vLLM's MLA backends, some of which draft without a causal mask, but not over several ranks."""
    says = """class Base:
            supports_non_causal = classmethod(lambda cls: True)
            supports_non_causal_dcp = classmethod(lambda cls: False)"""
    changes = (
        ("v1/attention/backends/__init__", "class Base:", says),
        ("v1/attention/backends/__init__", "return not asked.use_non_causal", "return True"),
        (
            "v1/attention/selector",
            "def get_attn_backend(head_size, dtype, kv_cache_dtype, attn_type)",
            "def get_attn_backend(head_size, dtype, kv_cache_dtype, attn_type, use_mla=False)",
        ),
        (
            "model_executor/layers/attention/__init__",
            "class CrossAttention",
            "class MLAAttention(Attention): ...\n        class CrossAttention",
        ),
    )
    drafter = """
        decode_context_parallel = 2
        speculation = { method = "dspark", tokens = 2 }
        [[server.layer]]
        name = "drafter"
        role = "drafter"
        request = { head_size = 576, use_mla = true, use_non_causal = true }
    """
    said = words(start(drafter, *changes))
    assert said[0] == (
        "drafter: needing use_mla with use_non_causal with use_dcp: ROCM_ATTN is selected, and says by"
        " supports_non_causal_dcp() that it does not"
    )
    apart = start(drafter.replace("decode_context_parallel = 2", ""), *changes)
    assert not [one for one in words(apart) if "needing" in one]


def test_a_need_that_is_no_field_of_the_question_is_unasked(start: Callable[..., Started]) -> None:
    started = start("decode_context_parallel = 2" + PLAIN)
    assert started.unasked == ["use_dcp"]


def test_a_layer_that_is_refused_for_what_another_one_needs_is_a_fault(
    start: Callable[..., Started],
) -> None:
    drafter = """
        speculation = { method = "everywhere", tokens = 2 }
        [[server.layer]]
        name = "attention"
        request = { head_size = 64 }
        [[server.layer]]
        name = "drafter"
        role = "drafter"
        request = { head_size = 64, use_non_causal = true }
    """
    target, own = words(start(drafter))
    assert target == (
        "attention: selecting a backend: it is refused for what another layer of the server needs:"
        " alone it is given ROCM_ATTN (no backend takes it)"
    )
    # The drafter's need is its own.
    assert own == "drafter: selecting a backend: no backend takes it"


def test_what_the_server_checks_after_the_selection_is_asked(start: Callable[..., Started]) -> None:
    checks = """
        def check_attention_cp_compatibility(config):
            from servy.distributed import parallel_state
            assert parallel_state._DCP.world_size == 2
            for name, layer in config.compilation_config.static_forward_context.items():
                assert hasattr(layer.impl, "returns_lse"), f"{name} returns none"
    """
    described = "decode_context_parallel = 2" + PLAIN
    (said,) = words(start(described, more={"v1/worker/cp_utils": checks}))
    assert said == "attention: checking the context parallelism: attention returns none"


def test_a_cache_dtype_that_the_fork_does_not_list_is_said_to_be_lacking(
    start: Callable[..., Started],
) -> None:
    with pytest.raises(LacksError, match="the fork has no cache dtype turboquant_k8v4"):
        start('kv_cache_dtype = "turboquant_k8v4"' + PLAIN)


def test_where_the_cache_cannot_be_divided_here_kernels_are_still_held_against_blocks(
    start: Callable[..., Started],
) -> None:
    """A package that the machine lacks is not the fork's fault, and is named."""
    needs = ("v1/core/kv_cache_utils", "from types", "import no_such_package\n        from types")
    calls = (
        "v1/attention/backends/__init__",
        "class Rocm(Base):",
        (
            "class Rocm(Base):\n            sizes = []\n            def run(self):\n"
            "                return paged_attention_v1()"
        ),
    )
    started = start("block_size = 544" + PLAIN, needs, calls)
    (said,) = words(started)
    assert "paged_attention_v1 is given blocks of 544 tokens, and takes 16, 32" in said
    assert started.left_out == ["what v1.core.kv_cache_planning does: it needs no_such_package"]
    assert started.missing == ["no_such_package"]


def test_what_the_stand_in_for_a_checkpoint_lacks_is_ours_and_a_description_may_add_it(
    start: Callable[..., Started],
) -> None:
    reads = (
        "platforms/rocm",
        "def check_and_update_config(cls, config): ...",
        "def check_and_update_config(cls, config): config.model_config.hf_config.hidden_size",
    )
    (fault,) = start(PLAIN, reads).faults
    assert isinstance(fault.error, SelectorError)
    assert "hidden_size of config.json" in str(fault.error)
    assert start(f"    config = {{ hidden_size = 64 }}{PLAIN}", reads).faults == []
