"""Releases of vLLM, as numbers that can be compared."""

from __future__ import annotations

import re
from typing import TypeAlias

Release: TypeAlias = tuple[int, int, int]

FIRST: Release = (0, 0, 0)
LAST: Release = (9999, 0, 0)  # a release that nothing is later than
_TEXT = re.compile(r"v?(\d+)\.(\d+)(?:\.(\d+))?(?![\d])")


def parse(text: str) -> Release:
    """Return the release that a version begins with: "0.19.0", "0.19", "0.19.1rc2+rocm" too.

    Raises:
        ValueError: it begins with no release.
    """
    found = _TEXT.match(text)
    if found is None:
        raise ValueError(f"{text!r} is not a release such as 0.19.0")
    major, minor, patch = found.groups(default="0")
    return int(major), int(minor), int(patch)


def words(release: Release) -> str:
    """Return it as people write it: "0.19.0"."""
    return ".".join(map(str, release))
