"""docs/grid.md states the size of the grid that is, and how much of it the rules decide."""

from __future__ import annotations

from pathlib import Path

from pytest_rocm_attn.conformance.promise import contract
from pytest_rocm_attn.conformance.promise.grid import rules
from pytest_rocm_attn.conformance.promise.grid.design import standard

PAGE = " ".join((Path(__file__).parents[2] / "docs" / "grid.md").read_text("utf-8").split())


def decided(name: str) -> int:
    """Return how many cells of the grid the rules of a contract's own file decide."""
    folder = contract.load(name).folder
    assert folder is not None
    given = rules.load(folder / contract.GRID_FILE)
    return sum(bool(rule) for part in standard().slices for rule in rules.applied(given, part))


def test_the_page_states_the_families_and_the_size_of_the_grid() -> None:
    grid = standard()
    names = ", ".join(f"`{family.name}`" for family in grid.families)
    assert f"Families: {names}." in PAGE
    size = f"`{grid.name}`: {grid.cells:,} cells in {sum(1 for _ in grid.slices)} slices"
    assert size in PAGE, size
    assert f"of {grid.cells:,} cells, " in PAGE  # an example of the progress that a run shows


def test_the_page_states_how_many_cells_the_rules_decide() -> None:
    of_vllm, of_26980 = decided("vllm"), decided("pr-26980")
    assert 0 < of_vllm != of_26980 > 0
    says = f"Those of `vllm` decide {of_vllm:,} cells, those of `pr-26980` {of_26980:,}"
    assert says in PAGE, says
