"""What a judged item tells the reports, as plain data: a row of the JSON report."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

import msgspec

if TYPE_CHECKING:
    from pytest_rocm_attn.conformance.promise.verdict import Verdict
    from pytest_rocm_attn.gpu import Gpu
    from pytest_rocm_attn.outcome import Outcome


class Record(TypedDict):
    """One row of the report: docs/reports.md. Every tier fills every field.

    Attributes:
        id: unique within the tier, together with gpu and evidence.
        tier: name of the tier.
        level: "required" or "advisory".
        gpu: ``{"gfx": ..., "aiter": ...}``; None for what has no GPU.
        evidence: what the result rests on: "pure", "mock" or "real" for selection, "oracle",
            "interpreter", "launch", "source-emulated", "emulated", "cuda", "rocm" for kernels; "" if a backend
            could not be asked.
        env: the environment variables that are set; None if it is not about one environment.
        request: fields of the request; None if it is not about one request.
        named: what is named, and what is asked for, as promise/naming.py has it; None if the row
            names nothing, or by a variable.
        expect: ``{"words": ...}``, and as plain data where the tier has more to say.
        outcome: ``{"kind": ..., "words": ...}``, and the outcome's fields.
        verdict: a Verdict's value.
        message: why it fell short; "" when it did not.
        source: the clause, document or measurement that the promise comes from.
        seconds: how long the selector, or the kernel, took.
        environment_written: variables that the selector wrote while answering.
        again: the command that runs this item alone.
        details: what is peculiar to the tier, as plain data.
        fell_short: the results that fell short, as deviations pin them: ``answer`` and ``message``.
            A draft of deviations is made from them.
    """

    id: str
    tier: str
    level: str
    gpu: dict[str, str] | None
    evidence: str
    env: dict[str, str] | None
    request: dict[str, Any] | None
    named: dict[str, Any] | None
    expect: dict[str, Any]
    outcome: dict[str, Any]
    verdict: str
    message: str
    source: str
    seconds: float
    environment_written: list[str]
    again: str
    details: dict[str, Any]
    fell_short: list[dict[str, str]]


def record(on: Gpu | None, verdict: Verdict, **fields: Any) -> Record:
    """Return a row of the report; a field that is not given is empty.

    Args:
        on: the GPU that the item is about, or None.
        verdict: on the item.
        fields: of Record; `id`, `tier`, `level`, `source` and `again` at least.
    """
    row: Any = {
        "gpu": {"gfx": on.gfx, "aiter": on.aiter.value} if on else None,
        "evidence": "",
        "env": None,
        "request": None,
        "named": None,
        "expect": {"words": ""},
        "outcome": {},
        "verdict": verdict.value,
        "message": "",
        "seconds": 0.0,
        "environment_written": [],
        "details": {},
        "fell_short": [],
    }
    found: Record = row | fields
    return found


class Declined(TypedDict):
    """An item without a verdict: it was skipped, or the backend under test does not claim the case.

    Attributes:
        id: as in Record.
        tier: name of the tier.
        gfx: name of the GPU, "" for none.
        backend: that declined; "" for an item that was skipped for another reason.
        evidence: the kind that the result would have been.
        reason: in words.
    """

    id: str
    tier: str
    gfx: str
    backend: str
    evidence: str
    reason: str


class ConditionEntry(TypedDict):
    """Cells of a tier that fall short alike.

    Attributes:
        level: "required", "inherited", "advisory" or "declared".
        where: what the cells have in common, in words.
        expected: what was expected, in words.
        got: what came, in words.
        cells: how many.
        rule: by which rule, or compared with what.
        smallest: the smallest cell, in words.
        again: the command that asks it.
    """

    level: str
    where: str
    expected: str
    got: str
    cells: int
    rule: str
    smallest: str
    again: str


class CauseEntry(TypedDict):
    """One change of behaviour with one explanation, which items or cells share.

    Attributes:
        tier: name of the tier.
        verdict: the worst of its items.
        level: "required", "inherited", "advisory" or "declared".
        what: what falls short and where, in one sentence.
        also: where else, in words.
        promise: what was promised, in words.
        source: where the promise comes from.
        smallest: the plainest example, in words; "" if the sentence says it.
        again: the command that shows the example.
        count: how many items, or cells of the grid.
        totals: how many items have which verdict; empty for cells.
        unit: "item" or "cell".
        gpus: those on which it is met.
        items: names of the items, ``tier::id[column]``; none for cells.
    """

    tier: str
    verdict: str
    level: str
    what: str
    also: list[str]
    promise: str
    source: str
    smallest: str
    again: str
    count: int
    totals: dict[str, int]
    unit: str
    gpus: list[str]
    items: list[str]


class Summary(TypedDict):
    """The results of a tier's items together, if a line for each of them would say less.

    Attributes:
        tier: name of the tier.
        told: sentences.
        conditions: under which the selector falls short, the most important first; for the grid
            its first causes.
        causes: all causes, as causes/data.py describes them.
        exact: every condition, as causes/data.py describes it.
    """

    tier: str
    told: list[str]
    conditions: list[ConditionEntry]
    causes: NotRequired[list[dict[str, Any]]]
    exact: NotRequired[list[dict[str, Any]]]


class Report(TypedDict):
    """A whole report: docs/reports.md.

    Attributes:
        schema: the version of this form.
        tool: the name and the version of this package.
        contract: the contract's id, title and source.
        selector: the selector under test, with its distribution and version.
        host: the machine: devices, real GPUs, libraries.
        selected: how many items were selected: rows, declined and not run.
        totals: how many rows have each verdict.
        rows: the items that have a verdict.
        declined: the items that deliberately have none.
        not_run: the node ids of the items that the run did not reach.
        notes: what the reader must know about the whole run.
        summaries: the results of tiers that report as a whole.
        causes: the shortfalls by cause, the most important first.
    """

    schema: int
    tool: dict[str, Any]
    contract: dict[str, Any]
    selector: dict[str, Any]
    host: dict[str, Any]
    selected: int
    totals: dict[str, int]
    rows: list[Record]
    declined: list[Declined]
    not_run: list[str]
    notes: list[str]
    summaries: list[Summary]
    causes: list[CauseEntry]


# What a file may lack, of another version or written by hand. Names and verdicts have no default.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "rows": {
        **dict.fromkeys(("level", "evidence", "message", "source", "again"), ""),
        "gpu": None,
        "env": None,
        "request": None,
        "named": None,
        "expect": {},
        "outcome": {},
        "seconds": 0.0,
        "environment_written": [],
        "details": {},
        "fell_short": [],
    },
    "declined": dict.fromkeys(("backend", "evidence", "gfx", "reason"), ""),
    "causes": {
        **dict.fromkeys(("promise", "source", "smallest", "again"), ""),
        "unit": "item",
        "totals": {},
        "also": [],
        "gpus": [],
        "items": [],
    },
    "conditions": dict.fromkeys(("rule", "smallest", "again"), ""),
    "summaries": {"told": [], "conditions": []},
    "report": {
        **{name: {} for name in ("tool", "contract", "selector", "host", "totals")},
        **{name: [] for name in ("declined", "not_run", "notes", "summaries", "causes")},
    },
}


def completed(data: Any, kind: str = "report") -> Any:
    """Return plain data of a report with what it may lack filled in; it is not checked."""
    if isinstance(data, list):
        return [completed(one, kind) for one in data]
    if not isinstance(data, dict):
        return data
    inner = {name: completed(value, name) for name, value in data.items() if name in _DEFAULTS}
    return copy.deepcopy(_DEFAULTS[kind]) | data | inner


def outcome_fields(outcome: Outcome) -> dict[str, Any]:
    """Return a selector's outcome as plain data: its kind, itself in words, and its fields."""
    return {
        "kind": type(outcome).__name__.lower(),
        "words": str(outcome),
        **msgspec.structs.asdict(outcome),
    }


def name_of(record: Record) -> str:
    """Return what an item is called in a report: ``tier::id[column]``."""
    where = f"[{column(record)}]" if record["gpu"] or record["evidence"] else ""
    return f"{record['tier']}::{record['id']}{where}"


def column(record: Record) -> str:
    """Return the column of the matrix that a record stands in: its GPU, else its evidence."""
    return record["gpu"]["gfx"] if record["gpu"] else record["evidence"] or "no evidence"


def sort_key(record: Record) -> tuple[str, ...]:
    """Order records the same way in every run, whatever order they ran in."""
    gpu = record["gpu"] or {"gfx": "", "aiter": ""}
    return record["tier"], record["id"], gpu["gfx"], gpu["aiter"], record["evidence"]
