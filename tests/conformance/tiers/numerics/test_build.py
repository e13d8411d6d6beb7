"""What the problems of some cases hold, so that a fault cannot hide in them."""

from __future__ import annotations

import pytest
import torch

from pytest_rocm_attn.conformance.tiers.numerics.build import build
from pytest_rocm_attn.conformance.tiers.numerics.case import shipped
from pytest_rocm_attn.problem import MlaDecode, MlaPrefill, PagedAttention

CASES = {case.id: case for case in shipped()}
CPU = torch.device("cpu")
OVERFLOWS = 89.0  # exp of it is infinite in float32


def scores(problem: PagedAttention) -> list[torch.Tensor]:
    """Return the scaled scores of each request, [heads, new tokens, tokens], -inf for unseen keys."""
    found, row = [], 0
    for request, (new, total) in enumerate(
        zip(problem.query_lens, problem.seq_lens.tolist(), strict=True)
    ):
        keys = problem.key_cache[problem.block_table[request].long()].flatten(0, 1)[:total].float()
        query = problem.query[row : row + new].float()
        keys = keys.repeat_interleave(query.shape[1] // keys.shape[1], 1)
        product = torch.einsum("nhd,thd->hnt", query, keys) * problem.scale
        seen = torch.arange(total) <= torch.arange(total - new, total)[:, None]
        found.append(product.where(seen, -torch.inf))
        row += new
    return found


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize(
    "case",
    [
        "prefill-on-both-sides-of-every-tile-edge-float16",
        "prefill-on-both-sides-of-every-tile-edge-bfloat16",
        "mixed-batch-float16",
        "mixed-batch-bfloat16",
    ],
)
def test_two_neighbours_in_a_tile_are_not_left_out_of_a_maximum_unseen(
    case: str, size: int
) -> None:
    """In tiles that some rows see in part, and in tiles that all rows see: they have loops of their own."""
    problem = build(CASES[case], CPU).problem
    assert isinstance(problem, PagedAttention)
    left_out: dict[bool, set[int]] = {True: set(), False: set()}
    for found in scores(problem):
        total, new = found.shape[2], found.shape[1]
        for key in range(0, total - total % 2, 2):
            tile = slice(key // size * size, (key // size + 1) * size)
            others = found.clone()
            others[:, :, key : key + 2] = -torch.inf
            beyond = found.amax(2) - others[:, :, : tile.stop].amax(2)
            if ((beyond > OVERFLOWS) & (beyond < torch.inf)).any():
                left_out[tile.stop <= total - new + 1].add(key % size)
    every = set(range(0, size, 2))
    assert left_out[False] == every
    assert left_out[True] == every


def test_a_special_value_lies_in_each_column_alone() -> None:
    seen: set[int] = set()
    for kind in ("nan", "plus-inf", "minus-inf"):
        case = CASES[f"chunks-with-a-visible-value-of-{kind}-bfloat16"]
        problem = build(case, CPU).problem
        assert isinstance(problem, PagedAttention)
        for request, total in enumerate(problem.seq_lens.tolist()):
            blocks = problem.block_table[request].long()
            values = problem.value_cache[blocks].flatten(0, 1)[:total]
            places = (~values.isfinite()).nonzero().tolist()
            assert len({(head, column) for _, head, column in places}) == len(places)
            # All rows see the first one, and need no repair for it.
            seen |= {column for key, _, column in places if (request, key) != (0, 10)}
    assert seen == set(range(64))


def test_a_special_value_of_mla_lies_in_each_column_alone() -> None:
    seen: set[int] = set()
    for kind in ("nan", "plus-inf", "minus-inf"):
        problem = build(CASES[f"mla-prefill-with-a-visible-value-of-{kind}"], CPU).problem
        assert isinstance(problem, MlaPrefill)
        places = (~problem.value.isfinite()).nonzero().tolist()
        assert len({(key, head) for key, head, _ in places}) == len(places) == 3 * 16
        seen |= {column for _, _, column in places}
    assert seen == set(range(128))


@pytest.mark.parametrize("kind", ["nan", "plus-inf", "minus-inf"])
def test_few_special_values_lie_in_all_quarters_of_the_columns(kind: str) -> None:
    """Requests of a few new tokens have a kernel of their own, whose threads hold some columns each."""
    problem = build(CASES[f"chunks-with-a-visible-value-of-{kind}-float16"], CPU).problem
    assert isinstance(problem, PagedAttention)
    quarters: set[int] = set()
    for request, new in enumerate(problem.query_lens):
        if 1 < new <= 8:
            values = problem.value_cache[problem.block_table[request].long()].flatten(0, 1)
            values = values[: int(problem.seq_lens[request])]
            quarters |= {column // 16 for *_, column in (~values.isfinite()).nonzero().tolist()}
    assert quarters == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("case", "size"),
    [
        ("chunked-prefill", 64),
        ("chunks-after-several-tiles", 64),
        ("scores-of-many-sizes-1.0", 64),
        ("mla-prefill-on-both-sides-of-every-tile-edge-float16", 32),
        ("mla-prefill-after-a-context", 32),
    ],
)
def test_a_block_of_rows_sees_several_tiles_in_full(case: str, size: int) -> None:
    """Only the second one rescales results, in the loop over such tiles."""
    seen = [(total - new + 1) // size for new, total in CASES[case].lengths if new > 1]
    assert max(seen) >= 2


def test_the_last_tile_of_decodes_ends_at_many_of_its_places() -> None:
    problem = build(CASES["mla-decode-on-both-sides-of-every-tile-edge-float16"], CPU).problem
    assert isinstance(problem, MlaDecode)
    ends = {length % 16 for length in problem.seq_lens.tolist()}
    assert all({end, end + 1} & ends for end in range(15))
