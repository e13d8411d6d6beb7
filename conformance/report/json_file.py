"""The JSON report, ``schema = 1``: docs/reports.md."""

from __future__ import annotations

import json
import platform
from collections import Counter
from importlib import metadata
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.report import host
from pytest_rocm_attn.conformance.report.schema import sort_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pytest_rocm_attn.conformance.report.results import Results
    from pytest_rocm_attn.conformance.report.schema import Record, Summary

SCHEMA = 1


def render(report: Mapping[str, Any]) -> str:
    """Return the report's data as JSON, in ASCII."""
    return json.dumps(report, indent=1, ensure_ascii=True) + "\n"


def of_results(
    results: Results,
    *,
    kind: str,
    machine: str | None,
    notes: Iterable[str] = (),
    summaries: Iterable[Summary] = (),
    **head: Any,
) -> dict[str, Any]:
    """Return a report of a run's items.

    ``selected`` is the number of rows, of entries in ``declined`` and of node ids in ``not_run``;
    ``totals`` counts the rows by verdict.

    Args:
        results: of the items.
        kind: what selections ran on: "mock", "pure", or "real" for this machine's own GPU.
        machine: that GPU.
        notes: for the reader.
        summaries: of tiers that report better as a whole.
        head: what was under test, contract and selector, and how: the run's settings.
    """
    rows = sorted(results.rows, key=sort_key)
    counts = Counter(row["verdict"] for row in rows)
    return {
        "schema": SCHEMA,
        "tool": {"name": "pytest-rocm-attn", "version": tool_version()},
        **head,
        "host": {
            "kind": kind,
            "machine": machine,
            "gpus": sorted({row["gpu"]["gfx"] for row in rows if row["gpu"]}),
            "real_gpus": host.gpus(),
            "devices": host.devices_of(row["details"] for row in rows),
            "libraries": host.libraries(),
            "python": platform.python_version(),
            "system": platform.system(),
        },
        "selected": len(results.selected),
        "totals": dict(sorted(counts.items())),
        "rows": [_without_device(row) for row in rows],
        "declined": sorted(results.declined, key=lambda entry: sorted(entry.items())),
        "not_run": sorted(results.not_run),
        "notes": sorted(notes),
        "summaries": list(summaries),
    }


def _without_device(row: Record) -> Record:
    """Return a row without the device, which stands once, in the head."""
    details = {name: value for name, value in row["details"].items() if name != "device"}
    return {**row, "details": details}


def selector_record(spec: str, *, look_up: bool = True) -> dict[str, Any]:
    """Return what is under test: its name, and the distribution and version that it comes from.

    Args:
        spec: the name.
        look_up: find the distribution, which reads the list of files of each one installed.
    """
    top = spec.partition(":")[0].partition(".")[0]
    look_up = look_up and "/" not in spec
    owners = metadata.packages_distributions().get(top, []) if look_up else []
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
