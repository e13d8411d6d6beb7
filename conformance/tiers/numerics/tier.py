"""The numerics tier: every case on every backend under test, judged by the float64 oracle.

docs/numerics.md says how to bring a backend along.
"""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest

from pytest_rocm_attn.conformance.promise.verdict import verdict_on
from pytest_rocm_attn.conformance.tiers.base import Planned, Tier
from pytest_rocm_attn.conformance.tiers.numerics.case import Case, Result, shipped
from pytest_rocm_attn.conformance.tiers.numerics.drawn import SEARCHES, draw
from pytest_rocm_attn.conformance.tiers.numerics.kernel_item import KernelItem
from pytest_rocm_attn.errors import RocmAttnError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_rocm_attn.conformance.promise.verdict import Judgement
    from pytest_rocm_attn.conformance.tiers.numerics.subjects import BackendUnderTest
    from pytest_rocm_attn.conformance.tiers.settings import Settings


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
        pytest.UsageError: it is not a drawn case.
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


class NumericsItem(KernelItem):
    """One backend and the cases that it gets."""

    expected = "every element within its error bound, nothing else written"
    _evidence = ""
    device: Mapping[str, str] = MappingProxyType({})
    allowance = ""

    @property
    def evidence(self) -> str:
        return self._evidence

    def process(self) -> tuple[str, ...]:
        emulate = self.plugin.settings.emulate
        return (self.backend.spec, *(("emulate", emulate) if emulate else ("run",)))

    def start(self) -> None:
        """Start the backend's process unless it runs, and learn what its results rest on.

        Raises:
            BackendUnderTestError: the backend cannot be imported.
        """
        lane = self.lane
        lane.start()
        self._evidence, self.device, self.allowance = lane.evidence, lane.device, lane.allowance

    def ask(self, case: Case) -> Result:
        """Return the result of a case in the backend's process."""
        self.start()  # the last case may have ended it
        return self.lane.ask(case)

    def shortfall(self, result: Result, case: Case) -> str:
        what = "computes {} wrongly" if result.kind == "wrong" else "breaks down on {}"
        return f"{self.backend.name} {what.format(case.id)} (evidence: {self.evidence})"

    def more(self, result: Result) -> dict[str, Any]:
        details = {"device": dict(self.device), "allowance": self.allowance}
        ratio = result.ratio if math.isfinite(result.ratio) else None
        return details | ({"error_over_bound": ratio} if self.case is not None else {})


class CaseItem(NumericsItem):
    """One case on one backend: node id ``rocm-attn::numerics::TRITON_ATTN::sinks-float16``."""

    def __init__(self, *, backend: BackendUnderTest, case: Case, **kwargs: Any) -> None:
        level = backend.level(case)
        super().__init__(backend=backend, case=case, level=level, **kwargs)

    def judge(self) -> Judgement:
        assert self.case is not None
        return self.judge_result(self.ask(self.case), self.case)


class DrawnItem(NumericsItem):
    """Drawn cases on one backend: node id ``rocm-attn::numerics::TRITON_ATTN::drawn-attention``."""

    def __init__(self, *, backend: BackendUnderTest, kind: str, **kwargs: Any) -> None:
        self.search = SEARCHES[kind]
        super().__init__(backend=backend, level=self.search.level, **kwargs)
        self.kind = kind
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
            return self.judge_result(self.ask(case), case)
        if importlib.util.find_spec("hypothesis") is None:
            pytest.skip("needs hypothesis: `pip install 'pytest-rocm-attn[hypothesis]'`")
        self.start()
        search, kinds = draw(self.search, self.ask, effort, self.row_id, evidence=self.evidence)
        self.details = {"examples": search.examples, "seed": effort.seed}
        if search.found is not None:
            drawn, result = search.found
            return self.judge_result(result, replace(drawn.case, id=self.kind))
        words = f"right in {kinds['right']} drawn cases, {kinds['declined']} declined"
        search.check_finished(f", {words}")
        if not kinds["right"] and kinds["declined"]:
            self.decline(self.backend.name, self.evidence, f"all {kinds['declined']} drawn cases")
        self.result = Result("right", words)
        return verdict_on("", self.level, strict=self.plugin.settings.strict)

    def known(self) -> dict[str, Any]:
        return {"source": self.search.why, **super().known()}

    def fields(self) -> dict[str, Any]:
        fields = super().fields()
        return fields | {
            "seconds": round(self.seconds, 6),
            "details": fields["details"] | self.details,
        }

    def reproduce(self, **own: Any) -> str:
        """Return the command that tries the smallest case again, or else makes this search."""
        example = self.case.to_json() if self.case is not None else None
        return super().reproduce(**self.plugin.settings.effort.repeated(example))
