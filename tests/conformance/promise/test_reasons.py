"""Reasons of refusals, as the releases and other selectors word them."""

from __future__ import annotations

import pytest

from pytest_rocm_attn.conformance.promise.reasons import Reason, reasons_in

REQUEST = (
    "AttentionSelectorConfig(head_size=128, dtype=torch.bfloat16, kv_cache_dtype=auto,"
    " block_size=None, use_mla=False, has_sink=False, use_sparse=False, use_mm_prefix=False,"
    " use_per_head_quant_scales=False, attn_type=decoder, use_non_causal=False, use_dcp=True)"
)


# Texts of invalid_reasons in vllm/v1/attention/backend.py, v0.18.1 to v0.33.0.
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("head_size not supported", "head-size"),
        ("dtype not supported", "dtype"),
        ("kv_cache_dtype not supported", "kv-cache-dtype"),
        ("block_size not supported", "block-size"),
        ("partial multimodal token full attention not supported", "multimodal-prefix"),
        ("MLA not supported", "mla"),
        ("non-MLA not supported", "non-mla"),
        ("sink setting not supported", "sinks"),
        ("attention sinks not supported", "sinks"),
        ("sparse not supported", "sparse"),
        ("non-sparse not supported", "non-sparse"),
        ("per-head quant scales not supported", "per-head-scales"),
        ("compute capability not supported", "gpu"),
        ("attention type encoder_decoder not supported", "attention-type"),
        ("sliding window not supported", "sliding-window"),
        ("R-SWA not supported", "r-swa"),
        ("non-causal attention not supported", "non-causal"),
        ("batch invariance not supported", "batch-invariance"),
        ("KV connector not supported", "kv-connector"),
        ("PCP not supported", "pcp"),
        ("DCP not supported", "dcp"),
        ("ImportError", "missing-package"),
        ("ROCM_SEGMENTED_ATTN requires AMD RDNA GPUs on ROCm", "gpu"),
    ],
)
def test_a_release_s_list_gives_one_reason_an_entry(text: str, reason: str) -> None:
    named = f"Selected backend X is not valid for this configuration. Reason: ['{text}']"
    assert reasons_in(named) == {Reason(reason)}
    nothing = f"No valid attention backend found for rocm with {REQUEST}. Reasons: {{A: [{text}]}}."
    assert reasons_in(nothing) == {Reason(reason)}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a head of 112 is more than X can do", "head-size"),
        ("X has no kernels for torch.float32", "dtype"),
        ("queries in bf16 are not implemented", "dtype"),
        ("cache of nvfp4 is not readable by X", "kv-cache-dtype"),
        ("the precision of the model and the cache format differ", "kv-cache-dtype"),
        ("pages of 8 tokens cannot be used", "block-size"),
        ("page_size must be a multiple of 16", "block-size"),
        ("connectors cannot read its cache", "kv-connector"),
        ("this is for MLA only", "non-mla"),
        ("serves only models with MLA", "non-mla"),
        ("no MLA here", "mla"),
        ("windowed layers are not implemented", "sliding-window"),
        ("does not run on this GPU", "gpu"),
    ],
)
def test_a_fork_may_word_a_reason_in_its_own_way(text: str, reason: str) -> None:
    named = f"Selected backend X is not valid for this configuration. Reason: ['{text}']"
    assert reasons_in(named) == {Reason(reason)}


def test_what_the_request_is_like_is_no_reason() -> None:
    message = f"No valid backend for {REQUEST}. Reasons: {{A_B: [dtype not supported, MLA not"
    assert reasons_in(message + " supported], C: []}.") == {Reason.DTYPE, Reason.MLA}
    assert reasons_in(f"cannot serve {REQUEST}") == frozenset()


@pytest.mark.parametrize(
    ("sentence", "reasons"),
    [
        ("The selected backend, TRITON_MLA,does not support block size 1.", {"block-size"}),
        ("The selected backend, X, is only supported on gfx9 architectures.", {"gpu"}),
        ("The selected backend, X,is not MLA type while requested for MLA backend.", {"mla"}),
        ("ROCMAiterMLASparseBackend doesn't support fp8 kv_cache_dtype.", {"kv-cache-dtype"}),
        ("TRITON_ATTN takes 16 to 256 as a head size", {"head-size"}),
        ("Unknown attention backend: ''. Valid options are: TRITON_ATTN", {"unknown-name"}),
        ("'' is not a valid value. Valid: TRITON_ATTN", {"unknown-name"}),
        ("TRITON_MLA is MLA, and the layer is not MLA", {"mla", "non-mla"}),
        ("Aiter MLA only supports 16 or 128 number of heads", {"mla"}),
        ("no", set()),
    ],
)
def test_a_sentence_gives_the_reasons_that_it_speaks_of(sentence: str, reasons: set[str]) -> None:
    assert reasons_in(sentence) == {Reason(reason) for reason in reasons}
