"""What the attention kernel tells the compiler must be so: a compiled GPU kernel goes by it."""

# The body of a kernel is Triton's language, not Python's, as in backends/kernels.
# mypy: disable-error-code="untyped-decorator, no-untyped-def"

from __future__ import annotations

import itertools

import pytest
import torch
import triton
import triton.language as tl

from pytest_rocm_attn.backends.kernels.order import place_of
from pytest_rocm_attn.backends.kernels.tiles import look_up_pages, look_up_runs

KEYS = 32


@triton.jit
def _look_up(
    table,
    out,
    first_key,
    last_key,
    PAGE_SIZE: tl.constexpr,
    WHOLE: tl.constexpr,
    COUNT: tl.constexpr,
):
    keys = tl.arange(0, COUNT)
    tl.store(out + keys, look_up_pages(table, keys, first_key, last_key, PAGE_SIZE, WHOLE))


def look_up(first_key: int, last_key: int, page_size: int, *, whole: bool) -> list[int]:
    table = torch.arange(10, 10 + KEYS, dtype=torch.int32)
    out = torch.full((KEYS,), -1, dtype=torch.int32)
    _look_up[(1,)](table, out, first_key, last_key, page_size, whole, KEYS)
    pages: list[int] = out.tolist()
    return pages


RANGES = list(itertools.product((0, 1, 7, 8, 9, 16, 31), (0, 1, 8, 15, 17, 32)))


@pytest.mark.parametrize("page_size", [8, 16, 24])
def test_whole_pages_are_the_same_for_all_keys_of_a_run(page_size: int) -> None:
    """Else one key's page, of a run of them, could not stand for the others (PAGE_RUN)."""
    run = page_size & -page_size
    for first_key, last_key in RANGES:
        pages = look_up(first_key, last_key, page_size, whole=True)
        for start in range(0, KEYS, run):
            assert len(set(pages[start : start + run])) == 1, (first_key, last_key)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("page_size", [8, 16, 24])
def test_the_page_of_every_key_in_the_range_is_looked_up(page_size: int, whole: bool) -> None:
    for first_key, last_key in RANGES:
        pages = look_up(first_key, last_key, page_size, whole=whole)
        readable = range(first_key, last_key)
        assert [pages[key] for key in readable] == [10 + key // page_size for key in readable]
        # Beyond the request's last page the table holds anything.
        assert all(page < 10 + -(-last_key // page_size) for page in pages if page)


@triton.jit
def _look_up_runs(table, out, PAGE_SIZE: tl.constexpr, RUN: tl.constexpr, COUNT: tl.constexpr):
    lane = tl.arange(0, COUNT)
    first_key = tl.program_id(0) * COUNT
    pages = look_up_runs(table, first_key, lane, PAGE_SIZE, RUN)
    tl.store(out + first_key + lane, pages)


@pytest.mark.parametrize("tile", [16, 32])
@pytest.mark.parametrize("page_size", [8, 16, 24, 48])
def test_a_look_up_by_run_finds_the_page_of_every_key(tile: int, page_size: int) -> None:
    table = torch.arange(10, 10 + 4 * KEYS, dtype=torch.int32)
    out = torch.full((3 * tile,), -1, dtype=torch.int32)
    run = min(page_size & -page_size, tile)
    _look_up_runs[(3,)](table, out, page_size, run, tile)
    assert out.tolist() == [10 + key // page_size for key in range(3 * tile)]


@triton.jit
def _places_kernel(out, SHARERS: tl.constexpr, XCDS: tl.constexpr):
    program = tl.program_id(0)
    tl.store(out + program, place_of(program, tl.num_programs(0), SHARERS, XCDS))


def places(programs: int, sharers: int, xcds: int) -> list[int]:
    out = torch.full((programs,), -1, dtype=torch.int32)
    _places_kernel[(programs,)](out, sharers, xcds)
    found: list[int] = out.tolist()
    return found


@pytest.mark.parametrize("sharers", [1, 2, 3, 4])
@pytest.mark.parametrize("programs", [24, 32, 64, 100, 132])
def test_programs_that_read_the_same_keys_are_on_one_xcd(programs: int, sharers: int) -> None:
    programs -= programs % sharers
    found = places(programs, sharers, 8)
    assert sorted(found) == list(range(programs)), "each place once"
    xcds: dict[int, set[int]] = {}
    for program, place in enumerate(found):
        xcds.setdefault(place // sharers, set()).add(program % 8)
    whole = programs // (8 * sharers) * 8  # groups of sharers; the last ones do not fill a round
    assert {group: len(on) for group, on in xcds.items() if group < whole and len(on) > 1} == {}


@pytest.mark.parametrize("kv_heads", [1, 2, 4, 8])
@pytest.mark.parametrize("sharers", [1, 4])
def test_an_xcd_reads_the_keys_of_as_few_heads_as_there_may_be(kv_heads: int, sharers: int) -> None:
    found = places(64 * sharers, sharers, 8)
    heads: dict[int, set[int]] = {}
    for program, place in enumerate(found):
        heads.setdefault(program % 8, set()).add(place // sharers % kv_heads)
    assert {xcd: len(read) for xcd, read in heads.items()} == dict.fromkeys(range(8), 1)


def test_the_order_is_as_it_was_where_there_is_one_xcd() -> None:
    assert places(50, 2, 1) == list(range(50))
