"""The tiers of the matrix: each a collector of judged items, found here by name.

A tier's module is imported only when the tier runs, so that what it needs (hypothesis, torch) is
paid for by those who ask for it. docs/options.md names the tiers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_rocm_attn.conformance.tiers.base import Tier

# Name of the tier, as --rocm-attn-tier takes it -> where its collector is.
TIERS: dict[str, str] = {
    "documented": "pytest_rocm_attn.conformance.tiers.documented:DocumentedTier",
    "grid": "pytest_rocm_attn.conformance.tiers.grid.tier:GridTier",
    "invariants": "pytest_rocm_attn.conformance.tiers.invariants.tier:InvariantsTier",
    "launch": "pytest_rocm_attn.conformance.tiers.launch.tier:LaunchTier",
    "numerics": "pytest_rocm_attn.conformance.tiers.numerics.tier:NumericsTier",
    "capabilities": "pytest_rocm_attn.conformance.tiers.capabilities.tier:CapabilitiesTier",
    "server": "pytest_rocm_attn.conformance.tiers.server.tier:ServerTier",
    "upstream": "pytest_rocm_attn.conformance.tiers.grid.upstream:UpstreamTier",
}


def tier_class(name: str) -> type[Tier]:
    """Return the collector class of a tier. Raises KeyError for a name that TIERS does not list."""
    module, _, attribute = TIERS[name].partition(":")
    found: type[Tier] = getattr(importlib.import_module(module), attribute)
    return found
