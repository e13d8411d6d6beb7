"""AMD aiter's unified attention, unmodified, as a backend under test in the launch tier.

    pytest --rocm-attn-conformance --rocm-attn-tier=launch --rocm-attn-gpu=gfx942 \\
        --rocm-attn-backends=AITER=pytest_rocm_attn.conformance.adapters.aiter_unified:UnifiedAttention

Its signature is that of vLLM's function, of which it is a descendant. aiter wants to know the GPU when it
is imported: for one that the installed release does not know, name another in its variable GPU_ARCHS.
"""

from __future__ import annotations

from pytest_rocm_attn.conformance.adapters import vllm_unified


class UnifiedAttention(vllm_unified.UnifiedAttention):
    """aiter's ``unified_attention``, the kernel of ROCM_AITER_UNIFIED_ATTN.

    Raises:
        BackendUnderTestError: aiter is not there, or has no such function.
    """

    name = "AITER"
    package = "aiter"
    homes = (
        "aiter.ops.triton.attention.unified_attention",
        "aiter.ops.triton.unified_attention",
    )
