"""Which cases the numerics tier draws. Names alone: hypothesis is imported where they are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class DrawnKind:
    """One search.

    Args:
        kind: of its cases.
        strategy: function of conformance/tiers/strategies.py that they are drawn from.
        why: what it is there to catch.
        level: "required", or "advisory" for what only some backends promise.
    """

    kind: str
    strategy: str
    why: str
    level: Literal["required", "advisory"] = "required"


SEARCHES = {
    "drawn-attention": DrawnKind(
        "attention",
        "promised_attention_cases",
        "any batch of short requests, with any features that every backend of the kind promises",
    ),
    "drawn-attention-of-any-kind": DrawnKind(
        "attention",
        "attention_cases",
        "as drawn-attention, with odd head and block sizes, both directions, and more together",
        "advisory",
    ),
    "drawn-mla-decode": DrawnKind(
        "mla-decode", "mla_decode_cases", "any batch of short requests over the latent cache"
    ),
    "drawn-mla-prefill": DrawnKind(
        "mla-prefill", "mla_prefill_cases", "any ragged batch of queries and keys"
    ),
}
