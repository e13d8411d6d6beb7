"""The behaviour changelog between two baselines: few sentences that cover every differing cell."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.baseline.baseline import compared
from pytest_rocm_attn.conformance.promise.grid.space import AITER, ALSO, REQUEST
from pytest_rocm_attn.conformance.tiers.grid.cover import differences
from pytest_rocm_attn.gpu import Aiter
from pytest_rocm_attn.request import Request

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_rocm_attn.conformance.baseline.baseline import Baseline
    from pytest_rocm_attn.conformance.promise.grid.space import Cell, Grid
    from pytest_rocm_attn.conformance.tiers.grid.cover import Condition, Cover, Place

SCHEMA = 1
FORMATS = ("text", "markdown", "json")
_MOST = 400  # conditions that are looked for: far more than anybody reads


@dataclass(frozen=True)
class Changelog:
    """What changed from one recording to another.

    Attributes:
        before: the older one.
        after: the newer one.
        grid: what both are over.
        cover: the differences; "expected" is what the older one did.
    """

    before: Baseline
    after: Baseline
    grid: Grid
    cover: Cover

    @classmethod
    def between(cls, before: Baseline, after: Baseline, grid: Grid) -> Changelog:
        """Compare two recordings.

        Raises:
            BaselineError: one of them is over another grid.
        """
        return cls(before, after, grid, differences(compared(before, after, grid), _MOST))

    def cell(self, place: Place) -> Cell:
        """Return the question of a cell."""
        family = self.grid.families[place.family]
        return family.cell(family.number(place.coordinates))

    def answers(self, place: Place) -> tuple[str, str]:
        """Return what both recordings answered in a cell, a refusal with its words."""
        family = self.grid.families[place.family]
        number = family.number(place.coordinates)
        tables = (one.tables[family.name] for one in (self.before, self.after))
        before, after = (str(table.outcomes[table.codes[number]]) for table in tables)
        return before, after


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

    def __str__(self) -> str:
        where = "every GPU" if self.everywhere else ", ".join(self.gpus)
        return (
            f"The default of {self.kind}, with no variable set, changed from {self.before} to"
            f" {self.after} on {where}."
        )


_PLAIN = (("an ordinary layer", Request()), ("an MLA layer", Request(use_mla=True)))


def defaults(changelog: Changelog) -> list[Default]:
    """Return the defaults that changed."""
    found = []
    for kind, request in _PLAIN:
        for family in changelog.grid.families:
            plain = {AITER: Aiter.PRESENT.value, REQUEST: request, ALSO: ()}
            axes = family.axes
            if all(plain.get(axis.name) in axis.values for axis in axes[1:]):
                rest = [axis.values.index(plain.get(axis.name)) for axis in axes[1:]]
                break
        else:
            continue
        changed: dict[tuple[str, str], list[str]] = {}
        for position, gfx in enumerate(axes[0].values):
            number = family.number((position, *rest))
            tables = (one.tables[family.name] for one in (changelog.before, changelog.after))
            one, other = (table.answer(number) for table in tables)
            if one is not None and other is not None and one != other:
                changed.setdefault((str(one), str(other)), []).append(str(gfx))
        for (before, after), gpus in changed.items():
            everywhere = len(gpus) == len(axes[0].values)
            found.append(Default(kind, before, after, tuple(gpus), everywhere))
    return found


def render(changelog: Changelog, form: str, limit: int = 0) -> str:
    """Return a changelog as text, markdown or json.

    Args:
        changelog: what to tell.
        form: one of FORMATS.
        limit: how many entries to tell in text and markdown; the rest is counted. 0: all.
    """
    if form == "json":
        return json.dumps(data(changelog), indent=1) + "\n"
    conditions = changelog.cover.conditions
    shown = conditions[: limit or len(conditions)]
    lines = markdown(changelog, shown) if form == "markdown" else _text(changelog, shown)
    if untold := rest(changelog, shown):
        lines += ["", untold]
    return "\n".join(lines).rstrip() + "\n"


def _text(changelog: Changelog, shown: Sequence[Condition]) -> list[str]:
    lines = [f"{changelog.before} -> {changelog.after}: {_counts(changelog)}"]
    lines += [*map(str, defaults(changelog)), ""]
    for number, condition in enumerate(shown, start=1):
        lines.append(f"{number}. {sentence(condition)}")
        lines += [f"   {line}" for line in _detail(changelog, condition)]
    return lines


def markdown(
    changelog: Changelog,
    shown: Sequence[Condition],
    source: Callable[[Condition], str] = lambda condition: "",
) -> list[str]:
    """Return the lines of a section: heading, one list item for each condition.

    Args:
        changelog: what to tell.
        shown: the conditions to tell.
        source: returns where a change comes from, as Markdown, or "".
    """
    lines = [
        f"## {escaped(str(changelog.before))} to {escaped(str(changelog.after))}",
        "",
        _counts(changelog),
        "",
        *(f"**{escaped(str(default))}**\n" for default in defaults(changelog)),
    ]
    for condition in shown:
        cells = f"{condition.cells:,} cells"
        link = source(condition)
        lines.append(
            f"- {_marked(condition)} ({cells}; e.g. `{_code(question(changelog, condition.smallest))}`)"
            + (f" {link}" if link else "")
        )
    return lines


def data(changelog: Changelog) -> dict[str, Any]:
    """Return a changelog as plain data."""
    cover = changelog.cover
    return {
        "schema": SCHEMA,
        "before": _baseline_data(changelog.before),
        "after": _baseline_data(changelog.after),
        "grid": {"name": changelog.grid.name, "digest": changelog.grid.digest},
        "cells": cover.cells,
        "differing": cover.differing,
        "unanswered": cover.unanswered,
        "defaults": [asdict(default) for default in defaults(changelog)],
        "conditions": [_condition_data(changelog, condition) for condition in cover.conditions],
        "left": {
            "cells": cover.left,
            "smallest": _cell_data(changelog, cover.left_smallest) if cover.left_smallest else None,
        },
    }


def _baseline_data(baseline: Baseline) -> dict[str, Any]:
    return {
        "id": baseline.id,
        "selector": baseline.selector,
        "distribution": baseline.distribution,
        "version": baseline.version,
    }


def _condition_data(changelog: Changelog, condition: Condition) -> dict[str, Any]:
    return {
        "where": [
            {"name": given.name, "values": list(given.values), "others": list(given.others)}
            for given in condition.where
        ],
        "before": str(condition.expected),
        "after": str(condition.got),
        "sentence": sentence(condition),
        "default": condition.at_defaults,
        "overrides": condition.overrides,
        "cells": condition.cells,
        "smallest": _cell_data(changelog, condition.smallest),
    }


def _cell_data(changelog: Changelog, place: Place) -> dict[str, Any]:
    cell = changelog.cell(place)
    before, after = changelog.answers(place)
    return {
        "environ": cell.environ,
        "gpu": {"gfx": cell.gpu.gfx, "aiter": cell.gpu.aiter.value},
        "request": cell.request.non_default(),
        "before": before,
        "after": after,
    }


# --- sentences ------------------------------------------------------------------------------------


def sentence(condition: Condition) -> str:
    """Return a change in one line: where, what it was, what it is."""
    lead = "DEFAULT: " if condition.at_defaults else ""
    return f"{lead}{condition.conjunction}: {answer_words(condition)}"


def answer_words(condition: Condition) -> str:
    """Return "A -> B"."""
    return f"{condition.expected} -> {condition.got}"


def _marked(condition: Condition) -> str:
    lead = "**Default.** " if condition.at_defaults else ""
    lead = "**Explicit choice overridden.** " if condition.overrides and not lead else lead
    return f"{lead}{escaped(condition.conjunction)}: {escaped(answer_words(condition))}"


def question(changelog: Changelog, place: Place) -> str:
    """Return the question of a cell in words."""
    cell = changelog.cell(place)
    flags = [f"{name}={shlex.quote(text)}" for name, text in cell.environ.items()]
    needs = [f"{name}={value}" for name, value in cell.request.non_default().items()]
    aiter = [] if cell.gpu.aiter == "present" else [f"aiter {cell.gpu.aiter}"]
    return ", ".join([" ".join(flags) or "no variables", cell.gpu.gfx, *aiter, *needs])


def _detail(changelog: Changelog, condition: Condition) -> list[str]:
    before, after = changelog.answers(condition.smallest)
    lines = [f"{condition.cells:,} cells; smallest: {question(changelog, condition.smallest)}"]
    for when, was in (("before", before), ("after", after)):
        if ": " in was:  # more than a backend's name
            lines.append(f"{when}: {was}")
    return lines


def _counts(changelog: Changelog) -> str:
    cover = changelog.cover
    if cover.differing:
        plural = "s" if len(cover.conditions) != 1 else ""
        text = (
            f"{cover.differing:,} of {cover.cells:,} cells differ, under"
            f" {len(cover.conditions):,} condition{plural}."
        )
    else:
        text = f"no difference in {cover.cells - cover.unanswered:,} cells."
    if cover.unanswered:
        text += f" {cover.unanswered:,} cells were not compared: one or both have no answer there."
    return text


def rest(changelog: Changelog, shown: Sequence[Condition]) -> str:
    """Return what these of its conditions do not tell, counted; "" when they tell all."""
    cover = changelog.cover
    parts = []
    if hidden := [c for c in cover.conditions if not any(c is one for one in shown)]:
        largest = max(condition.cells for condition in hidden)
        parts.append(
            f"{len(hidden):,} further conditions of at most {largest:,} cells each are not shown;"
            " --limit 0 shows all."
        )
    if cover.left and cover.left_smallest:
        parts.append(
            f"{cover.left:,} further cells differ in too many ways to tell; the smallest:"
            f" {question(changelog, cover.left_smallest)}."
        )
    return " ".join(parts)


def escaped(text: str) -> str:
    """Return text that Markdown shows as it is."""
    text = re.sub(r"([\\`*_\[\]|])", r"\\\1", text)
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _code(text: str) -> str:
    return text.replace("`", "'")
