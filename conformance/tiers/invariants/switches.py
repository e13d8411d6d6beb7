"""Each documented switch, flipped alone, changes some selection on each GPU that it is for: else it is dead there."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_rocm_attn.conformance.isolation import Question
from pytest_rocm_attn.conformance.promise.grid.outcomes import differ, is_answer
from pytest_rocm_attn.flags import EXPLICIT, USE_AITER, variable
from pytest_rocm_attn.gpu import Gpu
from pytest_rocm_attn.outcome import Rejected
from pytest_rocm_attn.request import Request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pytest_rocm_attn.conformance.promise.rows import Level
    from pytest_rocm_attn.conformance.tiers.invariants.law import Ask

# Layers that backends differ in: where the first of a release's candidates serves one, a switch that
# only adds another candidate shows on the next.
_REQUESTS = (
    Request(),
    Request(use_mla=True),
    Request(has_sink=True),
    Request(head_size=80),
    Request(block_size=544),
    Request(kv_cache_dtype="fp8"),
    Request(attn_type="encoder_only"),
    Request(attn_type="encoder_decoder"),
    Request(alibi=True),
    Request(use_mm_prefix=True),
)


@dataclass(frozen=True)
class Flips:
    """The result of flipping a switch.

    Attributes:
        tried: how many flips were looked at.
        total: of how many.
        unanswered: how many of those tried have no answer on one side or both, and show nothing.
        change: the first that changed an answer, as (question with the switch flipped, the answer
            before, the answer after); None when none did.
    """

    tried: int
    total: int
    unanswered: int = 0
    change: tuple[Question, str, str] | None = None


@dataclass(frozen=True)
class SwitchLaw:
    """One switch.

    Attributes:
        id, level, source, promise: as of a Law.
        name: the variable.
        backends: what it switches.
        gfx9: it is documented for gfx9 only.
    """

    id: str
    level: Level
    source: str
    promise: str
    name: str
    backends: tuple[str, ...]
    gfx9: bool = True

    def is_for(self, gpu: Gpu) -> bool:
        """Whether the switch is documented for a GPU."""
        return gpu.is_gfx9 or not self.gfx9

    def has_something_to_switch(self, gpu: Gpu, ask: Ask) -> bool:
        """Whether one of the backends is not refused by name: what a GPU lacks cannot be switched."""
        asked = [
            Question(gpu, ((USE_AITER, "1"), (EXPLICIT, backend)), request)
            for backend in self.backends
            for request in (Request(), Request(use_mla=True))
        ]
        return not all(isinstance(seen.outcome, Rejected) for seen in ask(*asked))

    def change(self, gpus: Sequence[Gpu], ask: Ask, is_over: Callable[[], bool]) -> Flips:
        """Flip the switch alone under every combination of the others, until an answer changes.

        Args:
            gpus: where.
            ask: asks the selector.
            is_over: whether to stop looking.
        """
        flips = [question for question in questions(gpus) if self.name in dict(question.environ)]
        unanswered = 0
        for tried, after in enumerate(flips):
            if is_over():
                return Flips(tried, len(flips), unanswered)
            environ = {name: text for name, text in after.environ if name != self.name}
            before = Question(after.gpu, tuple(environ.items()), after.request)
            first, second = (seen.outcome for seen in ask(before, after))
            if not is_answer(first) or not is_answer(second):
                unanswered += 1
            elif differ(first, second):
                change = after, str(first), str(second)
                return Flips(tried + 1, len(flips), unanswered, change)
        return Flips(len(flips), len(flips), unanswered)


def questions(gpus: Iterable[Gpu]) -> list[Question]:
    """Return every combination of switches, at their default or not, for requests of every kind."""
    texts = {law.name: "0" if variable(law.name).default else "1" for law in SWITCH_LAWS}
    subsets = [
        names for count in range(len(texts) + 1) for names in itertools.combinations(texts, count)
    ]
    return [
        Question(gpu, tuple((name, texts[name]) for name in names), request)
        for gpu in gpus
        for names in subsets
        for request in _REQUESTS
    ]


def _law(
    words: str, level: Level, source: str, name: str, *backends: str, gfx9: bool = True
) -> SwitchLaw:
    promise = f"some selection that {name} alone changes"
    name_of = f"the-switch-of-{words}-changes-some-selection"
    return SwitchLaw(name_of, level, source, promise, name, backends, gfx9)


SWITCH_LAWS: tuple[SwitchLaw, ...] = (
    _law(
        "aiter",
        "required",
        "docs/reference/contract.md#a1, #a10",
        USE_AITER,
        *("ROCM_AITER_FA", "ROCM_AITER_UNIFIED_ATTN", "ROCM_AITER_MLA"),
    ),
    _law(
        "aiter-mha",
        "required",
        "docs/reference/contract.md#a4, #a10, #i3a",
        "VLLM_ROCM_USE_AITER_MHA",
        "ROCM_AITER_FA",
    ),
    _law(
        "aiter-unified-attention",
        "required",
        "docs/reference/contract.md#a4, #a13; docs/reference/known-regressions.md#rule-3",
        "VLLM_ROCM_USE_AITER_UNIFIED_ATTENTION",
        "ROCM_AITER_UNIFIED_ATTN",
    ),
    _law(
        "prefill-decode-attention",
        "required",
        "docs/reference/contract.md#a4, #a8",
        "VLLM_V1_USE_PREFILL_DECODE_ATTENTION",
        "ROCM_ATTN",
        gfx9=False,
    ),
    _law(
        "aiter-mla",
        "advisory",
        "docs/reference/contract.md#q7; docs/reference/known-regressions.md#rule-3",
        "VLLM_ROCM_USE_AITER_MLA",
        "ROCM_AITER_MLA",
    ),
)
