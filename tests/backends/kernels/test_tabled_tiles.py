"""The tiles of the launch table compute right results, in the machine code that each GPU would run (emulated).

The named cases have few keys and other head sizes, and seldom meet a tile of the table.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from pytest_rocm_attn.backends.kernels import attention
from pytest_rocm_attn.backends.launch_table import configurations, tile_of
from pytest_rocm_attn.backends.under_test import TritonAttn, TritonMla
from pytest_rocm_attn.conformance.tiers.numerics.case import Case, shipped
from pytest_rocm_attn.conformance.tiers.numerics.judge import examine
from pytest_rocm_attn.mock import mock_rocm

NAMED = {case.id: case for case in shipped()}
TARGETS = ("gfx90a", "gfx942", "gfx950", "gfx1100", "gfx1201")


def attending(*lengths: tuple[int, int], cache: str = "auto") -> Case:
    """Return a case of four query heads a KV head, whose tiles are full of keys that every row sees."""
    base = NAMED["head-size-128"]
    request = replace(
        base.request, num_heads=8, num_kv_heads=2, dtype="bfloat16", kv_cache_dtype=cache
    )
    return replace(base, request=request, lengths=lengths)


CASES = {
    "decode": attending((1, 200), (1, 77)),
    "decode-fp8": attending((1, 200), (1, 77), cache="fp8"),
    "short": attending((8, 150)),
    "chunk": attending((40, 140)),
    "mla-128": NAMED["mla-decode-with-heads-num-heads-128"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("target", TARGETS)
def test_a_tile_of_the_table_gives_the_right_result(
    target: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched = []
    plan = attention.plan_attention

    def recorded(*tensors: Any, **further: Any) -> Any:
        launched.append(further["tile"])
        return plan(*tensors, **further)

    monkeypatch.setattr(attention, "plan_attention", recorded)
    with mock_rocm(target, emulate=True):
        backend = TritonMla() if name.startswith("mla") else TritonAttn()
        result = examine(backend, CASES[name], torch.device("cuda"))
    assert result.kind == "right", result.words
    tabled = [tile_of(row) for (gfx, *_), row in configurations().items() if gfx == target]
    assert launched
    assert all(tile in tabled for tile in launched)
