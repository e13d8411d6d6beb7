"""What the generated changelog of releases says: few causes, short, with the pull requests that are known."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "behaviour-changelog.md"
SENTENCE = re.compile(r"- (.*?)(?: \((\[#.*?\]\(.*?\))\))?\. (?:.*\. )?[\d,]+ cells, e\.g\. `.*`\.")


def sections() -> dict[str, list[tuple[str, str]]]:
    """Return the causes of each release: the sentence, and its links."""
    found: dict[str, list[tuple[str, str]]] = {}
    for section in PAGE.read_text("utf-8").split("\n## ")[1:]:
        lines = section.splitlines()
        causes = [SENTENCE.fullmatch(line) for line in lines if line.startswith("- ")]
        assert all(causes), [line for line in lines if line.startswith("- ")]
        release = lines[0].rpartition(" ")[2]
        found[release] = [(m[1].replace("\\", ""), m[2] or "") for m in causes if m]
    return found


def test_each_release_fits_a_screen_and_each_cause_is_a_short_sentence() -> None:
    assert len(sections()) >= 20
    for release, causes in sections().items():
        assert len(causes) <= 10, release
        for said, links in causes:
            names = re.findall(r"\[(#\d+)\]", links)
            told = f"{said} ({', '.join(names)})." if names else f"{said}."
            assert len(told) < 160, told
            assert "in part" not in said
    assert "not shown" not in PAGE.read_text("utf-8")


@pytest.mark.parametrize(
    ("release", "first", "others"),
    [
        ("0.12.0", "26980", []),
        ("0.18.1", "35246", ["36702"]),
        ("0.19.1", "36702", ["35923", "38450", "46596"]),
        ("0.23.0", "", ["43817"]),
        ("0.28.0", "43615", []),
        ("0.30.0", "55780", ["53695"]),
        ("0.31.0", "47896", []),
        ("0.32.0", "57057", ["46754"]),
    ],
)
def test_pull_requests_that_are_known_are_named(
    release: str, first: str, others: list[str]
) -> None:
    links = [links for _, links in sections()[release]]
    assert f"/{first}" in links[0] if first else True
    assert all(any(f"/{number})" in each for each in links) for number in others)
