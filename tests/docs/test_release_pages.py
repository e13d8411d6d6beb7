"""docs/releases/ is what the contract by age makes of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def test_the_pages_are_as_generated(script: Callable[[str], Any]) -> None:
    tool = script("tools/release_pages.py")
    there = {page.name: page.read_text("utf-8") for page in (ROOT / "docs/releases").glob("*.md")}
    assert there == tool.pages(), "run tools/release_pages.py"
    assert all(len(text.splitlines()) < 70 for text in there.values()), "a screenful"
