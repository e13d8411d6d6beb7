"""Mentions: a message is matched by what it says and not by how that is spelled."""

from __future__ import annotations

import pytest

from pytest_rocm_attn import Rejected
from pytest_rocm_attn.conformance.promise import mentions
from pytest_rocm_attn.conformance.promise.rows import ExpectRefusal
from pytest_rocm_attn.conformance.promise.verdict import shortfall_of

# What releases of vLLM answer, word for word.
V33 = (
    "Selected backend AttentionBackendEnum.TRITON_MLA is not valid for this configuration."
    " Reason: ['block_size not supported']"
)
V12 = " The selected backend, TRITON_MLA,does not support block size 1."
V12_SPARSE = "Sparse MLA backend on ROCm only supports block size 1 for now."
V12_FP8 = "ROCMAiterMLASparseBackend doesn't support fp8 kv_cache_dtype."
V33_UNKNOWN = "Unknown attention backend: 'AITER_MLA'. Valid options are: FLASH_ATTN, ROCM_AITER_FA"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("block size", V33),
        ("block_size", V12),
        ("Block-Size", V12),
        ("TRITON_MLA", V33),
        ("TRITON_MLA", V12),
        ("triton_mla", V12),
        ("block size 1", V12_SPARSE),
        ("1", V12),
        ("fp8", V12_FP8),
        ("sparse", V12_FP8),
        ("kv cache dtype", V12_FP8),
        ("MLA", "FLASHMLA is out of the question"),
        ("head size", "unsupported head sizes: 72"),
        ("gfx9", "runs on gfx942 and gfx950"),
        ("amd-aiter", "install amd_aiter"),
        ("'AITER_MLA'", V33_UNKNOWN),
        ("AITER_MLA", V33_UNKNOWN),
        ("attention type", "attn_type or attention\n  type: encoder"),
        ("0.5", "a ratio of 0.5."),
    ],
)
def test_a_word_is_mentioned_whatever_its_spelling(word: str, message: str) -> None:
    assert mentions.missing([word], message) == []


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("block size", "block sizing"),
        ("head size", V33),
        ("block size 1", "TRITON_MLA does not support block size 16"),
        ("1", "block size 16"),
        ("6", "block size 16"),
        ("16", "block size 16k"),
        ("0", "version 0.12"),
        ("12", "version 0.12"),
        ("ROCM_AITER_MLA", "ROCM_AITER_MLA_SPARSE needs block size 1"),
        ("AITER_MLA", "valid: ROCM_AITER_MLA"),
        ("TRITON_MLA", "use ROCM_AITER_TRITON_MLA"),
        ("VLLM_ROCM_USE_AITER", "set VLLM_ROCM_USE_AITER_MHA"),
        ("'TRITON_ATTN '", "unknown: 'TRITON_ATTN'"),
    ],
)
def test_another_number_or_name_is_not_a_mention(word: str, message: str) -> None:
    assert mentions.missing([word], message) == [word]


def test_a_right_refusal_in_other_spelling_satisfies_a_row_and_half_of_it_does_not() -> None:
    expect = ExpectRefusal(("TRITON_MLA", "block size"))
    assert shortfall_of(expect, Rejected("ValueError", V33)) == ""
    assert shortfall_of(expect, Rejected("ValueError", V12)) == ""
    told = shortfall_of(expect, Rejected("ValueError", V33.replace("block_size", "head_size")))
    assert told.startswith("refused, but the message does not mention 'block size': ")


@pytest.mark.parametrize("word", ["", " ", "_", "- -"])
def test_a_word_of_separators_alone_is_blank(word: str) -> None:
    assert mentions.is_blank(word)
    assert not mentions.is_blank(f"{word}x")
