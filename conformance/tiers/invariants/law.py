"""What a law is, what it is tried on, and how a selector is asked about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from pytest_rocm_attn.conformance.isolation import Observation, Question
from pytest_rocm_attn.flags import EXPLICIT
from pytest_rocm_attn.gpu import Aiter, Gpu
from pytest_rocm_attn.outcome import Outcome
from pytest_rocm_attn.request import Request

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from hypothesis.strategies import SearchStrategy

    from pytest_rocm_attn.conformance.promise.rows import Level
    from pytest_rocm_attn.conformance.tiers.effort import Effort
    from pytest_rocm_attn.conformance.tiers.invariants.asking import Asker
    from pytest_rocm_attn.conformance.tiers.invariants.search import Search


MOST = 4  # breaches of a law besides the first that are looked for


class Ask(Protocol):
    """A way to ask the selector under test, as from a process whose state is clean."""

    def __call__(self, *questions: Question) -> list[Observation]: ...


@dataclass(frozen=True)
class Example:
    """One example that a law is tried on.

    Attributes:
        gpu: the platform.
        environ: variables that are set, in this order.
        request: what is asked for.
        change: the variables that a second environment adds or changes, where a law compares two.
    """

    gpu: Gpu
    environ: dict[str, str] = field(default_factory=dict)
    request: Request = field(default_factory=Request)
    change: dict[str, str] = field(default_factory=dict)

    def question(self, environ: Mapping[str, str] | None = None) -> Question:
        """Return the question, under another environment where one is given."""
        items = (self.environ if environ is None else environ).items()
        return Question(self.gpu, tuple(items), self.request)

    @property
    def changed(self) -> dict[str, str]:
        """The second environment."""
        return {**self.environ, **self.change}

    def size(self) -> tuple[int, int, int]:
        """How much a reader has to read: flags, request, spelling."""
        flags = len(self.environ) + len(self.change)
        return flags, len(self.request.non_default()), len(repr(self.as_data()))

    def covers(self, other: Example) -> bool:
        """Say whether another example has all that is special about this one, and perhaps more.

        A named backend counts by its name, a variable or a field of the request by being special.
        """
        if self.gpu.aiter is not Aiter.PRESENT and other.gpu.aiter is not self.gpu.aiter:
            return False
        for ours, theirs in ((self.environ, other.environ), (self.change, other.change)):
            if not ours.keys() <= theirs.keys():
                return False
            if EXPLICIT in ours and ours[EXPLICIT] != theirs[EXPLICIT]:
                return False
        return self.request.non_default().keys() <= other.request.non_default().keys()

    def as_data(self) -> dict[str, Any]:
        """Return the case as --rocm-attn-example takes it, without the GPU's name."""
        data: dict[str, Any] = {}
        if self.gpu.aiter is not Aiter.PRESENT:
            data["aiter"] = self.gpu.aiter.value
        for name in ("environ", "change"):
            if getattr(self, name):
                data[name] = getattr(self, name)
        if fields := self.request.non_default():
            data["request"] = fields
        return data

    @classmethod
    def from_data(cls, gfx: str, data: Mapping[str, Any]) -> Example:
        """Return the case that as_data() wrote. ValueError, TypeError for anything else."""
        unknown = set(data) - {"aiter", "environ", "change", "request"}
        if unknown:
            raise ValueError(f"unknown field {min(unknown)!r}")
        return cls(
            Gpu(gfx, Aiter(data.get("aiter", "present"))),
            texts_of(data.get("environ", {})),
            Request(**data.get("request", {})),
            texts_of(data.get("change", {})),
        )


def texts_of(data: Any) -> dict[str, str]:
    """Return the data if it maps variables to texts. Raises ValueError if it does not."""
    if not isinstance(data, dict) or not all(isinstance(text, str) for text in data.values()):
        raise ValueError(f"{data!r} does not map variables to texts")
    return data


@dataclass(frozen=True)
class Broken:
    """A case in which a law does not hold.

    Attributes:
        words: what happened, after "expected ...": one sentence without the promise.
        question: the question whose answer broke it.
        outcome: that answer.
        written: variables that the selector wrote.
    """

    words: str
    question: Question
    outcome: Outcome
    written: tuple[str, ...] = ()


@dataclass(frozen=True)
class Law:
    """One promise about all questions of a kind.

    Attributes:
        id: kebab-case, reads like a sentence.
        level: "required" where sections 1 to 5 of the contract fix it, else "advisory".
        source: the clause it comes from.
        promise: what is expected, in words.
        cases: GPU name -> the cases that it is tried on.
        check: tries it on a case; None when it holds.
    """

    id: str
    level: Level
    source: str
    promise: str
    cases: Callable[[str], SearchStrategy[Example]]
    check: Callable[[Example, Ask], Broken | None]

    def search(self, gfx: str, asker: Ask, effort: Effort) -> Search[Broken]:
        """Look for a case on one GPU in which the law does not hold."""
        from pytest_rocm_attn.conformance.tiers.invariants.search import search_cases

        return search_cases(
            self.cases(gfx), lambda case: self.check(case, asker), effort, f"{self.id}[{gfx}]"
        )

    def further(
        self, gfx: str, asker: Asker, effort: Effort, first: Example
    ) -> list[tuple[Example, Broken]]:
        """Look for breaches that have nothing to do with the first one, each the smallest of its kind.

        Args:
            gfx, asker, effort: as of search(). Answers that asker remembers cost nothing.
            first: the example that search() found.

        Returns: examples that no earlier one covers, with how each breaks the law; MOST at most.
        """
        from pytest_rocm_attn.conformance.tiers.invariants.search import search_cases

        known: list[Example] = [first]
        found: list[tuple[Example, Broken]] = []
        while len(found) < MOST:

            def check(case: Example) -> Broken | None:
                if any(one.covers(case) for one in known):
                    return None
                return self.check(case, asker)

            search = search_cases(self.cases(gfx), check, effort, f"{self.id}[{gfx}]")
            certain = search.found and self.check(search.found[0], asker.certain)
            if not certain or search.found is None:
                break
            known.append(search.found[0])
            found.append((search.found[0], certain))
        return found

    def case_of(self, gfx: str, data: Mapping[str, Any]) -> Example:
        """Return the example that --rocm-attn-example gives."""
        return Example.from_data(gfx, data)

    def attempt(self, case: Example, asker: Ask, ask: Ask) -> Broken | None:
        """Try one case, asking with ask."""
        return self.check(case, ask)
