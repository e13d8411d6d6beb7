"""Backend names and class paths, as docs/reference/backends.md#registry lists them."""

from __future__ import annotations

import pytest

from pytest_rocm_attn.errors import UnknownBackendError
from pytest_rocm_attn.registry import CLASS_PATHS, ROCM_BACKENDS, check_name


def test_the_nine_backends_of_rocm_have_the_paths_of_vllms_registry() -> None:
    assert {name: CLASS_PATHS[name] for name in ROCM_BACKENDS} == {
        name: f"vllm.v1.attention.backends.{path}"
        for name, path in {
            "TRITON_ATTN": "triton_attn.TritonAttentionBackend",
            "ROCM_ATTN": "rocm_attn.RocmAttentionBackend",
            "ROCM_AITER_FA": "rocm_aiter_fa.AiterFlashAttentionBackend",
            "ROCM_AITER_UNIFIED_ATTN": "rocm_aiter_unified_attn.RocmAiterUnifiedAttentionBackend",
            "FLEX_ATTENTION": "flex_attention.FlexAttentionBackend",
            "TRITON_MLA": "mla.triton_mla.TritonMLABackend",
            "ROCM_AITER_MLA": "mla.rocm_aiter_mla.AiterMLABackend",
            "ROCM_AITER_TRITON_MLA": "mla.aiter_triton_mla.AiterTritonMLABackend",
            "ROCM_AITER_MLA_SPARSE": "mla.rocm_aiter_mla_sparse.ROCMAiterMLASparseBackend",
        }.items()
    }


def test_every_member_of_0_12_0_is_listed() -> None:
    assert set(CLASS_PATHS) - set(ROCM_BACKENDS) == {
        "FLASH_ATTN",
        "TREE_ATTN",
        "FLASHINFER",
        "FLASHINFER_MLA",
        "CUTLASS_MLA",
        "FLASHMLA",
        "FLASHMLA_SPARSE",
        "FLASH_ATTN_MLA",
        "PALLAS",
        "IPEX",
        "NO_ATTENTION",
        "CPU_ATTN",
        "TORCH_SDPA",
        "CUSTOM",
    }
    assert {name for name, path in CLASS_PATHS.items() if not path} == {"TORCH_SDPA", "CUSTOM"}


def test_a_listed_name_passes() -> None:
    assert check_name("CUSTOM") == "CUSTOM"


def test_an_unknown_name_is_told_the_nearest_and_all() -> None:
    with pytest.raises(UnknownBackendError) as caught:
        check_name("rocm_aiter_mla_sprase")
    message = str(caught.value)
    assert message.startswith(
        "unknown attention backend 'rocm_aiter_mla_sprase'. Did you mean 'ROCM_AITER_MLA_SPARSE'"
    )
    assert message.endswith(f" Valid names: {', '.join(CLASS_PATHS)}")
