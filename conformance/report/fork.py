"""How a fork differs from its upstream release, in a few lines: the headline of a run on a fork."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_rocm_attn.conformance.promise.verdict import Verdict
from pytest_rocm_attn.conformance.report.schema import column

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_rocm_attn.conformance.promise.history import KnownDefect
    from pytest_rocm_attn.conformance.report.schema import Record, Summary

TIER = "documented"  # whose rows are promises of the release
CELLS = "upstream"  # whose rows compare the grid with what the release answered
_DIFFERENT = (
    *(Verdict.CRASH, Verdict.FAIL, Verdict.STALE, Verdict.LOST, Verdict.DEVIATION),
    *(Verdict.DIFFERS, Verdict.CAUGHT_UP),
)


def headline(
    rows: Sequence[Record],
    release: str,
    defects: Iterable[KnownDefect],
    cells: Iterable[tuple[str, str]],
    summaries: Iterable[Summary] = (),
) -> list[str]:
    """Return lines that say how many answers differ from those of an unmodified release.

    The contract knows that release's answers: what it promises, except for its known defects.

    Args:
        rows: of the report.
        release: such as "vLLM 0.33.0".
        defects: its known defects.
        cells: (row id, target) of every item of the contract in this run, judged or not.
        summaries: of tiers, with the causes of cells that differ.
    """
    return [*_cells(rows, release, summaries), *_promises(rows, release, defects, cells)]


def _cells(rows: Sequence[Record], release: str, summaries: Iterable[Summary]) -> list[str]:
    """Return how many cells of the grid differ from what the release answered."""
    counts = [row["details"].get("counts", {}) for row in rows if row["tier"] == CELLS]
    compared, *differ = (
        sum(one.get(name, 0) for one in counts) for name in ("compared", "required", "advisory")
    )
    if not compared:
        return []
    if not sum(differ):
        return [f"Answers like unmodified {release} in all {compared:,} cells that were compared."]
    causes = sum(len(one.get("causes", ())) for one in summaries if one["tier"] == CELLS)
    by = f"{causes} cause{'s' * (causes != 1)}"
    return [
        f"Answers like unmodified {release} except in {sum(differ):,} of {compared:,} cells ({by})."
    ]


def _promises(
    rows: Sequence[Record],
    release: str,
    defects: Iterable[KnownDefect],
    cells: Iterable[tuple[str, str]],
) -> list[str]:
    """Return how many items of the contract differ, by cause, and what is the release's own."""
    judged = [row for row in rows if row["tier"] == TIER and row["verdict"] != Verdict.ERROR]
    if not judged:
        return []
    changed = [row for row in judged if row["verdict"] in _DIFFERENT]
    lines = [f"Answers like unmodified {release} in all {_items(len(judged))}."]
    if changed:
        lines = [
            f"Answers like unmodified {release} except in {len(changed):,} of {_items(len(judged))}."
        ]
    shown = [row["details"]["defect"] for row in judged if "defect" in row["details"]]
    if shown:
        known = "defect" if len(set(shown)) == 1 else "defects"
        lines.append(
            f"Inherits {len(set(shown))} known {known} of {release} ({_items(len(shown))})."
        )
    names = {(row["id"], column(row)) for row in judged}
    asked = set(cells)
    for defect in defects:
        about = {(row_id, gfx) for row_id, gfx in asked if defect.is_about(row_id, gfx)}
        if about and about <= names and defect.story not in shown:
            lines.append(f"Does not show a known defect of {release}: {defect.story}.")
    gone = sum(row["verdict"] == Verdict.LOST for row in judged)
    kept = sum("must_hold" in row["details"] for row in judged)
    if gone:
        lines.append(f"Has lost changes of its own that must hold, in {_items(gone)}.")
    elif kept:
        lines.append(f"Its own changes that must hold do, in {_items(kept)}.")
    return lines


def _items(count: int) -> str:
    return f"{count:,} item{'' if count == 1 else 's'}"
