"""How a fork differs from its upstream release, in a few lines: the headline of a run on a fork."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_rocm_attn.conformance.promise.verdict import Verdict
from pytest_rocm_attn.conformance.report import words
from pytest_rocm_attn.conformance.report.schema import column

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_rocm_attn.conformance.promise.history import Defect
    from pytest_rocm_attn.conformance.report.schema import Record

TIER = "documented"  # whose rows are promises of the release
_DIFFERENT = (
    *(Verdict.CRASH, Verdict.FAIL, Verdict.STALE, Verdict.LOST, Verdict.DEVIATION),
    *(Verdict.DIFFERS, Verdict.CAUGHT_UP),
)
_MOST_CAUSES = 6


def headline(
    rows: Sequence[Record],
    release: str,
    defects: Iterable[Defect],
    cells: Iterable[tuple[str, str]],
) -> list[str]:
    """Return lines that say how answers differ from those of an unmodified release.

    The contract knows that release's answers: what it promises, except for its known defects.

    Args:
        rows: of the report.
        release: such as "vLLM 0.33.0".
        defects: its known defects.
        cells: (row id, target) of every item of the contract in this run, judged or not.
    """
    judged = [row for row in rows if row["tier"] == TIER and row["verdict"] != Verdict.ERROR]
    if not judged:
        return []
    changed = [row for row in judged if row["verdict"] in _DIFFERENT]
    but = (
        f"all but {len(changed):,} of {_items(len(judged))}"
        if changed
        else f"all {_items(len(judged))}"
    )
    lines = [f"Answers like unmodified {release} in {but}" + (":" if changed else ".")]
    causes: dict[tuple[str, str], list[Record]] = {}
    for row in changed:
        got = words.got_words(row) if row["outcome"].get("kind") == "selected" else _kind(row)
        lost = row["verdict"] == Verdict.LOST
        expected = row["details"]["must_hold"] if lost else words.expected_words(row)
        causes.setdefault((expected, got), []).append(row)
    ordered = sorted(causes.items(), key=lambda cause: -len(cause[1]))
    for (expected, got), alike in ordered[:_MOST_CAUSES]:
        columns = ", ".join(words.columns_of(alike))
        verdicts = ", ".join(dict.fromkeys(row["verdict"] for row in alike))
        name = f"{alike[0]['id']}[{column(alike[0])}]"
        lines.append(
            f"  {len(alike):,} {verdicts}: {got} in place of {expected}, on {columns}; such as {name}"
        )
    if len(ordered) > _MOST_CAUSES:
        lines.append(f"  and {len(ordered) - _MOST_CAUSES} more causes")
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


def _kind(row: Record) -> str:
    kind = str(row["outcome"].get("kind"))
    return {"rejected": "a refusal", "crashed": "a crash"}.get(kind, kind)


def _items(count: int) -> str:
    return f"{count:,} item{'' if count == 1 else 's'}"
