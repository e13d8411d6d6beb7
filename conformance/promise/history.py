"""What happened to promises from release to release: which ended, and which known defects broke them.

A contract by age has, besides its rows, ``[[ended]]`` entries, for rows that it takes from another
contract, and ``[[defect]]`` entries. docs/upstream.md describes both.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from pytest_rocm_attn.conformance.promise import release
from pytest_rocm_attn.conformance.promise.deviations import check_answer, check_link, matches
from pytest_rocm_attn.conformance.promise.mentions import missing
from pytest_rocm_attn.conformance.promise.reasons import Reason, reasons_in
from pytest_rocm_attn.conformance.promise.release import FIRST, LAST, Release
from pytest_rocm_attn.conformance.promise.toml_file import Place, convert, entries, tables

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pytest_rocm_attn.conformance.promise.got import Got
    from pytest_rocm_attn.conformance.promise.rows import Level, Row

NAMED = "named"  # as an answer of a defect: what was named


@dataclass(frozen=True, slots=True)
class KnownDefect:
    """A known defect of upstream releases: a fork inherits it.

    Attributes:
        id: kebab-case, unique in the contract.
        what: the defect, in one sentence.
        link: its report, or its repair.
        match: patterns over the items that fall short, as a deviation has them.
        answers: the answers of a selector that has it; NAMED: what was named.
        mentions: what the message of a refusal or a crash must mention.
        reasons: that a refusal must have.
        since: the first release that has it.
        until: the first release without it.
    """

    id: str
    what: str
    link: str
    match: tuple[str, ...]
    answers: tuple[str, ...]
    mentions: tuple[str, ...] = ()
    reasons: tuple[Reason, ...] = ()
    since: Release = FIRST
    until: Release = LAST

    def explains(
        self, row_id: str, gfx: str, got: Got, named: str = "", tier: str = "documented"
    ) -> bool:
        """Say whether this is how an item falls short where the defect is."""
        answers = {named.upper() if answer == NAMED else answer for answer in self.answers}
        return (
            self.is_about(row_id, gfx, tier)
            and got.answer in answers
            and not missing(self.mentions, got.message)
            and reasons_in(got.message).issuperset(self.reasons)
        )

    def is_about(self, row_id: str, gfx: str, tier: str = "documented") -> bool:
        """Say whether an item falls short where the defect is."""
        return any(matches(pattern, (row_id, gfx, tier)) for pattern in self.match)

    @property
    def story(self) -> str:
        """The defect, its report, and the release that fixes it."""
        mended = "" if self.until == LAST else f", fixed in {release.words(self.until)}"
        return f"{self.what}, {self.link}{mended}"


class _Ended(msgspec.Struct, forbid_unknown_fields=True):
    rows: list[str]
    until: str
    by: str
    why: str
    level: Literal["required", "advisory"] | None = None
    gfx: list[str] = []
    sets: list[str] = []


class _Defect(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    what: str
    link: str
    match: list[str]
    answers: list[str]
    mentions: list[str] = []
    reasons: list[Reason] = []
    since: str = ""
    until: str = ""


_ENDED_FIELDS = {
    "rows": "a list of patterns over the ids of included rows",
    "until": "the first release that no longer promises them, such as '0.19.0'",
    "by": "the pull request or document that ended them",
    "why": "what it changed, in a few words",
    "level": "'required' or 'advisory', to leave the others alone",
    "gfx": "a list of targets, to leave the others alone",
    "sets": "a list of variables, to leave rows alone that set none of them",
}
_DEFECT_FIELDS = {
    "id": "a sentence in kebab-case, such as 'the-unified-switch-is-dead'",
    "what": "the defect, in one sentence",
    "link": "the report, such as 'vllm-project/vllm#56021'",
    "match": "a list of patterns over items, as deviations have them",
    "answers": "a list of answers, as deviations have them, or 'named'",
    "mentions": "a list of words that the message mentions",
    "reasons": f"a list of {', '.join(Reason)}",
    "since": "the first release that has it, such as '0.19.0'",
    "until": "the first release without it",
}


def release_of(text: str, field: str, default: Release, place: Place) -> Release:
    """Return the release that a field of an entry names; the default for an empty one.

    Raises:
        place.error: it is not a release.
    """
    if not text:
        return default
    try:
        return release.parse(text)
    except ValueError as error:
        place.fail(field, str(error), "give three numbers")


def ended(rows: Sequence[Row], table: Mapping[str, Any], place: Place) -> list[Row]:
    """Return rows with the end that the ``[[ended]]`` entries of a file give them.

    A row that ends on some of its targets only becomes two. The entry that ends a row first counts.

    Raises:
        place.error: a mistake, or an entry that ends no row.
    """
    rows = list(rows)
    for number, entry in enumerate(tables(table, "ended", place), start=1):
        here = place.within(f"entry {number} of [[ended]]")
        end = convert(entry, _Ended, _ENDED_FIELDS, here)
        until = release_of(end.until, "until", LAST, here)
        found: list[Row] = []
        used: set[str] = set()
        for row in rows:
            patterns = [one for one in end.rows if fnmatchcase(row.id, one)]
            gpus = tuple(gpu for gpu in row.gpus if not end.gfx or gpu.gfx in end.gfx)
            wanted: Level = end.level or row.level
            sets = not end.sets or any(name in row.env for name in end.sets)
            if not patterns or row.level != wanted or not gpus or not sets:
                found.append(row)
                continue
            used.update(patterns)
            if row.until <= until:
                found.append(row)
                continue
            if others := tuple(gpu for gpu in row.gpus if gpu not in gpus):
                found.append(replace(row, gpus=others))
            found.append(replace(row, gpus=gpus, until=until, by=end.by, why=end.why))
        for pattern in end.rows:
            if pattern not in used:
                here.fail("rows", f"{pattern!r} matches no row", "correct it or delete it")
        rows = found
    return rows


def defects(table: Mapping[str, Any], place: Place, taken: dict[str, Path]) -> list[KnownDefect]:
    """Return the ``[[defect]]`` entries of a file.

    Raises:
        place.error: a mistake.
    """
    found = []
    for entry, here in entries(
        table, "defect", _Defect, _DEFECT_FIELDS, place, word="defect", taken=taken
    ):
        if not entry.match or not entry.answers:
            here.fail("match" if not entry.match else "answers", "is empty", "list at least one")
        for answer in entry.answers:
            if answer != NAMED:
                check_answer(answer, "answers", here)
        check_link(entry.link, here)
        found.append(
            KnownDefect(
                entry.id,
                entry.what,
                entry.link,
                tuple(entry.match),
                tuple(entry.answers),
                tuple(entry.mentions),
                tuple(entry.reasons),
                release_of(entry.since, "since", FIRST, here),
                release_of(entry.until, "until", LAST, here),
            )
        )
    return found
