"""The fork's declarations themselves as pytest items: each has to be alive and in date."""

from __future__ import annotations

import contextlib
import functools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_rocm_attn.conformance.items import ConformanceItem, Tier
from pytest_rocm_attn.conformance.settings import contract_rules
from pytest_rocm_attn.conformance.tiers import TIERS, tier_class
from pytest_rocm_attn.conformance.verdict import Judgement, Verdict
from pytest_rocm_attn.gpu import known_gpus

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from pytest_rocm_attn.conformance.deviations import Deviation, Deviations
    from pytest_rocm_attn.conformance.settings import Settings


class Declared(Tier):
    """The fork's declarations themselves: node id ``rocm-attn::deviations``."""

    @classmethod
    def names(cls, settings: Settings) -> list[str]:
        return (
            [_name(entry) for entry in settings.deviations.entries] if settings.deviations else []
        )

    def collect(self) -> Iterator[DeviationItem]:
        for entry in self._declared.entries:
            yield DeviationItem.of(self, _name(entry), entry=entry)

    @property
    def _declared(self) -> Deviations:
        declared = self.plugin.settings.deviations
        assert declared is not None
        return declared

    @functools.cached_property
    def dead(self) -> dict[int, tuple[str, ...]]:
        """Line of an entry -> those of its patterns that speak for no item at all."""
        return {entry.line: entry.match for entry in self._declared.unused(self._items())}

    def _items(self) -> Iterator[tuple[str, str, str]]:
        """Yield (id, GPU's name, tier) of all items of all tiers on all GPUs, whichever run here."""
        settings = self.plugin.settings
        cells = tuple(cell for row in settings.contract.rows for cell in row.cells())
        for tier in TIERS:
            with contextlib.suppress(pytest.UsageError):  # a tier that cannot run has no items
                for name in tier_class(tier).names(replace(settings, cells=cells, gpus=())):
                    row_id, _, gfx = name.removesuffix("]").partition("[")
                    yield row_id, gfx, tier
        yield from _rules(settings)


def _name(entry: Deviation) -> str:
    return f"line-{entry.line}"


class DeviationItem(ConformanceItem):
    """One entry of the deviations file: fails when it has expired, or matches no row."""

    parent: Declared

    def __init__(self, *, entry: Deviation, **kwargs: Any) -> None:
        super().__init__(row_id=_name(entry), level="required", **kwargs)
        self.entry = entry

    def known(self) -> dict[str, Any]:
        return {
            "expect": {"words": "in date, and every pattern speaks for an item"},
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
        where = f"{self.entry.file}:{self.entry.line}"
        if self.entry.expired(settings.today):
            return (
                f"{where}: this deviation expired on {self.entry.until} and covers nothing any more"
                f" ({self.entry.reason}, {self.entry.link}); mend the fork, or set a later date"
            )
        if dead := self.parent.dead.get(self.entry.line):
            patterns = ", ".join(map(repr, dead))
            what = "the entry" if dead == self.entry.match else "that pattern"
            return (
                f"{where}: {patterns} matches no row of contract {settings.contract.id} nor item of"
                f" another tier that no earlier entry speaks for; delete {what}, or correct it"
            )
        return ""

    def reportinfo(self) -> tuple[os.PathLike[str] | str, int | None, str]:
        return self.entry.file, self.entry.line - 1, f"deviation at line {self.entry.line}"


def _rules(settings: Settings) -> Iterator[tuple[str, str, str]]:
    """Yield (id, GPU's name, tier) of the contract's rules about the grid, which an entry may name, too."""
    for rule in contract_rules(settings.contract):
        yield from ((rule.id, gfx, "grid") for gfx in rule.gpus or known_gpus())
