"""What the tiers of kernels share: an item that puts a case to a backend in a process of its own."""

from __future__ import annotations

import abc
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pytest

from pytest_rocm_attn.conformance.promise.verdict import Judgement
from pytest_rocm_attn.conformance.tiers.items import ConformanceItem
from pytest_rocm_attn.conformance.tiers.numerics.lane import Lane, Lanes

if TYPE_CHECKING:
    from pytest_rocm_attn.conformance.tiers.numerics.case import Case, Result
    from pytest_rocm_attn.conformance.tiers.numerics.subjects import BackendUnderTest

_LANES = pytest.StashKey[Lanes]()
SLOWNESS = 20  # one case, interpreted or compiled, may take this many times as long as a selection


class KernelItem(ConformanceItem, abc.ABC):
    """One backend and a case.

    Args:
        backend: the backend.
        case: the case; None while there is none, as before a search.
    """

    expected = ""
    case_label = "case"

    def __init__(
        self, *, backend: BackendUnderTest, case: Case | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.backend = backend
        self.case = case
        self.result: Result | None = None

    @abc.abstractmethod
    def process(self) -> tuple[str, ...]:
        """Return what the process imports and does; see worker.py."""

    @abc.abstractmethod
    def shortfall(self, result: Result, case: Case) -> str:
        """Return what falls short, without the words of the result."""

    @abc.abstractmethod
    def more(self, result: Result) -> dict[str, Any]:
        """Return the details that only a result gives."""

    @property
    def lane(self) -> Lane:
        """The process that the backend runs in."""
        lanes = self.config.stash.get(_LANES, None)
        if lanes is None:
            lanes = Lanes(SLOWNESS * self.plugin.settings.subject.timeout)
            self.config.stash[_LANES] = lanes
            self.config.add_cleanup(lanes.close)
        return lanes.of(*self.process())

    def judge_result(self, result: Result, case: Case) -> Judgement:
        """Keep the result of a case, and judge it."""
        self.result, self.case = result, case
        if result.kind == "declined":
            self.decline(self.backend.name, self.evidence, result.words)
        wrong = result.kind != "right"
        return self.judgement_on(
            f"{self.shortfall(result, case)}: {result.words}" if wrong else "", [result.got]
        )

    def story(self) -> list[tuple[str, str]]:
        story = super().story()
        if self.case is not None:
            story.insert(1, (self.case_label, self.case.words))
        if self.result is not None and self.result.traceback:
            story.append(("traceback", "\n" + self.result.traceback))
        return story

    def known(self) -> dict[str, Any]:
        details: dict[str, Any] = {
            "backend": {"name": self.backend.name, "spec": self.backend.spec}
        }
        known: dict[str, Any] = {"expect": {"words": self.expected}, "details": details}
        if self.case is not None:
            details["case"] = self.case.to_json()
            known |= {"request": asdict(self.case.request), "source": self.case.why}
        return known

    def fields(self) -> dict[str, Any]:
        result = self.result
        assert result is not None
        outcome = {"kind": result.kind, "words": result.words}
        return {
            "outcome": outcome | ({"error": result.error} if result.error else {}),
            "seconds": round(result.seconds, 6),
            "details": self.known()["details"] | self.more(result),
        }
