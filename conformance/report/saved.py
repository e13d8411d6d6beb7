"""Reading a JSON report back, so that the other formats can be made from it later."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec

from pytest_rocm_attn.conformance.promise.verdict import Verdict
from pytest_rocm_attn.conformance.report.json_file import SCHEMA
from pytest_rocm_attn.errors import ReportError

if TYPE_CHECKING:
    from pathlib import Path


class _Gpu(msgspec.Struct):
    gfx: str
    aiter: str = ""


class _Row(msgspec.Struct):
    """One item; what a tier has no use for may be left out. Further keys are accepted."""

    id: str
    tier: str
    verdict: Verdict
    level: str = ""
    gpu: _Gpu | None = None
    evidence: str = ""
    env: dict[str, str] | None = None
    request: dict[str, Any] | None = None
    expect: dict[str, Any] = {}
    outcome: dict[str, Any] = {}
    message: str = ""
    source: str = ""
    seconds: float = 0.0
    environment_written: list[str] = []
    again: str = ""
    details: dict[str, Any] = {}


class _Declined(msgspec.Struct):
    """An item without a verdict; further keys are accepted."""

    id: str
    tier: str
    backend: str = ""
    evidence: str = ""
    gfx: str = ""
    reason: str = ""


class _Condition(msgspec.Struct):
    """A condition under which a tier's cells fall short; further keys are accepted."""

    level: str
    where: str
    expected: str
    got: str
    cells: int
    rule: str = ""
    smallest: str = ""
    again: str = ""


class _Summary(msgspec.Struct):
    tier: str
    told: list[str] = []
    conditions: list[_Condition] = []
    causes: list[dict[str, Any]] = []
    exact: list[dict[str, Any]] = []


class _Report(msgspec.Struct):
    rows: list[_Row]
    tool: dict[str, Any] = {}
    contract: dict[str, Any] = {}
    selector: dict[str, Any] = {}
    host: dict[str, Any] = {}
    selected: int | None = None
    cells_selected: int | None = None  # its name in older reports
    declined: list[_Declined] = []
    not_run: list[str] = []
    notes: list[str] = []
    summaries: list[_Summary] = []


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
    try:
        checked = msgspec.convert(data, _Report)
    except msgspec.ValidationError as error:
        raise ReportError(f"report {path}: {error}; make the report again") from None
    report: dict[str, Any] = msgspec.to_builtins(checked)
    older = report.pop("cells_selected")
    if checked.selected is None:
        report["selected"] = max(older or 0, len(checked.rows) + len(checked.declined))
    totals = Counter(row["verdict"] for row in report["rows"])
    return {"schema": schema, **report, "totals": dict(sorted(totals.items()))}
