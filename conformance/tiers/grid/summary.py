"""All slices of a run together: its causes, and every condition, from the records of the slices."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import msgspec

from pytest_rocm_attn.conformance.causes import data, words
from pytest_rocm_attn.conformance.causes.conditions import Change
from pytest_rocm_attn.conformance.promise.grid import diagram
from pytest_rocm_attn.conformance.promise.grid.design import standard
from pytest_rocm_attn.conformance.promise.grid.space import GFX, Axis
from pytest_rocm_attn.conformance.promise.verdict import Verdict
from pytest_rocm_attn.conformance.report.words import environment_words
from pytest_rocm_attn.conformance.tiers.grid.labels import Labelled, explained
from pytest_rocm_attn.conformance.tiers.items import request_words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_rocm_attn.conformance.causes.cause import Cause
    from pytest_rocm_attn.conformance.causes.cells import Origin
    from pytest_rocm_attn.conformance.promise.grid.space import Cell, Family, Slice
    from pytest_rocm_attn.conformance.report.schema import ConditionEntry, Record, Summary

MOST = 10  # causes that are shown
COUNTS = (
    *("cells", "unanswered", "unanswerable", "decided", "compared", "uncompared", "required"),
    *("advisory", "crashed"),
)


def table(labelled: Labelled) -> dict[str, Any]:
    """Return how each cell of a slice differs, as plain data: of() reads it."""
    sizes = [len(axis.values) for axis in labelled.axes]
    changes = list(dict.fromkeys((None, *labelled.changes)))
    new = [changes.index(change) for change in labelled.changes]
    return {
        "changes": [asdict(change) for change in changes if change is not None],
        "cells": diagram.encode([new[code] for code in labelled.codes], sizes),
    }


def _of(of: Slice, written: dict[str, Any]) -> Labelled:
    """Return what table() wrote of a slice."""
    changes = [None, *(msgspec.convert(change, Change) for change in written["changes"])]
    sizes = [len(axis.values) for axis in of.axes]
    codes = diagram.decode(written["cells"], sizes, len(changes))
    return Labelled(of.family.name, of.axes, codes, changes)


class _Together:
    """The slices of a run, joined to families again."""

    def __init__(self, records: Sequence[Record]) -> None:
        self._records: dict[Slice, Record] = {}
        for record in records:
            if record["gpu"] and "table" in record["details"]:
                self._records[standard().slice(f"{record['id']}[{record['gpu']['gfx']}]")] = record
        families: dict[Family, list[Slice]] = {}
        for part in standard().slices:
            if part in self._records:
                families.setdefault(part.family, []).append(part)
        # Rules that are broken in a slice whose differences are not all known defects.
        self._open = {
            finding["rule"]
            for record in records
            for finding in record["details"].get("findings", ())
            if finding["level"] == "required" and not _inherits(record)
        }
        self.families = [family.name for family in families]
        self._slices = list(families.values())
        self.explained = explained([self._joined(parts) for parts in self._slices])

    def _joined(self, parts: Sequence[Slice]) -> Labelled:
        changes: dict[Change | None, int] = {None: 0}
        codes = array("H")
        for part in parts:
            one = _of(part, self._records[part]["details"]["table"])
            new = [changes.setdefault(change, len(changes)) for change in one.changes]
            codes.extend(new[code] for code in one.codes)
        axes = (Axis(GFX, tuple(part.gfx for part in parts)), *parts[0].axes)
        return Labelled(parts[0].family.name, axes, codes, list(changes))

    def known(self, cause: Cause) -> dict[str, str]:
        """Return the level of a cause that is a known defect of the release; {} if it is not one."""
        change, (family, gpu, *_) = cause.change, cause.smallest.place
        if change.level != "required" or change.declared or change.rule in self._open:
            return {}
        inherits = _inherits(self._records[self._slices[family][gpu]])
        return {"level": "inherited"} if inherits else {}

    def smallest(self, of: Origin) -> dict[str, str]:
        """Return a cell in words, and the command that asks it."""
        family, gpu, *place = of.place
        part = self._slices[family][gpu]
        number = part.family.number((0, *place))
        again, option = self._records[part]["again"], f"--rocm-attn-cell={number}"
        again = again if option in again.split() else f"{again} {option}"
        return {"smallest": cell_words(part.cell(number)), "again": again}


def _inherits(record: Record) -> bool:
    return record.get("verdict") == Verdict.INHERITED


def summary(records: Sequence[Record]) -> Summary:
    """Return the result of the slices of a run."""
    run = _Together(records)
    found = run.explained
    counts: Counter[str] = Counter()
    for record in records:
        counts.update({name: record["details"]["counts"].get(name, 0) for name in COUNTS})
    answered = counts["cells"] - counts["unanswered"] - counts["unanswerable"]
    inherited = sum(one["details"]["counts"]["required"] for one in records if _inherits(one))
    known = f" {inherited:,} are known defects of the release," if inherited else ""
    told = [
        (
            f"{answered:,} of {counts['cells']:,} cells answered in {len(records)} slices"
            f" ({counts['decided']:,} decided by a rule, {counts['compared']:,} compared):"
            f" {counts['required'] - inherited:,} differ and fail the run,{known} {counts['advisory']:,} differ"
            f" without failing it ({len(found.causes)} causes)"
        )
    ]
    if counts["unanswered"]:
        told.append(
            f"{counts['unanswered']:,} cells were not reached within the budget and say nothing;"
            " run again to go on from there, or raise --rocm-attn-grid-budget"
        )
    if counts["uncompared"]:
        told.append(
            f"{counts['uncompared']:,} cells have no answer to be compared with: the other selector"
            " did not answer them in time"
        )
    if counts["unanswerable"]:
        told.append(
            f"{counts['unanswerable']:,} cells need more than the mocked platform and say nothing"
        )
    if hidden := found.causes[MOST:]:
        cells = sum(cause.cells for cause in hidden)
        told.append(f"{len(hidden)} further causes, of {cells:,} cells, are in a JSON report only")
    return {
        "tier": "grid",
        "told": told,
        "conditions": [_cause(run, cause) for cause in found.causes[:MOST]],
        "causes": [
            data.cause(one, run.families) | run.known(one) | run.smallest(one.smallest)
            for one in found.causes
        ],
        "exact": [data.condition(one) | run.smallest(one.smallest) for one in found.conditions],
    }


def _cause(run: _Together, cause: Cause) -> ConditionEntry:
    """Return a cause as plain data that every report shows: a condition of a Summary."""
    change, smallest = cause.change, run.smallest(cause.smallest)
    expected, got = words.answers_of(cause)
    return {
        "level": "declared" if change.declared else run.known(cause).get("level", change.level),
        "rule": change.rule,
        "where": words.where_of(cause),
        "expected": expected,
        "got": got,
        "cells": cause.cells,
        "smallest": smallest["smallest"],
        "again": smallest["again"],
    }


def cell_words(cell: Cell) -> str:
    """Return the question of a cell in words."""
    return (
        f"{environment_words(cell.environ)}; {cell.gpu.gfx}, aiter {cell.gpu.aiter};"
        f" {request_words(cell.request)}"
    )
