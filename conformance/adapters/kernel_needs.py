"""What closed kernels need, and what the names of a fork's predicates claim: facts, each with its source.

A fork hands its steps to kernels that it does not have the source of, or that only some GPUs have. What they
refuse shows in the first step; it is known before.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class BlockNeed:
    """Kernel blocks that a kernel takes.

    Args:
        kernel: the function that a backend's module calls.
        sizes: in tokens.
        source: of the fact.
    """

    kernel: str
    sizes: tuple[int, ...]
    source: str


BLOCK_NEEDS = (
    # A block of 544 tokens, which a hybrid model has, was handed on whole and failed in the first step.
    BlockNeed(
        "paged_attention_v1",
        (16, 32),
        "ROCm/aiter paged_attention_v1: block sizes 16 and 32; vllm-project/vllm#32492",
    ),
)


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
