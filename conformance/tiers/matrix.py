"""The root of the matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_rocm_attn.conformance.tiers import tier_class
from pytest_rocm_attn.conformance.tiers.declared import Declared

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_rocm_attn.conformance.run.session import ConformancePlugin
    from pytest_rocm_attn.conformance.tiers.items import Tier

ROOT = "rocm-attn"


class Matrix(pytest.Collector):
    """The root of the matrix: node id ``rocm-attn``."""

    plugin: ConformancePlugin

    def collect(self) -> Iterator[Tier]:
        for name in self.plugin.settings.tiers:
            yield tier_class(name).from_parent(self, name=name)
        if self.plugin.settings.deviations is not None:
            yield Declared.from_parent(self, name="deviations")
