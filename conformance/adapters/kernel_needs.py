"""What closed kernels need, and what the names of a fork's predicates claim: facts, each with its source.

A fork hands its steps to kernels that it does not have the source of, or that only some GPUs have. What they
refuse shows in the first step; it is known before.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_rocm_attn.conformance.adapters.closed.signatures import Aiter


@dataclass(frozen=True)
class Need:
    """What a kernel takes of one fact about its work.

    Args:
        kernel: the function's name.
        fact: "GPU" for the target, or a fact by the names of closed/kernels.py.
        takes: the values.
        source: of the need.
        when: facts that must hold for it, each one of these values.
        since, until: the recorded versions of AITER that have it, the last one not; "" for no bound.
    """

    kernel: str
    fact: str
    takes: tuple[Any, ...]
    source: str
    when: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
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
_AITER_ASM = ("gfx942", "gfx950")

NEEDS = (
    # A block of 544 tokens, which a hybrid model has, was handed on whole and failed in the first step.
    Need(
        "paged_attention_v1",
        BLOCK,
        (16, 32),
        "ROCm/aiter paged_attention_v1: block sizes 16 and 32; vllm-project/vllm#32492",
    ),
    *(
        Need(
            kernel,
            "GPU",
            ("gfx950",),
            "ROCm/aiter mla_gluon: 'mla_gluon requires gfx950 (CDNA4)'; vllm-project/vllm#51964",
        )
        for kernel in ("mla_gluon", "mla_decode_gluon")
    ),
)


def broken(kernel: str, facts: Mapping[str, Any], aiter: Aiter) -> Iterator[str]:
    """Yield, in words, the needs of a kernel that a call does not meet.

    Args:
        kernel: the function's name.
        facts: what is known of the call, "GPU" among it; a need of another fact is not judged.
        aiter: the AITER that the kernel is of.
    """
    for need in NEEDS:
        if need.kernel != kernel or need.fact not in facts or not need.holds(facts, aiter):
            continue
        if facts[need.fact] not in need.takes:
            takes = ", ".join(map(str, need.takes))
            under = "".join(f", with {name} {facts[name]}" for name in need.when)
            yield (
                f"{kernel} is called with {need.fact} {facts[need.fact]}{under}, and takes {takes}"
                f" ({need.source})"
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
