"""A fork's declared deviations from a contract: rocm-attn-deviations.toml.

docs/deviations.md describes the format for people who write one.
"""

from __future__ import annotations

import functools
import re
import tomllib
from dataclasses import dataclass
from datetime import date
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from pytest_rocm_attn.conformance.promise.got import CRASH, KINDS, NO_BACKEND, REFUSAL, WRONG
from pytest_rocm_attn.conformance.promise.mentions import is_blank, missing
from pytest_rocm_attn.conformance.promise.toml_file import Place, convert, read_toml, tables
from pytest_rocm_attn.errors import DeviationsError, nearest
from pytest_rocm_attn.options import TIERS
from pytest_rocm_attn.registry import EVERY_NAME

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator
    from pathlib import Path

    from pytest_rocm_attn.conformance.promise.got import Got

Item: TypeAlias = tuple[str, str, str]  # row id, gfx or "", tier


@dataclass(frozen=True, slots=True)
class Deviation:
    """Items that a fork says it answers differently, with which answer, and why.

    Args:
        match: patterns with * and ?. One with a bracket is matched against an item's id,
            "row-id[gfx]", any other against the row's id; "tier::" before it names the tier, which
            is any one else. Brackets are literal.
        answer: the answer that is accepted, a backend's name or one of got.KINDS; no other is.
        reason: why the fork deviates.
        link: where that is discussed.
        mentions: what the message of a refusal or a crash must mention to be the accepted one.
        until: the last day on which the entry holds, or None.
        file: the file that holds the entry.
        line: the line of its [[deviation]] header, from 1.
        must_hold: it is a change that the fork keeps: another answer, upstream's too, is a lost delta.
    """

    match: tuple[str, ...]
    answer: str
    reason: str
    link: str
    mentions: tuple[str, ...] = ()
    until: date | None = None
    file: str = ""
    line: int = 0
    must_hold: bool = False

    def accepts(self, got: Got) -> bool:
        """Say whether this is the answer that the entry was declared for."""
        return got.answer == self.answer and not missing(self.mentions, got.message)

    def expired(self, today: date) -> bool:
        """Return whether the entry has expired: today is after its last day."""
        return self.until is not None and today > self.until

    @property
    def place(self) -> str:
        """The entry's file and line: "rocm-attn-deviations.toml:3"."""
        return f"{self.file}:{self.line}"

    @property
    def accepted(self) -> str:
        """The answer that is accepted, in words."""
        words = f" that mentions {', '.join(map(repr, self.mentions))}" if self.mentions else ""
        return KINDS.get(self.answer, self.answer) + words

    def _takes_all_of(self, other: Deviation) -> bool:
        """Say whether it accepts whatever the other entry accepts."""
        return self.answer == other.answer and set(self.mentions) <= set(other.mentions)


@dataclass(frozen=True, slots=True)
class Claims:
    """What the fork declares about one item: the entries in force that name it, in order.

    Args:
        found: each entry with those of its patterns that match the item.
    """

    found: tuple[tuple[Deviation, tuple[str, ...]], ...] = ()

    @property
    def entries(self) -> tuple[Deviation, ...]:
        """The entries alone."""
        return tuple(entry for entry, _ in self.found)

    def covering(self, got: Got) -> Deviation | None:
        """Return the first entry that accepts the result, or None."""
        return next((entry for entry in self.entries if entry.accepts(got)), None)

    def idle(self, used: Collection[Deviation]) -> Deviation | None:
        """Return the first entry that covers nothing of the item, though it names it.

        One that stands below a used one is excused, unless the used one's pattern includes its own:
        so an exception may stand above the rule.
        """
        above: list[str] = []
        for entry, patterns in self.found:
            if entry in used:
                above += patterns
            elif not above or any(_covers(one, mine) for one in above for mine in patterns):
                return entry
        return None

    def live(self) -> Iterator[tuple[Deviation, str]]:
        """Yield each entry and pattern that can cover something of the item."""
        for number, (entry, patterns) in enumerate(self.found):
            earlier = self.entries[:number]
            if not any(one._takes_all_of(entry) for one in earlier):
                yield from ((entry, pattern) for pattern in patterns)


@dataclass(frozen=True, slots=True)
class Deviations:
    """The entries of one file, in order."""

    entries: tuple[Deviation, ...] = ()

    def about(self, names: Iterable[str], gfx: str, tier: str, today: date) -> Claims:
        """Return what is declared about an item; entries that have expired declare nothing.

        Args:
            names: the ids that entries may name it by; a condition of the grid has two.
            gfx: its target, or "".
            tier: its tier.
            today: the day that entries expire against.
        """
        texts = [f"{tier}::{name}[{gfx}]" for name in names]
        found = []
        for entry in self.entries:
            if not entry.expired(today):
                patterns = tuple(p for p in entry.match if any(_matches(p, t) for t in texts))
                if patterns:
                    found.append((entry, patterns))
        return Claims(tuple(found))

    def unused(self, items: Iterable[Item], today: date) -> dict[Deviation, tuple[str, ...]]:
        """Return the entries in force with patterns that can cover nothing of any of these items.

        Each with those patterns, so that a dead one does not hide behind a live one.
        """
        used = {
            live
            for row_id, gfx, tier in items
            for live in self.about([row_id], gfx, tier, today).live()
        }
        dead = {
            entry: tuple(pattern for pattern in entry.match if (entry, pattern) not in used)
            for entry in self.entries
            if not entry.expired(today)
        }
        return {entry: patterns for entry, patterns in dead.items() if patterns}


def load(path: Path) -> Deviations:
    """Read a deviations file.

    Raises:
        DeviationsError: the file cannot be read or holds a mistake. One line that names file,
            entry, field, what is wrong and the remedy.
    """
    place = Place(DeviationsError, path)
    text, table = read_toml(place)
    place.check_keys(table, ("deviation",), "")
    found = tables(table, "deviation", place)
    lines = _header_lines(text)
    if len(lines) != len(found):
        place.fail("deviation", "is an inline list", f"write {_HEADER} above each entry")
    entries: list[Deviation] = []
    for number, (line, entry) in enumerate(zip(lines, found, strict=True), start=1):
        here = place.within(f"entry {number} (line {line})")
        entries.append(_entry(convert(entry, _Entry, _FIELDS, here), line, here))
    _check_shadows(entries, place)
    return Deviations(tuple(entries))


# --- the schema -----------------------------------------------------------------------------------


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    match: str | list[str]
    answer: str
    reason: str
    link: str
    mentions: list[str] = []
    until: date | None = None
    must_hold: bool = False


_FIELDS = {
    "match": "a pattern over row ids such as 'explicit-*' or 'explicit-*[gfx942]', or a list",
    "answer": (
        f"the one answer that is accepted: a backend's name, or one of {', '.join(KINDS)}; a draft"
        " writes it: python -m pytest --rocm-attn-conformance --rocm-attn-deviations="
        " --rocm-attn-deviations-draft=NEW.toml"
    ),
    "mentions": "a list of words that the message of the refusal or crash mentions",
    "reason": "why the fork deviates, as text (a draft leaves that to you)",
    "link": "an http(s) URL, or an issue such as 'ROCm/vllm#958', '#958' or 'SWDEV-1234'",
    "until": "a date without quotes, such as 2027-01-31",
    "must_hold": "true for a change that has to survive merges",
}
_WITH_MESSAGE = (REFUSAL, CRASH, NO_BACKEND, WRONG)
_HEADER = "[[deviation]]"
_HEADER_LINE = re.compile(r"""\s*\[\[\s*(deviation|"deviation"|'deviation')\s*\]\]""")
_LINK = re.compile(r"https?://[^\s/]+\S*|([\w.-]+/[\w.-]+)?#\d+|[A-Z][A-Z0-9]+-\d+")


def _entry(entry: _Entry, line: int, place: Place) -> Deviation:
    patterns = (entry.match,) if isinstance(entry.match, str) else tuple(entry.match)
    if not patterns or not all(pattern.strip() for pattern in patterns):
        place.fail("match", "is empty", f"give {_FIELDS['match']}")
    check_answer(entry.answer, "answer", place)
    if any(map(is_blank, entry.mentions)):
        place.fail("mentions", "holds an empty word", f"give {_FIELDS['mentions']}")
    if entry.mentions and entry.answer not in _WITH_MESSAGE:
        wrong = f"belongs to an answer with a message, and {entry.answer} has none"
        place.fail("mentions", wrong, "remove it")
    if not entry.reason.strip():
        place.fail("reason", "is empty", f"say {_FIELDS['reason']}")
    check_link(entry.link, place)
    return Deviation(
        match=patterns,
        answer=entry.answer,
        reason=entry.reason,
        link=entry.link,
        mentions=tuple(entry.mentions),
        until=entry.until,
        must_hold=entry.must_hold,
        file=str(place.file),
        line=line,
    )


def check_answer(answer: str, field: str, place: Place) -> None:
    """Refuse what is neither a backend's name nor one of got.KINDS."""
    if answer not in KINDS and answer not in EVERY_NAME:
        near = nearest(answer, [*KINDS, *EVERY_NAME])
        place.fail(field, f"{answer!r} is unknown.{near}", f"give {_FIELDS['answer']}")


def check_link(link: str, place: Place) -> None:
    """Refuse what leads nowhere."""
    if not _LINK.fullmatch(link):
        place.fail("link", f"{link!r} is not a link", f"give {_FIELDS['link']}")


def _header_lines(text: str) -> list[int]:
    """Return the line of each entry's header.

    tomllib gives no lines, and a line that looks like a header may stand inside a multi-line
    string. There it is not one: the text from the last header up to it is not complete TOML.
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


def matches(pattern: str, item: Item) -> bool:
    """Say whether a pattern is about an item."""
    row_id, gfx, tier = item
    return _matches(pattern, f"{tier}::{row_id}[{gfx}]")


def may_name(pattern: str, tier: str, ids: str = "*") -> bool:
    """Say whether a pattern may be about items of a tier whose row ids a second pattern describes."""
    head, rest = _split(pattern)
    if head and not fnmatchcase(tier, head):
        return False
    return _overlap(_plain(rest.partition("[")[0]), _plain(ids))


def _matches(pattern: str, text: str) -> bool:
    # [[] is fnmatch's way to write a literal bracket.
    return fnmatchcase(text, _whole(pattern).replace("[", "[[]"))


def _covers(general: str, special: str) -> bool:
    """Say whether every item that one pattern matches is matched by another."""
    return _includes(_plain(_whole(general)), _plain(_whole(special)))


@functools.lru_cache(maxsize=4096)
def _whole(pattern: str) -> str:
    """Return the pattern over whole ids, "tier::row-id[gfx]", that a shorter one stands for."""
    head, rest = _split(pattern)
    return f"{head or '*'}::{rest}" if "[" in rest else f"{head or '*'}::{rest}[*]"


def _split(pattern: str) -> tuple[str, str]:
    """Return the tier that a pattern names, or "", and the rest; a row's id may hold "::" too."""
    head, colons, rest = pattern.partition("::")
    named = colons and any(fnmatchcase(name, head) for name in TIERS)
    return (head, rest) if named else ("", pattern)


def _check_shadows(entries: Iterable[Deviation], place: Place) -> None:
    earlier: list[tuple[str, Deviation]] = []
    for number, entry in enumerate(entries, start=1):
        for pattern in entry.match:
            for other, of in earlier:
                covered = of._takes_all_of(entry) and _covers(other, pattern)
                if covered and not of.expired(entry.until or date.max):
                    place.within(f"entry {number} (line {entry.line})").fail(
                        "match",
                        f"{pattern!r} can never apply: {other!r} (line {of.line}) covers all of it",
                        "remove it, or move it above",
                    )
            earlier.append((pattern, entry))


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


@functools.lru_cache(maxsize=4096)
def _overlap(one: str, other: str) -> bool:
    """Say whether some text is matched by both, both plain."""
    if not one or not other:
        return not (one + other).strip("*")
    if one[0] == "*":
        return _overlap(one[1:], other) or _overlap(one, other[1:])
    if other[0] == "*":
        return _overlap(other, one)
    return (one[0] == other[0] or "?" in one[0] + other[0]) and _overlap(one[1:], other[1:])
