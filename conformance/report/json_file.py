"""The JSON report, ``schema = 1``: docs/reports.md."""

from __future__ import annotations

import json
import platform
from collections import Counter
from importlib import metadata
from typing import TYPE_CHECKING, Any

import msgspec

from pytest_rocm_attn.conformance.promise.verdict import Verdict
from pytest_rocm_attn.conformance.report import explained, host
from pytest_rocm_attn.conformance.report.schema import Report, completed, sort_key
from pytest_rocm_attn.errors import ReportError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from pytest_rocm_attn.conformance.report.results import Results
    from pytest_rocm_attn.conformance.report.schema import Record, Summary

SCHEMA = 1


def render(report: Mapping[str, Any]) -> str:
    """Return the report's data as JSON, in ASCII."""
    return json.dumps(report, indent=1, ensure_ascii=True) + "\n"


def load(path: Path) -> dict[str, Any]:
    """Return the report that a JSON file holds, as plain data.

    Raises:
        ReportError: it cannot be read, is not such a report, or is of a newer schema; in one line.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ReportError(
            f"report {path} cannot be read: {error.strerror or error}; check the path"
        ) from None
    try:
        # Not msgspec's, which refuses the lone surrogates that a message may hold.
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ReportError(
            f"report {path} is not whole JSON ({error}); make it again with"
            " python -m pytest --rocm-attn-conformance --rocm-attn-report=FILE.json"
        ) from None
    schema = data.get("schema") if isinstance(data, dict) else None
    if not isinstance(schema, int) or "rows" not in data:
        raise ReportError(
            f"report {path} is not a report of this tool: it has no 'schema' and 'rows'; give the"
            " file that --rocm-attn-report=FILE.json wrote"
        )
    if schema != SCHEMA:
        raise ReportError(
            f"report {path} has schema {schema}, and this version reads schema {SCHEMA};"
            " update pytest-rocm-attn, or make the report again"
        )
    if "selected" not in data:  # an older name, if any
        known = len(data["rows"]) + len(data.get("declined") or ())
        data["selected"] = max(data.get("cells_selected") or 0, known)
    try:
        report: dict[str, Any] = msgspec.convert(completed(data), Report)
        totals = Counter(Verdict(row["verdict"]).value for row in report["rows"])
    except (msgspec.ValidationError, ValueError, TypeError) as error:
        raise ReportError(f"report {path}: {error}; make the report again") from None
    return report | {"totals": dict(sorted(totals.items())), "causes": explained.of(report)}


def of_results(
    results: Results,
    *,
    kind: str,
    machine: str | None,
    notes: Iterable[str] = (),
    summaries: Sequence[Summary] = (),
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
        "summaries": summaries,
        "causes": explained.causes_of(rows, summaries),
    }


def _without_device(row: Record) -> Record:
    """Return a row without the device, which stands once, in the head."""
    details = {name: value for name, value in row["details"].items() if name != "device"}
    return {**row, "details": details}


def tool_version() -> str:
    """Return the version of this package."""
    return _version("pytest-rocm-attn") or "unknown"


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
