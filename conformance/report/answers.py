"""The causes of questions to a selector: what their rows expect, and what came.

Rows with one change of behaviour share a cause, and so do changes with one explanation: one backend
is taken in place of several, several are taken in place of one, or all that differs needs the same.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.causes import words as cause_words
from pytest_rocm_attn.conformance.causes.cause import A_BACKEND, A_REFUSAL, ANOTHER_ONE, VARIOUS
from pytest_rocm_attn.conformance.causes.causes import explain
from pytest_rocm_attn.conformance.causes.cells import (
    ASKS,
    KIND,
    Cells,
    is_field,
    is_variable,
    ones,
)
from pytest_rocm_attn.conformance.causes.conditions import THE_NAMED_ONE, Change
from pytest_rocm_attn.conformance.causes.described import Describer
from pytest_rocm_attn.conformance.promise.grid.outcomes import ANSWERS, Behaviour
from pytest_rocm_attn.conformance.promise.grid.space import AITER, GFX
from pytest_rocm_attn.conformance.promise.verdict import Verdict
from pytest_rocm_attn.conformance.report import words
from pytest_rocm_attn.flags import EXPLICIT, USE_AITER

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from pytest_rocm_attn.conformance.causes.cause import Cause as Explanation
    from pytest_rocm_attn.conformance.causes.cells import Bits
    from pytest_rocm_attn.conformance.causes.conditions import Given
    from pytest_rocm_attn.conformance.report.schema import Record

_KINDS = {  # of outcomes in a report -> of behaviours
    "rejected": "Rejected",
    "timedout": "TimedOut",
    "died": "Died",
    "unrecognised": "Unrecognised",
}
# Of the rows that a description is about, the share that changes with one explanation need: less
# than cells do, as rows are examples, chosen for what is special.
_FITS = 2 / 3
_LONGEST = 55  # characters of the answers that were expected, or came, in one sentence


@dataclass(frozen=True)
class ExplainedRows:
    """Questions that fall short for one cause.

    Attributes:
        what: what changes and where, in a sentence.
        also: where else, in words, or what the sentence is made of.
        rows: the questions.
        plainest: the one nearest to the defaults.
        met: who meets it first, from cells.met().
    """

    what: str
    also: tuple[str, ...]
    rows: tuple[Record, ...]
    plainest: Record
    met: int


def change_of(row: Record) -> Change | None:
    """Return the answer that a row expects and the one that came; None if it asks no selector."""
    outcome, gpu = row["outcome"], row["gpu"]
    if gpu is None or row["env"] is None or row["request"] is None:
        return None
    if row["verdict"] in (Verdict.STALE, Verdict.ERROR) or row["details"].get("defect"):
        return None  # it is not about an answer, or it is explained already
    named, expected = _named(row), _expected(row)
    if expected is None:
        return None
    if outcome.get("kind") == "selected":
        got = _selected(outcome.get("backend", ""), named)
    elif outcome.get("kind") == "crashed":
        module = outcome.get("failed_import")
        on = f" on importing {module}" if module else ""
        got = Behaviour("Crashed", outcome.get("error", "") + on)
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


def _expected(row: Record) -> Behaviour | None:
    """Return what a question's row expects; None if that is nothing about its answer."""
    expect = row["expect"]
    if "backend" in expect:
        return _selected(expect["backend"], _named(row))
    if "rejects" in expect:
        return A_REFUSAL
    if "never" in expect:
        return ANOTHER_ONE
    return A_BACKEND if "served" in expect else None


def _named(row: Record) -> str | None:
    """Return the backend that a row names for its layer, by whatever means."""
    named = row.get("named") or {}
    if named.get("asks", "layer") != "layer" or named.get("per_kind"):
        return None
    name = named.get("backend") or (row["env"] or {}).get(EXPLICIT)
    return None if name is None or name.lower() == "auto" else str(name).upper()


def _selected(backend: str, named: str | None) -> Behaviour:
    return THE_NAMED_ONE if backend == named else Behaviour("Selected", backend)


@dataclass(eq=False)
class _Group:
    """Rows with one change: its descriptions, the first of which is the plainest."""

    change: Change
    descriptions: list[Explanation]
    inside: Bits


def explained(rows: Sequence[Record]) -> Iterator[ExplainedRows]:
    """Yield the causes of questions that do not pass; those that pass tell the causes apart.

    Args:
        rows: for which change_of() returns a change.
    """
    labels: dict[Change, int] = defaultdict(int)
    changes = [change_of(row) for row in rows]
    refused = 0
    for number, (row, change) in enumerate(zip(rows, changes, strict=True)):
        assert change is not None
        if row["verdict"] != Verdict.PASS:
            labels[change] |= 1 << number
        elif change.expected == A_REFUSAL:
            refused |= 1 << number
    if not labels:
        return
    facts = [_facts(row) for row in rows]
    cells = Cells.of_rows(facts)
    several = len({one[GFX] for one in facts}) > 1
    alike: dict[Change, list[Explanation]] = defaultdict(list)
    causes = explain(cells, labels, refused).causes
    parts = [part for cause in causes for part in cause.parts or (cause,)]
    for one in sorted(parts, key=_mildness):
        if one.change.expected != VARIOUS:
            # Rows are examples: a question that no row asks is not an exception.
            everywhere = one.everywhere and several
            clauses = _true_of(one.gpus, one.where)
            plain = replace(one, where=clauses, exceptions=(), precision=1.0, everywhere=everywhere)
            alike[_behaviour_of(one.change)].append(plain)
    open_ones = {number for number, row in enumerate(rows) if row["verdict"] != Verdict.PASS}
    groups = []
    for change, descriptions in alike.items():
        numbers = {
            number
            for one in descriptions
            for number in ones(one.inside)
            if number in open_ones and _came_so(rows[number], one.change)
        }
        open_ones -= numbers
        if numbers:
            groups.append(_Group(change, descriptions, sum(1 << number for number in numbers)))
    for group in _Merging(rows, cells, groups, several=several).merged():
        first, *others = group.descriptions
        inside = list(ones(group.inside))
        plainest = first.smallest.place[0]
        yield ExplainedRows(
            cause_words.sentence(first),
            tuple(map(cause_words.where_of, others))
            if len({one.change for one in group.descriptions}) == 1
            else tuple(map(cause_words.sentence, others)),
            tuple(rows[number] for number in inside),
            rows[plainest if plainest in inside else inside[0]],
            first.met,
        )
    left: dict[Change, list[Record]] = defaultdict(list)
    for number in sorted(open_ones):
        change = changes[number]
        assert change is not None
        left[_behaviour_of(change)].append(rows[number])
    for members in left.values():
        # No attribute tells these from rows of another cause: the first one stands for all.
        record = members[0]
        asked = (words.flags_words, words.named_words, words.request_words)
        where = ", ".join(filter(None, (say(record) for say in asked)))
        expected, came = _answers(record)
        what = f"{where[:1].upper()}{where[1:]}: {expected} -> {came}."
        yield ExplainedRows(what, (), tuple(members), record, 3)


def _came_so(row: Record, change: Change) -> bool:
    """Say whether a row's answer is that of a cause: no attribute tells two rows of one question apart."""
    own = change_of(row)
    if own is None or (own.got.kind, own.declared) != (change.got.kind, change.declared):
        return False
    if (own.level == "advice") != (change.level == "advice"):
        return False
    return change.got in (A_BACKEND, ANOTHER_ONE, THE_NAMED_ONE) or own.got in (
        change.got,
        THE_NAMED_ONE,
    )


def _mildness(one: Explanation) -> bool:
    return not (one.change.rule and Verdict(one.change.rule).fails)


def _behaviour_of(change: Change) -> Change:
    """Return a change without what it means for the run: one change of behaviour is one cause.

    What should be refused is selected: by which backend, its items say. Advice is about the release
    itself, so that what a fork changes is not the same.
    """
    got = change.got
    if change.expected == A_REFUSAL and got.kind == "Selected" and got != THE_NAMED_ONE:
        got = A_BACKEND
    return replace(change, got=got, level="advice" if change.level == "advice" else "", rule="")


def _true_of(gpus: Collection[str], where: Sequence[Given]) -> tuple[Given, ...]:
    """Return the clauses without one that leaves out a GPU on which there is such a row.

    Most rows may be on fewer GPUs, but a sentence must not say that the others are not concerned.
    """
    return tuple(one for one in where if one.name != GFX or set(gpus) <= set(one.values))


def _facts(row: Record) -> dict[str, Any]:
    assert row["gpu"] is not None
    facts: dict[str, Any] = {GFX: row["gpu"]["gfx"], AITER: row["gpu"]["aiter"]}
    facts |= (row["env"] or {}) | (row["request"] or {}) | {EXPLICIT: _named(row)}
    asks = (row.get("named") or {}).get("asks", "layer")
    return facts if asks == "layer" else facts | {ASKS: asks}


# --- changes with one explanation -----------------------------------------------------------------


class _Merging:
    """Puts groups together whose changes have one explanation."""

    def __init__(
        self, rows: Sequence[Record], cells: Cells, groups: Sequence[_Group], *, several: bool
    ) -> None:
        self._rows = rows
        self._cells = cells
        self._groups = list(groups)
        self._several = several
        self._describer = Describer(cells)
        self._answers = [_answers(row) for row in rows]  # what was expected, what came

    def merged(self) -> list[_Group]:
        """Return the groups, as few as there are explanations."""
        done: list[_Group] = []
        while True:
            ways: dict[tuple[Any, ...], list[_Group]] = defaultdict(list)
            for group in self._groups:
                for way in self._ways(group):
                    ways[way].append(group)
            several = {way: of for way, of in ways.items() if len(of) > 1}
            for way, of in sorted(several.items(), key=lambda pair: -self._rows_of(pair[1])):
                if (whole := self._together(way, of)) is not None:
                    self._groups = [one for one in self._groups if one not in of]
                    done.append(whole)
                    break
            else:
                return [*done, *self._groups]

    def _rows_of(self, groups: Sequence[_Group]) -> int:
        return sum(group.inside.bit_count() for group in groups)

    def _ways(self, group: _Group) -> Iterator[tuple[Any, ...]]:
        """Yield what may explain a group together with others."""
        change = group.change
        if change.got.kind not in ANSWERS or change.wanted or change.level == "advice":
            return
        own = [self._answers[number] for number in ones(group.inside)]
        expected, got = ({pair[side] for pair in own} for side in (0, 1))
        if len(got) == 1 and change.got.kind == "Selected":
            yield "got", *got, change.declared
        if len(expected) == 1 and change.expected.kind == "Selected":
            yield "expected", *expected, change.declared
        shared = [{one.name for one in each.where} for each in group.descriptions]
        for name in set.intersection(*shared):
            if name not in (*KIND, EXPLICIT, USE_AITER) and (is_field(name) or is_variable(name)):
                yield "needs", name, change.declared

    def _together(self, way: tuple[Any, ...], groups: Sequence[_Group]) -> _Group | None:
        """Return groups as one, if one description fits them."""
        kind, what, _ = way
        inside: Bits = 0
        for group in groups:
            inside |= group.inside
        among = self._cells.every
        if kind != "needs":
            # A backend can be taken in place of others only if others were expected; and if no
            # refusal is among what it replaces, refusals are another matter.
            refusals = any(self._answers[number][0] == str(A_REFUSAL) for number in ones(inside))
            among = 0
            for number, (expected, _) in enumerate(self._answers):
                concerned = expected == what if kind == "expected" else expected != what
                if concerned and (refusals or expected != str(A_REFUSAL)):
                    among |= 1 << number
        described = self._describer.of(inside, among | inside)
        if kind != "needs" and described.precision < _FITS:
            return None
        largest = max(groups, key=lambda group: group.inside.bit_count())
        first = largest.descriptions[0]
        gpus = self._cells.values(GFX, inside)
        everywhere = self._several and set(gpus) == set(self._cells.values(GFX, self._cells.every))
        change = replace(
            first.change, expected=self._all_of(0, inside), got=self._all_of(1, inside)
        )
        whole = replace(
            first,
            change=change,
            theme="",
            where=_true_of(gpus, described.where),
            smallest=self._cells.smallest(inside),
            gpus=gpus,
            everywhere=everywhere,
            backends=(),
            inside=inside,
        )
        parts = [one for group in groups for one in group.descriptions]
        return _Group(change, [whole, *parts], inside)

    def _all_of(self, side: int, inside: Bits) -> Behaviour:
        """Return the answers that were expected, or came, as one; the most frequent first."""
        counts = Counter(self._answers[number][side] for number in ones(inside))
        # A refusal last, as it reads better.
        names = sorted(
            (name for name, _ in counts.most_common()), key=lambda name: name == str(A_REFUSAL)
        )
        if len(names) == 1:
            (name,) = names
            return A_REFUSAL if name == str(A_REFUSAL) else Behaviour("Selected", name)
        text = cause_words.join(names, "or")
        while len(text) > _LONGEST:
            names = [*names[:-2], "another answer"]
            text = cause_words.join(names, "or")
        return Behaviour("Selected", text)


def _answers(row: Record) -> tuple[str, str]:
    """Return what was expected and what came, by the backend's own name."""
    expect, change = row["expect"], change_of(row)
    assert change is not None
    came = row["outcome"].get("backend") or str(change.got)
    if change.expected == ANOTHER_ONE:
        return "another one", came
    return str(expect.get("backend") or ("a backend" if "served" in expect else A_REFUSAL)), came
