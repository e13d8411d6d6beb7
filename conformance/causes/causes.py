"""Put conditions of one meaning together to causes, which a person can read.

A *cause* is one change of behaviour with one explanation, whatever families and GPUs it is about.
Every differing cell is in exactly one cause.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.causes.boxes import union_of
from pytest_rocm_attn.conformance.causes.cause import A_REFUSAL, VARIOUS, Cause, Explained, order
from pytest_rocm_attn.conformance.causes.cells import is_field
from pytest_rocm_attn.conformance.causes.conditions import THE_NAMED_ONE, Change, conditions
from pytest_rocm_attn.conformance.causes.described import LITTLE, RECALL, Describer
from pytest_rocm_attn.conformance.causes.meaning import (
    any_of,
    kind_of_change,
    meaning_of,
    only,
    share_an_answer,
    theme_of,
)
from pytest_rocm_attn.conformance.promise.grid.design import SWITCHES
from pytest_rocm_attn.conformance.promise.grid.space import GFX
from pytest_rocm_attn.flags import EXPLICIT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_rocm_attn.conformance.causes.cells import Bits, Cells
    from pytest_rocm_attn.conformance.causes.conditions import Condition
    from pytest_rocm_attn.conformance.causes.described import Description

PLAIN = 0.8  # of the cells that a description is about: below it the words say "some layers"
MOST = 10  # causes, if those of little weight can be put together
_CLEARER = 0.2  # what telling apart must add to that share


def explain(
    cells: Cells, labels: Mapping[Change, Bits], refused: Bits = 0, most: int = 400
) -> Explained:
    """Return the conditions under which cells differ, and their causes.

    Args:
        cells: all that were compared.
        labels: each way to differ -> the cells that differ so; a cell has one at most.
        refused: cells in which both sides refused: nothing that changes what a backend is selected
            for is about them.
        most: how many conditions to look for before the rest is only counted.
    """
    differing = union_of(labels.values())
    if not differing:
        return Explained(cells)
    found, left = conditions(cells, labels, most)
    return Explained(
        cells,
        tuple(found),
        tuple(_Grouping(cells, found, refused).causes(left)),
        cells.count(differing),
        cells.count(left),
        cells.smallest(left) if left else None,
    )


# --- grouping -------------------------------------------------------------------------------------

Key = tuple[Change, str, tuple[str, ...]]  # meaning, theme, and the switches that tell it apart


class _Grouping:
    """Shares the cells of conditions out among causes."""

    def __init__(self, cells: Cells, found: Sequence[Condition], refused: Bits) -> None:
        self._cells = cells
        self._conditions = found
        self._describer = Describer(cells)
        refusals = (one.inside for one in found if one.change.expected == A_REFUSAL)
        self._refusals = refused | union_of(refusals)  # where a refusal was expected
        themes = [theme_of(condition) for condition in found]
        self._meanings = [
            (meaning_of(condition, theme), theme)
            for condition, theme in zip(found, themes, strict=True)
        ]

    def _described(self, change: Change, inside: Bits) -> Description:
        """Describe cells among those to which the change applies: "A -> B" is about what was A."""
        among = self._cells.every
        if change.expected == A_REFUSAL:
            among = self._refusals | inside
        elif change.expected.kind == "Selected":
            among = among & ~self._refusals | inside
        return self._describer.of(inside, among)

    def causes(self, left: Bits) -> list[Cause]:
        """Return the causes in the order of who meets them.

        Args:
            left: differing cells in none of the conditions.
        """
        groups: dict[Key, Bits] = defaultdict(int)
        for condition, meaning in zip(self._conditions, self._meanings, strict=True):
            groups[*meaning, ()] |= condition.inside
        found = [
            self._cause(part, inside)
            for key, share in self._shared(groups).items()
            for part, inside in self._told_apart(key, share).items()
        ]
        found = self._few(self._alike(self._merged(found)))
        if left:
            found.append(self._cause((Change(VARIOUS, VARIOUS), "", ()), left))
        return sorted(found, key=order)

    def _shared(self, groups: Mapping[Key, Bits]) -> dict[Key, Bits]:
        """Give each cell to one of its groups: to the one that is left with the most."""
        count = self._cells.count
        open_ones, shares = dict(groups), {}
        free = union_of(groups.values())
        while free:
            key = max(open_ones, key=lambda key: (count(open_ones[key] & free), not key[1]))
            shares[key] = open_ones.pop(key) & free
            free &= ~shares[key]
        return shares

    def _told_apart(self, key: Key, inside: Bits) -> dict[Key, Bits]:
        """Tell apart by the switches that are set what no description fits."""
        whole = self._described(key[0], inside).precision
        if whole >= PLAIN:
            return {key: inside}
        groups: dict[Key, Bits] = defaultdict(int)
        for condition, meaning in zip(self._conditions, self._meanings, strict=True):
            if condition.inside & inside and meaning == key[:2]:
                switches = tuple(
                    one.name
                    for one in condition.where
                    if one.name in SWITCHES and None not in one.values
                )
                groups[*meaning, switches] |= condition.inside & inside
        shares = self._shared(groups)
        clear = sum(
            self._described(key[0], share).precision * self._cells.count(share)
            for share in shares.values()
        )
        enough = (whole + _CLEARER) * self._cells.count(inside)
        return shares if clear >= enough else {key: inside}

    def _merged(self, causes: Sequence[Cause]) -> list[Cause]:
        """Let causes that make the same change be one if one description fits them."""
        found: list[Cause] = []
        for cause in sorted(causes, key=lambda one: -one.cells):
            for number, other in enumerate(found):
                if other.change != cause.change:
                    continue
                inside = other.inside | cause.inside
                little = cause.cells <= LITTLE * other.cells
                fields = any(map(is_field, (cause.theme, other.theme)))
                one_theme = cause.theme == other.theme or not fields
                fits = one_theme and self._described(cause.change, inside).precision >= PLAIN
                if little or fits:
                    found[number] = self._cause((other.change, other.theme, ()), inside)
                    break
            else:
                found.append(cause)
        return found

    def _alike(self, causes: Sequence[Cause]) -> list[Cause]:
        """Let causes be one that make one change under the same variables, whatever is asked for."""
        groups: dict[tuple[Any, ...], list[Cause]] = defaultdict(list)
        for cause in causes:
            groups[kind_of_change(cause), cause.variables].append(cause)
        return [self._together(group) for group in groups.values()]

    def _few(self, causes: Sequence[Cause]) -> list[Cause]:
        """Put causes that share an answer together, the smallest first, until there are MOST.

        Changes of a default stay apart, and so do changes under variables of which neither has all.
        """
        open_ones = dict(enumerate(causes))
        kinds = {number: kind_of_change(cause) for number, cause in open_ones.items()}
        pairs: list[
            tuple[int, int, int]
        ] = []  # a heap: how many cells both have, and which they are

        def offer(number: int, others: Sequence[int]) -> None:
            one = open_ones[number]
            for position in others if one.met else ():
                other = open_ones[position]
                if other.met and share_an_answer((one, kinds[number]), (other, kinds[position])):
                    heapq.heappush(pairs, (one.cells + other.cells, position, number))

        if len(open_ones) > MOST:
            for number in open_ones:
                offer(number, range(number))
        while len(open_ones) > MOST and pairs:
            _, *both = heapq.heappop(pairs)
            if all(number in open_ones for number in both):
                number = max(kinds) + 1
                whole = self._together([open_ones.pop(one) for one in both])
                kinds[number] = kind_of_change(whole)
                open_ones[number] = whole
                offer(number, [one for one in open_ones if one != number])
        return list(open_ones.values())

    def _together(self, causes: Sequence[Cause]) -> Cause:
        """Return causes as one; each of them is a part of it."""
        if len(causes) == 1:
            return causes[0]
        parts = sorted((part for one in causes for part in one.parts or (one,)), key=order)
        inside = union_of(part.inside for part in parts)
        mine = tuple(n for n, one in enumerate(self._conditions) if one.inside & inside)
        gpus = self._cells.values(GFX, inside)
        pairs = [(part.change.expected, part.change.got) for part in parts]
        expected, got = (
            any_of(
                [(answers[side], part.cells) for part, answers in zip(parts, pairs, strict=True)]
            )
            for side in (0, 1)
        )
        return replace(
            parts[0],
            change=replace(parts[0].change, expected=expected, got=got),
            cells=self._cells.count(inside),
            gpus=gpus,
            everywhere=set(gpus) == set(self._cells.values(GFX, self._cells.every)),
            backends=self._backends(mine, inside),
            families=tuple(n for n, group in enumerate(self._cells.groups) if group & inside),
            conditions=mine,
            inside=inside,
            parts=tuple(parts),
        )

    def _cause(self, key: Key, inside: Bits) -> Cause:
        cells = self._cells
        change, theme, _ = key
        mine = tuple(n for n, one in enumerate(self._conditions) if one.inside & inside)
        changes = [self._conditions[number].change for number in mine]
        change = replace(
            change,
            expected=only([one.expected for one in changes], change.expected),
            got=only([one.got for one in changes], change.got),
        )
        described = self._described(change, inside)
        gpus = cells.values(GFX, inside)
        return Cause(
            change,
            theme,
            described.where,
            described.exceptions,
            described.precision,
            cells.count(inside),
            cells.smallest(inside & described.region or inside),
            gpus,
            set(gpus) == set(cells.values(GFX, cells.every)),
            self._backends(mine, inside),
            tuple(number for number, group in enumerate(cells.groups) if group & inside),
            mine,
            inside,
        )

    def _backends(self, mine: Sequence[int], inside: Bits) -> tuple[str, ...]:
        """Return the backends of most cells that are named, expected or got, most cells first."""
        counts: Counter[str] = Counter()
        for condition in sorted((self._conditions[n] for n in mine), key=lambda one: -one.cells):
            count = self._cells.count(condition.inside & inside)
            inside &= ~condition.inside
            for answer in (condition.change.expected, condition.change.got):
                if answer == THE_NAMED_ONE:
                    names = next((g.values for g in condition.where if g.name == EXPLICIT), ())
                    counts.update({name: count // len(names) for name in names if name is not None})
                elif answer.kind == "Selected":
                    counts[answer.name] += count
        found: list[str] = []
        spare = (1 - RECALL) * counts.total()
        for name, count in reversed(counts.most_common()):
            spare -= count
            if spare < 0 or found:
                found.append(name)
        return tuple(reversed(found))
