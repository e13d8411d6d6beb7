from __future__ import annotations

import pytest

from pytest_rocm_attn.columns import aligned


def test_each_column_is_as_wide_as_its_widest_cell_and_no_line_ends_in_blanks() -> None:
    assert aligned([("a", "bb", "c"), ("aaa", "b", "")]) == ["a    bb  c", "aaa  b"]


def test_rows_of_different_lengths_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="shorter"):
        aligned([("a", "b"), ("a",)])
