"""What a judged item tells the reports, as plain data: a row of the JSON report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

import msgspec

if TYPE_CHECKING:
    from pytest_rocm_attn.outcome import Outcome


class Record(TypedDict):
    """One row of the report: docs/reports.md. Every tier fills every field.

    Attributes:
        id: unique within the tier, together with gpu and evidence.
        tier: name of the tier.
        level: "required" or "advisory".
        gpu: ``{"gfx": ..., "aiter": ...}``; None for what has no GPU.
        evidence: what the result rests on: "pure", "mock" or "real" for selection, "oracle",
            "interpreter", "launch", "source-emulated", "emulated", "cuda", "rocm" for kernels; "" where a backend
            could not be asked.
        env: the environment variables that are set; None if it is not about one environment.
        request: fields of the request; None if it is not about one request.
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


class Summary(TypedDict):
    """The results of a tier's items together, if a line for each of them would say less.

    Attributes:
        tier: name of the tier.
        told: sentences.
        conditions: under which the selector falls short, the most important first, as plain data:
            level, rule, where, expected, got, cells, smallest, again. For the grid these are its
            first causes.
        causes: all causes, as causes/data.py describes them.
        exact: every condition, as causes/data.py describes it.
    """

    tier: str
    told: list[str]
    conditions: list[dict[str, Any]]
    causes: NotRequired[list[dict[str, Any]]]
    exact: NotRequired[list[dict[str, Any]]]


def summary_lines(summary: Summary) -> list[str]:
    """Return a summary as lines of text."""
    lines = list(summary["told"])
    for number, one in enumerate(summary["conditions"], start=1):
        lines += [
            (
                f"{number}. {one['level']} {one['rule']}: {one['where']}: expected"
                f" {one['expected']}, got {one['got']}; {one['cells']:,} cells; smallest:"
                f" {one['smallest']}"
            ),
            f"   {one['again']}",
        ]
    return lines


def outcome_fields(outcome: Outcome) -> dict[str, Any]:
    """Return a selector's outcome as plain data: its kind, itself in words, and its fields."""
    return {
        "kind": type(outcome).__name__.lower(),
        "words": str(outcome),
        **msgspec.structs.asdict(outcome),
    }


def column(record: Record) -> str:
    """Return the column of the matrix that a record stands in: its GPU, else its evidence."""
    return record["gpu"]["gfx"] if record["gpu"] else record["evidence"] or "no evidence"


def sort_key(record: Record) -> tuple[str, ...]:
    """Order records the same way in every run, whatever order they ran in."""
    gpu = record["gpu"] or {"gfx": "", "aiter": ""}
    return record["tier"], record["id"], gpu["gfx"], gpu["aiter"], record["evidence"]
