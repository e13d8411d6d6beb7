"""Which cache or frozen value makes a process give a stale answer: found by emptying and setting.

A replay of the sequence is repeated with caches emptied, and attributes set to what they hold in a
process that answers right, until the answer is right; then with fewer and fewer of them. So what is
named has been shown to be the cause, whatever it is called and wherever it is kept.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.isolation import Interview, WorkerError
from pytest_rocm_attn.conformance.promise.grid.outcomes import behaviour

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_rocm_attn.conformance.isolation import Question
    from pytest_rocm_attn.conformance.tiers.invariants.asking import Asker
    from pytest_rocm_attn.outcome import Outcome

_Remedy = tuple[str, Any]  # a cache's name and None, or an attribute's name and (its value,)


def in_words(asker: Asker, questions: Sequence[Question], wanted: Outcome) -> str:
    """Return what remembers, in words: names, or that none was found, and where it was looked.

    Args:
        asker: asks the selector.
        questions: in one process, the last of which gets a stale answer.
        wanted: the answer of a clean process.
    """
    package = package_of(asker.selector)
    trial = _Trial(asker, questions, wanted, package)
    caches: list[_Remedy] = [(name, None) for name in trial.filled_caches()]
    remedies = caches
    if not trial.works(remedies):
        values = trial.differing_values()
        remedies = caches + values if trial.works(caches + values) else []
    if not remedies:
        return (
            f"what remembers was not found among the caches and plain attributes of {package}"
            f" ({len(caches)} caches held something)"
        )
    causes = trial.fewest(remedies)
    kinds = [
        f"the cache {name}" if value is None else f"{name}, read once at import"
        for name, value in causes
    ]
    return f"remembered by {' and '.join(kinds)}"


def package_of(selector: str) -> str:
    """Return the package, or the module, that a selector's own code is in."""
    place = selector.rpartition(":")[0]
    if place.endswith(".py"):
        return f"_rocm_attn_selector_{Path(place).stem}"
    return place.partition(".")[0]


class _Trial:
    def __init__(
        self, asker: Asker, questions: Sequence[Question], wanted: Outcome, package: str
    ) -> None:
        self._asker = asker
        self._questions = questions
        self._wanted = behaviour(wanted)
        self._package = package

    def filled_caches(self) -> list[str]:
        with _replay(self._asker, self._questions) as process:
            names: list[str] = process.memory(caches=self._package)
            return names

    def differing_values(self) -> list[_Remedy]:
        """Return attributes that differ in a process that answers right, with their values there."""
        with _replay(self._asker, self._questions) as stale:
            held = stale.memory(values=self._package)
        with _replay(self._asker, self._questions[-1:]) as right:
            values = right.memory(values=self._package)
        return [
            (name, (value,))
            for name, value in values.items()
            if name in held and held[name] != value
        ]

    def works(self, remedies: Sequence[_Remedy]) -> bool:
        """Whether a replay answers right once these are applied."""
        with _replay(self._asker, self._questions) as process:
            process.memory(forget=[n for n, v in remedies if v is None], of=self._package)
            set_ = {name: value[0] for name, value in remedies if value is not None}
            process.memory(assign=set_, of=self._package)
            seen = process.ask(self._questions[-1:], refresh=False)
            return behaviour(seen[-1].outcome) == self._wanted

    def fewest(self, remedies: Sequence[_Remedy]) -> list[_Remedy]:
        """Return a part of the remedies that works, and of which nothing can be left out."""
        kept = list(remedies)
        size = max(1, len(kept) // 2)
        while True:
            start = 0
            while start < len(kept):
                without = kept[:start] + kept[start + size :]
                if without and self.works(without):
                    kept = without
                else:
                    start += size
            if size == 1:
                return kept
            size //= 2


@contextlib.contextmanager
def _replay(asker: Asker, questions: Sequence[Question]) -> Iterator[Interview]:
    """Yield a process in which the questions were asked, one after the other."""
    started = asker.interview(questions[0].gpu, dict(questions[0].environ))
    if not isinstance(started, Interview):
        raise WorkerError(f"the selector could not be imported again: {started}")
    with contextlib.closing(started):
        started.ask(questions, refresh=False)
        yield started
