"""The behaviour changelog between two baselines: causes to read, and conditions that are exact."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.baseline import known_changes
from pytest_rocm_attn.conformance.causes import data as plain
from pytest_rocm_attn.conformance.causes import words
from pytest_rocm_attn.conformance.causes.conditions import Change
from pytest_rocm_attn.conformance.promise.grid.outcomes import Behaviour, answer_of
from pytest_rocm_attn.conformance.promise.grid.space import AITER, ALSO, REQUEST
from pytest_rocm_attn.conformance.tiers.grid.labels import (
    AGREED_REFUSAL,
    Labelled,
    Labeller,
    explained,
    with_named,
)
from pytest_rocm_attn.gpu import Aiter
from pytest_rocm_attn.request import Request

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_rocm_attn.conformance.baseline.baseline import Baseline
    from pytest_rocm_attn.conformance.baseline.known_changes import KnownChange
    from pytest_rocm_attn.conformance.causes.cause import Cause, Explained
    from pytest_rocm_attn.conformance.causes.cells import Origin
    from pytest_rocm_attn.conformance.causes.conditions import Condition
    from pytest_rocm_attn.conformance.promise.grid.outcomes import Table
    from pytest_rocm_attn.conformance.promise.grid.space import Cell, Family, Grid

SCHEMA = 1
FORMATS = ("text", "markdown", "json")
MOST = 10  # causes that are printed for a release
_MOST_LINKS = 2  # of a cause
_NOT_COMPARED = Behaviour("Unanswered")
_CUT_SHORT = Behaviour("TimedOut")  # does not show what the answer would have been


@dataclass(frozen=True)
class Changelog:
    """What changed from one recording to another.

    Attributes:
        before: the older one.
        after: the newer one.
        grid: what both are over.
        found: the differences; "expected" is what the older one did.
        unanswered: how many cells have no answer on one side at least, or ran out of time on both.
    """

    before: Baseline
    after: Baseline
    grid: Grid
    found: Explained
    unanswered: int

    @classmethod
    def between(cls, before: Baseline, after: Baseline, grid: Grid) -> Changelog:
        """Compare two recordings.

        Raises:
            BaselineError: one of them is over another grid.
        """
        before.require(grid)
        after.require(grid)
        families, unanswered = [], 0
        for family in grid.families:
            one, other = before.tables[family.name], after.tables[family.name]
            labelled, missing = compared(family, one, other)
            families.append(labelled)
            unanswered += missing
        return cls(before, after, grid, explained(families), unanswered)

    def cell(self, of: Origin) -> Cell:
        """Return the question of a cell."""
        family = self.grid.families[of.place[0]]
        return family.cell(family.number(of.place[1:]))

    def answers(self, of: Origin) -> tuple[str, str]:
        """Return what both recordings answered in a cell, a refusal with its words."""
        family = self.grid.families[of.place[0]]
        number = family.number(of.place[1:])
        before, after = (
            str(one.tables[family.name].outcome(number)) for one in (self.before, self.after)
        )
        return before, after

    def sources(self, cause: Cause) -> list[KnownChange]:
        """Return the known changes that are likely behind a cause: those of its parts, each once."""
        changes = known_changes.between(self.before, self.after)
        found = [
            known_changes.of_cause(
                part, self.found, changes, lambda condition: self.cell(condition.smallest)
            )
            for part in (cause, *cause.parts)
        ]
        return [one for number, one in enumerate(found) if one and one not in found[:number]]


def compared(family: Family, expected: Table, got: Table) -> tuple[Labelled, int]:
    """Return how each cell of a family differs, and how many cells were not compared."""
    before, after = ([answer_of(o) for o in table.outcomes] for table in (expected, got))

    def decide(one: int, other: int, name: str | None) -> Change | Behaviour | None:
        was = before[one] if one < len(before) else None
        now = after[other] if other < len(after) else None
        if was is None or now is None or was == now == _CUT_SHORT:
            return _NOT_COMPARED
        if was == now:
            return AGREED_REFUSAL if was == AGREED_REFUSAL.expected else None
        return with_named(Change(was, now), name)

    labeller = Labeller(family.axes, decide)
    codes = labeller.of(expected.codes, got.codes)
    found = labeller.found
    missing = codes.count(found.index(_NOT_COMPARED)) if _NOT_COMPARED in found else 0
    changes = [one if isinstance(one, Change) else None for one in found]
    return Labelled(family.name, family.axes, codes, changes), missing


@dataclass(frozen=True)
class Default:
    """A default that changed: what a plain layer gets with no variable set and aiter present.

    Attributes:
        kind: "an ordinary layer" or "an MLA layer".
        before: the answer of the older recording.
        after: of the newer one.
        gpus: where.
        everywhere: that is every GPU of the grid.
    """

    kind: str
    before: str
    after: str
    gpus: tuple[str, ...]
    everywhere: bool


_PLAIN = (("an ordinary layer", Request()), ("an MLA layer", Request(use_mla=True)))


def defaults(changelog: Changelog) -> list[Default]:
    """Return the defaults that changed."""
    found = []
    for kind, request in _PLAIN:
        for family in changelog.grid.families:
            usual = {AITER: Aiter.PRESENT.value, REQUEST: request, ALSO: ()}
            axes = family.axes
            if all(usual.get(axis.name) in axis.values for axis in axes[1:]):
                rest = [axis.values.index(usual.get(axis.name)) for axis in axes[1:]]
                break
        else:
            continue
        changed: dict[tuple[str, str], list[str]] = {}
        for position, gfx in enumerate(axes[0].values):
            number = family.number((position, *rest))
            tables = (one.tables[family.name] for one in (changelog.before, changelog.after))
            outcomes = (table.outcome(number) for table in tables)
            one, other = (answer_of(outcome) if outcome else None for outcome in outcomes)
            if one is not None and other is not None and one != other:
                changed.setdefault((str(one), str(other)), []).append(str(gfx))
        for (before, after), gpus in changed.items():
            everywhere = len(gpus) == len(axes[0].values)
            found.append(Default(kind, before, after, tuple(gpus), everywhere))
    return found


def render(changelog: Changelog, form: str, limit: int = MOST, *, full: bool = False) -> str:
    """Return a changelog as text, markdown or json.

    Args:
        changelog: what to tell.
        form: one of FORMATS.
        limit: how many causes to tell in text and markdown; the rest is counted. 0: all.
        full: tell all causes in text and markdown, with the exact conditions of each.
    """
    if form == "json":
        return json.dumps(data(changelog), indent=1) + "\n"
    causes = changelog.found.causes
    shown = causes if full or not limit else causes[:limit]
    lines = _markdown(changelog, shown) if form == "markdown" else _text(changelog, shown)
    if full:
        lines += ["", "Exactly:", "", *_exactly(changelog, markdown=form == "markdown")]
    if untold := _rest(changelog, shown):
        lines += ["", untold]
    return "\n".join(lines).rstrip() + "\n"


def _text(changelog: Changelog, shown: Sequence[Cause]) -> list[str]:
    lines = [f"{changelog.before} -> {changelog.after}: {_counts(changelog)}"]
    for number, cause in enumerate(shown, start=1):
        lines.append(f"{number}. {cause_sentence(changelog, cause)}")
        lines.append(f"   {cause.cells:,} cells; e.g. {question(changelog, cause.smallest)}")
    return lines


def _markdown(changelog: Changelog, shown: Sequence[Cause]) -> list[str]:
    lines = [
        f"## {escaped(str(changelog.before))} to {escaped(str(changelog.after))}",
        "",
        _counts(changelog),
        "",
    ]
    for cause in shown:
        sources = changelog.sources(cause)
        links = ", ".join(f"[{one.name}]({one.link})" for one in _linked(sources))
        link = f" ({links})" if links else ""
        # What the first one did, and what the first one that is linked did, if that is another.
        reasons = dict.fromkeys(one.reason for one in (*sources[:1], *_linked(sources)[:1]))
        reason = "".join(f" {escaped(one[:1].upper() + one[1:])}." for one in reasons)
        example = _code(question(changelog, cause.smallest))
        said = escaped(_sentence(cause, sources).removesuffix("."))
        lines.append(f"- {said}{link}.{reason} {cause.cells:,} cells, e.g. `{example}`.")
    return lines


def cause_sentence(changelog: Changelog, cause: Cause) -> str:
    """Return a cause in one sentence of fewer than 160 characters, with its pull requests."""
    sources = changelog.sources(cause)
    said, names = _sentence(cause, sources), _names(sources)
    return f"{said.removesuffix('.')} ({names})." if names else said


def _sentence(cause: Cause, sources: Sequence[KnownChange]) -> str:
    """Return a cause in one sentence that has room for its pull requests."""
    names = _names(sources)
    return words.sentence(cause, words.LONGEST - (len(f" ({names})") if names else 0))


def _names(sources: Sequence[KnownChange]) -> str:
    return ", ".join(one.name for one in _linked(sources))


def _linked(sources: Sequence[KnownChange]) -> list[KnownChange]:
    """Return the first of several changes for each address, as many as a sentence names."""
    by_link = {one.link: one for one in reversed(sources) if one.link}
    return [one for one in sources if by_link.get(one.link) is one][:_MOST_LINKS]


def _exactly(changelog: Changelog, *, markdown: bool) -> Iterator[str]:
    """Yield every condition, with its smallest cell and what both answered there."""
    for number, condition in enumerate(changelog.found.conditions, start=1):
        example = question(changelog, condition.smallest)
        if markdown:
            cells = f"{condition.cells:,} cells; e.g. `{_code(example)}`"
            yield f"{number}. {escaped(sentence(condition))} ({cells})"
            continue
        yield f"{number}. {sentence(condition)}"
        yield f"   {condition.cells:,} cells; smallest: {example}"
        for when, was in zip(
            ("before", "after"), changelog.answers(condition.smallest), strict=True
        ):
            if ": " in was:  # more than a backend's name
                yield f"   {when}: {was}"


def data(changelog: Changelog) -> dict[str, Any]:
    """Return a changelog as plain data."""
    found = changelog.found
    return {
        "schema": SCHEMA,
        "before": _baseline_data(changelog.before),
        "after": _baseline_data(changelog.after),
        "grid": {"name": changelog.grid.name, "digest": changelog.grid.digest},
        "cells": changelog.grid.cells,
        "differing": found.differing,
        "unanswered": changelog.unanswered,
        "defaults": [asdict(default) for default in defaults(changelog)],
        "causes": [_cause_data(changelog, cause) for cause in found.causes],
        "conditions": [_condition_data(changelog, condition) for condition in found.conditions],
        "left": {
            "cells": found.left,
            "smallest": _cell_data(changelog, found.left_smallest) if found.left_smallest else None,
        },
    }


def _baseline_data(baseline: Baseline) -> dict[str, Any]:
    return {
        "id": baseline.id,
        "selector": baseline.selector,
        "distribution": baseline.distribution,
        "version": baseline.version,
    }


def _cause_data(changelog: Changelog, cause: Cause) -> dict[str, Any]:
    sources = [{"link": one.link, "reason": one.reason} for one in changelog.sources(cause)]
    return _as_changes(plain.cause(cause, [family.name for family in changelog.grid.families])) | {
        "sentence": cause_sentence(changelog, cause),
        "parts": [_cause_data(changelog, part) for part in cause.parts],
        "source": sources[0] if sources else None,
        "sources": sources,
        "smallest": _cell_data(changelog, cause.smallest),
    }


def _condition_data(changelog: Changelog, condition: Condition) -> dict[str, Any]:
    return _as_changes(plain.condition(condition)) | {
        "sentence": sentence(condition),
        "smallest": _cell_data(changelog, condition.smallest),
    }


def _as_changes(found: dict[str, Any]) -> dict[str, Any]:
    """Return plain data of a difference as that of a change: nothing is judged."""
    names = {"expected": "before", "got": "after"}
    judged = ("level", "rule", "declared")
    return {names.get(name, name): value for name, value in found.items() if name not in judged}


def _cell_data(changelog: Changelog, of: Origin) -> dict[str, Any]:
    cell = changelog.cell(of)
    before, after = changelog.answers(of)
    return {
        "environ": cell.environ,
        "gpu": {"gfx": cell.gpu.gfx, "aiter": cell.gpu.aiter.value},
        "request": cell.request.non_default(),
        "before": before,
        "after": after,
    }


# --- sentences ------------------------------------------------------------------------------------


def sentence(condition: Condition) -> str:
    """Return a condition in one line: where, what it was, what it is."""
    lead = "DEFAULT: " if condition.at_defaults else ""
    change = condition.change
    return f"{lead}{words.where_words(condition.where)}: {change.expected} -> {change.got}"


def question(changelog: Changelog, of: Origin) -> str:
    """Return the question of a cell in words."""
    cell = changelog.cell(of)
    flags = [f"{name}={shlex.quote(text)}" for name, text in cell.environ.items()]
    needs = [f"{name}={value}" for name, value in cell.request.non_default().items()]
    aiter = [] if cell.gpu.aiter == "present" else [f"aiter {cell.gpu.aiter}"]
    return ", ".join([" ".join(flags) or "no variables", cell.gpu.gfx, *aiter, *needs])


def _counts(changelog: Changelog) -> str:
    found, cells = changelog.found, changelog.grid.cells
    if found.differing:
        plural = "s" if len(found.causes) != 1 else ""
        text = (
            f"{found.differing:,} of {cells:,} cells differ ({len(found.causes):,} cause{plural})."
        )
    else:
        text = f"no difference in {cells - changelog.unanswered:,} cells."
    if changelog.unanswered:
        text += (
            f" {changelog.unanswered:,} cells were not compared: one or both have no answer there."
        )
    return text


def _rest(changelog: Changelog, shown: Sequence[Cause]) -> str:
    """Return what these of its causes do not tell, counted; "" if they tell all."""
    found = changelog.found
    hidden = found.causes[len(shown) :]
    parts = []
    if hidden:
        cells = sum(cause.cells for cause in hidden)
        causes = "cause is" if len(hidden) == 1 else "causes are"
        parts.append(
            f"{len(hidden):,} further {causes} not shown ({cells:,} cells); --limit 0 shows all,"
            " --full with the exact conditions."
        )
    if found.left and found.left_smallest:
        parts.append(
            f"{found.left:,} further cells differ in too many ways to tell; the smallest:"
            f" {question(changelog, found.left_smallest)}."
        )
    return " ".join(parts)


def escaped(text: str) -> str:
    """Return text that Markdown shows as it is."""
    text = re.sub(r"([\\`*_\[\]|])", r"\\\1", text)
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _code(text: str) -> str:
    return text.replace("`", "'")
