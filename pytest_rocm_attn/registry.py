"""Backend names and the class paths that vLLM's registry gives them (facts/backends.md section 1)."""

from __future__ import annotations

from pytest_rocm_attn.errors import UnknownBackendError, nearest

_PREFIX = "vllm.v1.attention.backends."

# Member name -> class path, as AttentionBackendEnum of vLLM 0.12.0 has them; the paths of the nine
# ROCm members are unchanged through 0.33.0. An empty path needs registering by the user.
CLASS_PATHS: dict[str, str] = {
    "TRITON_ATTN": _PREFIX + "triton_attn.TritonAttentionBackend",
    "ROCM_ATTN": _PREFIX + "rocm_attn.RocmAttentionBackend",
    "ROCM_AITER_FA": _PREFIX + "rocm_aiter_fa.AiterFlashAttentionBackend",
    "ROCM_AITER_UNIFIED_ATTN": _PREFIX + "rocm_aiter_unified_attn.RocmAiterUnifiedAttentionBackend",
    "FLEX_ATTENTION": _PREFIX + "flex_attention.FlexAttentionBackend",
    "TRITON_MLA": _PREFIX + "mla.triton_mla.TritonMLABackend",
    "ROCM_AITER_MLA": _PREFIX + "mla.rocm_aiter_mla.AiterMLABackend",
    "ROCM_AITER_TRITON_MLA": _PREFIX + "mla.aiter_triton_mla.AiterTritonMLABackend",
    "ROCM_AITER_MLA_SPARSE": _PREFIX + "mla.rocm_aiter_mla_sparse.ROCMAiterMLASparseBackend",
    "FLASH_ATTN": _PREFIX + "flash_attn.FlashAttentionBackend",
    "TREE_ATTN": _PREFIX + "tree_attn.TreeAttentionBackend",
    "FLASHINFER": _PREFIX + "flashinfer.FlashInferBackend",
    "FLASHINFER_MLA": _PREFIX + "mla.flashinfer_mla.FlashInferMLABackend",
    "CUTLASS_MLA": _PREFIX + "mla.cutlass_mla.CutlassMLABackend",
    "FLASHMLA": _PREFIX + "mla.flashmla.FlashMLABackend",
    "FLASHMLA_SPARSE": _PREFIX + "mla.flashmla_sparse.FlashMLASparseBackend",
    "FLASH_ATTN_MLA": _PREFIX + "mla.flashattn_mla.FlashAttnMLABackend",
    "PALLAS": _PREFIX + "pallas.PallasAttentionBackend",
    "IPEX": _PREFIX + "ipex.IpexAttentionBackend",
    "NO_ATTENTION": _PREFIX + "no_attention.NoAttentionBackend",
    "CPU_ATTN": _PREFIX + "cpu_attn.CPUAttentionBackend",
    "TORCH_SDPA": "",
    "CUSTOM": "",
}

# The nine that can run on ROCm; the rest of the names are legal to write and refused there.
ROCM_BACKENDS: tuple[str, ...] = tuple(CLASS_PATHS)[:9]


def check_name(name: str) -> str:
    """Return name unchanged when the registry lists it.

    Raises:
        UnknownBackendError: it does not; the message lists the valid names and the nearest.
    """
    if name not in CLASS_PATHS:
        raise UnknownBackendError(
            f"unknown attention backend {name!r}.{nearest(name, CLASS_PATHS)}"
            f" Valid names: {', '.join(CLASS_PATHS)}"
        )
    return name
