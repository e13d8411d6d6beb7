"""The numerics tier: every case on every backend under test, judged by the float64 oracle.

docs/numerics.md says how to bring a backend along.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pytest

from pytest_rocm_attn.conformance.items import ConformanceItem, Tier
from pytest_rocm_attn.conformance.numerics.case import Case, shipped
from pytest_rocm_attn.conformance.numerics.lane import Lane
from pytest_rocm_attn.conformance.verdict import Judgement, verdict_on
from pytest_rocm_attn.errors import BackendUnderTestError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_rocm_attn.conformance.numerics.finding import Finding
    from pytest_rocm_attn.conformance.numerics.subjects import BackendUnderTest
    from pytest_rocm_attn.conformance.settings import Settings

_LANES = pytest.StashKey[dict[str, Lane]]()
SLOWNESS = 20  # one case in the interpreter may take this many times as long as one selection


class NumericsTier(Tier):
    """Node id ``rocm-attn::numerics``."""

    @classmethod
    def names(cls, settings: Settings) -> list[str]:
        return [_name(backend, case) for backend, case in _pairs(settings)]

    def collect(self) -> Iterator[NumericsItem]:
        for backend, case in _pairs(self.plugin.settings):
            yield NumericsItem.of(self, _name(backend, case), backend=backend, case=case)


def _pairs(settings: Settings) -> Iterator[tuple[BackendUnderTest, Case]]:
    cases = shipped()
    # Backend by backend: one worker process at a time.
    for backend in settings.backends:
        yield from ((backend, case) for case in cases if backend.takes(case))


def _name(backend: BackendUnderTest, case: Case) -> str:
    return f"{backend.name}::{case.id}"


class NumericsItem(ConformanceItem):
    """One case on one backend: node id ``rocm-attn::numerics::TRITON_ATTN::sinks-float16``."""

    def __init__(self, *, backend: BackendUnderTest, case: Case, **kwargs: Any) -> None:
        super().__init__(row_id=_name(backend, case), level=case.level, **kwargs)
        self.backend = backend
        self.case = case
        self.finding: Finding | None = None
        self.evidence = ""

    @property
    def lane(self) -> Lane:
        """The worker that the backend runs in."""
        lanes = self.config.stash.setdefault(_LANES, {})
        if self.backend.name not in lanes:
            lane = Lane(self.backend.spec, SLOWNESS * self.plugin.settings.subject.timeout)
            self.config.add_cleanup(lane.close)
            lanes[self.backend.name] = lane
        return lanes[self.backend.name]

    def judge(self) -> Judgement:
        try:
            self.finding = self.lane.ask(self.case)
        except BackendUnderTestError as error:
            pytest.fail(str(error), pytrace=False)
        self.evidence = self.lane.evidence
        if self.finding.kind == "declined":
            self.decline(self.backend.name, self.evidence, self.finding.words)
        shortfall = "" if self.finding.kind == "right" else self._shortfall(self.finding)
        return verdict_on(
            shortfall,
            self.level,
            crashed=self.finding.kind == "crashed",
            deviation=self.deviation,
            strict=self.plugin.settings.strict,
        )

    def _shortfall(self, finding: Finding) -> str:
        wrong = finding.kind == "wrong"
        what = f"computes {self.case.id} wrongly" if wrong else f"breaks down on {self.case.id}"
        return f"{self.backend.name} {what} (evidence: {self.evidence}): {finding.words}"

    def story(self) -> list[tuple[str, str]]:
        assert self.finding is not None
        story = super().story()
        story.insert(1, ("case", self.case.words))
        if self.finding.traceback:
            story.append(("traceback", "\n" + self.finding.traceback))
        return story

    def fields(self) -> dict[str, Any]:
        assert self.finding is not None
        ratio = self.finding.ratio
        return {
            "evidence": self.evidence,
            "request": asdict(self.case.request),
            "expect": {"words": "every element within its error bound, nothing else written"},
            "outcome": {"kind": self.finding.kind, "words": self.finding.words},
            "source": self.case.why,
            "seconds": round(self.finding.seconds, 6),
            "details": {
                "backend": {"name": self.backend.name, "spec": self.backend.spec},
                "case": self.case.to_json(),
                "error_over_bound": ratio if math.isfinite(ratio) else None,
                "device": self.lane.device,
            },
        }
