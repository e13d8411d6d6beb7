"""The grid's cells: their numbers, what they ask, and what the standard grid covers."""

from __future__ import annotations

import json

import pytest

from pytest_rocm_attn import Aiter, Gpu, Request
from pytest_rocm_attn.conformance.promise.grid.design import standard
from pytest_rocm_attn.conformance.promise.grid.space import ALSO, Axis, Cell, Family, Grid
from pytest_rocm_attn.flags import EXPLICIT, VARIABLES, Flags
from pytest_rocm_attn.gpu import distinct_gpus, known_gpus
from pytest_rocm_attn.registry import CLASS_PATHS

REQUESTS = (Request(), Request(use_mla=True, block_size=1), Request(head_size=64, block_size=1))


def family(requests: tuple[Request, ...] = REQUESTS) -> Family:
    return Family(
        "small",
        "a small one",
        (
            Axis("gfx", ("gfx942", "gfx1201")),
            Axis("aiter", ("present", "absent")),
            Axis("VLLM_ROCM_USE_AITER", (None, "1")),
            Axis(ALSO, ((), (("A", "1"),), (("A", "2"), ("B", "1")))),
            Axis("request", requests),
        ),
    )


def test_cells_are_numbered_with_the_last_axis_fastest() -> None:
    cells = [family().cell(number) for number in range(family().cells)]
    assert len(cells) == 2 * 2 * 2 * 3 * 3
    assert cells[:3] == [Cell({}, Gpu("gfx942"), request) for request in REQUESTS]
    assert cells[3] == Cell({"A": "1"}, Gpu("gfx942"), REQUESTS[0])
    assert cells[-1] == Cell(
        {"VLLM_ROCM_USE_AITER": "1", "A": "2", "B": "1"}, Gpu("gfx1201", Aiter.ABSENT), REQUESTS[2]
    )


def test_a_number_and_its_coordinates_are_each_others_inverse() -> None:
    small = family()
    for number in range(small.cells):
        assert small.number(small.coordinates(number)) == number


def test_a_slice_is_a_run_of_its_familys_cells() -> None:
    first, second = family().slices()
    assert (first.id, second.id) == ("small[gfx942]", "small[gfx1201]")
    assert second.first == first.cells == 36
    assert second.cell(0) == family().cell(36)
    assert second.cell(35) == family().cell(71)


@pytest.mark.parametrize("number", [-1, 36])
def test_a_number_beyond_the_slice_is_no_cell(number: int) -> None:
    first, _ = family().slices()
    with pytest.raises(IndexError, match=r"slice small\[gfx942\] has the cells 0 to 35"):
        first.cell(number)


def test_facets_are_what_tells_an_axis_values_apart() -> None:
    *_, also, request = family().axes
    assert also.facets == {"A": (None, "1", "2"), "B": (None, None, "1")}
    assert request.facets == {
        "head_size": (128, 576, 64),
        "block_size": (16, 1, 1),
        "use_mla": (False, True, False),
        "num_heads": (32, 16, 32),
        "num_kv_heads": (8, 1, 8),
    }


def test_an_axis_survives_json() -> None:
    for axis in family().axes:
        assert Axis.of(json.loads(json.dumps(axis.data()))) == axis


def test_the_digest_tells_grids_apart_by_their_cells() -> None:
    same, other = Grid("a", (family(),)), Grid("b", (family(),))
    fewer = Grid("a", (family(REQUESTS[:2]),))
    assert same.digest == other.digest != fewer.digest


# --- the standard grid ----------------------------------------------------------------------------


def test_the_standard_grid_has_over_a_million_cells() -> None:
    assert standard().cells >= 1_000_000
    assert standard().cells == sum(part.cells for part in standard().slices)


def test_the_standard_grid_has_not_changed() -> None:
    # Baselines are recorded on it. A change needs a new name (standard-3) and new baselines.
    assert (standard().name, standard().digest) == ("standard-2", "8b0dcddae6a4441e")


def test_the_standard_grid_has_every_gpu_choice_and_state_of_aiter() -> None:
    values = {name: set[object]() for name in ("gfx", "aiter", EXPLICIT)}
    for one in standard().families:
        for axis in one.axes:
            if axis.name in values:
                values[axis.name].update(axis.values)
    assert values["gfx"] == set(distinct_gpus())
    assert values["aiter"] == {state.value for state in Aiter}
    assert values[EXPLICIT] >= {None, *CLASS_PATHS}


def test_the_standard_grid_has_every_declared_variable_at_two_meanings_or_more() -> None:
    meanings: dict[str, set[object]] = {name: {None} for name in VARIABLES}
    for one in standard().families:
        for axis in one.axes[2:-1]:
            for name, column in axis.facets.items():
                for text in column:
                    if name in VARIABLES and isinstance(text, str):
                        meanings[name].add(parsed(name, text))
    poor = [name for name, found in meanings.items() if len(found - {None}) < 2]
    assert not poor


def parsed(name: str, text: str) -> object:
    try:
        return repr(Flags({name: text})[name])
    except ValueError:
        return None


def test_slices_of_one_gpu_follow_each_other() -> None:
    order = [part.gfx for part in standard().slices]
    assert list(dict.fromkeys(order)) == [gfx for gfx in known_gpus() if gfx in order]
    assert order == sorted(order, key=list(known_gpus()).index)
