"""How hard the searching tiers look."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from typing import Any

from pytest_rocm_attn.errors import UnfinishedError


@dataclass(frozen=True, slots=True)
class Effort:
    """How hard to look.

    Attributes:
        seed: chooses the examples; the same seed, the same examples.
        examples: how many one search tries.
        budget: seconds after which one search stops, unfinished; None for no limit.
        example: the one example to try, as plain data, instead of searching.
    """

    seed: int = 0
    examples: int = 200
    budget: float | None = None
    example: dict[str, Any] | None = None

    @property
    def end(self) -> float:
        """When a search that starts now must stop, by time.monotonic()."""
        return math.inf if self.budget is None else time.monotonic() + self.budget

    def stopped(self, tried: int, wanted: int, what: str, more: str = "") -> UnfinishedError:
        """Return the error of a search that the time limit stopped before it found anything.

        Args:
            tried: how many it looked at.
            wanted: of how many.
            what: of them, such as "examples".
            more: a further clause.
        """
        return UnfinishedError(
            f"not judged: stopped after {tried} of {wanted} {what} by the time limit"
            f" --rocm-attn-budget={self.budget:g}{more}; give it more seconds, or no limit"
        )

    def repeated(self, example: dict[str, Any] | None) -> dict[str, Any]:
        """Return the options that repeat one search.

        Args:
            example: what the search found; None if it found nothing.
        """
        if example is not None:
            return {"example": json.dumps(example)}
        return {"seed": self.seed, "examples": self.examples}
