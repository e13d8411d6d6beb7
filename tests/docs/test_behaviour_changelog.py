"""What the generated changelog of releases says: few causes, short, with the pull requests that are known."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import pytest

from pytest_rocm_attn.conformance.baseline.known_changes import known

PAGE = Path(__file__).parents[2] / "docs" / "behaviour-changelog.md"
SENTENCE = re.compile(
    r"- (?P<said>.*?)(?: \((?P<links>\[#.*?\]\(.*?\))\))?\."
    r"(?P<reasons> .*\.)? (?P<cells>[\d,]+) cells, e\.g\. `.*`\."
)

# Release -> the pull request or report of the cause that most users meet first, and of the one with
# most cells; "" if none is known.
BIGGEST = {
    "0.12.0": ("26980", "26980"),
    "0.13.0": ("26315", "25693"),
    "0.14.1": ("30952", "30952"),
    "0.15.1": ("32812", "32812"),
    "0.16.0": ("", "33749"),
    "0.18.1": ("35246", "35246"),
    "0.19.1": ("36702", "36702"),
    "0.20.2": ("41559", "41559"),
    "0.21.0": ("41217", "42121"),
    "0.23.0": ("43660", "43660"),
    "0.24.0": ("", ""),
    "0.25.1": ("46780", "46780"),
    "0.26.0": ("46570", "46904"),
    "0.27.1": ("", "46516"),
    "0.28.0": ("43615", "47896"),
    "0.29.0": ("52849", "52849"),  # of its second part; none is known for the CPU's blocks
    "0.30.0": ("55780", "55780"),
    "0.31.0": ("54988", "54988"),
    "0.32.0": ("57057", "54805"),
    "0.33.0": ("52670", "52670"),
}


def sections() -> dict[str, list[re.Match[str]]]:
    """Return the causes of each release that changed something."""
    found: dict[str, list[re.Match[str]]] = {}
    for section in PAGE.read_text("utf-8").split("\n## ")[1:]:
        lines = section.splitlines()
        written = [line for line in lines if line.startswith("- ")]
        causes = [m for m in map(SENTENCE.fullmatch, written) if m]
        assert len(causes) == len(written), written
        if causes:
            found[lines[0].rpartition(" ")[2]] = causes
    return found


def numbers(cause: re.Match[str]) -> list[str]:
    return re.findall(r"\[#(\d+)\]", cause["links"] or "")


def test_each_release_fits_a_screen_and_each_cause_is_a_short_sentence() -> None:
    for release, causes in sections().items():
        assert len(causes) <= 10, release
        for cause in causes:
            said = cause["said"].replace("\\", "")
            names = ", ".join(f"#{number}" for number in numbers(cause))
            told = f"{said} ({names})." if names else f"{said}."
            assert len(told) < 160, told
            assert "in part" not in said
    assert "not shown" not in PAGE.read_text("utf-8")


def test_the_biggest_cause_of_a_release_names_its_pull_request() -> None:
    found = {}
    for release, causes in sections().items():
        largest = max(causes, key=lambda one: int(one["cells"].replace(",", "")))
        found[release] = tuple((numbers(one) or [""])[0] for one in (causes[0], largest))
    assert found == BIGGEST


@pytest.mark.parametrize(
    ("release", "others"),
    [
        ("0.18.1", ["36702"]),
        ("0.19.1", ["35923", "38450", "46596"]),
        ("0.23.0", ["43817"]),
        ("0.30.0", ["53695"]),
        ("0.32.0", ["46754"]),
    ],
)
def test_pull_requests_that_are_known_are_named(release: str, others: list[str]) -> None:
    named = {number for cause in sections()[release] for number in numbers(cause)}
    assert named.issuperset(others)


def test_a_link_is_not_printed_without_what_it_did() -> None:
    """A cause of two parts, of which one has no pull request, says what that of the other one did."""
    reasons: dict[str, set[str]] = defaultdict(set)
    for one in known():
        reasons[one.link.rpartition("/")[2]].add(one.reason[:1].upper() + one.reason[1:])
    for causes in sections().values():
        for cause in causes:
            said = (cause["reasons"] or "").replace("\\", "")
            if names := numbers(cause):
                assert any(reason in said for reason in reasons[names[0]]), cause[0]
