"""What Triton sees of each family's tensors: read from compiled kernels, not from the families."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import triton
import triton.language as tl

from pytest_rocm_attn.conformance.adapters import load
from pytest_rocm_attn.conformance.tiers.launch.problems import cache_bytes, storageless_problem
from pytest_rocm_attn.conformance.tiers.launch.tier import TARGETS, shipped
from pytest_rocm_attn.conformance.tiers.numerics.case import Case
from pytest_rocm_attn.dry_launch import Launch, dry_launch
from pytest_rocm_attn.gpu import Gpu
from pytest_rocm_attn.request import Request

FAMILIES = {case.id: case for case in shipped()}
METADATA = ("query_start_loc", "key_start_loc", "seq_lens", "block_table")
ALIGNED = {"tt.divisibility": 16}
ALIGNED_AND_SMALL = ALIGNED | {"tt.pointer_range": 32}


@triton.jit
def _looks(a, b, c, d, e, f, g, h, requests, tokens, stride):  # type: ignore[no-untyped-def]  # Triton's language
    tl.store(a, tl.load(a))


def seen(case: Case, gpu: Gpu) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Return what a compiled kernel knows of a problem's tensors, and of its counts, by their names."""
    problem: Any = storageless_problem(case, gpu)
    names = ["query", "out", *(name for name in METADATA if hasattr(problem, name))]
    names += [
        name for name in ("key_cache", "value_cache", "latent_cache") if hasattr(problem, name)
    ]
    tensors = [getattr(problem, name) for name in names]
    filler = [None] * (8 - len(tensors))
    with dry_launch(gpu) as launches:
        _looks[(1,)](*tensors, *filler, len(case.lengths), case.tokens, problem.query.stride(0))
    (launch,) = launches
    pointers = {
        name: dict(launch.attributes.get(letter, {}))
        for name, letter in zip(names, "abcdefgh", strict=False)
    }
    counts = {
        name: launch.constexprs.get(name, dict(launch.attributes.get(name, {})))
        for name in ("requests", "tokens", "stride")
    }
    return pointers, counts


def test_every_cache_is_beyond_2_gib_unless_the_familys_id_says_small() -> None:
    """On AMD's GPUs Triton makes another kernel of a storage of at most 2 GiB."""
    wrong = []
    # A cache grows with the GPU's memory.
    by_memory = sorted(map(Gpu, TARGETS), key=cache_bytes)
    for gpu in (by_memory[0], by_memory[-1]):
        for case in shipped():
            pointers, _ = seen(case, gpu)
            caches = [name for name in pointers if name.endswith("_cache")]
            assert bool(caches) is (case.kind != "mla-prefill")
            known = ALIGNED_AND_SMALL if "small" in case.id else ALIGNED
            wrong += [
                f"{case.id} on {gpu.gfx}: {name} {pointers[name]}"
                for name in caches
                if pointers[name] != known
            ]
    assert wrong == []
    assert {case.kind for case in shipped() if "small" in case.id} == {"attention", "mla-decode"}


def test_metadata_is_aligned_unless_the_familys_id_says_views() -> None:
    kinds = set()
    for case in shipped():
        pointers, _ = seen(case, Gpu("gfx942"))
        views = "views" in case.id
        assert views is (case.layout == "strided"), case.id
        aligned = {
            name: pointers[name] == ALIGNED_AND_SMALL for name in METADATA if name in pointers
        }
        # A slice after one row of a table is aligned by chance: rows of 16 bytes times anything.
        aligned.pop("block_table", None)
        assert set(aligned.values()) == {not views}, (case.id, aligned)
        assert pointers["query"].items() >= ALIGNED.items(), case.id
        kinds |= {case.kind} if views else set()
    assert kinds == {"attention", "mla-decode"}


def test_a_count_that_triton_specialises_is_the_subject_of_its_family() -> None:
    counted = {}
    for case in shipped():
        _, counts = seen(case, Gpu("gfx942"))
        if counts["requests"]:
            counted[case.id] = counts["requests"]
    assert counted == {
        "decode-of-one-request": 1,
        "prefill-of-one-request": 1,
        "mla-decode-of-one-request": 1,
        "decode-of-sixteen-requests": ALIGNED,
    }


def test_every_layout_of_a_paged_cache_has_a_family_with_its_strides() -> None:
    found = {}
    for name in ("decode-head-size-128", "decode-of-views", "decode-over-heads-first"):
        problem: Any = storageless_problem(FAMILIES[name], Gpu("gfx942"))
        block, slot, head, element = problem.key_cache.stride()
        assert element == 1
        found[name] = (block // (16 * 8 * 128), slot // 128, head // 128, problem.query.stride(0))
    assert found == {  # in vectors of 128: what a block holds, a slot's and a head's distance
        "decode-head-size-128": (2, 8, 1, 32 * 128),
        "decode-of-views": (6, 8, 1, (32 + 2 * 8) * 128),
        "decode-over-heads-first": (2, 1, 16, 32 * 128),
    }


@pytest.mark.parametrize(
    ("backend", "large", "small"),
    [
        ("TritonAttn", "decode-head-size-128", "decode-over-a-small-cache-head-size-128"),
        ("TritonMla", "mla-decode-num-heads-16", "mla-decode-over-a-small-cache"),
    ],
)
def test_the_references_own_kernels_see_the_cache_of_the_family(
    backend: str, large: str, small: str
) -> None:
    assert FAMILIES[large].request == FAMILIES[small].request
    known = []
    for name in (large, small):
        known.append(_reads_cache(backend, FAMILIES[name]).attributes["key_ptr"])
    assert known == [ALIGNED, ALIGNED_AND_SMALL]


def _reads_cache(backend: str, case: Case) -> Launch:
    under_test: Any = load(f"pytest_rocm_attn.backends.under_test:{backend}")
    method = "attend" if case.kind == "attention" else "mla_decode"
    problem = storageless_problem(case, Gpu("gfx942"))
    with dry_launch("gfx942") as launches:
        getattr(under_test(), method)(problem)
    return launches[0]


def test_a_servers_cache_is_a_share_of_the_gpus_memory() -> None:
    gib = {gfx: cache_bytes(Gpu(gfx)) / 2**30 for gfx in TARGETS}
    # 0.9 * 0.5 of what one device has: a die of MI250X 64 GiB, MI300X 192, MI355X 288, RX 7900 XTX 24.
    assert {gfx: round(size, 1) for gfx, size in gib.items()} == {
        "gfx90a": 28.8,
        "gfx942": 86.4,
        "gfx950": 129.6,
        "gfx1100": 10.8,
        "gfx1151": 7.2,
        "gfx1201": 7.2,
    }


def test_a_family_that_no_cache_of_the_target_holds_is_refused() -> None:
    case = Case("c", "w", "attention", Request(head_size=256, num_kv_heads=32), ((1, 10_000_000),))
    with pytest.raises(ValueError, match="c needs 625001 blocks, and gfx1201 has room for"):
        storageless_problem(case, Gpu("gfx1201"))
    assert storageless_problem(replace(case, cache="small"), Gpu("gfx1201"))
