"""The search for a case in which a law does not hold: hypothesis drives, and shrinks what it finds.

The same seed gives the same search, on any machine, unless the time for it runs out.
"""

from __future__ import annotations

import time
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import hypothesis

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypothesis.strategies import SearchStrategy

    from pytest_rocm_attn.conformance.invariants.law import Broken, Law


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """How hard to look.

    Attributes:
        seed: chooses the examples.
        examples: how many a search tries.
        budget: seconds that one search may take.
        example: the one case to try, as plain data, instead of searching.
    """

    seed: int = 0
    examples: int = 100
    budget: float = 60.0
    example: dict[str, Any] | None = None


@dataclass
class Search:
    """One search, and what came of it.

    Attributes:
        examples: how many cases were tried, those of shrinking left out.
        cut: the time ran out before all of them were.
        found: the smallest case in which the law does not hold, and how.
    """

    settings: SearchSettings
    examples: int = 0
    cut: bool = False
    found: tuple[Any, Broken] | None = None
    _end: float = field(default=0.0, repr=False)

    def start(self) -> None:
        """Start the clock."""
        self._end = time.monotonic() + self.settings.budget

    @property
    def is_over(self) -> bool:
        """Whether the time is up; what is searched on from there is not looked at."""
        if time.monotonic() < self._end:
            return False
        self.cut = self.cut or self.found is None
        return True

    def note(self, case: Any, broken: Broken) -> None:
        """Keep a case that breaks the law if it is the smallest so far, and tell hypothesis."""
        if self.found is None or case.size() <= self.found[0].size():
            self.found = case, broken
        raise _Broke

    def options(self, *, name: str, examples: int) -> tuple[int, hypothesis.settings]:
        """Return the seed and hypothesis's settings of a search called name."""
        seed = zlib.crc32(f"{self.settings.seed} {name}".encode())
        return seed, hypothesis.settings(
            max_examples=examples,
            database=None,
            deadline=None,
            derandomize=False,  # the seed makes it so
            print_blob=False,
            report_multiple_bugs=False,
            verbosity=hypothesis.Verbosity.quiet,
            phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
            suppress_health_check=list(hypothesis.HealthCheck),
        )

    def run(self, search: Callable[[], object]) -> None:
        """Run what hypothesis made of a test, to its end."""
        self.start()
        try:
            search()
        except (_Broke, hypothesis.errors.HypothesisException):
            # Beside the shortfall itself: hypothesis finds that the same case passes once the time
            # is up. Whatever else it may have to say is a defect of ours, unless a case was found.
            if self.found is None:
                raise


class _Broke(Exception):
    """What tells hypothesis that a case breaks the law."""


def search_law(law: Law, gfx: str, ask: Callable[..., Any], settings: SearchSettings) -> Search:
    """Try a law on cases of one GPU."""
    search = Search(settings)

    def attempt(case: Any) -> None:
        if search.is_over:
            return
        search.examples += search.found is None
        if (broken := law.check(case, ask)) is not None:
            search.note(case, broken)

    search.run(lambda: _given(law.cases(gfx), attempt, search, f"{law.id}[{gfx}]"))
    return search


def _given(
    cases: SearchStrategy[Any], attempt: Callable[[Any], None], search: Search, name: str
) -> None:
    seed, options = search.options(name=name, examples=search.settings.examples)
    # The wrapper keeps hypothesis from looking for the names of the arguments.
    test = hypothesis.given(cases)(lambda case: attempt(case))
    hypothesis.seed(seed)(options(test))()
