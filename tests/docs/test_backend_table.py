"""The table of what is proved for each backend: in docs/backends.md with links, in README.md without."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pytest_rocm_attn.conformance.report.evidence import COLUMNS
from pytest_rocm_attn.conformance.tiers.numerics.subjects import OVER_AITER, REFERENCES
from pytest_rocm_attn.registry import ROCM_BACKENDS

ROOT = Path(__file__).parents[2]
DOCS, README = ROOT / "docs" / "backends.md", ROOT / "README.md"
LINK = re.compile(r"\[([^\]]+)\]\(([^)]*)\)")


def table(file: Path) -> list[list[str]]:
    """Return the cells of the one table of backends in a file, its head first."""
    lines = file.read_text("utf-8").splitlines()
    starts = [
        number for number, line in enumerate(lines) if line.startswith("| backend | selectable")
    ]
    assert len(starts) == 1, f"{file} has {len(starts)} tables of backends"
    rows = []
    for line in lines[starts[0] :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return rows


def test_the_readme_says_what_the_docs_say() -> None:
    with_links = table(DOCS)
    assert any(LINK.search(cell) for row in with_links for cell in row)
    assert table(README) == [[LINK.sub(r"\1", cell) for cell in row] for row in with_links]


@pytest.mark.parametrize("file", [DOCS, README], ids=lambda path: path.name)
def test_every_backend_of_rocm_has_its_line_and_every_line_all_columns(file: Path) -> None:
    head, _, *rows = table(file)
    assert {"selectable", "capabilities", "oracle"} < set(head)
    assert {column.partition(",")[0] for column in head} >= set(COLUMNS) - {"source-emulated"}
    assert {len(row) for row in rows} == {len(head)}
    named = {name.strip() for row in rows for name in row[0].split(",")}
    assert set(ROCM_BACKENDS) <= named
    tried = {one.name.partition("-")[0] for one in (*REFERENCES, *OVER_AITER)}
    assert tried <= named


def test_its_links_lead_somewhere() -> None:
    cells = [cell for row in table(DOCS) for cell in row]
    links = [target for cell in cells for _, target in LINK.findall(cell)]
    assert len(links) == sum(cell.count("](") for cell in cells) > 4
    assert [link for link in links if not (DOCS.parent / link).is_file()] == []
