"""The JSON report, ``schema = 1`` (design.md section 7)."""

from __future__ import annotations

import json
import os
import platform
import tempfile
from collections import Counter
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.record import sort_key
from pytest_rocm_attn.errors import ReportError

if TYPE_CHECKING:
    from pytest_rocm_attn.conformance.session import ConformancePlugin

SCHEMA = 1


def write(path: Path, run: ConformancePlugin) -> None:
    """Write the report, whole or not at all.

    Raises:
        ReportError: it cannot be written there; the message names the file that holds it instead.
    """
    text = json.dumps(content(run), indent=1, ensure_ascii=True) + "\n"
    try:
        _replace(path, text)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ReportError(f"report {path} cannot be written: {reason}{_rescue(text)}") from None


def _replace(path: Path, text: str) -> None:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        mask = os.umask(0)
        os.umask(mask)
        Path(name).chmod(0o666 & ~mask)  # mkstemp is for one's own eyes; a report is not
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _rescue(text: str) -> str:
    try:
        descriptor, name = tempfile.mkstemp(prefix="rocm-attn-report-", suffix=".json")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError:
        return "; the results are in the terminal output only"
    return f"; the results are in {name}"


def content(run: ConformancePlugin) -> dict[str, Any]:
    """Return the report as plain data."""
    settings = run.settings
    rows = sorted(run.records, key=sort_key)
    counts = Counter(row["verdict"] for row in rows)
    return {
        "schema": SCHEMA,
        "tool": {"name": "pytest-rocm-attn", "version": _version("pytest-rocm-attn")},
        "contract": {
            "id": settings.contract.id,
            "title": settings.contract.title,
            "source": settings.contract.source,
        },
        "selector": selector_record(settings.subject.selector),
        "host": {
            "kind": "pure" if settings.subject.pure else "mock",
            "gpus": sorted({row["gpu"]["gfx"] for row in rows if row["gpu"]}),
            "python": platform.python_version(),
            "system": platform.system(),
        },
        "cells_selected": run.planned,
        "rows": rows,
        "totals": dict(sorted(counts.items())),
        "notes": run.notes,
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


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
