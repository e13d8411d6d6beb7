"""vLLM's unified attention, unmodified, as a backend under test in the numerics tier.

    pytest --rocm-attn-conformance --rocm-attn-tier=numerics \\
        --rocm-attn-backends=VLLM=pytest_rocm_attn.conformance.adapters.vllm_unified:UnifiedAttention

The function has had one home and then another, and has gained arguments: it is found by trying its homes,
and called by the names in its signature, so that a fork's own version works as long as it keeps them.
"""

from __future__ import annotations

import importlib
import inspect
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.errors import BackendUnderTestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_rocm_attn.problem import PagedAttention


class UnifiedAttention:
    """vLLM's ``unified_attention``, the kernel of its TRITON_ATTN.

    Raises:
        BackendUnderTestError: vLLM is not there, or has no such function.
    """

    name = "VLLM"
    package = "vLLM"
    homes: tuple[str, ...] = (
        "vllm.v1.attention.ops.triton_unified_attention",
        "vllm.attention.ops.triton_unified_attention",
    )
    rounds_cache = True

    def __init__(self) -> None:
        self.function = _found(self.homes, self.package)
        self.parameters = inspect.signature(self.function).parameters

    def attend(self, problem: PagedAttention) -> None:
        """Solve a problem of paged attention.

        Raises:
            NotImplementedError: not causal, and the function takes causal attention only.
        """
        batch, kv_heads = problem.seq_lens.shape[0], problem.key_cache.shape[2]
        if not problem.query.shape[0]:
            return  # vLLM's runner makes no call without a token
        offered: dict[str, Any] = {
            "q": problem.query,
            "k": problem.key_cache,
            "v": problem.value_cache,
            "out": problem.out,
            "cu_seqlens_q": problem.query_start_loc,
            "max_seqlen_q": problem.max_query_len,
            "seqused_k": problem.seq_lens,
            "max_seqlen_k": problem.max_seq_len,
            "softmax_scale": problem.scale,
            "causal": problem.causal,
            # vLLM's meaning: that many keys to the left and to the right; -1 for all.
            "window_size": (problem.window - 1, 0) if problem.window else (-1, -1),
            "block_table": problem.block_table,
            "softcap": problem.soft_cap or 0,
            "q_descale": None,
            "k_descale": problem.k_scale.expand(batch, kv_heads),
            "v_descale": problem.v_scale.expand(batch, kv_heads),
            "alibi_slopes": problem.alibi_slopes,
            "sinks": problem.sinks,
        }
        if "kv_quant_mode" in self.parameters and problem.key_cache.dtype.itemsize == 1:
            # Later releases no longer tell from the dtype of the cache; the default is of their enum.
            modes = type(self.parameters["kv_quant_mode"].default)
            offered["kv_quant_mode"] = modes.FP8_PER_TENSOR
        if not problem.causal:
            raise NotImplementedError("attention that is not causal")
        self.function(**{name: value for name, value in offered.items() if name in self.parameters})


def _found(homes: tuple[str, ...], package: str) -> Callable[..., Any]:
    failures = []
    for home in homes:
        try:
            with _an_active_driver():
                function: Callable[..., Any] = importlib.import_module(home).unified_attention
        except (ImportError, AttributeError) as error:
            failures.append(f"{home}: {error}")
        else:
            return function
    raise BackendUnderTestError(
        f"{package}'s unified_attention is in none of its homes ({'; '.join(failures)}); install"
        f" {package}, or put its source on PYTHONPATH"
    )


@contextmanager
def _an_active_driver() -> Iterator[None]:
    """Let vLLM see one active Triton driver while it is imported, where Triton interprets.

    vLLM replaces Triton by placeholders where it finds no GPU; the interpreter needs none.
    """
    import triton
    from triton.backends import backends

    driver = backends["amd"].driver
    if not triton.knobs.runtime.interpret or any(b.driver.is_active() for b in backends.values()):
        yield
        return
    before = driver.__dict__["is_active"]
    driver.is_active = staticmethod(lambda: True)
    try:
        yield
    finally:
        driver.is_active = before
