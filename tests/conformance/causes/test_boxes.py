"""Covering labelled cells with boxes."""

from __future__ import annotations

import itertools

from pytest_rocm_attn.conformance.causes import boxes
from pytest_rocm_attn.conformance.causes.cells import Cells


def test_no_box_is_redundant() -> None:
    rows = [{"a": one, "b": other} for one, other in itertools.product(range(3), range(3))]
    cells = Cells.of_rows(rows)
    # Overlapping bars of a cross, as a bitmap of rows.
    found, left = boxes.cover(cells, {"x": 0b010_111_010})
    assert left == 0
    assert found == {
        ("x", (0b010, 0b111)): 0b000_111_000,
        ("x", (0b111, 0b010)): 0b010_010_010,
    }
