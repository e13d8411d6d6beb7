"""The capabilities tier: what backends declare, and whether what is selected can be built.

docs/capabilities.md says which items there are, and what each of them means.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.tiers.base import Planned, Tier
from pytest_rocm_attn.conformance.tiers.capabilities import (
    answers,
    cases,
    classes,
    declared,
    server,
)
from pytest_rocm_attn.conformance.tiers.capabilities.check import plan_of
from pytest_rocm_attn.gpu import Gpu

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_rocm_attn.conformance.tiers.settings import Settings

    Selections = list[tuple[cases.BuildCase, answers.Answer]]


class CapabilitiesTier(Tier):
    """Node id ``rocm-attn::capabilities``."""

    asks_selector = True
    needs_fork = (
        "tier capabilities does not apply: the selector is a pure function, which names backends and has"
        " none to build (docs/capabilities.md)"
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._selections: dict[Gpu, Selections] = {}

    @classmethod
    def plan(cls, settings: Settings) -> Iterator[Planned]:
        checks = (
            classes.keeps(settings.contract.capabilities),
            *classes.CHECKS,
            *declared.CHECKS,
            *server.CHECKS,
        )
        targets = dict.fromkeys(cell.gpu.gfx for cell in settings.cells)
        for gfx in () if settings.subject.pure else targets:
            yield from plan_of(checks, Gpu(gfx))

    def selections(self, gpu: Gpu) -> Selections:
        """Return what all cases of a GPU with aiter select."""
        if gpu not in self._selections:
            every = [case for case in cases.cases([gpu.gfx]) if case.gpu == gpu]
            asked = [(case, question) for case in every for question in classes.questions_of(case)]
            self.plugin.started_pool().submit(question for _, question in asked)
            self._selections[gpu] = [
                (case, answers.construction(question, self.plugin.observe))
                for case, question in asked
            ]
        return self._selections[gpu]
