"""The server tier: whole servers, started as far as that goes without a GPU.

docs/server.md says which items there are, and what each of them means.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_rocm_attn.conformance.tiers.base import Planned, Tier
from pytest_rocm_attn.conformance.tiers.capabilities.check import plan_of
from pytest_rocm_attn.conformance.tiers.server import capability, code, plugins, servers, steps
from pytest_rocm_attn.gpu import Gpu

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_rocm_attn.conformance.tiers.settings import Settings


class ServerTier(Tier):
    """Node id ``rocm-attn::server``."""

    asks_selector = True
    needs_fork = (
        "tier server does not apply: the selector is a pure function, and there is no server around it"
        " to start (docs/server.md)"
    )

    @classmethod
    def plan(cls, settings: Settings) -> Iterator[Planned]:
        targets = dict.fromkeys(cell.gpu.gfx for cell in settings.cells)
        checks = (
            *servers.checks_of(settings.servers),
            *steps.checks_of(settings.servers),
            *code.CHECKS,
            *capability.CHECKS,
            *plugins.checks_of(settings.subject.selector.partition(":")[0].partition(".")[0]),
        )
        for gfx in () if settings.subject.pure else targets:
            yield from plan_of(checks, Gpu(gfx))
