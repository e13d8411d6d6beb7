"""The numerics tier: every case on every backend under test, judged by the float64 oracle.

docs/numerics.md says how to bring a backend along.
"""

from __future__ import annotations

import importlib.util
import math
import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_rocm_attn.conformance.promise.verdict import Judgement, verdict_on
from pytest_rocm_attn.conformance.tiers.base import ConformanceItem, Planned, Tier
from pytest_rocm_attn.conformance.tiers.numerics.case import Case, shipped
from pytest_rocm_attn.conformance.tiers.numerics.lane import Lane, Lanes
from pytest_rocm_attn.conformance.tiers.numerics.searches import SEARCHES
from pytest_rocm_attn.errors import RocmAttnError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_rocm_attn.conformance.tiers.numerics.finding import Finding
    from pytest_rocm_attn.conformance.tiers.numerics.subjects import BackendUnderTest
    from pytest_rocm_attn.conformance.tiers.settings import Settings

EXPECTED = "every element within its error bound, nothing else written"
_LANES = pytest.StashKey[Lanes]()
SLOWNESS = 20  # one case in the interpreter may take this many times as long as one selection


class NumericsTier(Tier):
    """Node id ``rocm-attn::numerics``."""

    @classmethod
    def plan(cls, settings: Settings) -> Iterator[Planned]:
        """Yield each backend with its cases, then with the kinds of case to draw for it."""
        example, cases = settings.effort.example, shipped()
        if example is not None:
            drawn: tuple[str, ...] = (_example(example).id,)
            cases = ()
        else:
            drawn = tuple(SEARCHES)
        # Backend by backend: one worker process at a time.
        for backend in settings.backends:
            name = backend.name
            for case in filter(backend.takes, cases):
                yield Planned(
                    f"{name}::{case.id}", CaseItem, None, {"backend": backend, "case": case}
                )
            for kind in drawn:
                kinds = backend.kinds or (SEARCHES[kind].kind,)
                # Whether one request's result depends on the others is not searched for.
                if SEARCHES[kind].kind in kinds and backend.invariant is not True:
                    arguments = {"backend": backend, "kind": kind}
                    yield Planned(f"{name}::{kind}", DrawnItem, None, arguments)


def _example(data: dict[str, Any]) -> Case:
    """Return the one case that --rocm-attn-example gives.

    Raises:
        pytest.UsageError: it is no drawn case.
    """
    try:
        case = Case.from_json(data)
        if case.id not in SEARCHES:
            raise ValueError(f"{case.id!r} is not one of {', '.join(SEARCHES)}")
    except (KeyError, TypeError, ValueError, RocmAttnError) as error:
        raise pytest.UsageError(
            f"--rocm-attn-example: no drawn case of the numerics tier ({error}); copy it whole"
            " from a report"
        ) from None
    return case


class NumericsItem(ConformanceItem):
    """One backend and what is put to it."""

    def __init__(self, *, backend: BackendUnderTest, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.backend = backend
        self._evidence = ""
        self.device: dict[str, str] = {}
        self.allowance = ""

    @property
    def evidence(self) -> str:
        return self._evidence

    @property
    def lane(self) -> Lane:
        """The worker that the backend runs in."""
        lanes = self.config.stash.get(_LANES, None)
        if lanes is None:
            lanes = self.config.stash[_LANES] = Lanes(
                SLOWNESS * self.plugin.settings.subject.timeout
            )
            self.config.add_cleanup(lanes.close)
        emulate = self.plugin.settings.emulate
        return lanes.of(self.backend.spec, *(("examine", emulate) if emulate else ()))

    def start(self) -> None:
        """Start the backend's process, and learn on what evidence its results rest.

        Raises:
            BackendUnderTestError: the backend cannot be imported.
        """
        lane = self.lane
        lane.start()
        self._evidence, self.device, self.allowance = lane.evidence, lane.device, lane.allowance

    def ask(self, case: Case) -> Finding:
        """Return what came of a case, in the backend's process."""
        self.start()  # anew, if the last case ended it
        return self.lane.ask(case)

    def verdict(self, finding: Finding, case: Case) -> Judgement:
        """Judge what came of a case."""
        shortfall = "" if finding.kind == "right" else self._shortfall(finding, case)
        return verdict_on(
            shortfall,
            self.level,
            [finding.got],
            self.claims(),
            strict=self.plugin.settings.strict,
        )

    def _shortfall(self, finding: Finding, case: Case) -> str:
        wrong = finding.kind == "wrong"
        what = f"computes {case.id} wrongly" if wrong else f"breaks down on {case.id}"
        return f"{self.backend.name} {what} (evidence: {self.evidence}): {finding.words}"

    def known(self) -> dict[str, Any]:
        backend = {"name": self.backend.name, "spec": self.backend.spec}
        return {"expect": {"words": EXPECTED}, "details": {"backend": backend}}

    def _ran(self) -> dict[str, Any]:
        """Return the details of a backend that was started."""
        return {**self.known()["details"], "device": self.device, "allowance": self.allowance}

    def told(self, finding: Finding, case: Case) -> dict[str, Any]:
        """Return what a record says of a case and what came of it."""
        ratio = finding.ratio
        return {
            "request": asdict(case.request),
            "outcome": {"kind": finding.kind, "words": finding.words},
            "source": case.why,
            "seconds": round(finding.seconds, 6),
            "details": self._ran()
            | {
                "case": case.to_json(),
                "error_over_bound": ratio if math.isfinite(ratio) else None,
            },
        }

    def told_story(self, finding: Finding, case: Case) -> list[tuple[str, str]]:
        """Return what a reader must know of a case and what came of it."""
        story = super().story()
        story.insert(1, ("case", case.words))
        if finding.traceback:
            story.append(("traceback", "\n" + finding.traceback))
        return story


class CaseItem(NumericsItem):
    """One case on one backend: node id ``rocm-attn::numerics::TRITON_ATTN::sinks-float16``."""

    def __init__(self, *, backend: BackendUnderTest, case: Case, **kwargs: Any) -> None:
        super().__init__(backend=backend, level=backend.level(case), **kwargs)
        self.case = case
        self.finding: Finding | None = None

    def judge(self) -> Judgement:
        self.finding = self.ask(self.case)
        if self.finding.kind == "declined":
            self.decline(self.backend.name, self.evidence, self.finding.words)
        return self.verdict(self.finding, self.case)

    def known(self) -> dict[str, Any]:
        fields = super().known()
        fields["details"]["case"] = self.case.to_json()
        return fields | {"request": asdict(self.case.request), "source": self.case.why}

    def story(self) -> list[tuple[str, str]]:
        assert self.finding is not None
        return self.told_story(self.finding, self.case)

    def fields(self) -> dict[str, Any]:
        assert self.finding is not None
        return self.told(self.finding, self.case)


class DrawnItem(NumericsItem):
    """Drawn cases on one backend: node id ``rocm-attn::numerics::TRITON_ATTN::drawn-attention``."""

    def __init__(self, *, backend: BackendUnderTest, kind: str, **kwargs: Any) -> None:
        self.search = SEARCHES[kind]
        super().__init__(backend=backend, level=self.search.level, **kwargs)
        self.kind = kind
        self.found: tuple[Finding, Case] | None = None
        self.words = ""
        self.details: dict[str, Any] = {}
        self.seconds = 0.0

    def judge(self) -> Judgement:
        start = time.monotonic()
        judgement = self._judge()
        self.seconds = time.monotonic() - start
        return judgement

    def _judge(self) -> Judgement:
        effort = self.plugin.settings.effort
        if effort.example is not None:
            case = _example(effort.example)
            finding = self.ask(case)
            if finding.kind == "declined":
                self.decline(self.backend.name, self.evidence, finding.words)
            self.found = finding, case
            return self.verdict(finding, case)
        if importlib.util.find_spec("hypothesis") is None:
            pytest.skip("needs hypothesis: `pip install 'pytest-rocm-attn[hypothesis]'`")
        from pytest_rocm_attn.conformance.tiers.numerics.drawn import draw

        self.start()
        search, kinds = draw(self.search, self.ask, effort, self.row_id, evidence=self.evidence)
        self.details = {"examples": search.examples, "seed": effort.seed}
        if search.found is not None:
            drawn, finding = search.found
            self.found = finding, replace(drawn.case, id=self.kind)
            return self.verdict(*self.found)
        self.words = f"right in {kinds['right']} drawn cases, {kinds['declined']} declined"
        search.check_finished(f", {self.words}")
        if not kinds["right"] and kinds["declined"]:
            self.decline(self.backend.name, self.evidence, f"all {kinds['declined']} drawn cases")
        return verdict_on("", self.level, strict=self.plugin.settings.strict)

    def story(self) -> list[tuple[str, str]]:
        return self.told_story(*self.found) if self.found else super().story()

    def known(self) -> dict[str, Any]:
        return super().known() | {"source": self.search.why}

    def fields(self) -> dict[str, Any]:
        fields = self.told(*self.found) if self.found else self._held()
        fields["seconds"] = round(self.seconds, 6)
        fields["details"] |= self.details
        return fields

    def _held(self) -> dict[str, Any]:
        return {
            "outcome": {"kind": "right", "words": self.words},
            "details": self._ran(),
        }

    def reproduce(self, **own: Any) -> str:
        """Return the command that tries the smallest case again, or else makes this search."""
        example = self.found[1].to_json() if self.found is not None else None
        return super().reproduce(**self.plugin.settings.effort.repeated(example))
