"""The invariants tier: laws that every selector keeps, tried on examples that hypothesis draws.

An item is a law on a GPU, with and without aiter. It fails with the smallest example that was found
to break the law, and with the command that tries that very example again.
"""

from __future__ import annotations

import functools
import importlib.util
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, cast

import pytest

from pytest_rocm_attn.conformance.promise.got import CRASH, CRASHES, WRONG, Got, got_of
from pytest_rocm_attn.conformance.promise.verdict import Judgement
from pytest_rocm_attn.conformance.report.schema import outcome_fields
from pytest_rocm_attn.conformance.tiers.base import Planned, Tier
from pytest_rocm_attn.conformance.tiers.invariants.law import Example
from pytest_rocm_attn.conformance.tiers.items import ConformanceItem
from pytest_rocm_attn.errors import RocmAttnError
from pytest_rocm_attn.gpu import Aiter, Gpu

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_rocm_attn.conformance.promise.rows import Level
    from pytest_rocm_attn.conformance.tiers.invariants.asking import Asker
    from pytest_rocm_attn.conformance.tiers.invariants.law import Broken, Law
    from pytest_rocm_attn.conformance.tiers.invariants.sequences import SequenceLaw
    from pytest_rocm_attn.conformance.tiers.invariants.switches import SwitchLaw
    from pytest_rocm_attn.conformance.tiers.settings import Settings

_BROKEN = Got(WRONG)


class InvariantsTier(Tier):
    """Node id ``rocm-attn::invariants``."""

    asks_selector = True

    @classmethod
    def plan(cls, settings: Settings) -> Iterator[Planned]:
        """Yield the laws platform by platform, so that each is imported once; then the switches."""
        _require_hypothesis()
        from pytest_rocm_attn.conformance.tiers.invariants.laws import LAWS
        from pytest_rocm_attn.conformance.tiers.invariants.sequences import SEQUENCES
        from pytest_rocm_attn.conformance.tiers.invariants.switches import SWITCH_LAWS

        gpus = _gpus(settings)
        laws: list[Law | SequenceLaw] = [*LAWS, *SEQUENCES]
        example = settings.effort.example
        if example is not None:
            laws = [*SEQUENCES] if "selections" in example else [*LAWS]
            _check_example(laws[0], gpus[0].gfx if gpus else "gfx942", example)
        for gpu in gpus:
            for law in laws:
                yield Planned(law.id, LawItem, gpu, {"law": law})
        for switch in SWITCH_LAWS if example is None else ():
            for gpu in filter(switch.is_for, gpus):
                yield Planned(switch.id, SwitchItem, gpu, {"law": switch})

    @functools.cached_property
    def asker(self) -> Asker:
        """Asks the selector under test, and remembers its answers."""
        from pytest_rocm_attn.conformance.tiers.invariants.asking import Asker

        return Asker(self.plugin.started_pool())


def _gpus(settings: Settings) -> list[Gpu]:
    return [Gpu(gfx) for gfx in dict.fromkeys(cell.gpu.gfx for cell in settings.cells)]


def _require_hypothesis() -> None:
    if importlib.util.find_spec("hypothesis") is None:
        raise pytest.UsageError(
            "--rocm-attn-tier=invariants needs hypothesis, which is not installed; run"
            " `pip install 'pytest-rocm-attn[hypothesis]'`"
        )


def _check_example(law: Law | SequenceLaw, gfx: str, example: dict[str, Any]) -> None:
    try:
        law.case_of(gfx, example)
    except (ValueError, TypeError, AttributeError, RocmAttnError) as error:
        raise pytest.UsageError(
            f"--rocm-attn-example: {error}; copy it whole from a report"
        ) from None


def _words(case: Example) -> str:
    """Return what is special about an example, in words."""
    parts = [f"{name}={text!r}" for name, text in case.changed.items()]
    parts += [f"{name}={value!r}" for name, value in case.request.non_default().items()]
    if case.gpu.aiter is not Aiter.PRESENT:
        parts.append(f"aiter {case.gpu.aiter.value}")
    return ", ".join(parts) or "nothing set"


class _Item(ConformanceItem):
    parent: InvariantsTier

    def __init__(self, *, law: Law | SequenceLaw | SwitchLaw, **kwargs: Any) -> None:
        # The clauses of PR #26980 make a law required.
        original = kwargs["parent"].plugin.settings.contract.is_original
        level: Level = law.level if original else "advisory"
        super().__init__(level=level, **kwargs)
        self.law = law
        self.seconds = 0.0
        self.told: dict[str, Any] = {}

    @property
    def asker(self) -> Asker:
        return self.parent.asker

    def judge(self) -> Judgement:
        start = time.monotonic()
        self.asker.start_tally()
        try:
            shortfall, got = self.look()
        finally:
            self.seconds = time.monotonic() - start
        if not shortfall and self.asker.only_failures:
            # Nothing was selected and nothing refused, so the law was not tried at all.
            shortfall = f"no question was answered: {self.asker.only_failures}"
            got = Got(CRASH, self.asker.only_failures)
        return self.judgement_on(shortfall, [got])

    def look(self) -> tuple[str, Got]:
        """Return the shortfall, and the result as a deviation pins it.

        Raises:
            UnfinishedError: the time limit came before an answer.
        """
        raise NotImplementedError

    def known(self) -> dict[str, Any]:
        return {"expect": {"words": self.law.promise}, "source": self.law.source}

    def fields(self) -> dict[str, Any]:
        return {
            "outcome": {"kind": "held", "words": "no shortfall"},
            "seconds": round(self.seconds, 6),
            **self.told.get("fields", {}),
        }


class LawItem(_Item):
    """One law on one GPU: node id ``rocm-attn::invariants::law-id[gfx942]``."""

    law: Law | SequenceLaw

    def look(self) -> tuple[str, Got]:
        effort = self.plugin.settings.effort
        assert self.gpu is not None
        if effort.example is not None:
            case: Any = self.law.case_of(self.gpu.gfx, effort.example)
            return self._told(case, self.law.attempt(case, self.asker, self.asker.certain), 1)
        self.asker.warm(self.gpu, Gpu(self.gpu.gfx, Aiter.ABSENT))
        search = self.law.search(self.gpu.gfx, self.asker, effort)
        if search.found is not None:
            case, _ = search.found
            certain = self.law.attempt(case, self.asker, self.asker.certain)
            if certain is None:
                # The kept process had answered differently from a clean one: look again without it.
                self.asker.distrust()
                search = self.law.search(self.gpu.gfx, self.asker, effort)
                case = search.found[0] if search.found is not None else None
            if case is not None:
                certain = certain or self.law.attempt(case, self.asker, self.asker.certain)
                more = self._further(case) if certain is not None else []
                return self._told(case, certain, search.examples, more)
        search.check_finished()
        words = f"held in {search.examples} examples"
        if unanswered := self.asker.unanswered:
            words += f", as far as there were answers: {unanswered} times there was none"
        self.told["fields"] = {
            "outcome": {"kind": "held", "words": words},
            "details": {
                "examples": search.examples,
                "seed": effort.seed,
                "unanswered": unanswered,
            },
        }
        return "", _BROKEN

    def _further(self, case: Any) -> list[tuple[Any, Broken]]:
        """Return the breaches that have nothing to do with the smallest one."""
        if isinstance(case, Example):
            gpu, effort = case.gpu, self.plugin.settings.effort
            return cast("Law", self.law).further(gpu.gfx, self.asker, effort, case)
        return []

    def _told(
        self,
        case: Any,
        broken: Broken | None,
        examples: int,
        more: Sequence[tuple[Any, Broken]] = (),
    ) -> tuple[str, Got]:
        """Keep the report of the smallest example, and what else breaks the law."""
        self.told["example"] = case.as_data()
        effort = self.plugin.settings.effort
        details = {"examples": examples, "seed": effort.seed, "example": case.as_data()}
        if broken is None:
            held = {"kind": "held", "words": "held in the example"}
            self.told["fields"] = {"outcome": held, "details": details}
            return "", _BROKEN
        asked = broken.question
        if more:
            details["further"] = [
                {"example": other.as_data(), "words": also.words} for other, also in more
            ]
        self.told["fields"] = {
            "gpu": {"gfx": asked.gpu.gfx, "aiter": asked.gpu.aiter.value},
            "env": dict(asked.environ),
            "request": asdict(asked.request),
            "outcome": outcome_fields(broken.outcome) | {"words": broken.words},
            "environment_written": list(broken.written),
            "details": details,
        }
        got = got_of(broken.outcome)
        # Of several examples that break a law any may be found first: only a crash is kept apart.
        got = got if got.answer in CRASHES else _BROKEN
        said = "".join(f"; and with {_words(other)}: {also.words}" for other, also in more)
        return f"expected {self.law.promise}: {broken.words}{said}", got

    def reproduce(self, **own: Any) -> str:
        """Return the command that tries the smallest example again, or else makes this search."""
        return super().reproduce(**self.plugin.settings.effort.repeated(self.told.get("example")))


class SwitchItem(_Item):
    """One switch on one GPU: node id ``rocm-attn::invariants::the-switch-of-...[gfx942]``."""

    law: SwitchLaw

    def look(self) -> tuple[str, Got]:
        gpu, effort = self.gpu, self.plugin.settings.effort
        assert gpu is not None
        self.asker.warm(gpu)
        end = effort.end
        found = self.law.change([gpu], self.asker, is_over=lambda: time.monotonic() > end)
        if found.change is not None:
            question, first, second = found.change
            words = f"{first} without and {second} with it"
            self.told["fields"] = {
                "gpu": {"gfx": question.gpu.gfx, "aiter": question.gpu.aiter.value},
                "env": dict(question.environ),
                "request": asdict(question.request),
                "outcome": {"kind": "held", "words": words},
                "details": {"questions": found.tried},
            }
            return "", _BROKEN
        if found.tried < found.total:
            raise effort.stopped(found.tried, found.total, f"flips of {self.law.name}")
        if found.unanswered < found.total and not self.law.has_something_to_switch(gpu, self.asker):
            backends = " or ".join(self.law.backends)
            pytest.skip(f"not applicable: {gpu.gfx} refuses {backends} by name")
        words = f"{self.law.name} changed nothing in {found.tried - found.unanswered} flips on {gpu.gfx}"
        if found.unanswered:
            words += f"; {found.unanswered} flips have no answer on one side or both"
        self.told["fields"] = {"outcome": {"kind": "dead", "words": words}}
        return f"expected {self.law.promise}: {words}", _BROKEN
