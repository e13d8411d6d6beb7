"""Every finding of the tier server on unmodified releases stands in docs/server.md, and each that stands there is found.

Slow: several minutes for a release; needs it unpacked, see test_real_vllm.py.
"""

from __future__ import annotations

import itertools
import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "server.md"
_ROW = re.compile(r"\| (?P<releases>[\d., ]+) \| (?P<gpus>[\w, ]+) \| (?P<items>`[^|]+`) \| .+ \|")


def listed(page: str) -> dict[tuple[str, str], set[str]]:
    """Return (release, GPU) -> the patterns of items that the page lists a finding of."""
    found: dict[tuple[str, str], set[str]] = {}
    for row in _ROW.finditer(page.partition("### Every finding")[2].partition("\n### ")[0]):
        patterns = re.findall(r"`([^`]+)`", row["items"])
        for one in itertools.product(row["releases"].split(", "), row["gpus"].split(", ")):
            found.setdefault(one, set()).update(patterns)
    return found


LISTED = listed(PAGE.read_text("utf-8"))


def differences(patterns: set[str], findings: set[str]) -> list[str]:
    """Return what is found and not listed, and what is listed and not found, in words."""
    unlisted = [one for one in findings if not any(fnmatch(one, each) for each in patterns)]
    idle = [each for each in patterns if not any(fnmatch(one, each) for one in findings)]
    return [
        *(f"{one} has a finding that the page does not list" for one in sorted(unlisted)),
        *(f"{each} is listed, and nothing is found" for each in sorted(idle)),
    ]


def test_the_page_lists_the_releases_that_were_run() -> None:
    assert {release for release, _ in LISTED} == {"0.25.1", "0.31.0", "0.33.0"}
    assert ("0.33.0", "gfx1201") in LISTED


def test_a_finding_without_a_row_and_a_row_without_a_finding_are_differences() -> None:
    page = "### Every finding\n| 0.1.0, 0.2.0 | gfx942 | `a-*`, `b` | said |\n| 0.2.0 | gfx1 | `c` | x |\n"
    assert listed(page) == {
        ("0.1.0", "gfx942"): {"a-*", "b"},
        ("0.2.0", "gfx942"): {"a-*", "b"},
        ("0.2.0", "gfx1"): {"c"},
    }
    assert differences({"a-*", "b"}, {"a-1", "a-2", "b"}) == []
    assert differences({"a-*", "b"}, {"a-1", "c"}) == [
        "c has a finding that the page does not list",
        "b is listed, and nothing is found",
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("release", "gpu"), sorted(LISTED))
def test_the_findings_are_those_that_the_page_lists(
    server_rows: Any, release: str, gpu: str
) -> None:
    rows = server_rows(release, gpu)
    assert len(rows) > 150
    findings = {name for name, row in rows.items() if row["verdict"] not in ("pass", "skip")}
    assert differences(LISTED[release, gpu], findings) == []
