"""The causes of a run: what a reader is shown before any single item.

Items that are questions to a selector are explained as `causes` explains cells, with those that pass
as what a cause must not be true of. The grid's slices explain themselves. Other items share a cause
if the same thing is wrong. A pure function of the report's plain data.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.causes import words as cause_words
from pytest_rocm_attn.conformance.causes.causes import (
    A_BACKEND,
    A_REFUSAL,
    ANOTHER_ONE,
    VARIOUS,
    explain,
)
from pytest_rocm_attn.conformance.causes.cells import Cells, ones
from pytest_rocm_attn.conformance.causes.conditions import THE_NAMED_ONE, Change
from pytest_rocm_attn.conformance.promise.grid.outcomes import Behaviour, normalised_text
from pytest_rocm_attn.conformance.promise.grid.space import AITER, GFX
from pytest_rocm_attn.conformance.promise.verdict import Verdict
from pytest_rocm_attn.conformance.report import words
from pytest_rocm_attn.conformance.report.schema import name_of, sort_key
from pytest_rocm_attn.flags import EXPLICIT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from pytest_rocm_attn.conformance.causes.causes import Cause as Explanation
    from pytest_rocm_attn.conformance.report.schema import Cause, Record

_KINDS = {  # of outcomes in a report -> of behaviours
    "rejected": "Rejected",
    "timedout": "TimedOut",
    "died": "Died",
    "unrecognised": "Unrecognised",
}
_LONGEST = 400  # characters of what a message says


def of(report: Mapping[str, Any]) -> list[Cause]:
    """Return the causes of a report, made if it has none, as one of an older version."""
    given: list[Cause] = report.get("causes") or []
    return given or causes_of(report["rows"], report.get("summaries") or ())


def causes_of(rows: Iterable[Record], summaries: Iterable[Mapping[str, Any]]) -> list[Cause]:
    """Return the causes of all items that do not pass: failing ones first, then by who meets them.

    Each such item is in exactly one cause; slices of the grid are in those of their cells.

    Args:
        rows: the report's rows.
        summaries: of tiers whose items are explained together.
    """
    told = {summary["tier"]: summary for summary in summaries if summary["conditions"]}
    found: list[tuple[tuple[Any, ...], Cause]] = []
    tiers: dict[str, list[Record]] = defaultdict(list)
    for row in sorted(rows, key=sort_key):
        tiers[row["tier"]].append(row)
    for tier, members in tiers.items():
        if tier in told:
            found += _of_summary(told[tier])
            members = [row for row in members if row["verdict"] == Verdict.ERROR]
        asked = [row for row in members if _change(row) is not None]
        found += _of_questions(asked)
        found += _of_others([row for row in members if row not in asked])
    return [cause for _, cause in sorted(found, key=lambda pair: pair[0])]


def _order(cause: Cause, met: int) -> tuple[Any, ...]:
    fails = Verdict(cause["verdict"]).fails
    required = cause["level"] == "required"
    return not fails, not required, met, -cause["count"], cause["tier"], cause["what"]


# --- questions to a selector ----------------------------------------------------------------------


def _change(row: Record) -> Change | None:
    """Return what was expected of a question and what came; None for what is not such a question."""
    expect, outcome, gpu = row["expect"], row["outcome"], row["gpu"]
    if gpu is None or row["env"] is None or row["request"] is None:
        return None
    if row["verdict"] in (Verdict.STALE, Verdict.ERROR) or row["details"].get("defect"):
        return None  # it is not about an answer, or it is explained already
    named = row["env"].get(EXPLICIT)
    if "backend" in expect:
        expected = _selected(expect["backend"], named)
    elif "rejects" in expect:
        expected = A_REFUSAL
    else:
        return None
    if outcome.get("kind") == "selected":
        got = _selected(outcome.get("backend", ""), named)
    elif outcome.get("kind") == "crashed":
        got = Behaviour("Crashed", outcome.get("error", ""))
    elif outcome.get("kind") in _KINDS:
        got = Behaviour(_KINDS[outcome["kind"]])
    else:
        return None
    return Change(
        expected,
        got,
        row["level"],
        rule=row["verdict"],
        wanted="a refusal that says why" if expected == got == A_REFUSAL else "",
        declared=row["verdict"] == Verdict.DEVIATION,
    )


def _selected(backend: str, named: str | None) -> Behaviour:
    return THE_NAMED_ONE if backend == named else Behaviour("Selected", backend)


def _of_questions(rows: Sequence[Record]) -> Iterator[tuple[tuple[Any, ...], Cause]]:
    """Yield a cause for each change, with a sentence for the plainest condition and a list of others."""
    labels: dict[Change, int] = defaultdict(int)
    for number, row in enumerate(rows):
        change = _change(row)
        if row["verdict"] != Verdict.PASS and change is not None:
            labels[change] |= 1 << number
    if not labels:
        return
    facts = [_facts(row) for row in rows]
    several = len({one[GFX] for one in facts}) > 1
    alike: dict[Change, list[Explanation]] = defaultdict(list)
    for one in sorted(explain(Cells.of_rows(facts), labels).causes, key=_mildness):
        if one.change.expected != VARIOUS:
            # Rows are examples: a question that no row asks is not an exception.
            everywhere = one.everywhere and several
            plain = replace(one, exceptions=(), precision=1.0, everywhere=everywhere)
            alike[_behaviour_of(one.change)].append(plain)
    open_ones = {number for number, row in enumerate(rows) if row["verdict"] != Verdict.PASS}
    for first, *others in alike.values():
        inside = {
            number
            for one in (first, *others)
            for number in ones(one.inside)
            if number in open_ones and _came_so(rows[number], one.change)
        }
        open_ones -= inside
        if inside:
            plainest = first.smallest.place[0]
            cause = _cause(
                [rows[number] for number in sorted(inside)],
                cause_words.sentence(first),
                rows[plainest if plainest in inside else min(inside)],
                also=[cause_words.where_of(one) for one in others],
            )
            yield _order(cause, first.met), cause
    left: dict[Change, list[Record]] = defaultdict(list)
    for number in sorted(open_ones):
        change = _change(rows[number])
        assert change is not None
        left[_behaviour_of(change)].append(rows[number])
    for change, members in left.items():
        what = f"{cause_words.expected_words(change)} -> {change.got}."
        cause = _cause(members, what, members[0])
        yield _order(cause, 3), cause


def _came_so(row: Record, change: Change) -> bool:
    """Say whether a row's answer is that of a cause: no attribute tells two rows of one question apart."""
    own = _change(row)
    if own is None or own.got.kind != change.got.kind:
        return False
    return change.got in (A_BACKEND, ANOTHER_ONE, THE_NAMED_ONE) or own.got in (
        change.got,
        THE_NAMED_ONE,
    )


def _mildness(one: Explanation) -> bool:
    return not (one.change.rule and Verdict(one.change.rule).fails)


def _behaviour_of(change: Change) -> Change:
    """Return a change without what it means for the run: one change of behaviour is one cause.

    What should be refused is selected: by which backend, its items say.
    """
    got = change.got
    if change.expected == A_REFUSAL and got.kind == "Selected" and got != THE_NAMED_ONE:
        got = A_BACKEND
    return replace(change, got=got, level="", rule="")


def _facts(row: Record) -> dict[str, Any]:
    assert row["gpu"] is not None
    gpu = {GFX: row["gpu"]["gfx"], AITER: row["gpu"]["aiter"]}
    return gpu | (row["env"] or {}) | (row["request"] or {})


# --- everything else ------------------------------------------------------------------------------


def _of_summary(summary: Mapping[str, Any]) -> Iterator[tuple[tuple[Any, ...], Cause]]:
    """Yield what a tier says about its cells: all its causes; of an older report its conditions."""
    for number, one in enumerate(summary.get("causes") or summary["conditions"]):
        level = "declared" if one.get("declared") else one["level"]
        verdict = {"required": Verdict.FAIL, "declared": Verdict.DEVIATION}.get(level)
        said = one.get("sentence") or f"{one['where']}: {one['expected']} -> {one['got']}."
        cause: Cause = {
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


def _of_others(rows: Iterable[Record]) -> Iterator[tuple[tuple[Any, ...], Cause]]:
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
    """Return what is equal if the same thing is wrong with items."""
    backend = (row["details"].get("backend") or {}).get("name", "")
    kind = row["outcome"].get("kind", "")
    defect = row["details"].get("defect", "")
    about = (backend, kind) if backend else (defect or _said(row) or row["id"],)
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
) -> Cause:
    worst = Verdict.worst([row["verdict"] for row in members])
    declared = worst is Verdict.DEVIATION
    gpus = dict.fromkeys(row["gpu"]["gfx"] for row in members if row["gpu"])
    parts = (words.flags_words(smallest), words.gpu_words(smallest), words.request_words(smallest))
    what = words.one_line(what)
    return {
        "tier": smallest["tier"],
        "verdict": worst.value,
        "level": "declared" if declared else smallest["level"],
        "what": what if len(what) <= _LONGEST else what[: _LONGEST - 3] + "...",
        "also": list(also),
        "promise": f"{smallest['id']}: expected {words.expected_words(smallest)}",
        "source": smallest["source"],
        "smallest": "; ".join(part for part in parts if part),
        "again": smallest["again"],
        "count": len(members),
        "totals": dict(Counter(row["verdict"] for row in members)),
        "unit": "item",
        "gpus": list(gpus),
        "items": [name_of(row) for row in members],
    }
