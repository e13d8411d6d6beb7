"""A fork's declared deviations from a contract: rocm-attn-deviations.toml.

docs/deviations.md describes the format for people who write one.
"""

from __future__ import annotations

import functools
import re
import tomllib
from dataclasses import dataclass, replace
from datetime import date
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from pytest_rocm_attn.conformance.tiers import TIERS
from pytest_rocm_attn.conformance.toml_file import Place, convert, read_toml
from pytest_rocm_attn.errors import DeviationsError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

Cell: TypeAlias = tuple[str, str, str]  # row id, gfx or "", tier


@dataclass(frozen=True, slots=True)
class Deviation:
    """Cells that a fork says it answers differently, and why.

    Args:
        match: patterns with * and ?. One with a bracket is matched against a cell's id,
            "row-id[gfx]", any other against the row's id; "tier::" before it names the tier, which
            is any one else. Brackets are literal.
        reason: why the fork deviates.
        link: where that is discussed.
        until: the last day on which the entry holds, or None.
        file: the file that holds the entry.
        line: the line of its [[deviation]] header, from 1.
    """

    match: tuple[str, ...]
    reason: str
    link: str
    until: date | None
    file: str
    line: int

    def covers(self, row_id: str, gfx: str, tier: str = "documented") -> bool:
        """Say whether the entry is about this row of a tier on this target, "" for none."""
        return any(_matches(pattern, row_id, gfx, tier) for pattern in self.match)

    def expired(self, today: date) -> bool:
        """Say whether the entry no longer holds: today is after its last day."""
        return self.until is not None and today > self.until


@dataclass(frozen=True, slots=True)
class Deviations:
    """The entries of one file, in order; the first that covers a cell speaks for it."""

    entries: tuple[Deviation, ...] = ()

    def find(self, row_id: str, gfx: str, tier: str = "documented") -> Deviation | None:
        """Return the first entry that covers the cell, or None."""
        return next((entry for entry in self.entries if entry.covers(row_id, gfx, tier)), None)

    def unused(self, cells: Iterable[Cell]) -> tuple[Deviation, ...]:
        """Return the entries that speak for none of these cells.

        Of an entry with several patterns, those that are in use are left out of its ``match``, so
        that one dead pattern does not hide behind a live one.
        """
        used: set[str] = set()
        for row_id, gfx, tier in cells:
            if entry := self.find(row_id, gfx, tier):
                used.update(p for p in entry.match if _matches(p, row_id, gfx, tier))
        # A pattern stands in one entry only: the loader refuses one that an earlier one covers.
        dead = ((e, tuple(p for p in e.match if p not in used)) for e in self.entries)
        return tuple(replace(entry, match=patterns) for entry, patterns in dead if patterns)


def load(path: Path) -> Deviations:
    """Read a deviations file.

    Raises:
        DeviationsError: the file cannot be read or holds a mistake. One line that names file,
            entry, field, what is wrong and the remedy.
    """
    place = Place(DeviationsError, path)
    text, table = read_toml(place)
    place.check_keys(table, ("deviation",), "")
    tables = table.get("deviation", [])
    if not isinstance(tables, list) or not all(isinstance(entry, dict) for entry in tables):
        place.fail("deviation", "is not a list of tables", f"write {_HEADER} above each entry")
    lines = _header_lines(text)
    if len(lines) != len(tables):
        place.fail("deviation", "is an inline list", f"write {_HEADER} above each entry")
    entries: list[Deviation] = []
    for number, (line, entry) in enumerate(zip(lines, tables, strict=True), start=1):
        here = place.within(f"entry {number} (line {line})")
        entries.append(_entry(convert(entry, _Entry, _FIELDS, here), line, here))
    _check_shadows(entries, place)
    return Deviations(tuple(entries))


# --- the schema -----------------------------------------------------------------------------------


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    match: str | list[str]
    reason: str
    link: str
    until: date | None = None


_FIELDS = {
    "match": "a pattern over row ids such as 'explicit-*' or 'explicit-*[gfx942]', or a list",
    "reason": "why the fork deviates, as text (a draft leaves that to you)",
    "link": "an http(s) URL, or an issue such as 'ROCm/vllm#958', '#958' or 'SWDEV-1234'",
    "until": "a date without quotes, such as 2027-01-31",
}
_HEADER = "[[deviation]]"
_HEADER_LINE = re.compile(r"""\s*\[\[\s*(deviation|"deviation"|'deviation')\s*\]\]""")
_LINK = re.compile(r"https?://[^\s/]+\S*|([\w.-]+/[\w.-]+)?#\d+|[A-Z][A-Z0-9]+-\d+")


def _entry(entry: _Entry, line: int, place: Place) -> Deviation:
    patterns = (entry.match,) if isinstance(entry.match, str) else tuple(entry.match)
    if not patterns or not all(pattern.strip() for pattern in patterns):
        place.fail("match", "is empty", f"give {_FIELDS['match']}")
    if not entry.reason.strip():
        place.fail("reason", "is empty", f"say {_FIELDS['reason']}")
    if not _LINK.fullmatch(entry.link):
        place.fail("link", f"{entry.link!r} is no link", f"give {_FIELDS['link']}")
    return Deviation(patterns, entry.reason, entry.link, entry.until, str(place.file), line)


def _header_lines(text: str) -> list[int]:
    """Return the line of each entry's header.

    tomllib tells no lines, and a line that looks like a header may stand inside a multi-line
    string. There it is none: the text from the last header up to it is no complete TOML.
    """
    rows = text.split("\n")
    found: list[int] = []
    start = 0
    for index, row in enumerate(rows):
        if _HEADER_LINE.match(row) and _is_toml("\n".join(rows[start:index])):
            found.append(index + 1)
            start = index
    return found


def _is_toml(text: str) -> bool:
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return False
    return True


# --- patterns -------------------------------------------------------------------------------------


def _matches(pattern: str, row_id: str, gfx: str, tier: str) -> bool:
    # [[] is fnmatch's way to write a literal bracket.
    return fnmatchcase(f"{tier}::{row_id}[{gfx}]", _cell_pattern(pattern).replace("[", "[[]"))


def _cell_pattern(pattern: str) -> str:
    """Return the pattern over whole ids, "tier::row-id[gfx]", that a shorter one stands for."""
    head, colons, _ = pattern.partition("::")  # a row's id may hold "::" too
    tier = "" if colons and any(fnmatchcase(name, head) for name in TIERS) else "*::"
    return f"{tier}{pattern}" if "[" in pattern else f"{tier}{pattern}[*]"


def _check_shadows(entries: Iterable[Deviation], place: Place) -> None:
    earlier: list[tuple[str, int]] = []
    for number, entry in enumerate(entries, start=1):
        for pattern in entry.match:
            for other, line in earlier:
                if _includes(_plain(_cell_pattern(other)), _plain(_cell_pattern(pattern))):
                    place.within(f"entry {number} (line {entry.line})").fail(
                        "match",
                        f"{pattern!r} can never apply: {other!r} (line {line}) covers all of it",
                        "remove it, or move it above",
                    )
            earlier.append((pattern, entry.line))


def _plain(pattern: str) -> str:
    """Write each run of wildcards one way: "*?*" and "?**" are both "?*"."""
    return re.sub(r"[*?]+", lambda run: "?" * run[0].count("?") + "*" * ("*" in run[0]), pattern)


@functools.lru_cache(maxsize=4096)  # or patterns of many stars take exponential time
def _includes(general: str, special: str) -> bool:
    """Say whether every text that special matches is matched by general, both plain."""
    if not general:
        return not special
    if general[0] == "*":
        return _includes(general[1:], special) or (
            bool(special) and _includes(general, special[1:])
        )
    if not special or special[0] == "*":
        return False
    return general[0] in ("?", special[0]) and _includes(general[1:], special[1:])
