"""A deviations file to be filled in: one entry for each cause of failing items."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import fields
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from pytest_rocm_attn.conformance.promise.got import CRASH
from pytest_rocm_attn.conformance.promise.grid.outcomes import normalised_text
from pytest_rocm_attn.conformance.promise.mentions import missing
from pytest_rocm_attn.conformance.report.explained import causes_of
from pytest_rocm_attn.conformance.report.schema import completed, name_of
from pytest_rocm_attn.flags import VARIABLES
from pytest_rocm_attn.registry import CLASS_PATHS
from pytest_rocm_attn.request import Request

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from collections.abc import Set as AbstractSet

    from pytest_rocm_attn.conformance.promise.deviations import Item
    from pytest_rocm_attn.conformance.report.schema import Record

_HEAD = """\
# Drafted by pytest-rocm-attn, {count}. Give each entry that is meant a reason and a link (an issue
# or a URL), and delete the others: the file is refused while a reason or a link is empty.
"""
_WIDTH = 300  # characters of a comment


def render(records: Iterable[Record], every_item: Iterable[Item]) -> str:
    """Return the text of a deviations file with empty reasons and links; "" if nothing failed.

    An entry is made for each cause; for each answer if a cause has several, and each reason of a
    refusal. Its patterns match the items that failed so, and no other item. It mentions what all
    messages about them mention.

    Args:
        records: the rows of a run.
        every_item: all items of all tiers, whichever the run selected.
    """
    rows = completed(list(records), "rows")
    failing = {name_of(row): row for row in rows if row["verdict"] in ("fail", "crash")}
    everything = {*every_item, *map(_item, failing.values())}
    entries = []
    for cause in causes_of(rows, ()):
        members = [failing[name] for name in cause["items"] if name in failing]
        for (answer, _), (items, mentions) in sorted(_by_answer(members).items()):
            of_tier = {item for item in everything if item[2] == cause["tier"]}
            names = [f"{cause['tier']}::{pattern}" for pattern in patterns(items, of_tier)]
            count = f"{len(items)} item{'s' if len(items) > 1 else ''}"
            lines = [_comment(f"# {count}: {cause['what']}")]
            lines += ["[[deviation]]", f"match  = {_strings(names)}", f"answer = {_quoted(answer)}"]
            lines += [f"mentions = {_strings(mentions, always=True)}"] if mentions else []
            lines += ['reason = ""', 'link   = ""']
            entries.append("\n".join(lines))
    if not entries:
        return ""
    count = f"{len(entries)} entr{'y' if len(entries) == 1 else 'ies'}"
    return "\n\n".join([_HEAD.format(count=count).rstrip(), *entries]) + "\n"


def _item(record: Record) -> Item:
    return record["id"], record["gpu"]["gfx"] if record["gpu"] else "", record["tier"]


def _by_answer(
    members: Iterable[Record],
) -> dict[tuple[str, tuple[str, ...]], tuple[set[Item], list[str]]]:
    """Return each answer that fell short and its reason, with the items and what all messages mention."""
    found: dict[tuple[str, tuple[str, ...]], tuple[set[Item], list[str]]] = {}
    for record in members:
        for short in record["fell_short"]:
            said = _reasons(short["answer"], short["message"])
            reason = tuple(word for word in said if word not in _NAMES) or tuple(said)
            items, mentions = found.get((short["answer"], reason), (set(), said))
            common = [word for word in mentions if word in said]
            found[short["answer"], reason] = items | {_item(record)}, common
    return found


# --- what a message is about ----------------------------------------------------------------------

_NAMES = (*CLASS_PATHS, *VARIABLES)
_WORDS = (
    *(field.name.removeprefix("has_").removeprefix("use_") for field in fields(Request)),
    *("attention type", "soft cap", "compute capability", "gfx", "GPU", "aiter", "import"),
    *("install", "registered", "unknown"),
)
_EXCEPTION = re.compile(r"\b[A-Z]\w*(?:Error|Exception|Exit|Interrupt)\b")
_MOST_NAMES = 3  # of more, they are a list of what there is


def _reasons(answer: str, message: str) -> list[str]:
    """Return the names and words that say what a message is about, and the class of a crash."""
    text = normalised_text(message)
    raised = _EXCEPTION.search(text)
    names = [name for name in _NAMES if name in text and not missing([name], text)]
    rest = text
    for name in sorted(names, key=len, reverse=True):
        rest = rest.replace(name, "")
    words = [word.replace("_", " ") for word in _WORDS if not missing([word], rest)]
    found = {*words, *(names if len(names) <= _MOST_NAMES else ())}
    # The class of a refusal says less than what it is about.
    if raised and (answer == CRASH or not found):
        found.add(raised[0])
    return sorted(found)


# --- patterns -------------------------------------------------------------------------------------


def patterns(wanted: AbstractSet[Item], every_item: AbstractSet[Item]) -> list[str]:
    """Return few patterns that match all wanted items of a tier and no other item of it."""
    left = set(wanted)
    rows: dict[str, set[str]] = defaultdict(set)
    for row_id, gfx, _ in every_item:
        rows[row_id].add(gfx)
    mine = {(row_id, gfx) for row_id, gfx, _ in wanted}
    covers: dict[str, frozenset[tuple[str, str]]] = {}
    targets = sorted({gfx for _, gfx in mine})
    gpus = [*targets, *sorted({f"{gfx[:size]}*" for gfx in targets for size in (4, 5)})]
    for pattern, matched in _row_patterns(sorted({row_id for row_id, _ in mine}), list(rows)):
        cells = [(row_id, gfx) for row_id in matched for gfx in rows[row_id]]
        if mine.issuperset(cells):
            covers[pattern] = frozenset(cells)
            continue
        for gpu in gpus:
            here = [(row_id, gfx) for row_id, gfx in cells if fnmatchcase(gfx, gpu)]
            if here and mine.issuperset(here):
                covers[f"{pattern}[{gpu}]"] = frozenset(here)
    chosen = []
    open_cells = {(row_id, gfx) for row_id, gfx, _ in left}
    while open_cells:
        # The most cells; then a whole row; then what says most, so that later rows are not covered.
        best = max(
            covers,
            key=lambda pattern: (
                len(covers[pattern] & open_cells),
                "[" not in pattern,
                len(pattern.replace("*", "")),
                pattern,
            ),
        )
        chosen.append(best)
        open_cells -= covers.pop(best)
    return sorted(chosen)


def _row_patterns(ids: Sequence[str], every_id: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield patterns over row ids, cut between words, each with the ids that it matches."""
    for row_id in ids:
        yield row_id, [row_id]
    heads: dict[str, set[str]] = {}
    tails: dict[str, set[str]] = {}
    for row_id in ids:
        cuts = [found.end() for found in re.finditer(r"-|::", row_id)]
        for head in ("", *(row_id[:cut] for cut in cuts)):
            heads.setdefault(head, {each for each in every_id if each.startswith(head)})
        for tail in ("", *(row_id[cut - 1 :] for cut in cuts if row_id[cut - 1] == "-")):
            tails.setdefault(tail, {each for each in every_id if each.endswith(tail)})
    seen: set[frozenset[str]] = set()
    wanted = set(ids)
    # From what says most to what says least; of those that match the same rows, the first.
    pairs = [(head, tail) for head in heads for tail in tails if head or tail]
    for head, tail in sorted(pairs, key=lambda pair: (-len(pair[0]) - len(pair[1]), pair)):
        both = heads[head] & tails[tail]
        matched = frozenset(each for each in both if len(each) > len(head) + len(tail))
        if len(matched) > 1 and matched not in seen and not matched.isdisjoint(wanted):
            seen.add(matched)
            yield f"{head}*{tail}", sorted(matched)


# --- TOML -----------------------------------------------------------------------------------------


def _strings(words: Sequence[str], *, always: bool = False) -> str:
    quoted = [_quoted(word) for word in words]
    if len(quoted) == 1 and not always:
        return quoted[0]
    if sum(map(len, quoted)) < 80:
        return f"[{', '.join(quoted)}]"
    return "[\n" + "".join(f"    {word},\n" for word in quoted) + "]"


def _quoted(text: str) -> str:
    """Return text as a TOML basic string."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _comment(text: str) -> str:
    """Return text as one line of TOML comment: control characters are not allowed there."""
    line = "".join(c if c.isprintable() else " " for c in text)
    return line if len(line) <= _WIDTH else f"{line[:_WIDTH]} [cut]"
