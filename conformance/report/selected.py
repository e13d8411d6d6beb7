"""What is selected: flags against families of requests and GPUs, the backend's name in the square."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pytest_rocm_attn.conformance.promise.verdict import Verdict
from pytest_rocm_attn.conformance.report import words
from pytest_rocm_attn.flags import EXPLICIT

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_rocm_attn.conformance.report.schema import Record


class Square(NamedTuple):
    """One set of flags, one family, one GPU.

    Attributes:
        text: the backend that the plainest request gets, or what else came; "" if nothing was asked.
        others: how many more answers the other requests of the family get.
        right: whether none of them falls short.
    """

    text: str
    others: int
    right: bool


class Line(NamedTuple):
    """A line of the table: a square for each GPU."""

    flags: str
    family: str
    squares: tuple[Square, ...]


NOTHING = Square("", 0, True)


def table(rows: Iterable[Record]) -> tuple[list[str], list[Line]]:
    """Return the GPUs, and the lines, fewest flags first, of what was asked on several GPUs if any was.

    No backend is named, and aiter is present.
    """
    asked: dict[tuple[str, str], dict[str, list[Record]]] = {}
    for row in rows:
        if row["gpu"] is None or row["gpu"]["aiter"] != "present" or not words.family(row):
            continue
        if row["env"] is None or EXPLICIT in row["env"] or not _answer(row):
            continue
        line = asked.setdefault((words.flags_words(row), words.family(row)), {})
        line.setdefault(row["gpu"]["gfx"], []).append(row)
    gpus = words.columns_of(
        row for line in asked.values() for rows in line.values() for row in rows
    )
    lines = [
        Line(flags, family, tuple(_square(line.get(gfx, [])) for gfx in gpus))
        for (flags, family), line in asked.items()
    ]
    several = [line for line in lines if sum(bool(one.text) for one in line.squares) > 1]
    return gpus, sorted(
        several or lines, key=lambda line: (line.flags.count("="), line.flags, _place(line))
    )


def _place(line: Line) -> tuple[int, str]:
    known = line.family in words.FAMILIES
    return words.FAMILIES.index(line.family) if known else len(words.FAMILIES), line.family


def _answer(row: Record) -> str:
    kind = row["outcome"].get("kind")
    if kind == "selected":
        return str(row["outcome"].get("backend", ""))
    return {"rejected": "refusal", "crashed": "crash"}.get(str(kind), "")


def _square(rows: list[Record]) -> Square:
    if not rows:
        return NOTHING
    plainest = sorted(rows, key=lambda row: (words.departures(row), row["id"]))
    answers = list(dict.fromkeys(map(_answer, plainest)))
    right = all(row["verdict"] == Verdict.PASS for row in rows)
    return Square(answers[0], len(answers) - 1, right)
