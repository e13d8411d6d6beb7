"""The JSON report, ``schema = 1`` (design.md section 7)."""

from __future__ import annotations

import json
import platform
from collections import Counter
from importlib import metadata
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.record import sort_key

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_rocm_attn.conformance.session import ConformancePlugin

SCHEMA = 1


def render(report: Mapping[str, Any]) -> str:
    """Return the report's data as JSON, in ASCII."""
    return json.dumps(report, indent=1, ensure_ascii=True) + "\n"


def content(run: ConformancePlugin) -> dict[str, Any]:
    """Return the report as plain data."""
    settings = run.settings
    rows = sorted(run.records, key=sort_key)
    counts = Counter(row["verdict"] for row in rows)
    return {
        "schema": SCHEMA,
        "tool": {"name": "pytest-rocm-attn", "version": tool_version()},
        "contract": {
            "id": settings.contract.id,
            "title": settings.contract.title,
            "source": settings.contract.source,
        },
        "selector": selector_record(settings.subject.selector),
        "host": {
            "kind": settings.subject.evidence,
            "machine": str(settings.machine) if settings.machine else None,
            "gpus": sorted({row["gpu"]["gfx"] for row in rows if row["gpu"]}),
            "python": platform.python_version(),
            "system": platform.system(),
        },
        "cells_selected": run.planned,
        "rows": rows,
        "totals": dict(sorted(counts.items())),
        "notes": sorted(run.notes),
    }


def selector_record(spec: str) -> dict[str, Any]:
    """Return what is under test: its name, and the distribution and version that it comes from."""
    top = spec.partition(":")[0].partition(".")[0]
    owners = metadata.packages_distributions().get(top, []) if "/" not in spec else []
    distribution = owners[0] if owners else None
    return {
        "name": spec,
        "distribution": distribution,
        "version": _version(distribution) if distribution else None,
    }


def tool_version() -> str:
    """Return the version of this package."""
    return _version("pytest-rocm-attn") or "unknown"


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
