"""The table of what is shown for each backend, in docs/backends.md."""

from __future__ import annotations

import re
from pathlib import Path

from pytest_rocm_attn.conformance.report.evidence import COLUMNS
from pytest_rocm_attn.conformance.tiers.numerics.subjects import OVER_AITER, REFERENCES
from pytest_rocm_attn.registry import ROCM_BACKENDS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "backends.md"
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


def test_every_backend_of_rocm_has_its_line_and_every_line_all_columns() -> None:
    head, _, *rows = table(DOCS)
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
