"""A deviations file to be filled in: one entry for each row that failed."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from pytest_rocm_attn.conformance.record import sort_key

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_rocm_attn.conformance.record import Record

_HEAD = """\
# Drafted by pytest-rocm-attn, {count}. Give each entry that is meant a reason and a link (an issue
# or a URL), and delete the others: the file is refused while a reason or a link is empty.
"""
_WIDTH = 300  # characters of a comment


def render(records: Iterable[Record]) -> str:
    """Return a deviations file, with empty reasons and links, for the cells that failed.

    A row that failed on every GPU it ran on is named as a row, any other cell by cell.
    """
    entries = []
    ordered = sorted(records, key=sort_key)
    for (tier, row_id), group in groupby(
        ordered, key=lambda record: (record["tier"], record["id"])
    ):
        members = list(group)
        short = [record for record in members if record["verdict"] in ("fail", "crash")]
        if not short:
            continue
        name = f"{tier}::{row_id}"
        gpus = dict.fromkeys(record["gpu"]["gfx"] if record["gpu"] else "" for record in short)
        whole = len(short) == len(members)
        patterns = [name] if whole else [f"{name}[{gfx}]" for gfx in gpus]
        told = dict.fromkeys(
            f"# expected {record['expect']['words']}, got {record['outcome']['words']}"
            for record in short
        )
        lines = [_comment(line) for line in told]
        lines += ["[[deviation]]", f"match  = {_strings(patterns)}", 'reason = ""', 'link   = ""']
        entries.append("\n".join(lines))
    count = f"{len(entries)} entr{'y' if len(entries) == 1 else 'ies'}"
    return "\n\n".join([_HEAD.format(count=count).rstrip(), *entries]) + "\n"


def _strings(words: list[str]) -> str:
    quoted = [_quoted(word) for word in words]
    return quoted[0] if len(quoted) == 1 else f"[{', '.join(quoted)}]"


def _quoted(text: str) -> str:
    """Return text as a TOML basic string."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _comment(text: str) -> str:
    """Return text as one line of TOML comment: control characters are not allowed there."""
    line = "".join(c if c.isprintable() else " " for c in text)
    return line if len(line) <= _WIDTH else f"{line[:_WIDTH]} [cut]"
