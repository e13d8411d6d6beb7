"""Tables as decision diagrams: exact, canonical, small, and careful with what they are given."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_rocm_attn.conformance.promise.grid.diagram import decode, encode


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    cells = math.prod(sizes)
    return sizes, draw(st.lists(st.integers(0, 300), min_size=cells, max_size=cells))


@given(tables())
@settings(max_examples=100, deadline=None)
def test_decoding_gives_the_table_that_was_encoded(table: tuple[list[int], list[int]]) -> None:
    sizes, codes = table
    levels = encode(codes, sizes)
    assert decode(levels, sizes, 301).tolist() == codes
    for rows in levels:
        assert len(rows) == len(set(rows))


def test_rows_are_numbered_by_their_first_cell_and_runs_are_counted() -> None:
    assert encode([7, 7, 7, 0, 1, 1, 7, 7, 7], [3, 3]) == [["0 1 0"], ["7*3", "0 1*2"]]


def test_what_no_axis_tells_apart_is_stored_once() -> None:
    levels = encode([0, 1] * 3**8, [3] * 8 + [2])
    assert levels == [["0*3"]] * 8 + [["0 1"]]


@pytest.mark.parametrize(
    ("levels", "why"),
    [
        pytest.param([["0 0"]], "1 levels for 2 axes", id="a level is missing"),
        pytest.param([["0 0"], ["0 9"]], "does not fit", id="no such outcome"),
        pytest.param([["0 3"], ["0 1"]], "does not fit", id="no such row"),
        pytest.param([["0 0"], ["0"]], "does not fit", id="too short"),
        pytest.param([["0 0"], ["0*3"]], "'0*3'", id="too long"),
        pytest.param([["0 0"], ["0*99999999999"]], "entry", id="far too long"),
        pytest.param([["0 0"], ["0 -1"]], "'-1'", id="negative"),
        pytest.param([["0 0"], ["0 x"]], "'x'", id="no number"),
        pytest.param([["0 0"], ["0 1", "1 0", "0 0"]], "no cell uses", id="more rows than cells"),
        pytest.param([["0 0", "0 0"], ["0 1"]], "level 0", id="two first rows"),
        pytest.param([[], ["0 1"]], "0 first rows", id="no first row"),
    ],
)
def test_levels_that_describe_no_table_are_refused(levels: list[list[str]], why: str) -> None:
    with pytest.raises(ValueError, match=why.replace("*", r"\*")) as caught:
        decode(levels, [2, 2], 3)
    assert "\n" not in str(caught.value)
