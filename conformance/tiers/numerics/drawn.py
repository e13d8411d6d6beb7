"""Cases that hypothesis draws, for what nobody thought of; the smallest that goes wrong is kept."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypothesis.strategies import SearchStrategy

    from pytest_rocm_attn.conformance.tiers.effort import Effort
    from pytest_rocm_attn.conformance.tiers.invariants.search import Search
    from pytest_rocm_attn.conformance.tiers.numerics.case import Case, Result

# A case takes much longer than a selection, and on a GPU most of them compile a kernel: a share of the
# examples, by evidence, and how many more are tried for a smaller one.
SHARE, SHRINKING = {"interpreter": 8}, {"interpreter": 300}
SHARE_ON_GPU, SHRINKING_ON_GPU = 20, 60


@dataclass(frozen=True, slots=True)
class DrawnKind:
    """One search.

    Args:
        kind: of its cases.
        strategy: function of conformance/tiers/strategies.py that they are drawn from.
        why: what it is meant to catch.
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


@dataclass(frozen=True, slots=True)
class Drawn:
    """A drawn case, and how large it is: what is small is easy to follow."""

    case: Case

    def size(self) -> tuple[Any, ...]:
        """Return what to compare by: requests, tokens, features, heads, and other fields."""
        case = self.case
        request = case.request
        features = len(request.non_default()) + (not case.causal) + (case.layout != "dense")
        totals = sum(total for _, total in case.lengths)
        return (
            len(case.lengths),
            totals,
            case.tokens,
            features,
            request.num_heads,
            request.head_size,
        )


def draw(
    kind: DrawnKind,
    ask: Callable[[Case], Result],
    effort: Effort,
    name: str,
    *,
    evidence: str = "interpreter",
) -> tuple[Search[Result], Counter[str]]:
    """Put drawn cases to a backend.

    Args:
        kind: what to draw.
        ask: returns the result of a case.
        effort: how hard to look; a share of its examples.
        name: searches of different names look at different cases.
        evidence: what a finding rests on.
    Returns: the search, and how often each kind of finding came before the first that is bad.
    """
    # Imported here, because hypothesis is an extra.
    from pytest_rocm_attn.conformance.tiers import strategies
    from pytest_rocm_attn.conformance.tiers.invariants.search import search_cases

    kinds: Counter[str] = Counter()

    def check(drawn: Drawn) -> Result | None:
        finding = ask(drawn.case)
        if finding.kind in ("right", "declined"):
            kinds[finding.kind] += 1
            return None
        return finding

    cases: SearchStrategy[Case] = getattr(strategies, kind.strategy)()
    search = search_cases(
        cases.map(Drawn),
        check,
        effort,
        name,
        examples=max(1, effort.examples // SHARE.get(evidence, SHARE_ON_GPU)),
        shrinking=SHRINKING.get(evidence, SHRINKING_ON_GPU),
    )
    return search, kinds
