"""Report habits of language that CONTRIBUTING.md bans, in pages, messages, docstrings and comments.

    python tools/check_prose.py [FILE ...]

Without files: README.md, CONTRIBUTING.md, the pages of docs/ that a person writes, and the code and
contracts that are shipped. In a page, code is skipped, in blocks and in backquotes; in Python, texts
and comments are read; in TOML, comments and values in quotes. The exit code is 1 if an offence was
found.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from bisect import bisect_right
from inspect import cleandoc
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
GENERATED = {"behaviour-changelog.md", "gpus.md"}
SHIPPED = ("pytest_rocm_attn", "backends", "conformance", "tools", "benchmarks")

# What is banned, as a regular expression over words with one space between them -> what to write.
HABITS = {
    "(?-i:told)(?!:)": "report, print",
    "tells? (?:of|none|nothing)": "report, print",
    "(?:come|comes|coming|came) (?:to|of)": "result, total, become",
    "(?<!there )(?:is|are|was|were) no(?! longer| more| less| fewer)": "is not a",
    "(?<!there )(?:is|are|was|were) (?-i:none)": "is not one",
    "of (?:ours|theirs)": "our, their, or the owner's name",
    "(?:to|can|could|cannot) be had": "is available",
    "anew": "again",
    "will not do(?! so| this| that)|will do(?=[.,;:])": "is invalid, is not enough, is enough",
    "(?<!-)beside": "next to, besides, together with",
    "(?:is|are) said": "say who reports it",
    "(?:is|are) yours to": "you can, you must",
    "but for": "except",
    "as ever": "as usual",
    "that (?:is|are) there": "that exists",
    "what ends (?:that|it)": "a function that ends it, the reason",
    "however often": "even if it happens again",
    r"as [\w.]+\(\) (?:gives|tells|says)": "from ..., that ... returns",
    "says? nothing of": "does not cover, does not show",
    "speaks? (?:of|for)": "covers, describes",
    "(?:is|are|was|were) put to": "say who tests it",
    "mend(?:s|ed)?": "fix, correct",
    "(?-i:Shipped|First|Last|Left|Missing|Listed|Named|Needed) (?:is|are|was|were|comes?)": (
        "begin with the subject"
    ),
    "meanwhile|for the time being": "while ..., in the meantime, until ...",
    "hence": "therefore, so",
    "be (?:it|they)": "even if, or",
    "nor (?:is|are|does|do|can|has|have|will)": "neither ... nor, or a new sentence",
    "(?:bears?|bearing) on": "affect, effect on",
    "held against": "compared with",
    "otherwise than": "differently from, or name the difference",
    '(?-i:None|""|0) where': 'None if, "" if',
    "(?:only|except|even|also|not|else) where|(?-i:where) (?:there|nothing|no|none|aiter|it is)": (
        "if, when"
    ),
    "(?-i:Where)(?![^.?]*(?:[?]|\\.\\.\\.[?]))": "if, when",
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
_ANY = re.compile("|".join(pattern.pattern for pattern in _BANNED), re.IGNORECASE)


def offences(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield the line, the words and what to write instead, for each banned habit in a page."""
    prose = _CODE.sub(lambda code: re.sub(r"[^\n]", "`", code[0]), text)
    words = list(re.finditer(r"\S+", prose))
    starts = list(accumulate((len(word[0]) + 1 for word in words), initial=0))
    unwrapped = " ".join(word[0] for word in words)
    if not _ANY.search(unwrapped):  # most texts, in a quarter of the time
        return
    found = [
        (match.start(), match[0], instead)
        for habit, instead in _BANNED.items()
        for match in habit.finditer(unwrapped)
    ]
    for start, banned, instead in sorted(found):
        word = words[bisect_right(starts, start) - 1]
        yield prose.count("\n", 0, word.start()) + 1, banned, instead


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Yield each text of a file that a person reads, with the line that it starts on.

    Texts of fewer than three words are left out of code: they are names and formats.
    """
    content = path.read_text("utf-8")
    if path.suffix == ".py":
        for node in ast.walk(ast.parse(content)):
            if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
                continue
            if len(node.value.split()) > 2:
                yield node.lineno, cleandoc(node.value).replace("``", "`")
        yield from _comments(content)
    elif path.suffix == ".toml":
        for number, line in enumerate(content.splitlines(), start=1):
            if line.startswith("#") or re.match(r'\w+ *= *"', line):
                yield number, line
    else:
        yield 1, content


def _comments(code: str) -> Iterator[tuple[int, str]]:
    """Yield each block of comments on neighbouring lines as one text."""
    start, block = 0, list[str]()
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        if token.type == tokenize.COMMENT:
            if block and token.start[0] != start + len(block):
                yield start, "\n".join(block)
                block = []
            start = start if block else token.start[0]
            block.append(token.string.lstrip("# "))
    if block:
        yield start, "\n".join(block)


def pages() -> list[Path]:
    """Return the files that a user reads and a person writes."""
    folders = [ROOT / "docs" / name for name in ("", "howto", "reference", "development")]
    docs = sorted(page for folder in folders for page in folder.glob("*.md"))
    written = [page for page in docs if page.name not in GENERATED]
    code = [path for top in SHIPPED for path in sorted((ROOT / top).rglob("*.py"))]
    rows = sorted((ROOT / "conformance").rglob("*.toml"))
    own = [path for path in (*code, *rows) if path != Path(__file__)]
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *written, *own]


def main(files: list[str]) -> int:
    """Print the offences in these files, or in all pages; return 1 if there are any, else 0."""
    lines = [
        f"{page}:{start + line - 1}: {words!r}; write: {instead} (CONTRIBUTING.md, Language)"
        for page in (map(Path, files) if files else pages())
        for start, text in texts(page)
        for line, words, instead in offences(text)
    ]
    print(*lines, sep="\n", end="\n" if lines else "")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
