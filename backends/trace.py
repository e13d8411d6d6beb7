"""What a selection leaves behind: the answer, and every step that led to it."""

from __future__ import annotations

from dataclasses import dataclass


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

    @property
    def settles(self) -> bool:
        """Whether this is the last step: the decision itself."""
        return self.rule == DECISION


DECISION = "decision"


@dataclass(frozen=True, slots=True)
class Selection:
    """The backend that serves a request.

    Args:
        backend: its registry name.
        class_path: its class in vLLM's registry (facts/backends.md section 1).
        trace: every question that was asked, in order; the last step is the decision.
    """

    backend: str
    class_path: str
    trace: tuple[Step, ...]
