"""What the contract by age, its known defects and the recordings say, as plain data for the atlas.

The atlas answers from the rules of the releases (`rocm-attn explain`). This is what it shows next to
an answer: which promise is about the question, what the unmodified release was recorded to answer, and
whether the answer is a known defect.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.citations import linked
from pytest_rocm_attn.conformance.baseline.baseline import shipped
from pytest_rocm_attn.conformance.promise import contract
from pytest_rocm_attn.conformance.promise.grid.design import standard
from pytest_rocm_attn.conformance.promise.grid.outcomes import behaviour, is_answer
from pytest_rocm_attn.conformance.promise.rows import ExpectBackend, ExpectNever, ExpectRefusal, Row
from pytest_rocm_attn.outcome import Rejected, from_wire

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_rocm_attn.conformance.promise.history import KnownDefect


def evidence() -> dict[str, Any]:
    """Return rows, defects and recordings.

    Raises:
        ContractError: the shipped contract cannot be read.
    """
    whole = contract.load("vllm")
    rows = [row for row in whole.rows if _is_asked_of_a_layer(row)]
    return {
        "rows": [_row(row) for row in rows],
        "defects": [_defect(defect, rows) for defect in whole.defects],
        "families": [family.data() for family in standard().families],
        "recordings": {name.removeprefix("vllm-"): _recording(name) for name in shipped()},
    }


def _is_asked_of_a_layer(row: Row) -> bool:
    """Whether the question of a row is about one layer: variables, at most one name, a request."""
    return row.named is None or (row.named.asks == "layer" and not row.named.per_kind)


def _row(row: Row) -> dict[str, Any]:
    name = row.named.backend if row.named is not None else None
    return {
        "id": row.id,
        "level": row.level,
        "env": dict(row.env),
        "named": None if name is None or name.lower() == "auto" else name.upper(),
        "gpus": [gpu.gfx for gpu in row.gpus],
        "aiter": row.gpus[0].aiter.value,
        "request": row.request.non_default(),
        "expect": str(row.expect),
        "meant": _meant(row),
        "source": linked(row.source),
        "note": row.note,
        "since": row.since,
        "until": row.until,
    }


def _meant(row: Row) -> dict[str, Sequence[str]]:
    """Return which backends the row takes, or which it does not take; [] is a refusal."""
    match row.expect:
        case ExpectBackend(backend):
            return {"one": [backend]}
        case ExpectRefusal():
            return {"one": []}
        case ExpectNever(backends):
            return {"never": backends}
    return {"never": []}


def _defect(defect: KnownDefect, rows: Sequence[Row]) -> dict[str, Any]:
    about = [
        (number, targets)
        for number, row in enumerate(rows)
        if (targets := [gpu.gfx for gpu in row.gpus if defect.is_about(row.id, gpu.gfx)])
    ]
    return {
        "what": defect.what,
        "link": linked(defect.link),
        "answers": defect.answers,
        "mentions": defect.mentions,
        "since": defect.since,
        "until": defect.until,
        "about": about,
    }


def _recording(name: str) -> dict[str, Any] | None:
    """Return what a release was recorded to answer; None if that was asked over another grid."""
    path = files("pytest_rocm_attn.conformance.baselines").joinpath(f"{name}.json")
    content = json.loads(path.read_text("utf-8"))
    if content["grid"]["digest"] != standard().digest:
        return None
    outcomes = [from_wire(outcome) for outcome in content["outcomes"]]
    return {
        "outcomes": [
            {
                "words": str(behaviour(outcome)),
                "answer": is_answer(outcome),
                "message": outcome.message if isinstance(outcome, Rejected) else "",
            }
            for outcome in outcomes
        ],
        "families": content["families"],
    }
