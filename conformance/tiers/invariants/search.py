"""The search for a case in which a law does not hold: hypothesis drives, and shrinks what it finds.

The same seed gives the same search on any machine, however busy it is. A time limit, if the user
gives one, may stop a search: it is then unfinished, and shows nothing unless it found something.
"""

from __future__ import annotations

import time
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import hypothesis

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypothesis.strategies import SearchStrategy

    from pytest_rocm_attn.conformance.tiers.effort import Effort

Found = TypeVar("Found")


@dataclass
class Search(Generic[Found]):
    """One search, and its result.

    Attributes:
        wanted: how many cases are to be tried.
        shrinking: how many cases may be tried for a smaller one, once one was found.
        examples: how many cases were tried, those of shrinking left out.
        cut: the time limit stopped it before all of them were tried, and nothing was found.
        found: the smallest case in which it does not hold, and how.
    """

    effort: Effort
    wanted: int
    shrinking: int = 2000
    examples: int = 0
    cut: bool = False
    found: tuple[Any, Found] | None = None
    _end: float = field(default=0.0, repr=False)

    def start(self) -> None:
        """Start the clock."""
        self._end = self.effort.end

    @property
    def is_over(self) -> bool:
        """Whether the time is up; what is searched on from there is not looked at."""
        if time.monotonic() < self._end and self.shrinking > 0:
            return False
        self.cut = self.cut or self.found is None
        return True

    def count(self) -> None:
        """Count a case that is about to be tried."""
        if self.found is None:
            self.examples += not self.is_over
        else:
            self.shrinking -= 1

    def note(self, case: Any, broken: Found) -> None:
        """Keep a case that breaks the law if it is the smallest so far, and tell hypothesis."""
        if self.found is None or case.size() <= self.found[0].size():
            self.found = case, broken
        raise _Broke

    def check_finished(self, more: str = "") -> None:
        """Raise UnfinishedError if the time limit stopped the search; more: a further clause."""
        if self.cut:
            raise self.effort.stopped(self.examples, self.wanted, "examples", more)

    def options(self, name: str) -> tuple[int, hypothesis.settings]:
        """Return the seed and hypothesis's settings of a search called name."""
        seed = zlib.crc32(f"{self.effort.seed} {name}".encode())
        return seed, hypothesis.settings(
            max_examples=self.wanted,
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
            # Besides the shortfall itself: hypothesis finds that the same case passes once the time
            # is up. Whatever else it may have to say is our own defect, unless a case was found.
            if self.found is None:
                raise


class _Broke(Exception):
    """What tells hypothesis that a case breaks the law."""


def search_cases(
    cases: SearchStrategy[Any],
    check: Callable[[Any], Found | None],
    effort: Effort,
    name: str,
    *,
    examples: int | None = None,
    shrinking: int = 2000,
) -> Search[Found]:
    """Try a check on drawn cases.

    Args:
        cases: what it is tried on; each has a size(), by which the smallest is known.
        check: how a case breaks the law, or None.
        effort: how hard to look.
        name: searches of different names look at different cases.
        examples: how many are tried, if not as many as the effort says.
        shrinking: how many more are tried for a smaller one, once one was found.
    """
    search: Search[Found] = Search(effort, examples or effort.examples, shrinking)

    def attempt(case: Any) -> None:
        if search.is_over:
            return
        search.count()
        if (broken := check(case)) is not None:
            search.note(case, broken)

    seed, options = search.options(name)
    # The wrapper keeps hypothesis from looking for the names of the arguments.
    test = hypothesis.given(cases)(lambda case: attempt(case))
    search.run(hypothesis.seed(seed)(options(test)))
    return search
