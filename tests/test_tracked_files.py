"""What no checker of a language looks at: merge conflicts left in a file, ends of files, TOML that parses."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MARKER = re.compile(r"(<{7}|\|{7}|>{7})( |$)", re.MULTILINE)


@pytest.fixture(scope="module")
def files() -> list[Path]:
    """Every tracked file of text that is not a link."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs git's list of tracked files; this is no clone")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    found = [
        path
        for path in paths
        if path.is_file() and not path.is_symlink() and b"\0" not in path.read_bytes()
    ]
    assert len(found) > 300
    return found


def conflicts(text: str) -> list[str]:
    """Return the lines that git left in a text, with their numbers."""
    lines = enumerate(text.splitlines(), 1)
    return [f"{number}: {line}" for number, line in lines if MARKER.match(line)]


def test_no_file_holds_a_merge_conflict(files: list[Path]) -> None:
    found = {
        path.relative_to(ROOT).as_posix(): lines
        for path in files
        if (lines := conflicts(path.read_text("utf-8")))
    }
    assert found == {}


def test_a_merge_conflict_is_seen() -> None:
    ours, base, theirs = "<" * 7, "|" * 7, ">" * 7
    text = f"a\n{ours} HEAD\nb\n{base} 1f\nc\n=======\nd\n{theirs} 7cd89c4 (x)\n{'<' * 8}\n"
    assert conflicts(text) == [f"2: {ours} HEAD", f"4: {base} 1f", f"8: {theirs} 7cd89c4 (x)"]


def test_every_file_ends_in_one_newline(files: list[Path]) -> None:
    odd = []
    for path in files:
        content = path.read_bytes()
        if content and (not content.endswith(b"\n") or content.endswith(b"\n\n")):
            odd.append(path.relative_to(ROOT).as_posix())
    assert odd == []


def test_every_toml_file_parses(files: list[Path]) -> None:
    found = [path for path in files if path.suffix == ".toml"]
    assert len(found) > 10
    for path in found:
        tomllib.loads(path.read_text("utf-8"))
