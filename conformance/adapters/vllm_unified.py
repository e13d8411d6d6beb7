"""vLLM's unified attention, unmodified, as a backend under test in the numerics tier.

    python -m pytest --rocm-attn-conformance --rocm-attn-tier=numerics \\
        --rocm-attn-backends=VLLM=pytest_rocm_attn.conformance.adapters.vllm_unified:UnifiedAttention

The function has had one home and then another, and has gained arguments: it is found by trying its homes,
and called by the names in its signature, so that a fork's own version works as long as it keeps them.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.adapters.unified import Unified, first_home
from pytest_rocm_attn.errors import BackendUnderTestError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_rocm_attn.problem import PagedAttention

HOMES = (
    "vllm.v1.attention.ops.triton_unified_attention",
    "vllm.attention.ops.triton_unified_attention",
)


class UnifiedAttention(Unified):
    """vLLM's ``unified_attention``, the kernel of its TRITON_ATTN.

    Raises:
        BackendUnderTestError: vLLM is not there, or has no such function.
    """

    name = "VLLM"

    def __init__(self) -> None:
        with an_active_driver():
            function, why_not = first_home(HOMES)
        if function is None:
            raise BackendUnderTestError(
                f"vLLM's unified_attention is in none of its known modules ({why_not}); install vLLM, or put its"
                " source on PYTHONPATH"
            )
        super().__init__(function)

    def arguments(self, problem: PagedAttention) -> dict[str, Any]:
        """Return what is offered to the function, with the cache's kind where a release asks for it."""
        offered = super().arguments(problem)
        if "kv_quant_mode" in self.parameters and problem.key_cache.dtype.itemsize == 1:
            # Later releases no longer tell from the dtype of the cache; the default is of their enum.
            modes = type(self.parameters["kv_quant_mode"].default)
            offered["kv_quant_mode"] = modes.FP8_PER_TENSOR
        return offered


@contextmanager
def an_active_driver() -> Iterator[None]:
    """Let vLLM see one active Triton driver while it is imported, if none is needed.

    vLLM replaces Triton by placeholders where it finds no GPU; neither the
    interpreter nor the emulator needs one.
    """
    import triton
    from triton.backends import backends

    driver = backends["amd"].driver
    emulates = getattr(vars(triton.runtime.driver).get("_active"), "emulates", False)
    needless = triton.knobs.runtime.interpret or emulates
    if not needless or any(b.driver.is_active() for b in backends.values()):
        yield
        return
    before = driver.__dict__["is_active"]
    driver.is_active = staticmethod(lambda: True)
    try:
        yield
    finally:
        driver.is_active = before
