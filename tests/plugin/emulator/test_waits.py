"""Which results have arrived, by the counters of s_waitcnt."""

import numpy as np
import pytest

from pytest_rocm_attn.emulator.waits import LDS, LOAD, SCALAR, STORE, Waits

WAVES = np.array([0])


def issued(gfx: str, kind: str, count: int) -> Waits:
    """Return the waits of one wave that issued so many operations: number n fills register n."""
    waits = Waits(1, gfx)
    for register in range(count):
        waits.issue(kind, [register], WAVES, f"load {register}")
    return waits


def arrived(waits: Waits, register: int) -> bool:
    return waits.unfinished([register], WAVES) is None


@pytest.mark.parametrize(
    ("gfx", "kind", "most"),
    [
        ("gfx942", LOAD, 63),
        ("gfx950", LOAD, 63),
        ("gfx942", LDS, 15),
        ("gfx1100", LDS, 63),
        ("gfx1100", LOAD, 63),
        ("gfx1201", LDS, 63),
    ],
)
def test_an_operation_beyond_a_full_counter_waits_for_the_oldest(
    gfx: str, kind: str, most: int
) -> None:
    assert not arrived(issued(gfx, kind, most), 0)
    waits = issued(gfx, kind, most + 1)
    assert arrived(waits, 0)
    assert not arrived(waits, 1)


def test_a_full_counter_says_nothing_of_scalar_loads() -> None:
    waits = issued("gfx942", SCALAR, 40)  # they return in any order
    assert not any(arrived(waits, register) for register in range(40))


def test_stores_fill_the_counter_of_loads_on_gfx9_alone() -> None:
    for gfx, first_arrives in (("gfx942", True), ("gfx1100", False), ("gfx1201", False)):
        waits = Waits(1, gfx)
        waits.issue(LOAD, [0], WAVES, "load")
        for _ in range(63):
            waits.issue(STORE, [], WAVES, "store")
        assert arrived(waits, 0) is first_arrives
