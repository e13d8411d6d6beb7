"""The reference selector against the tables of the contract, written out by hand.

The row numbers (A1, Q6, T3, ...) are those of docs/reference/contract.md.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_rocm_attn.backends import PR_26980, Selection, select
from pytest_rocm_attn.errors import SelectionError
from pytest_rocm_attn.flags import VARIABLES, Flags, Kind
from pytest_rocm_attn.gpu import Aiter, Gpu, known_gpus
from pytest_rocm_attn.registry import CLASS_PATHS, ROCM_BACKENDS
from pytest_rocm_attn.request import ATTN_TYPES, DTYPES, KV_CACHE_DTYPES, Request

GFX9 = ("gfx90a", "gfx942", "gfx950")
OTHER = tuple(gfx for gfx in known_gpus() if gfx not in GFX9)
SHORT = {
    "BACKEND": "VLLM_ATTENTION_BACKEND",
    "AITER": "VLLM_ROCM_USE_AITER",
    "MHA": "VLLM_ROCM_USE_AITER_MHA",
    "MLA": "VLLM_ROCM_USE_AITER_MLA",
    "UNIFIED": "VLLM_ROCM_USE_AITER_UNIFIED_ATTENTION",
    "PREFILL_DECODE": "VLLM_V1_USE_PREFILL_DECODE_ATTENTION",
}


def environment(words: str) -> dict[str, str]:
    """Turn "AITER=1 MHA=0" into the variables that the contract abbreviates so."""
    pairs = (word.split("=") for word in words.split())
    return {SHORT[name]: text for name, text in pairs}


def chosen(words: str = "", gfx: str = "gfx942", aiter: str = "present", **needs: Any) -> str:
    selection = select(Request(**needs), Flags(environment(words)), Gpu(gfx, Aiter(aiter)))
    return selection.backend


def refusal(
    words: str = "", gfx: str = "gfx942", aiter: str = "present", **needs: Any
) -> SelectionError:
    with pytest.raises(SelectionError) as caught:
        chosen(words, gfx, aiter, **needs)
    return caught.value


# Section 3: the commands of the pull request's appendix.
@pytest.mark.parametrize("gfx", GFX9)
@pytest.mark.parametrize(
    ("row", "words", "needs", "backend"),
    [
        ("A1", "", {}, "TRITON_ATTN"),
        ("A2", "BACKEND=TRITON_ATTN", {}, "TRITON_ATTN"),
        ("A3", "AITER=1 BACKEND=TRITON_ATTN", {}, "TRITON_ATTN"),
        ("A4", "AITER=1 MHA=0", {}, "TRITON_ATTN"),
        ("A5", "BACKEND=ROCM_ATTN", {}, "ROCM_ATTN"),
        ("A6", "AITER=1 BACKEND=ROCM_ATTN", {}, "ROCM_ATTN"),
        ("A7", "AITER=1 MHA=0 BACKEND=ROCM_ATTN", {}, "ROCM_ATTN"),
        ("A8", "AITER=1 MHA=0 PREFILL_DECODE=1", {}, "ROCM_ATTN"),
        ("A9", "BACKEND=ROCM_AITER_FA", {}, "ROCM_AITER_FA"),
        ("A10", "AITER=1", {}, "ROCM_AITER_FA"),
        ("A11", "BACKEND=ROCM_AITER_UNIFIED_ATTN", {}, "ROCM_AITER_UNIFIED_ATTN"),
        ("A12", "AITER=1 BACKEND=ROCM_AITER_UNIFIED_ATTN", {}, "ROCM_AITER_UNIFIED_ATTN"),
        ("A13", "AITER=1 MHA=0 UNIFIED=1", {}, "ROCM_AITER_UNIFIED_ATTN"),
        ("A14", "BACKEND=TRITON_MLA", {"use_mla": True}, "TRITON_MLA"),
        ("A15", "AITER=1 BACKEND=TRITON_MLA", {"use_mla": True}, "TRITON_MLA"),
        ("A16", "BACKEND=ROCM_AITER_MLA", {"use_mla": True}, "ROCM_AITER_MLA"),
        ("A17", "AITER=1", {"use_mla": True, "block_size": 1}, "ROCM_AITER_MLA"),
        ("A18", "AITER=1", {"use_mla": True}, "ROCM_AITER_MLA"),
        ("Q9", "AITER=1 UNIFIED=1", {}, "ROCM_AITER_UNIFIED_ATTN"),
        ("Q10", "UNIFIED=1", {}, "TRITON_ATTN"),
        ("Q11", "PREFILL_DECODE=1", {}, "ROCM_ATTN"),
        ("Q14", "MHA=0 BACKEND=ROCM_AITER_FA", {}, "ROCM_AITER_FA"),
        ("Q7", "AITER=1 MLA=0", {"use_mla": True}, "TRITON_MLA"),
        ("Q7", "AITER=1 MLA=0", {"use_mla": True, "block_size": 1}, "ROCM_AITER_MLA"),
        ("T8", "AITER=1 MHA=1", {}, "ROCM_AITER_FA"),
        ("T1", "BACKEND=FLEX_ATTENTION", {}, "FLEX_ATTENTION"),
        ("R8", "AITER=1 BACKEND=FLEX_ATTENTION", {}, "FLEX_ATTENTION"),
        ("M8", "BACKEND=ROCM_AITER_TRITON_MLA", {"use_mla": True}, "ROCM_AITER_TRITON_MLA"),
    ],
)
def test_the_commands_of_the_contract_select_what_it_says(
    row: str, words: str, needs: dict[str, Any], backend: str, gfx: str
) -> None:
    assert chosen(words, gfx, **needs) == backend, row


# Section 6.2, every row over both settings of "any", on every GPU that is known.
@pytest.mark.parametrize(
    ("aiter", "unified", "mha", "prefill_decode", "gfx9", "other"),
    [
        ("0", "01", "01", "0", "TRITON_ATTN", "TRITON_ATTN"),
        ("0", "01", "01", "1", "ROCM_ATTN", "ROCM_ATTN"),
        ("1", "1", "01", "01", "ROCM_AITER_UNIFIED_ATTN", "ROCM_AITER_UNIFIED_ATTN"),
        ("1", "0", "1", "0", "ROCM_AITER_FA", "TRITON_ATTN"),
        ("1", "0", "1", "1", "ROCM_AITER_FA", "ROCM_ATTN"),
        ("1", "0", "0", "0", "TRITON_ATTN", "TRITON_ATTN"),
        ("1", "0", "0", "1", "ROCM_ATTN", "ROCM_ATTN"),
    ],
)
def test_the_automatic_choice_follows_the_table(
    aiter: str, unified: str, mha: str, prefill_decode: str, gfx9: str, other: str
) -> None:
    for a, u, m, p in itertools.product(aiter, unified, mha, prefill_decode):
        words = f"AITER={a} UNIFIED={u} MHA={m} PREFILL_DECODE={p}"
        for gfx in known_gpus():
            assert chosen(words, gfx) == (gfx9 if gfx in GFX9 else other), (words, gfx)


AITER_MLA_IS_ON = [("AITER=1", gfx) for gfx in GFX9] + [("AITER=1 MLA=1", "gfx942")]
AITER_MLA_IS_OFF = [
    ("", "gfx942"),
    ("MLA=1", "gfx942"),
    ("AITER=0", "gfx90a"),
    ("AITER=1 MLA=0", "gfx950"),
    *(("AITER=1", gfx) for gfx in OTHER),
]


# Section 6.3 and R3, R4, S5, S6.
@pytest.mark.parametrize(("words", "gfx"), AITER_MLA_IS_ON)
@pytest.mark.parametrize("block_size", [1, 2, 8, 16, 17, 64, 256, None])
def test_aiter_mla_is_automatic_at_every_block_size(
    words: str, gfx: str, block_size: int | None
) -> None:
    assert chosen(words, gfx, use_mla=True, block_size=block_size) == "ROCM_AITER_MLA"


@pytest.mark.parametrize(("words", "gfx"), AITER_MLA_IS_OFF)
def test_without_aiter_mla_the_block_size_decides(words: str, gfx: str) -> None:
    for block_size in (16, 17, 32, 64, 128, 256, None):
        assert chosen(words, gfx, use_mla=True, block_size=block_size) == "TRITON_MLA"
    assert chosen(words, gfx, use_mla=True, block_size=1) == "ROCM_AITER_MLA"
    for block_size in (2, 8, 15):
        error = refusal(words, gfx, use_mla=True, block_size=block_size)
        assert error.backend == "TRITON_MLA"
        assert f"does not support block size {block_size}: it must be at least 16" in str(error)


@pytest.mark.parametrize(("words", "gfx"), AITER_MLA_IS_ON + AITER_MLA_IS_OFF)
def test_named_mla_backends_are_honoured_on_every_gpu(words: str, gfx: str) -> None:
    for name in ("ROCM_AITER_MLA", "ROCM_AITER_TRITON_MLA"):
        for block_size in (1, 2, 16, 24, None):
            assert chosen(f"{words} BACKEND={name}", gfx, use_mla=True, block_size=block_size) == (
                name
            )
    triton = f"{words} BACKEND=TRITON_MLA"
    for size in (16, 17, 24, None):
        assert chosen(triton, gfx, use_mla=True, block_size=size) == "TRITON_MLA"
    for size in (1, 2, 8, 15):
        error = refusal(triton, gfx, use_mla=True, block_size=size)
        assert (
            f"TRITON_MLA (named by VLLM_ATTENTION_BACKEND) does not support block size {size}:"
            in (str(error))
        )


def test_aiter_mla_is_not_automatic_without_aiter() -> None:  # Q16
    assert chosen("AITER=1", aiter="absent", use_mla=True) == "TRITON_MLA"


@pytest.mark.parametrize("name", sorted(set(CLASS_PATHS) - set(ROCM_BACKENDS[:5])))
def test_other_names_are_refused_for_an_ordinary_layer(name: str) -> None:  # Q1, Q18
    error = refusal(f"AITER=1 BACKEND={name}")
    assert error.backend == name
    assert f"VLLM_ATTENTION_BACKEND={name}: {name} is not supported on ROCm" in str(error)
    assert (
        "Remedy: set VLLM_ATTENTION_BACKEND to TRITON_ATTN, ROCM_ATTN, ROCM_AITER_FA,"
        " ROCM_AITER_UNIFIED_ATTN, FLEX_ATTENTION." in str(error)
    )


@pytest.mark.parametrize("name", sorted(set(CLASS_PATHS) - set(ROCM_BACKENDS[5:8])))
def test_other_names_are_refused_for_an_mla_model(name: str) -> None:  # Q19
    error = refusal(f"AITER=1 BACKEND={name}", use_mla=True)
    assert error.backend == name
    assert f"{name} is not MLA type" in str(error)
    assert (
        "Remedy: set VLLM_ATTENTION_BACKEND to TRITON_MLA, ROCM_AITER_MLA, ROCM_AITER_TRITON_MLA."
        in str(error)
    )


@pytest.mark.parametrize("gfx", OTHER)
def test_flash_attention_by_name_is_refused_off_gfx9(gfx: str) -> None:  # Q15, E1
    error = refusal("AITER=1 BACKEND=ROCM_AITER_FA", gfx)
    assert error.backend == "ROCM_AITER_FA"
    assert "is only supported on gfx9 architectures" in str(error)
    assert f"this GPU is {gfx}" in str(error)


@pytest.mark.parametrize("use_mla", [False, True])
@pytest.mark.parametrize("name", [None, *CLASS_PATHS])
def test_a_sparse_layer_gets_the_sparse_backend_whatever_is_named(
    name: str | None, use_mla: bool
) -> None:  # Q21
    words = f"AITER=1 BACKEND={name}" if name else ""
    for aiter in Aiter:
        needs: dict[str, Any] = {"use_sparse": True, "use_mla": use_mla, "block_size": 1}
        assert chosen(words, "gfx942", aiter, **needs) == "ROCM_AITER_MLA_SPARSE"


@pytest.mark.parametrize("block_size", [2, 8, 16, 64, None])
def test_a_sparse_layer_needs_block_size_1(block_size: int | None) -> None:  # Q21, E2
    error = refusal(use_sparse=True, block_size=block_size)
    assert error.backend == "ROCM_AITER_MLA_SPARSE"
    assert f"only supports block size 1 (sparse MLA); got block size {block_size}" in str(error)


@pytest.mark.parametrize("dtype", ["fp8", "fp8_e4m3", "fp8_e5m2", "fp8_ds_mla"])
def test_a_sparse_layer_refuses_an_fp8_cache(dtype: str) -> None:  # Q21
    error = refusal(use_sparse=True, block_size=1, kv_cache_dtype=dtype)
    assert f"does not support an fp8 kv_cache_dtype; got '{dtype}'" in str(error)


NEEDS_AITER: dict[str, dict[str, Any]] = {
    "ROCM_AITER_FA": {},
    "ROCM_AITER_UNIFIED_ATTN": {},
    "ROCM_AITER_MLA": {"use_mla": True},
    "ROCM_AITER_TRITON_MLA": {"use_mla": True},
}


@pytest.mark.parametrize("name", NEEDS_AITER)
@pytest.mark.parametrize(
    ("aiter", "says", "remedy"),
    [
        ("absent", "needs AMD's aiter, which is not installed", "run `pip install amd-aiter`"),
        (
            "impostor",
            "needs AMD's aiter; the installed package `aiter` is an impostor",
            "run `pip uninstall aiter && pip install amd-aiter`",
        ),
        (
            "broken",
            "needs AMD's aiter, which is installed but broken",
            "`pip install --force-reinstall amd-aiter`",
        ),
    ],
)
def test_a_backend_of_aiter_is_refused_without_it(
    name: str, aiter: str, says: str, remedy: str
) -> None:
    error = refusal(f"BACKEND={name}", aiter=aiter, **NEEDS_AITER[name])
    assert str(error).startswith(f"{name} (named by VLLM_ATTENTION_BACKEND) {says}")
    assert f"Remedy: {remedy}" in str(error) or f", then {remedy}" in str(error)
    assert str(error).count("aiter;") + str(error).count("aiter,") == 1  # one message, not three


@pytest.mark.parametrize("aiter", ["absent", "broken", "impostor"])
def test_backends_without_aiter_do_not_ask_for_it(aiter: str) -> None:
    for name in ("TRITON_ATTN", "ROCM_ATTN", "FLEX_ATTENTION"):
        assert chosen(f"BACKEND={name}", aiter=aiter) == name
    assert chosen("BACKEND=TRITON_MLA", aiter=aiter, use_mla=True) == "TRITON_MLA"


@pytest.mark.parametrize("aiter", ["broken", "impostor"])
def test_a_findable_aiter_counts_for_the_automatic_choice_and_is_then_refused(aiter: str) -> None:
    # 0.12.0 asks only whether a module of that name can be found
    # (docs/reference/aiter.md#which-aiter).
    error = refusal("AITER=1", aiter=aiter, use_mla=True)
    assert error.backend == "ROCM_AITER_MLA"
    assert "chosen by the rule aiter-mla" in str(error)
    assert "set VLLM_ROCM_USE_AITER=0, which gives TRITON_MLA" in str(error)
    assert "set VLLM_ROCM_USE_AITER_MLA=0, which gives TRITON_MLA" in str(error)


def test_an_mla_model_of_block_size_1_without_aiter_is_told_both_ways_out() -> None:  # Q6
    error = refusal(aiter="absent", use_mla=True, block_size=1)
    assert error.backend == "ROCM_AITER_MLA"
    assert "run `pip install amd-aiter`" in str(error)
    assert "set --block-size to 16 or more, which gives TRITON_MLA" in str(error)


# Limits at which a backend of 0.12.0 raises (docs/reference/backends.md#triton-attn to
# #rocm-aiter-mla-sparse). Backend, how it is asked for, what it takes, what it refuses.
LIMITS = [
    ("TRITON_ATTN", {}, "block_size", [16, 32, 48, 256, None], [1, 8, 15, 17, 24]),
    ("ROCM_ATTN", {}, "block_size", [16, 32, 48, 256, None], [1, 8, 15, 17, 24]),
    ("ROCM_AITER_UNIFIED_ATTN", {}, "block_size", [16, 32, 48, None], [1, 8, 15, 17, 24]),
    ("ROCM_AITER_FA", {}, "block_size", [16, 32, 48, 256, None], [1, 8, 15, 17, 24]),
    ("FLEX_ATTENTION", {}, "block_size", [1, 8, 16, 17, None], []),
    ("TRITON_ATTN", {}, "head_size", [1, 16, 72, 128, 576], []),
    ("ROCM_ATTN", {}, "head_size", [32, 64, 96, 128, 160, 192, 224, 256], [16, 80, 112, 512]),
    (
        "ROCM_AITER_UNIFIED_ATTN",
        {},
        "head_size",
        [32, 64, 96, 128, 160, 192, 224, 256],
        [16, 80, 112, 512],
    ),
    ("ROCM_AITER_FA", {}, "head_size", [32, 64, 80, 128, 256, 512], []),
    ("FLEX_ATTENTION", {}, "head_size", [1, 80, 512], []),
    (
        "TRITON_ATTN",
        {},
        "kv_cache_dtype",
        ["auto", "fp8", "fp8_e4m3", "fp8_e5m2"],
        ["float16", "bfloat16"],
    ),
    ("FLEX_ATTENTION", {}, "kv_cache_dtype", ["auto", "bfloat16"], ["fp8", "fp8_e4m3", "fp8_e5m2"]),
    ("TRITON_MLA", {}, "kv_cache_dtype", ["auto", "bfloat16"], ["fp8", "fp8_e4m3", "fp8_e5m2"]),
    ("ROCM_ATTN", {}, "kv_cache_dtype", ["auto", "fp8", "fp8_e4m3"], []),
    ("ROCM_AITER_FA", {}, "kv_cache_dtype", ["auto", "fp8", "fp8_e4m3"], []),
    ("ROCM_AITER_UNIFIED_ATTN", {}, "kv_cache_dtype", ["auto", "fp8", "fp8_e4m3"], []),
    ("TRITON_ATTN", {}, "attn_type", ["decoder", "encoder_decoder"], ["encoder", "encoder_only"]),
    ("ROCM_ATTN", {}, "attn_type", ["decoder", "encoder_decoder"], ["encoder", "encoder_only"]),
    (
        "ROCM_AITER_UNIFIED_ATTN",
        {},
        "attn_type",
        ["decoder", "encoder_decoder"],
        ["encoder", "encoder_only"],
    ),
    ("ROCM_AITER_FA", {}, "attn_type", ["decoder", "encoder_decoder"], ["encoder", "encoder_only"]),
    (
        "FLEX_ATTENTION",
        {},
        "attn_type",
        ["decoder", "encoder_only"],
        ["encoder", "encoder_decoder"],
    ),
    ("TRITON_ATTN", {}, "has_sink", [False, True], []),
    ("ROCM_ATTN", {}, "has_sink", [False, True], []),
    ("ROCM_ATTN", {"alibi": True}, "has_sink", [False], [True]),
    ("ROCM_ATTN", {"has_sink": True}, "alibi", [False], [True]),
    ("ROCM_AITER_UNIFIED_ATTN", {"alibi": True}, "has_sink", [False, True], []),
    ("ROCM_AITER_FA", {}, "has_sink", [False], [True]),
    ("FLEX_ATTENTION", {}, "has_sink", [False, True], []),
    ("TRITON_ATTN", {"has_sink": True}, "alibi", [False, True], []),
    ("ROCM_AITER_FA", {}, "alibi", [False, True], []),
    ("FLEX_ATTENTION", {}, "alibi", [False], [True]),
    ("TRITON_ATTN", {}, "logits_soft_cap", [None, 30.0], []),
    ("ROCM_ATTN", {}, "logits_soft_cap", [None, 30.0], []),
    ("ROCM_AITER_FA", {}, "logits_soft_cap", [None, 30.0], []),
    ("FLEX_ATTENTION", {}, "logits_soft_cap", [None], [30.0]),
    ("TRITON_ATTN", {}, "sliding_window", [None, 1, 4096], []),
    ("ROCM_AITER_FA", {}, "sliding_window", [None, 1, 4096], []),
    ("FLEX_ATTENTION", {}, "sliding_window", [None, 1, 4096], []),
    ("ROCM_AITER_MLA", {}, "num_heads", [16, 128], [1, 8, 15, 17, 32, 64, 127, 129]),
    ("ROCM_AITER_TRITON_MLA", {}, "num_heads", [16, 128], [1, 8, 15, 17, 32, 64, 127, 129]),
    ("TRITON_MLA", {}, "num_heads", [1, 8, 16, 32, 128], []),
    *(
        (name, {}, field, taken, refused)
        for name in ("TRITON_MLA", "ROCM_AITER_MLA", "ROCM_AITER_TRITON_MLA")
        for field, taken, refused in (
            ("attn_type", ["decoder"], ["encoder", "encoder_only", "encoder_decoder"]),
            ("alibi", [False], [True]),
            ("sliding_window", [None], [1, 4096]),
            ("logits_soft_cap", [None], [30.0]),
            ("dtype", ["float16", "bfloat16"], []),
            ("head_size", [576, 320], []),
        )
    ),
    ("ROCM_AITER_MLA", {}, "kv_cache_dtype", ["auto", "fp8"], []),
    ("ROCM_ATTN", {}, "dtype", list(DTYPES), []),
    ("TRITON_ATTN", {}, "use_mm_prefix", [False, True], []),
]


@pytest.mark.parametrize(("name", "needs", "field", "taken", "refused"), LIMITS)
def test_a_named_backend_serves_what_it_can_and_refuses_what_it_cannot(
    name: str, needs: dict[str, Any], field: str, taken: list[Any], refused: list[Any]
) -> None:
    words = f"BACKEND={name}"
    needs = needs | {"use_mla": name.endswith("MLA")}
    for value in taken:
        assert chosen(words, **needs | {field: value}) == name, value
    for value in refused:
        error = refusal(words, **needs | {field: value})
        assert error.backend == name
        shown = str(value) if value is not True else {"has_sink": "sinks", "alibi": "ALiBi"}[field]
        assert shown in str(error)


# What each refusal says: the limit, the refused value, what helps, and who says so.
@pytest.mark.parametrize(
    ("words", "needs", "message"),
    [
        (
            "AITER=1",
            {"has_sink": True},
            (
                "ROCM_AITER_FA (chosen by the rule aiter-flash-attention) does not support attention"
                " sinks (has_sink). Remedy: set VLLM_ATTENTION_BACKEND to TRITON_ATTN, ROCM_ATTN,"
                " ROCM_AITER_UNIFIED_ATTN, FLEX_ATTENTION; or set VLLM_ROCM_USE_AITER=0, which gives"
                " TRITON_ATTN; or set VLLM_ROCM_USE_AITER_MHA=0, which gives TRITON_ATTN."
                " Source: vLLM 0.12.0, the constructor: TypeError"
            ),
        ),
        (
            "",
            {"block_size": 8},
            (
                "TRITON_ATTN (chosen by the rule default) does not support block size 8: it must be a"
                " multiple of 16. Remedy: set --block-size to a multiple of 16; or set"
                " VLLM_ATTENTION_BACKEND to FLEX_ATTENTION."
                " Source: vLLM 0.12.0 get_kv_cache_shape: ValueError"
            ),
        ),
        (
            "AITER=1 BACKEND=ROCM_ATTN",
            {"head_size": 80},
            (
                "ROCM_ATTN (named by VLLM_ATTENTION_BACKEND) does not support head size 80: it must be"
                " one of 32, 64, 96, 128, 160, 192, 224, 256. Remedy: set VLLM_ATTENTION_BACKEND to"
                " TRITON_ATTN, ROCM_AITER_FA, FLEX_ATTENTION."
                " Source: vLLM 0.12.0, the constructor: ValueError"
            ),
        ),
        (
            "PREFILL_DECODE=1",
            {"attn_type": "encoder_only"},
            (
                "ROCM_ATTN (chosen by the rule prefill-decode) does not support attention type"
                " 'encoder_only': it must be decoder or encoder_decoder. Remedy: set"
                " VLLM_ATTENTION_BACKEND to FLEX_ATTENTION."
                " Source: vLLM 0.12.0, the constructor: NotImplementedError"
            ),
        ),
        (
            "AITER=1",
            {"use_mla": True, "num_heads": 32},
            (
                "ROCM_AITER_MLA (chosen by the rule aiter-mla) does not support 32 query heads per"
                " rank: it must be 16 or 128. Remedy: change --tensor-parallel-size; or set"
                " VLLM_ATTENTION_BACKEND to TRITON_MLA; or set VLLM_ROCM_USE_AITER=0, which gives"
                " TRITON_MLA; or set VLLM_ROCM_USE_AITER_MLA=0, which gives TRITON_MLA."
                " Source: vLLM 0.12.0, the constructor: AssertionError"
            ),
        ),
        (
            "BACKEND=TRITON_MLA",
            {"use_mla": True, "block_size": 8, "kv_cache_dtype": "fp8"},
            (
                "TRITON_MLA (named by VLLM_ATTENTION_BACKEND) does not support block size 8: it must"
                " be at least 16; it does not support an fp8 kv_cache_dtype; got 'fp8'. Remedy: set"
                " --block-size to 16 or more and set --kv-cache-dtype auto; or set"
                " VLLM_ATTENTION_BACKEND to ROCM_AITER_MLA, ROCM_AITER_TRITON_MLA."
                " Source: https://pytest-rocm-attn.readthedocs.io/en/latest/reference/contract/#s5,"
                " #r4; vLLM 0.12.0, the constructor: NotImplementedError; sparse MLA, the selector:"
                " ValueError"
            ),
        ),
        (
            "BACKEND=FLEX_ATTENTION",
            {"alibi": True, "logits_soft_cap": 20.0},
            (
                "FLEX_ATTENTION (named by VLLM_ATTENTION_BACKEND) does not support ALiBi; it does not"
                " support a logits soft cap; got 20.0. Remedy: set VLLM_ATTENTION_BACKEND to"
                " TRITON_ATTN, ROCM_ATTN, ROCM_AITER_FA, ROCM_AITER_UNIFIED_ATTN."
                " Source: vLLM 0.12.0, the constructor: NotImplementedError"
            ),
        ),
        (
            "BACKEND=TRITON_MLA",
            {"use_mla": True, "sliding_window": 512},
            (
                "TRITON_MLA (named by VLLM_ATTENTION_BACKEND) does not support a sliding window; got"
                " 512. Source: vLLM 0.12.0, the constructor: NotImplementedError"
            ),
        ),
        (
            "",
            {"kv_cache_dtype": "bfloat16"},
            (
                "TRITON_ATTN (chosen by the rule default) does not support kv_cache_dtype 'bfloat16':"
                " it must be auto or an fp8 type. Remedy: set --kv-cache-dtype auto; or set"
                " VLLM_ATTENTION_BACKEND to ROCM_ATTN, ROCM_AITER_FA, ROCM_AITER_UNIFIED_ATTN,"
                " FLEX_ATTENTION. Source: vLLM 0.12.0, the cache write: AssertionError"
            ),
        ),
        (
            "BACKEND=ROCM_ATTN",
            {"alibi": True, "has_sink": True},
            (
                "ROCM_ATTN (named by VLLM_ATTENTION_BACKEND) does not support ALiBi together with"
                " attention sinks. Remedy: set VLLM_ATTENTION_BACKEND to TRITON_ATTN,"
                " ROCM_AITER_UNIFIED_ATTN. Source: vLLM 0.12.0, the prefill: AssertionError"
            ),
        ),
        (
            "",
            {"use_sparse": True},
            (
                "ROCM_AITER_MLA_SPARSE (chosen by the rule sparse-default) only supports block size 1"
                " (sparse MLA); got block size 16. Remedy: set --block-size 1."
                " Source: vLLM 0.12.0 get_attn_backend_cls: AssertionError,"
                " https://pytest-rocm-attn.readthedocs.io/en/latest/reference/contract/#q21"
            ),
        ),
    ],
)
def test_a_refusal_names_backend_limit_value_remedy_and_source(
    words: str, needs: dict[str, Any], message: str
) -> None:
    assert str(refusal(words, **needs)) == message


def test_the_trace_of_a_selection_tells_the_whole_way() -> None:
    trace = select(Request(), Flags(environment("PREFILL_DECODE=1 AITER=1")), Gpu("gfx1100")).trace
    assert [(step.rule, step.answer) for step in trace] == [
        ("sparse-mla", "no"),
        ("mla", "no"),
        ("ordinary", "yes"),
        ("named", "no"),
        ("aiter-unified", "no"),
        ("aiter-flash-attention", "no"),
        ("prefill-decode", "yes"),
        ("block-size-multiple-of-16", "yes"),
        ("listed-head-size", "yes"),
        ("attention-type", "yes"),
        ("no-alibi-with-sinks", "yes"),
        ("decision", "ROCM_ATTN"),
    ]
    assert [step.reason for step in trace[3:7]] == [
        "VLLM_ATTENTION_BACKEND names no backend",
        "VLLM_ROCM_USE_AITER_UNIFIED_ATTENTION is off",
        "the GPU is not gfx9 (gfx90a, gfx942, gfx950)",
        "VLLM_V1_USE_PREFILL_DECODE_ATTENTION is on",
    ]


def test_the_trace_of_a_refusal_marks_the_limits_that_were_met_and_those_that_were_not() -> None:
    trace = refusal("BACKEND=ROCM_AITER_FA", "gfx1201", has_sink=True).trace
    assert [(step.rule, step.answer) for step in trace] == [
        ("sparse-mla", "no"),
        ("mla", "no"),
        ("ordinary", "yes"),
        ("named", "yes"),
        ("gfx9-only", "no"),
        ("aiter-installed", "yes"),
        ("aiter-is-amds", "yes"),
        ("aiter-imports", "yes"),
        ("block-size-multiple-of-16", "yes"),
        ("no-sinks", "no"),
        ("attention-type", "yes"),
        ("decision", "refused"),
    ]
    assert trace[3].reason == (
        "VLLM_ATTENTION_BACKEND names ROCM_AITER_FA, which is taken or refused, never replaced"
    )
    assert trace[4].reason.endswith("this GPU is gfx1201")


# Laws, over everything that can be asked.
def texts(name: str) -> st.SearchStrategy[str]:
    declared = VARIABLES[name]
    if declared.choices:
        return st.sampled_from(declared.choices)
    if declared.kind in (Kind.INT, Kind.INT_BOOL):
        return st.sampled_from(["0", "1", "2", "200"])
    return st.sampled_from(["0", "1", "true", "TRUE", "yes", ""])


environments = st.fixed_dictionaries({}, optional={name: texts(name) for name in PR_26980.reads})
everything_set = st.fixed_dictionaries({}, optional={name: texts(name) for name in VARIABLES})
gpus = st.builds(Gpu, st.sampled_from(known_gpus()), st.sampled_from(list(Aiter)))
requests = st.builds(
    Request,
    head_size=st.sampled_from([0, 32, 64, 80, 128, 192, 256, 576]),
    dtype=st.sampled_from(DTYPES),
    kv_cache_dtype=st.sampled_from(KV_CACHE_DTYPES),
    block_size=st.sampled_from([None, 1, 2, 8, 15, 16, 17, 32, 64]),
    use_mla=st.booleans(),
    use_sparse=st.booleans(),
    has_sink=st.booleans(),
    attn_type=st.sampled_from(ATTN_TYPES),
    sliding_window=st.sampled_from([None, 1, 128]),
    num_heads=st.sampled_from([0, 8, 16, 32, 128]),
    logits_soft_cap=st.sampled_from([None, 30.0]),
    alibi=st.booleans(),
    use_mm_prefix=st.booleans(),
)


def answer(request: Request, environ: dict[str, str], gpu: Gpu) -> Selection | str:
    try:
        return select(request, Flags(environ), gpu)
    except SelectionError as error:
        return str(error)


@settings(deadline=None)
@given(requests, environments, gpus)
def test_every_request_is_served_or_refused_and_the_trace_ends_in_the_decision(
    request: Request, environ: dict[str, str], gpu: Gpu
) -> None:
    try:
        selection = select(request, Flags(environ), gpu)
    except SelectionError as error:
        last, name = error.trace[-1], "refused"
        assert error.backend is not None
        assert error.backend in str(error)
        assert last.source
        assert last.reason in str(error)
    else:
        last, name = selection.trace[-1], selection.backend
        assert selection.class_path == CLASS_PATHS[selection.backend]
        assert selection.backend in ROCM_BACKENDS
    assert (last.rule, last.answer) == ("decision", name)


@settings(deadline=None)
@given(requests, environments, gpus)
def test_an_explicit_choice_is_taken_or_refused_never_replaced(
    request: Request, environ: dict[str, str], gpu: Gpu
) -> None:
    named = environ.setdefault("VLLM_ATTENTION_BACKEND", "TRITON_ATTN")
    if request.use_sparse:  # the one kind for which 0.12.0 does not look at the name (Q21)
        return
    try:
        assert select(request, Flags(environ), gpu).backend == named
    except SelectionError as error:
        assert error.backend == named


@settings(deadline=None)
@given(requests, environments, gpus, st.data())
def test_unset_and_default_valued_variables_mean_the_same(
    request: Request, environ: dict[str, str], gpu: Gpu, data: st.DataObject
) -> None:
    booleans = [name for name, v in VARIABLES.items() if v.kind in (Kind.BOOL, Kind.INT_BOOL)]
    name = data.draw(st.sampled_from(booleans))
    unset = {other: text for other, text in environ.items() if other != name}
    default = "1" if VARIABLES[name].default else "0"
    assert answer(request, unset, gpu) == answer(request, unset | {name: default}, gpu)


@settings(deadline=None)
@given(requests, everything_set, gpus)
def test_variables_that_the_policy_does_not_read_change_nothing(
    request: Request, environ: dict[str, str], gpu: Gpu
) -> None:
    read = {name: text for name, text in environ.items() if name in PR_26980.reads}
    assert answer(request, environ, gpu) == answer(request, read, gpu)
    other = {
        "VLLM_USE_AITER_UNIFIED_ATTENTION": "1",
        "VLLM_USE_V1": "0",
    }  # Q33, docs/reference/environment.md#variables
    assert answer(request, environ | other, gpu) == answer(request, environ, gpu)


@settings(deadline=None)
@given(requests, environments, gpus)
def test_an_explicit_choice_makes_the_other_variables_irrelevant(
    request: Request, environ: dict[str, str], gpu: Gpu
) -> None:
    name = {"VLLM_ATTENTION_BACKEND": environ.get("VLLM_ATTENTION_BACKEND", "TRITON_ATTN")}
    assert answer(request, environ | name, gpu) == answer(request, name, gpu)


def test_a_selection_imports_nothing_heavy_and_leaves_the_environment_alone() -> None:
    code = (
        "import os, sys\n"
        "before = dict(os.environ)\n"
        "from pytest_rocm_attn.backends import select\n"
        "from pytest_rocm_attn import Flags, Gpu, Request\n"
        "assert select(Request(), Flags(), Gpu('gfx942')).backend == 'TRITON_ATTN'\n"
        "assert dict(os.environ) == before\n"
        "print(*sorted({'torch', 'triton', 'logging', 'pytest', 'hypothesis'} & set(sys.modules)))\n"
    )
    environ = os.environ | {"VLLM_ATTENTION_BACKEND": "ROCM_ATTN"}  # is not looked at
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False
    )
    assert (done.stderr, done.stdout.strip()) == ("", "")
