"""Backend names and the class paths that vLLM's registry gives them.

Source: docs/reference/backends.md#registry.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_rocm_attn.errors import UnknownBackendError, nearest

if TYPE_CHECKING:
    from collections.abc import Collection

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

# Names that releases from 0.11.2 to 0.33.0 have and 0.12.0 has not. Their class paths are the fork's
# own: an answer is looked up in its registry.
LATER_NAMES: tuple[str, ...] = (
    *("AMX_MLA", "B12X", "CPU_MLA", "CUTLASS_MSA", "FLASHINFER_MLA_SPARSE"),
    *("FLASHINFER_MLA_SPARSE_DSV4", "FLASHINFER_MLA_SPARSE_DSV41", "FLASHINFER_MLA_SPARSE_SM120"),
    *("FLASHINFER_MLA_SPARSE_SM90", "FLASHMLA_MEGA_ATTN_DSV41", "FLASHMLA_SPARSE_DSV4"),
    *("FLASHMLA_SPARSE_DSV41", "FLASH_ATTN_DIFFKV", "FLASH_ATTN_MLA_SPARSE"),
    *("FLASH_ATTN_MLA_SPARSE_FA4", "HPC_ATTN", "MINIMAX_M3_SPARSE", "ROCM_FLASHMLA_SPARSE_DSV4"),
    *("ROCM_FLASHMLA_SPARSE_DSV41", "ROCM_OCTAVE", "ROCM_SEGMENTED_ATTN", "STEP5_DSA"),
    *("TOKENSPEED_MLA", "TRITON_ATTN_DIFFKV", "TRITON_FLASHINFER", "TRITON_FLASH_ATTN"),
    *("TRITON_MSA", "TURBOQUANT", "ULTRAQUANT", "XFORMERS", "XPU_MLA_SPARSE"),
)
# Every name that a contract, a deviation or a message may mention.
EVERY_NAME: tuple[str, ...] = (*CLASS_PATHS, *LATER_NAMES)

# The nine that can run on ROCm; the rest of the names are legal to write and refused there.
ROCM_BACKENDS: tuple[str, ...] = tuple(CLASS_PATHS)[:9]


def check_name(name: str, known: Collection[str] = CLASS_PATHS) -> str:
    """Return name unchanged when the registry lists it.

    Args:
        name: the name.
        known: the registry's names: of vLLM 0.12.0, or EVERY_NAME for those of all releases.

    Raises:
        UnknownBackendError: it does not; the message lists the valid names and the nearest.
    """
    if name not in known:
        raise UnknownBackendError(
            f"unknown attention backend {name!r}.{nearest(name, known)}"
            f" Valid names: {', '.join(known)}"
        )
    return name
