"""How far an adapter's refresh() can stand in for a fresh import: tried once, honestly."""

from __future__ import annotations

import enum
import threading
from typing import TYPE_CHECKING

from pytest_rocm_attn.conformance.isolation.asking import ask
from pytest_rocm_attn.conformance.isolation.platforms import Platform, Platforms
from pytest_rocm_attn.outcome import TimedOut

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_rocm_attn.conformance.isolation.question import Group, Observation, Question
    from pytest_rocm_attn.outcome import Outcome

_SAMPLE = 8  # environments that refreshing in place is tried on
_SAMPLE_OF_IMPORTS = 3  # the same, where each is an import of its own


class Trust(enum.Enum):
    """How far refreshing is relied on."""

    UNKNOWN = "not tried yet"
    NONE = "not at all"
    FORKED = "in a process for each environment"
    IN_PLACE = "in one process for all environments"


class Refreshing:
    """What was found out about refreshing a subject.

    Args:
        platforms: those on which it is found out.
        notes: gets a line where the slower way has to be taken.

    Attributes:
        trust: what is known so far.
    """

    def __init__(self, platforms: Platforms, notes: list[str]) -> None:
        self.trust = Trust.UNKNOWN
        self._platforms = platforms
        self._notes = notes
        self._lock = threading.Lock()
        self._compared_in_place = False
        self._compared_far = False

    def try_on(self, platform: Platform, groups: Sequence[Group]) -> Trust:
        """Return how far to trust it, after trying it on a platform if that was not done yet.

        The environment that differs most from the imported one is also asked after a fresh import,
        and a sample of environments is asked in one process, one after the other, and also in a
        process each. If the answers differ, the slower way is taken.

        Args:
            platform: whose adapter can refresh.
            groups: questions there, in environments that differ.
        """
        with self._lock:
            farthest = max(groups, key=lambda group: platform.distance(group.environ))
            # If the platform's imports hold as they are, a comparison shows nothing about others.
            far = not self._compared_far and platform.distance(farthest.environ) > 0
            if self.trust is Trust.UNKNOWN or (far and self.trust is not Trust.NONE):
                self._compared_far = far
                if not self._agrees_with_fresh_import(platform, farthest):
                    self.trust = Trust.NONE
                elif self.trust is Trust.UNKNOWN:
                    self.trust = Trust.FORKED
            if self.trust is Trust.FORKED and not self._compared_in_place and len(groups) > 1:
                self._compared_in_place = True
                step = max(1, len(groups) // _SAMPLE)
                self.trust = self._compare_in_place(platform, groups[::step])
            return self.trust

    def _agrees_with_fresh_import(self, platform: Platform, group: Group) -> bool:
        refreshed = self._collect(platform, [group], refresh=True)
        imported = self._collect_afresh(platform, group)
        if imported is not None and _agree(refreshed, imported):
            return True
        self._notes.append(
            "refreshing the imported selector gave other answers than importing it again, so each"
            " environment got an import of its own, which is slower"
        )
        return False

    def _compare_in_place(self, platform: Platform, sample: Sequence[Group]) -> Trust:
        if not platform.process.forks:
            sample = sample[:_SAMPLE_OF_IMPORTS]
        together = self._collect(platform, sample, refresh=True)
        alone = [out for group in sample for out in self._collect_alone(platform, group)]
        if _agree(together, alone):
            return Trust.IN_PLACE
        self._notes.append(
            "the selector remembers answers from one environment to the next even after a refresh,"
            " so each environment got a process of its own"
        )
        return Trust.FORKED if platform.process.forks else Trust.NONE

    def _collect_alone(self, platform: Platform, group: Group) -> list[Outcome]:
        """Ask a group in a process that answers nothing else."""
        if platform.process.forks:
            return self._collect(platform, [group], refresh=True)
        return self._collect_afresh(platform, group) or []  # equal to no answers

    def _collect_afresh(self, platform: Platform, group: Group) -> list[Outcome] | None:
        """Ask a group after an import under its environment; None if that fails."""
        opened = self._platforms.open(platform.gpu, group.environ, prepare=False)
        if not isinstance(opened, Platform):
            return None
        outcomes = self._collect(opened, [group], refresh=False)
        opened.end()
        return outcomes

    def _collect(
        self, platform: Platform, groups: Sequence[Group], *, refresh: bool
    ) -> list[Outcome]:
        outcomes: dict[Question, Outcome] = {}

        def keep(question: Question, observation: Observation) -> None:
            outcomes[question] = observation.outcome

        ask(self._platforms, platform, groups, keep, refresh=refresh)
        return [outcomes[question] for group in groups for question in group.questions]


def _agree(some: Sequence[Outcome], others: Sequence[Outcome]) -> bool:
    """Whether outcomes are the same: all that a time limit did not cut short, and one at least."""
    if len(some) != len(others):
        return False
    pairs = [
        (one, other)
        for one, other in zip(some, others, strict=True)
        if not isinstance(one, TimedOut) and not isinstance(other, TimedOut)
    ]
    return bool(pairs) and all(one == other for one, other in pairs)
