"""Why a selector refuses: a reason as a typed value, read from the message whatever its words.

vLLM lists its reasons: ``Reason: ['head_size not supported']`` for a backend that was named, and by
backend, ``Reasons: {ROCM_ATTN: [...], TRITON_ATTN: [...]}``, if none can serve the layer
(vllm/platforms/rocm.py, v0.18.0 to v0.33.0). Both messages also hold the whole request, in which
every attribute is named; earlier releases and other selectors write sentences. The table below is
the one place that knows how a reason is spelled.
"""

from __future__ import annotations

import enum
import re
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Reason(enum.StrEnum):
    """What a backend, or every backend, cannot serve. In order: the first that fits a text is meant."""

    UNKNOWN_NAME = "unknown-name"
    MISSING = "missing-package"
    CACHE_DTYPE = "kv-cache-dtype"
    ATTENTION_TYPE = "attention-type"
    MM_PREFIX = "multimodal-prefix"
    SINKS = "sinks"
    PER_HEAD_SCALES = "per-head-scales"
    SLIDING_WINDOW = "sliding-window"
    RSWA = "r-swa"
    BATCH_INVARIANCE = "batch-invariance"
    KV_CONNECTOR = "kv-connector"
    ADAPTIVE = "adaptive-verification"
    DCP = "dcp"
    PCP = "pcp"
    NON_CAUSAL = "non-causal"
    NON_SPARSE = "non-sparse"
    SPARSE = "sparse"
    NON_MLA = "non-mla"
    MLA = "mla"
    BLOCK_SIZE = "block-size"
    HEAD_SIZE = "head-size"
    LAYOUT = "cache-layout"
    DTYPE = "dtype"
    GPU = "gpu"


_GAP = r"[\s_-]*"
_SPELLED = {
    Reason.UNKNOWN_NAME: r"valid (options|names|value)|unknown (attention )?backend|of that name",
    Reason.MISSING: r"import|not (installed|available)|amd-aiter|must be registered",
    Reason.CACHE_DTYPE: rf"cache{_GAP}(d?types?\b|format|precision)|\bcaches? (of|in|as) \w"
    r"|(fp8|nvfp4|int\d)\w* (kv )?cache|per-token",
    Reason.ATTENTION_TYPE: rf"att(ention|n){_GAP}type|cross-attention|\bencoder",
    Reason.MM_PREFIX: rf"multi-?modal|mm{_GAP}prefix|prefix-?lm",
    Reason.SINKS: r"\bsinks?\b",
    Reason.PER_HEAD_SCALES: rf"per{_GAP}head{_GAP}(quant|scale)",
    Reason.SLIDING_WINDOW: rf"sliding{_GAP}window|\bwindow(s|ed)?\b|local attention",
    Reason.RSWA: r"\br-?swa\b",
    Reason.BATCH_INVARIANCE: rf"batch{_GAP}invarian",
    Reason.KV_CONNECTOR: r"connectors?\b",
    Reason.ADAPTIVE: rf"adaptive{_GAP}verification|query lens mismatch",
    Reason.DCP: rf"\bdcp\b|decode{_GAP}context{_GAP}parallel",
    Reason.PCP: rf"\bpcp\b|prefill{_GAP}context{_GAP}parallel",
    Reason.NON_CAUSAL: rf"non{_GAP}causal",
    Reason.NON_SPARSE: rf"non{_GAP}sparse",
    Reason.SPARSE: r"(?<!non-)\bsparse\b",
    Reason.NON_MLA: rf"\bnon{_GAP}mla\b|(layer|model|request) is not mla\b"
    r"|\b(for|with) mla( layers| models)? only\b|\bonly (for |models |layers )?(with )?mla\b",
    Reason.MLA: r"(?<!non-)(?<!non_)(?<!non )\bmla\b",
    Reason.BLOCK_SIZE: rf"(block|page){_GAP}sizes?|\b(blocks?|pages?) (of|with)\b",
    Reason.HEAD_SIZE: rf"head{_GAP}(sizes?|dim)|\bheads? (of|with) \d",
    Reason.LAYOUT: r"layout",
    Reason.DTYPE: r"(?<!cache )(?<!cache_)(?<!cache-)\bd(ata )?types?\b|\bb?float(16|32|64)?\b|\b(bf|fp)(16|32)\b",
    Reason.GPU: r"compute capability|architecture|\bgfx\d|\b[rc]dna|on this (device|gpu)",
}
_PATTERNS = {reason: re.compile(words, re.IGNORECASE) for reason, words in _SPELLED.items()}
_REQUEST = re.compile(r"\w+Config\([^()]*\)")  # as a NamedTuple or a dataclass shows itself
_LIST = re.compile(r"\[([^][]*)\]")
_LISTED = re.compile(r"Reasons?: *([\[{].*)", re.DOTALL)


@lru_cache(maxsize=4096)
def reasons_in(message: str) -> frozenset[Reason]:
    """Return the reasons that a refusal gives.

    Of a list, each entry has one; a message without a list has every reason that it describes.
    """
    said = _REQUEST.sub("", message)
    listed = _LISTED.search(said)
    if listed is None:
        return frozenset(reason for reason, pattern in _PATTERNS.items() if pattern.search(said))
    return frozenset(filter(None, map(_reason_of, _entries(listed[1]))))


def _entries(listed: str) -> Iterator[str]:
    for inner in _LIST.findall(listed):
        yield from re.split(r"'\s*,\s*'|\"\s*,\s*\"|,\s+", inner.strip("'\" "))


def _reason_of(entry: str) -> Reason | None:
    return next((reason for reason, found in _PATTERNS.items() if found.search(entry)), None)
