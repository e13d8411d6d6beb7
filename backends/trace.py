"""What a selection leaves behind: the answer, and every step that led to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

DECISION = "decision"  # the rule name of the last step


@dataclass(frozen=True, slots=True)
class Step:
    """One question of the decision and its answer.

    Args:
        rule: what was asked, by a short name ("aiter-unified", "block-size-multiple-of-16").
        answer: "yes" or "no"; in the last step the backend's name, or "refused".
        reason: the answer in words.
        source: where the rule comes from.
    """

    rule: str
    answer: str
    reason: str
    source: str


class Selection(NamedTuple):
    """The backend that serves a request. (A tuple, for it is made at every selection.)

    Args:
        backend: its registry name.
        class_path: its class in vLLM's registry (docs/reference/backends.md#registry).
        trace: every question that was asked, in order; the last step is the decision.
    """

    backend: str
    class_path: str
    trace: tuple[Step, ...]
