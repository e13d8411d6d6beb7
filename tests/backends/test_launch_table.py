"""The table of configurations: what it has is chosen, and is what the compiler makes today."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import triton

from pytest_rocm_attn.backends.launch_config import Shape, choose_short_tile, choose_tile
from pytest_rocm_attn.backends.launch_table import TABLE, tabled, tabled_short
from pytest_rocm_attn.backends.launch_target import INTERPRETER, amd_target, nvidia_target

DATA = tomllib.loads(TABLE.read_text("utf-8"))
ROWS: list[dict[str, Any]] = DATA["configuration"]
# Of the others, as many as there is time for: pytest -m slow.
SAMPLE = {
    ("gfx942", "prefill-head-size-128"),
    ("gfx1201", "decode-head-size-128"),
}


@pytest.fixture(scope="module")
def tool(script: Callable[[str], Any]) -> Any:
    """The script that writes the table, as a module."""
    return script("tools/launch_table.py")


def name_of(row: dict[str, Any]) -> str:
    return f"{row['target']} {row['family']}"


def shape_of(row: dict[str, Any]) -> Shape:
    fields = ("value_size", "tail", "element", "cache_element", "shared", "plain")
    return Shape(rows=row["rows"] or 128, **{field: row[field] for field in fields})


@pytest.mark.parametrize("row", ROWS, ids=name_of)
def test_what_the_table_has_is_chosen_and_fits(row: dict[str, Any]) -> None:
    target = amd_target(row["target"])
    shape = shape_of(row)
    if row["kind"] == "short":
        tile = choose_short_tile(shape, target)
    else:
        tile = choose_tile(row["kind"], shape, target)
    assert [tile.block_m, tile.block_n, tile.num_warps, tile.num_stages] == row["tile"]
    assert (tile.loops, tile.waves_per_eu) == (row["loops"], row["waves_per_eu"])
    assert row["lds_bytes"] <= target.lds_bytes
    assert row["vgprs"] <= target.wave_registers
    assert row["occupancy"] > 0
    # RDNA has no room for MLA's query in registers.
    assert row["spills"] == 0 or (row["kind"] == "latent" and target.family.startswith("RDNA"))


def test_a_request_with_more_rows_than_any_short_tile_gets_the_largest() -> None:
    target = amd_target("gfx942")
    tiles = {tile.block_m for tile in tabled_short(Shape(32, 128, plain=True), target)}
    assert len(tiles) > 1
    assert choose_short_tile(Shape(4096, 128, plain=True), target).block_m == max(tiles)
    assert choose_short_tile(Shape(min(tiles), 128, plain=True), target).block_m == min(tiles)


def test_each_target_and_class_has_one_row() -> None:
    keys = [(row["target"], row["kind"], shape_of(row)) for row in ROWS]
    assert len(set(keys)) == len(keys) > 0


@pytest.mark.parametrize("target", [INTERPRETER, nvidia_target("sm_90", 232448, 132)], ids=str)
def test_a_target_without_a_row_keeps_its_rule(target: Any) -> None:
    assert tabled("prefill", Shape(128, 128, plain=True), target) is None


def test_a_shape_that_no_row_was_compiled_for_keeps_its_rule() -> None:
    target, shape = amd_target("gfx942"), Shape(128, 128, plain=True)
    assert tabled("prefill", shape, target) is not None
    for other in (
        replace(shape, value_size=80),
        replace(shape, element=4, cache_element=4),
        replace(shape, plain=False),
    ):
        assert tabled("prefill", other, target) is None
    target = amd_target("gfx1201")
    few = tabled("decode", Shape(1, 128, plain=True), target)
    assert few is not None
    assert tabled("decode", Shape(16, 128, plain=True), target) == few
    assert tabled("decode", Shape(17, 128, plain=True), target) is None


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(
            row,
            id=name_of(row),
            marks=[] if (row["target"], row["family"]) in SAMPLE else [pytest.mark.slow],
        )
        for row in ROWS
    ],
)
def test_a_row_is_what_a_fresh_compile_gives(tool: Any, row: dict[str, Any]) -> None:
    """Make the table again (tools/launch_table.py) if this fails: a kernel or the compiler changed."""
    from pytest_rocm_attn.mock import MockRocm

    if triton.__version__ != DATA["triton"]:
        pytest.skip(f"the table is of Triton {DATA['triton']}, this is {triton.__version__}")
    with MockRocm(row["target"]):
        sizes = (*row["tile"], row["loops"], row["waves_per_eu"])
        found = tool.attempt(row["target"], row["family"], row["kind"], sizes)
    assert found is not None, "it does not compile, or fit"
    fresh = tool.row(row["target"], row["family"], found)
    estimated = ("clocks",)  # by whichever llvm-mca is there
    assert {name: value for name, value in fresh.items() if name not in estimated} == {
        name: value for name, value in row.items() if name not in estimated
    }


def test_the_sample_is_in_the_table() -> None:
    assert {(row["target"], row["family"]) for row in ROWS} >= SAMPLE


def test_the_table_is_written_as_it_is_read(tool: Any) -> None:
    assert tool.written(DATA["triton"], ROWS) == TABLE.read_text("utf-8")
