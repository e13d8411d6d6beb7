"""Report habits of language that CONTRIBUTING.md bans, in the pages that a user reads.

    python tools/check_prose.py [FILE.md ...]

Without files: README.md, CONTRIBUTING.md, docs/*.md and docs/howto/*.md, except generated pages.
Code is skipped, in blocks and in backquotes. The exit code is 1 if an offence was found.
"""

from __future__ import annotations

import re
import sys
from bisect import bisect_right
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
GENERATED = {"behaviour-changelog.md"}

# What is banned, as a regular expression over words with one space between them -> what to write.
HABITS = {
    "told": "report, print",
    "tells? (?:of|none|nothing)": "report, print",
    "(?:come|comes|coming|came) (?:to|of)": "result, total, become",
    "(?<!there )(?:is|are|was|were) no(?! longer| more| less| fewer)": "is not a",
    "(?<!there )(?:is|are|was|were) (?-i:none)": "is not one",
    "of (?:ours|theirs)": "our, their, or the owner's name",
    "(?:to|can|could|cannot) be had": "is available",
    "anew": "again",
    "will not do(?! so| this| that)|will do(?=[.,;:])": "is invalid, is not enough, is enough",
    "beside": "next to, besides, together with",
    "(?:is|are) said": "say who reports it",
    "(?:is|are) yours to": "you can, you must",
    "but for": "except",
    "as ever": "as usual",
    "that (?:is|are) there": "that exists",
    "says? nothing of": "does not cover, does not show",
    "speaks? (?:of|for)": "covers, describes",
    "(?:is|are|was|were) put to": "say who tests it",
    "mend(?:s|ed)?": "fix, correct",
    "otherwise than": "differently from, or name the difference",
    "(?:only|except|even|also|not|else) where|(?-i:where) (?:there|nothing|no|none|aiter|it is)": (
        "if, when"
    ),
    "(?-i:Where)(?![^.?]*[?])": "if, when",
}
_CODE = re.compile(
    r"^( *)(`{3,}).*?^\1\2 *$"  # a fenced block
    r"|(?<=\n\n)(?: {4}[^\n]*\n)+"  # an indented block
    r"|(`+)(?:(?!\n\n).)+?\3"  # code within a paragraph
    r"|\]\([^)]*\)",  # the target of a link
    re.DOTALL | re.MULTILINE,
)
_BANNED = {
    re.compile(rf"\b(?:{habit})(?!\w)", re.IGNORECASE): instead for habit, instead in HABITS.items()
}


def offences(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield the line, the words and what to write instead, for each banned habit in a page."""
    prose = _CODE.sub(lambda code: re.sub(r"[^\n]", "`", code[0]), text)
    words = list(re.finditer(r"\S+", prose))
    starts = list(accumulate((len(word[0]) + 1 for word in words), initial=0))
    unwrapped = " ".join(word[0] for word in words)
    found = [
        (match.start(), match[0], instead)
        for habit, instead in _BANNED.items()
        for match in habit.finditer(unwrapped)
    ]
    for start, banned, instead in sorted(found):
        word = words[bisect_right(starts, start) - 1]
        yield prose.count("\n", 0, word.start()) + 1, banned, instead


def pages() -> list[Path]:
    """Return the pages that a user reads and a person writes."""
    docs = [*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "howto").glob("*.md")]
    written = [page for page in sorted(docs) if page.name not in GENERATED]
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *written]


def main(files: list[str]) -> int:
    """Print the offences in these files, or in all pages; return 1 if there are any, else 0."""
    lines = [
        f"{page}:{line}: {words!r}; write: {instead} (CONTRIBUTING.md, Language)"
        for page in (map(Path, files) if files else pages())
        for line, words, instead in offences(page.read_text("utf-8"))
    ]
    print(*lines, sep="\n", end="\n" if lines else "")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
