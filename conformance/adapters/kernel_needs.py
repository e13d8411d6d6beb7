"""What closed kernels need, and what the names of a fork's predicates claim: facts, each with its source.

A fork hands its steps to kernels that it does not have the source of, or that only some GPUs have. What they
refuse shows in the first step; it is known before.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_rocm_attn.conformance.adapters.closed.signatures import Aiter


@dataclass(frozen=True)
class Need:
    """What a kernel takes of one fact about its work.

    Args:
        kernel: the function's name; with its module or namespace if others have the name.
        fact: "GPU" for the target, or a fact by the names of closed/kernels.py.
        takes: the values.
        source: of the need.
        when: facts that must hold for it, each one of these values.
        refuses: the kernel says so itself, in words, when it is called; others fail without words, or compute something else.
        since, until: the recorded versions of AITER that have it, the last one not; "" for no bound.
    """

    kernel: str
    fact: str
    takes: Sequence[Any]
    source: str
    when: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    refuses: bool = False
    since: str = ""
    until: str = ""

    def holds(self, facts: Mapping[str, Any], aiter: Aiter) -> bool:
        """Whether the kernel needs this of such a call, in this version of AITER."""
        if self.since and not aiter.at_least(self.since):
            return False
        if self.until and aiter.at_least(self.until):
            return False
        return all(name in facts and facts[name] in values for name, values in self.when.items())


BLOCK = "block size"
# Object files and CK builds exist for these (ROCm/aiter, hsa/ and setup.py).
_ASM = ("gfx942", "gfx950", "gfx1250")
_CK = ("gfx90a", *_ASM)
_HALF = ("float16", "bfloat16")
_FP8 = ("float8_e4m3fn", "float8_e4m3fnuz")
_PAGED_ROCM = "vllm-project/vllm v0.33.0, csrc/rocm/attention_dispatch.cu and attention_kernels.cuh"
_CK_VARLEN = "ROCm/aiter v0.1.20.post1, csrc/py_itfs_ck/mha_varlen_fwd_kernels.cu"
_ASM_VARLEN = (
    "ROCm/aiter v0.1.10.post2, csrc/cpp_itfs/mha_fwd.cu: 'invalid argument for fmha_v3_varlen_fwd'"
)
_MLA_STAGE = (
    "ROCm/aiter v0.1.7.post2, csrc/py_itfs_cu/asm_mla.cu: 'unsupport current data type or shape'"
)
_GLUON = "ROCm/aiter v0.1.20.post1, aiter/ops/triton/gluon/mla_gluon.py; vllm-project/vllm#51964"
_DECODE_GLUON = "ROCm/aiter v0.1.16.post2, aiter/ops/triton/gluon/mla_decode_gluon.py"
_UNIFIED = "aiter/ops/triton/attention/unified_attention.py"

NEEDS = (
    # A block of 544 tokens, which a hybrid model has, was handed on whole and failed in the first step.
    Need(
        "paged_attention_v1",
        BLOCK,
        (16, 32),
        "ROCm/aiter paged_attention_v1: block sizes 16 and 32; vllm-project/vllm#32492",
    ),
    Need("paged_attention_v1", "GPU", ("gfx90a", "gfx942", "gfx950"), "ROCm/aiter pa_kernels.cuh"),
    # More are taken only if the call says so; the kernel otherwise computes with one of them.
    Need(
        "paged_attention_v1",
        "queries of a request",
        (1,),
        "ROCm/aiter paged_attention_v1: mtp queries of a request; vllm-project/vllm#31625",
        when={"mtp": (1,)},
    ),
    Need("_rocm_C::paged_attention", BLOCK, (16, 32), _PAGED_ROCM),
    Need("_rocm_C::paged_attention", "head size", (64, 128), _PAGED_ROCM),
    Need("_rocm_C::paged_attention", "dtype", _HALF, _PAGED_ROCM),
    Need("_rocm_C::paged_attention", "queries for a KV head", range(1, 17), _PAGED_ROCM),
    Need("aiter.flash_attn_varlen_func", "GPU", _CK, _CK_VARLEN),
    Need("aiter.flash_attn_varlen_func", "head size", range(8, 257, 8), _CK_VARLEN),
    Need("aiter.flash_attn_varlen_func", "value head size", range(8, 257, 8), _CK_VARLEN),
    Need("aiter.flash_attn_varlen_func", "dtype", (*_HALF, *_FP8), _CK_VARLEN),
    # The two that aiter.flash_attn_varlen_func chooses between. Releases before built CK into the assembly's module.
    Need("mha_varlen_fwd", "GPU", _CK, _CK_VARLEN),
    Need("mha_varlen_fwd", "head size", range(8, 257, 8), _CK_VARLEN, refuses=True),
    Need("mha_varlen_fwd", "value head size", range(8, 257, 8), _CK_VARLEN, refuses=True),
    Need("mha_varlen_fwd", "dtype", (*_HALF, *_FP8), _CK_VARLEN, refuses=True),
    Need("fmha_v3_varlen_fwd", "GPU", ("gfx942", "gfx950"), _ASM_VARLEN, since="v0.1.10.post2"),
    Need("mla_gluon", "GPU", ("gfx950",), _GLUON),
    Need("mla_gluon", "head size", (512,), _GLUON),
    Need("mla_gluon", "heads", (*range(1, 97), 128), _GLUON),
    Need("mla_gluon", "dtype", ("bfloat16",), _GLUON),
    Need("mla_decode_gluon", "GPU", ("gfx950",), f"{_DECODE_GLUON}; vllm-project/vllm#51964"),
    Need("mla_decode_gluon", "heads", (*range(1, 17), 64, 128), _DECODE_GLUON),
    Need("aiter.mla.mla_decode_fwd", "GPU", _ASM, "ROCm/aiter, hsa/: objects by target"),
    Need("aiter.mla.mla_decode_fwd", "logit cap", (0, None), "ROCm/aiter aiter/mla.py, logit_cap"),
    Need("mla_decode_stage1_asm_fwd", "GPU", _ASM, "ROCm/aiter, hsa/: objects by target"),
    Need("mla_decode_stage1_asm_fwd", "dtype", ("bfloat16", *_FP8), _MLA_STAGE, refuses=True),
    # Without work_meta_data; later versions choose among more kernels.
    Need(
        "aiter.mla.mla_decode_fwd",
        "heads",
        (16, 128),
        "ROCm/aiter 59bd8ff2, aiter/mla.py, get_meta_param",
        when={"persistent": (False,)},
        until="v0.1.9",
    ),
    Need("unified_attention", "causal", (True,), f"ROCm/aiter v0.1.20.post1, {_UNIFIED}"),
    Need(
        "unified_attention",
        "q_descale",
        (False,),
        "ROCm/aiter v0.1.10.post3, unified_attention.py: 'Q scales not supported'",
        until="v0.1.15.post3",
    ),
    # A decode of a few requests takes the kernel of three dimensions, if there is no window.
    Need(
        "unified_attention",
        "cache dtype",
        ("bfloat16", *_FP8),
        f"ROCm/aiter v0.1.16.post2, {_UNIFIED}, select_3d_config",
        when={"queries of a request": (1,), "window": (False,)},
        since="v0.1.16.post2",
        until="v0.1.17",
    ),
    Need(
        "batched_gemm_a16wfp4",
        "GPU",
        ("gfx950", "gfx1250"),
        "ROCm/aiter v0.1.16.post2, batched_gemm_a16wfp4.py: is_fp4_avail(); vllm-project/vllm#34641",
    ),
    Need(
        "paged_attention_rocm", "GPU", ("gfx90a", "gfx942", "gfx950"), "ROCm/aiter pa_kernels.cuh"
    ),
    Need("pa_fwd_asm", "GPU", ("gfx942", "gfx950"), "ROCm/aiter, hsa/: objects by target"),
    Need("pa_fwd_asm", "head size", (128,), "ROCm/aiter csrc/py_itfs_cu/asm_pa.cu"),
)


def broken(
    kernel: str, facts: Mapping[str, Any], aiter: Aiter, *, refuses: bool | None = None
) -> Iterator[str]:
    """Yield, in words, the needs of a kernel that a call does not meet.

    Args:
        kernel: module and function, or namespace and operator.
        facts: what is known of the call, "GPU" among it; a need of another fact is not judged.
        aiter: the AITER that the kernel is of.
        refuses: only needs whose breach the kernel itself refuses, or only others; None for all.
    """
    name = re.split(r"\.|::", kernel)[-1]
    for need in NEEDS:
        if need.kernel not in (kernel, name) or need.fact not in facts:
            continue
        if refuses not in (None, need.refuses):
            continue
        value = facts[need.fact]
        if need.holds(facts, aiter) and value not in need.takes:
            under = "".join(f", with {fact} {facts[fact]}" for fact in need.when)
            words = f"{name} is called with {need.fact} {value}{under}"
            yield f"{words}, and takes {_listed(need.takes)} ({need.source})"


def _listed(values: Sequence[Any]) -> str:
    """Return values in words; many numbers by the first and the last."""
    if len(values) <= 6:
        return ", ".join(map(str, values))
    return f"{values[0]}, {values[1]}, ... {values[-1]}"


@dataclass(frozen=True)
class Feature:
    """Something that only some GPUs have, by the words that predicates about it have in their names.

    Args:
        name: in words.
        pattern: matches the qualified name of a predicate that is about it.
        gpus: the targets that have it.
        source: of the fact.
    """

    name: str
    pattern: re.Pattern[str]
    gpus: frozenset[str]
    source: str


FEATURES = (
    Feature(
        "4-bit floating point",
        re.compile(r"(?<!nv)fp4", re.IGNORECASE),
        frozenset({"gfx950", "gfx1250"}),
        "AMD CDNA4 instruction set, V_MFMA_SCALE_F32_16X16X128_F8F6F4; vllm-project/vllm#34641",
    ),
    Feature(
        "AITER's Gluon kernel for MLA",
        re.compile(r"mla.*gluon", re.IGNORECASE),
        frozenset({"gfx950"}),
        "ROCm/aiter mla_gluon: 'mla_gluon requires gfx950 (CDNA4)'; vllm-project/vllm#51964",
    ),
)
