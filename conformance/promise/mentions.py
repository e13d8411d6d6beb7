"""Whether a message mentions a word, by meaning and not by spelling."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_BETWEEN = re.compile(r"[\s_-]+")  # "block size", "block_size" and "block-size" are one word
_NAME = re.compile(r"[A-Z0-9]+(_[A-Z0-9]+)+")  # of a backend or a variable
_NUMBER = re.compile(r"\d+(\.\d+)?")


def missing(words: Iterable[str], message: str) -> list[str]:
    """Return those of the words that a message does not mention.

    Upper and lower case are alike, and so are spaces, underscores and hyphens: "block_size not
    supported" mentions "block size". A word may be part of a longer one ("MLA" of "FLASHMLA"), but a
    number may not ("1" of "16"), nor a name of several words in capitals ("ROCM_AITER_MLA" of
    "ROCM_AITER_MLA_SPARSE"): these would be other numbers and names.
    """
    return [word for word in words if not _pattern(word).search(message)]


def is_blank(word: str) -> bool:
    """Say whether nothing is left of a word to look for."""
    return not any(_BETWEEN.split(word))


@lru_cache(maxsize=1024)
def _pattern(word: str) -> re.Pattern[str]:
    parts = _BETWEEN.split(word)
    spelled = r"[\s_-]+".join(map(re.escape, parts))
    first, last = parts[0], parts[-1]
    if _NAME.fullmatch(word):
        spelled = rf"(?<!\w){spelled}(?!\w)"
    if _NUMBER.fullmatch(first):
        spelled = rf"(?<!\w)(?<!\d\.){spelled}"
    if _NUMBER.fullmatch(last):
        spelled = rf"{spelled}(?!\w|\.\d)"
    return re.compile(spelled, re.IGNORECASE)
