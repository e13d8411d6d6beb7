"""Check that a tag can be released, and print its notes.

    python tools/release.py v0.1.0

Prints the section of CHANGELOG.md for that version. The exit code is 1, with a reason, if the tag,
the version in pyproject.toml and a dated section of the changelog do not agree.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def notes(tag: str, version: str, changelog: str) -> str:
    """Return the changelog's section for a tag.

    Raises:
        ValueError: the tag is not the version, or the section is missing, undated or empty.
    """
    if tag != f"v{version}":
        raise ValueError(f"the tag is {tag} and pyproject.toml has version {version}")
    sections = re.split(r"(?m)^## ", changelog)[1:]
    section = next((text for text in sections if text.split()[0] == version), None)
    if section is None:
        raise ValueError(f"CHANGELOG.md has no section '## {version} (YYYY-MM-DD)'")
    head, _, body = section.partition("\n")
    if not re.fullmatch(rf"{re.escape(version)} \(\d{{4}}-\d\d-\d\d\)", head.strip()):
        raise ValueError(f"the section '## {head}' of CHANGELOG.md has no date (YYYY-MM-DD)")
    if not body.strip():
        raise ValueError(f"the section '## {head}' of CHANGELOG.md is empty")
    return body.strip() + "\n"


def main(arguments: list[str]) -> int:
    """Print the notes of the tag; return 1 if it cannot be released, else 0."""
    [tag] = arguments
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    try:
        print(notes(tag, project["version"], (ROOT / "CHANGELOG.md").read_text("utf-8")), end="")
    except ValueError as error:
        print(f"release: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
