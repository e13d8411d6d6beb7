"""The documented layouts, and the kernels' index arithmetic against them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pytest_rocm_attn.backends.hip.matrix_layout import SHAPES, MatrixShape

BY_NAME = {shape.struct: shape for shape in SHAPES}


def test_every_element_is_held_once_and_on_rdna3_inputs_twice(shape: MatrixShape) -> None:
    lanes = range(shape.wave)
    copies = 2 if shape.struct == "Wmma11" else 1
    for place, count, size in (
        (shape.a, shape.per_lane, (16, shape.k)),
        (shape.b, shape.per_lane, (shape.k, 16)),
    ):
        held = Counter(place(lane, i) for lane in lanes for i in range(count))
        assert held == {(m, n): copies for m in range(size[0]) for n in range(size[1])}
    held = Counter(shape.d(lane, i) for lane in lanes for i in range(shape.results))
    assert held == {(m, n): 1 for m in range(16) for n in range(16)}


# Read off the documents named in matrix_layout.py: where one element lies, as (lane, element).
@pytest.mark.parametrize(
    ("struct", "matrix", "element", "lanes"),
    [
        ("Mfma16", "a", (5, 9), {(37, 1)}),
        ("Mfma16", "b", (9, 5), {(37, 1)}),
        ("Mfma16", "d", (6, 3), {(19, 2)}),
        ("Mfma32", "a", (5, 9), {(21, 1)}),
        ("Mfma32", "a", (0, 31), {(48, 7)}),
        ("Mfma32", "d", (15, 0), {(48, 3)}),
        ("Wmma11", "a", (5, 9), {(5, 9), (21, 9)}),
        ("Wmma11", "d", (1, 0), {(16, 0)}),
        ("Wmma11", "d", (2, 7), {(7, 1)}),
        ("Wmma12", "a", (5, 9), {(21, 1)}),
        ("Wmma12", "d", (9, 7), {(23, 1)}),
    ],
)
def test_the_layout_is_the_documented_one(
    struct: str, matrix: str, element: tuple[int, int], lanes: set[tuple[int, int]]
) -> None:
    shape = BY_NAME[struct]
    place = getattr(shape, matrix)
    count = shape.results if matrix == "d" else shape.per_lane
    found = {(v, i) for v in range(shape.wave) for i in range(count) if place(v, i) == element}
    assert found == lanes


def test_a_product_by_lanes_is_the_product(shape: MatrixShape) -> None:
    """A model of the instruction: gather from lanes, multiply, scatter to lanes."""
    draw = np.random.default_rng(0)
    a, b = draw.standard_normal((16, shape.k)), draw.standard_normal((shape.k, 16))
    lanes_a = [[a[shape.a(v, i)] for i in range(shape.per_lane)] for v in range(shape.wave)]
    lanes_b = [[b[shape.b(v, i)] for i in range(shape.per_lane)] for v in range(shape.wave)]
    gathered_a, gathered_b = np.zeros_like(a), np.zeros_like(b)
    for v in range(shape.wave):
        for i in range(shape.per_lane):
            gathered_a[shape.a(v, i)] = lanes_a[v][i]
            gathered_b[shape.b(v, i)] = lanes_b[v][i]
    assert np.array_equal(gathered_a @ gathered_b, a @ b)


def test_the_kernels_use_the_documented_rows(
    emulator: Callable[..., Any], shape: MatrixShape
) -> None:
    library = emulator(shape).library
    assert library.matrix_wave() == shape.wave
    assert library.matrix_groups() == shape.groups
    assert library.matrix_per_lane() == shape.per_lane
    assert library.matrix_results() == shape.results
    for lane in range(shape.wave):
        for i in range(shape.results):
            assert library.matrix_row(lane, i) == shape.d(lane, i)[0]
