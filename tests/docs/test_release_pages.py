"""docs/releases/ is what the contract by age makes of it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_pages_are_as_generated() -> None:
    path = ROOT / "tools" / "release_pages.py"
    spec = importlib.util.spec_from_file_location("release_pages", path)
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    there = {page.name: page.read_text("utf-8") for page in (ROOT / "docs/releases").glob("*.md")}
    assert there == tool.pages(), "run tools/release_pages.py"
    assert all(len(text.splitlines()) < 70 for text in there.values()), "a screenful"
