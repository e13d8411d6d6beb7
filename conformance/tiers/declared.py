"""The fork's declarations themselves as pytest items: each has to be alive and in date."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_rocm_attn.conformance.promise.contract import rules_of
from pytest_rocm_attn.conformance.promise.deviations import may_name
from pytest_rocm_attn.conformance.promise.verdict import Judgement, Verdict
from pytest_rocm_attn.conformance.tiers import TIERS, tier_class
from pytest_rocm_attn.conformance.tiers.base import Planned, Tier
from pytest_rocm_attn.conformance.tiers.items import ConformanceItem
from pytest_rocm_attn.gpu import known_gpus

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_rocm_attn.conformance.promise.deviations import Deviation, Item
    from pytest_rocm_attn.conformance.tiers.settings import Settings


class Declared(Tier):
    """The fork's declarations themselves: node id ``rocm-attn::deviations``."""

    @classmethod
    def plan(cls, settings: Settings) -> Iterator[Planned]:
        for entry in settings.deviations.entries if settings.deviations else ():
            yield Planned(f"line-{entry.line}", DeviationItem, None, {"entry": entry})

    @functools.cached_property
    def plans(self) -> dict[str, list[Planned] | None]:
        """What each tier could plan; see possible_plans()."""
        return possible_plans(self.plugin.settings)

    @functools.cached_property
    def dead(self) -> dict[Deviation, tuple[str, ...]]:
        """Entry -> those of its patterns that can cover nothing of any item, as far as is known."""
        settings = self.plugin.settings
        assert settings.deviations is not None
        return settings.deviations.unused(every_item(settings, self.plans), settings.today)


class DeviationItem(ConformanceItem):
    """One entry of the deviations file: fails when it has expired, or matches no row."""

    parent: Declared

    def __init__(self, *, entry: Deviation, **kwargs: Any) -> None:
        super().__init__(level="required", **kwargs)
        self.entry = entry

    def known(self) -> dict[str, Any]:
        return {
            "expect": {"words": "in date, and every pattern matches an item"},
            "source": f"{self.entry.file}:{self.entry.line}",
        }

    def fields(self) -> dict[str, Any]:
        return {"outcome": {"kind": "entry", "words": self.trouble or "as expected"}}

    def judge(self) -> Judgement:
        return Judgement(Verdict.FAIL if self.trouble else Verdict.PASS, self.trouble)

    @functools.cached_property
    def trouble(self) -> str:
        """What is wrong with the entry; "" when nothing is."""
        settings = self.plugin.settings
        where = self.entry.place
        if self.entry.expired(settings.today):
            return (
                f"{where}: this deviation expired on {self.entry.until} and covers nothing any more"
                f" ({self.entry.reason}, {self.entry.link}); change the fork, or set a later date"
            )
        patterns = self.parent.dead.get(self.entry, ())
        unknown = [pattern for pattern in patterns if self._cannot_be_planned(pattern)]
        dead = [pattern for pattern in patterns if pattern not in unknown]
        if dead:
            return (
                f"{where}: {', '.join(map(repr, dead))} matches nothing of contract"
                f" {settings.contract.id} nor of another tier, or only what an earlier entry"
                " already covers; correct it or delete it"
            )
        if unknown:
            self.plugin.notes.count(
                "deviations: {} patterns were not checked: they may name items of a tier or backend"
                " that cannot be planned in this run",
                len(unknown),
            )
            pytest.skip(f"{where}: not checked: {', '.join(map(repr, unknown))}")
        return ""

    def _cannot_be_planned(self, pattern: str) -> bool:
        """Say whether a pattern may name what only other options, or an extra, would plan."""
        if any(may_name(pattern, tier) for tier, plan in self.parent.plans.items() if plan is None):
            return True
        # Items of kernels are those of the backends that the run was given.
        return "::" in pattern and any(
            may_name(pattern, tier, "*::*")
            and not any(
                may_name(pattern, tier, f"{backend.name}::*")
                for backend in self.plugin.settings.backends
            )
            for tier in ("launch", "numerics")
        )

    def reportinfo(self) -> tuple[os.PathLike[str] | str, int | None, str]:
        return self.entry.file, self.entry.line - 1, f"deviation at line {self.entry.line}"


# --- what an entry may name -----------------------------------------------------------------------


def every_item(
    settings: Settings, plans: Mapping[str, Sequence[Planned] | None] | None = None
) -> Iterator[Item]:
    """Yield all items of all tiers that can be planned here, whichever of them this run selects.

    The grid's rules, which an entry may name, count as items.

    Args:
        settings: of the run.
        plans: what possible_plans() returned for them, if that is known.
    """
    for tier, plan in (plans or possible_plans(settings)).items():
        for planned in plan or ():
            yield planned.row_id, planned.gfx, tier
    for rule in rules_of(settings.contract):
        yield from ((rule.id, gfx, "grid") for gfx in rule.gpus or known_gpus())


def possible_plans(settings: Settings) -> dict[str, list[Planned] | None]:
    """Return each tier's plan without a restriction by options; None if it cannot be planned here."""
    cells = tuple(cell for row in settings.contract.rows for cell in row.cells())
    unrestricted = replace(
        settings,
        cells=cells,
        subject=replace(settings.subject, pure=False),  # a pure one has no backends to build
        machine=None,
        gpus=(),
        effort=replace(settings.effort, example=None),
    )
    plans: dict[str, list[Planned] | None] = {}
    for tier in TIERS:
        given = replace(unrestricted, gpus=known_gpus()) if tier == "launch" else unrestricted
        try:
            plans[tier] = list(tier_class(tier).plan(given)) or None
        except pytest.UsageError:  # what it needs is not installed
            plans[tier] = None
    # Without a recording to compare with, its items are still known: they are the grid's.
    plans["upstream"] = plans["upstream"] or plans["grid"]
    return plans
