"""The causes of a run: what a reader is shown before any single item.

Items that are questions to a selector are explained as `causes` explains cells, with those that pass
as what a cause must not be true of (`answers.py`). The grid's slices explain themselves. Other items
share a cause if the same thing is wrong. A pure function of the report's plain data.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.promise.grid.outcomes import normalised_text
from pytest_rocm_attn.conformance.promise.verdict import Verdict
from pytest_rocm_attn.conformance.report import answers, words
from pytest_rocm_attn.conformance.report.schema import name_of, sort_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from pytest_rocm_attn.conformance.report.schema import CauseEntry, Record

_LONGEST = 400  # characters of what a message says


def of(report: Mapping[str, Any]) -> list[CauseEntry]:
    """Return the causes of a report, made if it has none, as one of an older version."""
    given: list[CauseEntry] = report.get("causes") or []
    return given or causes_of(report["rows"], report.get("summaries") or ())


def causes_of(rows: Iterable[Record], summaries: Iterable[Mapping[str, Any]]) -> list[CauseEntry]:
    """Return the causes of all items that do not pass: failing ones first, then by who meets them.

    Each such item is in exactly one cause; slices of the grid are in those of their cells.

    Args:
        rows: the report's rows.
        summaries: of tiers whose items are explained together.
    """
    told = {summary["tier"]: summary for summary in summaries if summary["conditions"]}
    found: list[tuple[tuple[Any, ...], CauseEntry]] = []
    tiers: dict[str, list[Record]] = defaultdict(list)
    for row in sorted(rows, key=sort_key):
        tiers[row["tier"]].append(row)
    for tier, members in tiers.items():
        if tier in told:
            found += _of_summary(told[tier])
            members = [row for row in members if row["verdict"] == Verdict.ERROR]
        asked = [row for row in members if answers.change_of(row) is not None]
        for one in answers.explained(asked):
            cause = _cause(one.rows, one.what, one.plainest, one.also)
            found.append((_order(cause, one.met), cause))
        found += _of_others([row for row in members if row not in asked])
    return [cause for _, cause in sorted(found, key=lambda pair: pair[0])]


def _order(cause: CauseEntry, met: int) -> tuple[Any, ...]:
    fails = Verdict(cause["verdict"]).fails
    required = cause["level"] == "required"
    return not fails, not required, met, -cause["count"], cause["tier"], cause["what"]


# --- everything else ------------------------------------------------------------------------------


def _of_summary(summary: Mapping[str, Any]) -> Iterator[tuple[tuple[Any, ...], CauseEntry]]:
    """Yield what a tier says about its cells: all its causes; of an older report its conditions."""
    for number, one in enumerate(summary.get("causes") or summary["conditions"]):
        level = "declared" if one.get("declared") else one["level"]
        verdict = {
            "required": Verdict.FAIL,
            "inherited": Verdict.INHERITED,
            "declared": Verdict.DEVIATION,
            "observed": Verdict.DIFFERS,
        }.get(level)
        said = one.get("sentence") or f"{one['where']}: {one['expected']} -> {one['got']}."
        cause: CauseEntry = {
            "tier": summary["tier"],
            "verdict": (verdict or Verdict.ADVISORY).value,
            "level": level,
            "what": said,
            "also": [],
            "promise": one["rule"],
            "source": "",
            "smallest": one["smallest"],
            "again": one["again"],
            "count": one["cells"],
            "totals": {},
            "unit": "cell",
            "gpus": list(one.get("gpus") or ()),
            "items": [],
        }
        yield _order(cause, number), cause


def _of_others(rows: Iterable[Record]) -> Iterator[tuple[tuple[Any, ...], CauseEntry]]:
    together: dict[tuple[Any, ...], list[Record]] = defaultdict(list)
    for row in rows:
        if row["verdict"] != Verdict.PASS:
            together[_wrong(row)].append(row)
    for members in together.values():
        first = members[0]
        said = _said(first) or first["message"] or words.got_words(first)
        defect = first["details"].get("defect", "")
        cause = _cause(members, defect or f"{_subject(members)}: {said}", first)
        yield _order(cause, 2), cause


def _wrong(row: Record) -> tuple[Any, ...]:
    """Return a key that items share if the same thing is wrong with them."""
    backend = (row["details"].get("backend") or {}).get("name", "")
    outcome = row["outcome"]
    # A hang, the end of a process and each class of exception are things of their own.
    ends = tuple(one["answer"] for one in row["fell_short"])
    defect = row["details"].get("defect", "")
    about: tuple[Any, ...] = (defect or _said(row) or row["id"],)
    if backend:
        about = backend, outcome.get("kind", ""), outcome.get("error", ""), ends
    return row["level"], row["verdict"], *about


def _said(row: Record) -> str:
    """Return what the first result that falls short says, without what differs between runs."""
    return next(
        (normalised_text(one["message"]) for one in row["fell_short"] if one["message"]), ""
    )


def _subject(members: Sequence[Record]) -> str:
    ids = list(dict.fromkeys(row["id"] for row in members))
    backend = (members[0]["details"].get("backend") or {}).get("name", "")
    if len(ids) > 1 and backend:
        return f"{backend}, {len(ids)} cases"
    return ids[0] if len(ids) == 1 else f"{len(ids)} items, such as {ids[0]}"


def _cause(
    members: Sequence[Record], what: str, smallest: Record, also: Iterable[str] = ()
) -> CauseEntry:
    worst = Verdict.worst([row["verdict"] for row in members])
    declared = worst is Verdict.DEVIATION
    gpus = dict.fromkeys(row["gpu"]["gfx"] for row in members if row["gpu"])
    asked = (words.flags_words, words.named_words, words.gpu_words, words.request_words)
    what = words.one_line(what)
    # The result of a failed import says what to install.
    remedy = (
        f", got {words.got_words(smallest)}" if smallest["outcome"].get("failed_import") else ""
    )
    return {
        "tier": smallest["tier"],
        "verdict": worst.value,
        "level": "declared" if declared else smallest["level"],
        "what": what if len(what) <= _LONGEST else what[: _LONGEST - 3] + "...",
        "also": list(also),
        "promise": f"{smallest['id']}: expected {words.expected_words(smallest)}{remedy}",
        "source": smallest["source"],
        "smallest": "; ".join(filter(None, (say(smallest) for say in asked))),
        "again": smallest["again"],
        "count": len(members),
        "totals": dict(Counter(row["verdict"] for row in members)),
        "unit": "item",
        "gpus": list(gpus),
        "items": [name_of(row) for row in members],
    }
