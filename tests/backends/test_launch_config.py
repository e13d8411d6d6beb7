"""The rule that chooses tiles: whatever it picks fits, by its own estimate and by Triton's compiler.

Evidence: launch. Compiled for every target of hardware.toml, run on none.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from triton.backends.compiler import GPUTarget

from pytest_rocm_attn.backends import launch_config, launch_target
from pytest_rocm_attn.backends.batch import Batch
from pytest_rocm_attn.backends.launch_config import (
    WORKSPACE,
    Pass,
    Shape,
    Work,
    choose_passes,
    choose_segments,
    choose_short_tile,
    choose_tile,
    fits,
    lds_bytes,
)
from pytest_rocm_attn.backends.launch_table import tabled
from pytest_rocm_attn.backends.launch_target import Target, amd_target, nvidia_target, target_of
from pytest_rocm_attn.backends.launch_tiles import TILES, Tile
from pytest_rocm_attn.backends.triton_attn import TritonAttention
from pytest_rocm_attn.backends.triton_mla import TritonMLA
from pytest_rocm_attn.dry_launch import Launch, dry_launch, storageless
from pytest_rocm_attn.errors import BackendInputError, BackendLimitError
from pytest_rocm_attn.gpu import known_gpus
from pytest_rocm_attn.request import Request

# gfx906: Triton lowers nothing. gfx1250: Triton 3.6.0 writes code that its own linker refuses.
COMPILED = tuple(gfx for gfx in known_gpus() if gfx not in ("gfx906", "gfx1250"))
CDNA = ("gfx908", "gfx90a", "gfx942", "gfx950")
HEAD_SIZES = (32, 64, 80, 96, 128, 192, 256)
META = torch.device("meta")
SHORT = 16  # new tokens of a request whose keys are split
CACHE_BYTES = 3 * 2**30  # beyond 2 GiB Triton's AMD backend takes 64-bit addresses, as on a server


@dataclass(frozen=True)
class Problem:
    """One layer and one batch of it, by what a configuration depends on."""

    gfx: str
    phase: str  # "prefill", "short", "decode", "latent", "latent prefill"
    head_size: int = 128
    dtype: str = "bfloat16"
    fp8: bool = False
    group: int = 4
    block_size: int = 16

    def __str__(self) -> str:
        words = [
            self.gfx,
            self.phase,
            f"heads {self.group}",
            self.dtype,
            f"block {self.block_size}",
        ]
        return " ".join([*words, f"size {self.head_size}", *(["fp8 cache"] if self.fp8 else [])])


def server_cache(shape_of: Callable[[int], Sequence[int]], dtype: torch.dtype) -> Any:
    """Return a cache that is as large as a server's, of the shape for that many blocks."""
    block = storageless(shape_of(1), dtype).nbytes
    return storageless(shape_of(-(-CACHE_BYTES // block)), dtype)


def storageless_ints(*shape: int) -> Any:
    return storageless(shape, torch.int32)


def attend(problem: Problem) -> list[Launch]:
    """Dry-launch the problem through its backend; every launch, merges included."""
    requests, longest = 4, {"decode": 1, "latent": 1, "short": SHORT}.get(problem.phase, 1000)
    dtype = getattr(torch, problem.dtype)
    batch = Batch(
        query_start_loc=storageless_ints(requests + 1),
        seq_lens=storageless_ints(requests),
        block_table=storageless_ints(requests, -(-131072 // problem.block_size)),
        slot_mapping=storageless([requests * longest], torch.int64),
        min_query_len=longest,
        max_query_len=longest,
        max_seq_len=131072,
    )
    with dry_launch(problem.gfx) as launches:
        if problem.phase.startswith("latent"):
            request = Request(
                use_mla=True,
                num_heads=problem.group,
                dtype=problem.dtype,
                block_size=problem.block_size,
            )
            mla = TritonMLA(request, META, scale=0.1)
            rows = requests * longest
            if problem.phase == "latent":
                mla.decode(
                    storageless([rows, problem.group, 576], dtype),
                    server_cache(mla.cache_shape, dtype),
                    batch,
                    storageless([rows, problem.group, 512], dtype),
                )
            else:
                mla.prefill(
                    storageless([rows, problem.group, 192], dtype),
                    storageless([rows, problem.group, 192], dtype),
                    storageless([rows, problem.group, 128], dtype),
                    storageless([rows, problem.group, 128], dtype),
                    query_start_loc=storageless_ints(requests + 1),
                    key_start_loc=storageless_ints(requests + 1),
                    max_query_len=longest,
                )
        else:
            request = Request(
                num_heads=problem.group * 2,
                num_kv_heads=2,
                head_size=problem.head_size,
                dtype=problem.dtype,
                kv_cache_dtype="fp8" if problem.fp8 else "auto",
                block_size=problem.block_size,
            )
            layer = TritonAttention(request, META, scale=0.1)
            query = storageless([requests * longest, request.num_heads, request.head_size], dtype)
            scale = storageless([], torch.float32) if problem.fp8 else None
            layer.forward(
                query,
                server_cache(layer.cache_shape, layer.cache_dtype),
                batch,
                torch.empty_like(query),
                k_scale=scale,
                v_scale=scale,
            )
    launches.assert_fits()
    if problem.gfx in CDNA:
        assert {(launch.vgpr_spills, launch.scratch_bytes) for launch in launches} == {(0, 0)}
    return [launch for launch in launches if launch.name == "_attention_kernel"]


def assert_keeps_its_promises(problem: Problem) -> None:
    """Assert what docs/launch-tables/ says of every configuration that is chosen."""
    (launch,) = attend(problem)
    if problem.phase != "latent prefill":  # which has no cache
        assert "tt.pointer_range" not in launch.attributes["key_ptr"], "a cache of at most 2 GiB"
    target = amd_target(problem.gfx)
    tile = tile_of(launch)
    assert launch.lds_bytes <= lds_bytes(tile, shape_of(problem), target), (
        "the estimate is no bound"
    )
    if target.family == "VECTOR" or (problem.dtype == "float32" and problem.gfx not in CDNA):
        return  # no matrix instruction takes it
    assert launch.matrix_instructions, "not one matrix instruction"
    if problem.gfx in CDNA:
        rows = {name.split("x")[0].rpartition("_")[2] for name in launch.matrix_instructions}
        assert ("32" if tile.block_m >= 32 else "16") in rows, launch.matrix_instructions


def tile_of(launch: Launch) -> Tile:
    constants = launch.constexprs
    return Tile(constants["BLOCK_M"], constants["BLOCK_N"], launch.num_warps, launch.num_stages)


def shape_of(problem: Problem) -> Shape:
    element = getattr(torch, problem.dtype).itemsize
    if problem.phase == "latent":
        return Shape(problem.group, 512, 64, element, element, shared=True)
    if problem.phase == "latent prefill":
        return Shape(128, 128, 64, element, element)
    rows = {"decode": problem.group, "short": problem.group * SHORT}.get(problem.phase, 128)
    return Shape(rows, problem.head_size, 0, element, 1 if problem.fp8 else element, plain=True)


# A page's size changes addresses only: it is varied beside the rest, not multiplied into it.
REFUSED = tuple(
    # gfx908 has 256 registers a lane, and a prefill's smallest tile takes more where fp8 becomes
    # float32. A layer that could only decode would be of no use: it is refused as a whole.
    Problem("gfx908", phase, size, "float32", fp8=True, block_size=block_size)
    for phase in ("prefill", "decode")
    for size, block_size in ((192, 256), (256, 16))
)
EVERY = tuple(
    problem
    for problem in itertools.chain(
        (
            Problem(gfx, phase, size, dtype, fp8, 4, block_size)
            for gfx, phase, (size, block_size), dtype, fp8 in itertools.product(
                COMPILED,
                ("prefill", "decode"),
                zip(HEAD_SIZES, itertools.cycle((16, 32, 48, 64, 128, 256)), strict=False),
                ("bfloat16", "float16", "float32"),
                (False, True),
            )
        ),
        (
            Problem(gfx, "decode", 128, "bfloat16", group=group)
            for gfx, group in itertools.product(COMPILED, (1, 8, 32, 71))
        ),
        (
            Problem(gfx, "short", size, fp8=fp8, group=group)
            for gfx, (size, group), fp8 in itertools.product(
                COMPILED, ((64, 1), (128, 4), (256, 8)), (False, True)
            )
        ),
        (
            Problem(gfx, "latent", dtype=dtype, group=heads, block_size=block_size)
            for gfx, dtype, (heads, block_size) in itertools.product(
                COMPILED,
                ("bfloat16", "float16"),
                ((16, 16), (24, 32), (40, 64), (64, 128), (128, 16)),
            )
        ),
        (
            Problem(gfx, "latent prefill", dtype=dtype, group=16)
            for gfx, dtype in itertools.product(COMPILED, ("bfloat16", "float16"))
        ),
    )
    if problem not in REFUSED
)
# What people run, and what was closest to a limit.
SAMPLED = (
    Problem("gfx942", "prefill"),
    Problem("gfx950", "latent", group=128),
    Problem("gfx1151", "decode", 80, "float16"),
    *(
        pytest.param(problem, marks=pytest.mark.slow)
        for problem in (
            Problem("gfx942", "decode"),
            Problem("gfx950", "prefill", 256),
            Problem("gfx942", "short"),
            Problem("gfx942", "latent", group=16),
            Problem("gfx90a", "latent prefill", group=16),
            Problem("gfx1201", "prefill", 256, block_size=64),
            Problem("gfx1100", "latent", group=16),
        )
    ),
)


@pytest.mark.parametrize("problem", SAMPLED, ids=str)
def test_what_the_rule_picks_compiles_fits_and_does_not_spill(problem: Problem) -> None:
    assert_keeps_its_promises(problem)


@pytest.mark.parametrize("problem", REFUSED, ids=str)
def test_what_no_tile_fits_is_refused_before_any_launch(problem: Problem) -> None:
    with pytest.raises(BackendLimitError, match="does not fit gfx908"):
        attend(problem)


@pytest.mark.slow
@pytest.mark.parametrize("problem", EVERY, ids=str)
def test_whatever_the_rule_picks_compiles_fits_and_does_not_spill(problem: Problem) -> None:
    assert_keeps_its_promises(problem)


targets = st.sampled_from(
    [
        *(amd_target(gfx) for gfx in known_gpus() if gfx != "gfx906"),
        nvidia_target("sm_90", 232448, 132),
    ]
)
shapes = st.builds(
    Shape,
    rows=st.integers(1, 300),
    value_size=st.integers(32, 256),
    tail=st.just(0),
    element=st.sampled_from((2, 4)),
    cache_element=st.sampled_from((1, 2, 4)),
) | st.builds(
    Shape,
    rows=st.integers(16, 128),
    value_size=st.just(512),
    tail=st.just(64),
    element=st.just(2),
    cache_element=st.just(2),
    shared=st.just(True),
)


@given(target=targets, shape=shapes, kind=st.sampled_from(("prefill", "decode", "latent")))
@settings(deadline=None)
def test_a_chosen_tile_is_within_the_limits_or_nothing_is_chosen(
    target: Target, shape: Shape, kind: str
) -> None:
    shape = replace(shape, cache_element=min(shape.cache_element, shape.element))
    try:
        tile = choose_tile(kind, shape, target)
    except BackendLimitError as error:
        assert target.name in str(error)
        assert not any(fits(tile, shape, target) for tile in TILES[target.family][kind])
        return
    assert lds_bytes(tile, shape, target) <= target.lds_bytes
    if target.family in ("CDNA", "NVIDIA") and tabled(kind, shape, target) is None:
        assert fits(tile, shape, target)
    if kind != "prefill":
        assert tile.block_m < 2 * max(16, shape.rows)


def test_a_shape_too_large_for_a_target_is_refused_with_need_and_limit() -> None:
    with pytest.raises(BackendLimitError, match=r"does not fit gfx942.* 65536 and \d+ \(hardware"):
        choose_tile("prefill", Shape(128, 2048, 0, 4, 4), amd_target("gfx942"))


def test_a_target_that_triton_does_not_compile_for_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with dry_launch("gfx942"):
        assert target_of(META).name == "gfx942"
        monkeypatch.setattr(launch_target, "compiles_for", lambda target: target.arch != "gfx942")
        with pytest.raises(
            BackendLimitError, match="Triton .* compiles nothing for gfx942: choose"
        ):
            target_of(META)


def test_whether_triton_compiles_for_a_target_is_tried() -> None:
    assert launch_target.compiles_for(GPUTarget("hip", "gfx1201", 32))
    assert not launch_target.compiles_for(GPUTarget("hip", "gfx803", 64))  # no release does


@given(
    programs=st.integers(1, 5000),
    tiles=st.integers(1, 8192),
    processors=st.integers(1, 304),
    saturating=st.integers(1, 2),
)
def test_segments_fill_the_gpu_but_never_outnumber_the_tiles(
    programs: int, tiles: int, processors: int, saturating: int
) -> None:
    tile = Tile(16, 64, 4, 2, saturating=saturating)
    segments = choose_segments(programs, tiles, processors, tile)
    assert 1 <= segments <= tiles
    if programs >= 8 * processors:
        assert segments == 1
    if programs * tiles <= processors and tiles >= 64:
        assert segments > 1


# --- the launches of a step --------------------------------------------------------------------------


def passes_of(target: Target, work: Work) -> tuple[Pass, ...]:
    """Return the launches of a step, of bf16 and head size 128, by TRITON_ATTN's tiles."""
    group = work.heads // work.kv_heads

    def tile_of(rows: int, filled: bool) -> Tile:
        if rows <= max(16, group):
            return choose_tile("decode", Shape(group, 128, plain=True, split=not filled), target)
        return choose_short_tile(Shape(rows, 128, plain=True), target)

    return choose_passes(
        work,
        target.processors,
        choose_tile("prefill", Shape(1, 128, plain=True), target),
        tile_of,
    )


def step_of(
    lengths: list[int], *, keys: int = 32768, heads: int = 32, kv_heads: int = 8, known: bool = True
) -> Work:
    return Work(
        requests=len(lengths),
        tokens=sum(lengths),
        shortest=min(lengths),
        longest=max(lengths),
        lengths=tuple(lengths) if known else None,
        keys=keys,
        window=None,
        heads=heads,
        kv_heads=kv_heads,
        value_size=128,
    )


def busiest(target: Target, work: Work, one: Pass) -> float:
    """Return the time of the busiest processor, in rows multiplied by keys: matrix units take 64 rows at
    once, and to read a key takes as long as to multiply 128; other blocks of rows find it in the cache."""
    group = work.heads // work.kv_heads
    tokens = max(one.tile.block_m // min(group, one.tile.block_m), 1)
    heads = -(-group // min(group, one.tile.block_m))
    blocks = heads * -(-work.longest // tokens)
    programs = work.requests * work.kv_heads * blocks
    keys = -(-work.keys // one.tile.block_n // one.segments) * one.tile.block_n
    rounds = -(-programs * one.segments // target.processors)
    return rounds * keys * (max(one.tile.block_m, 64) + 128 / blocks)


SERVED = (nvidia_target("sm_90", 232448, 132), *map(amd_target, ("gfx942", "gfx950", "gfx1201")))


@pytest.mark.parametrize("group", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("target", SERVED, ids=lambda target: target.name)
def test_one_new_token_more_never_costs_half_as_much_again(target: Target, group: int) -> None:
    works = [step_of([new], kv_heads=32 // group) for new in range(1, 65)]
    times = [busiest(target, work, *passes_of(target, work)) for work in works]
    steps = {
        new: after / before for new, (before, after) in enumerate(itertools.pairwise(times), 2)
    }
    assert {new: step for new, step in steps.items() if step > 1.5} == {}


@given(
    lengths=st.lists(st.integers(1, 3000), min_size=1, max_size=40)
    | st.lists(st.integers(1, 70), min_size=1, max_size=300),
    keys=st.integers(1, 200_000),
    kv_heads=st.sampled_from((1, 2, 8, 32)),
    target=st.sampled_from(SERVED),
    known=st.booleans(),
)
@settings(deadline=None)
def test_each_length_is_in_one_pass_and_partial_results_fit_the_workspace(
    lengths: list[int], keys: int, kv_heads: int, target: Target, known: bool
) -> None:
    work = step_of(lengths, keys=max(keys, *lengths, 1), kv_heads=kv_heads, known=known)
    passes = passes_of(target, work)
    for length in range(min(lengths), max(lengths) + 1):  # a graph may be replayed on others
        assert sum(one.first <= length <= one.last for one in passes) == 1
    for one in passes:
        assert 1 <= one.segments <= -(-work.keys // one.tile.block_n)
        if one.segments > 1:
            rows = min(work.requests * one.last, work.tokens)
            assert rows * 32 * 129 * one.segments <= WORKSPACE


@pytest.mark.parametrize("others", [[1] * 7, [1] * 63, [2000], [1, 1, 1, 900]])
@pytest.mark.parametrize("new", [5, 17, 64])
def test_a_short_request_beside_others_is_split_too(new: int, others: list[int]) -> None:
    """It alone leaves most of the GPU idle."""
    target = SERVED[0]
    (mine,) = (
        one for one in passes_of(target, step_of([new, *others])) if one.first <= new <= one.last
    )
    assert mine.segments >= (2 if len(others) > 60 else 4)


def test_no_pass_is_launched_for_a_kind_of_request_that_is_not_there() -> None:
    passes = passes_of(SERVED[0], step_of([1] * 56 + [1024] * 8, keys=2048))
    assert [(one.first, one.last, one.segments) for one in passes] == [(1, 4, 1), (5, 1024, 1)]
    assert len(passes_of(SERVED[0], step_of([5] * 4))) == 1


@pytest.mark.parametrize("kv_heads", [2, 8, 32])
def test_decodes_that_leave_a_gpu_idle_have_a_tile_that_looks_up_pages_early(
    kv_heads: int,
) -> None:
    """On an H200 it is faster there, and slower if the GPU is full (docs/nvidia.md)."""

    def tile(requests: int) -> Tile:
        (one,) = passes_of(SERVED[0], step_of([1] * requests, keys=4096, kv_heads=kv_heads))
        return one.tile

    full = -(-2 * SERVED[0].processors // kv_heads)
    assert tile(1) == tile(full - 1)
    assert tile(full) == tile(512)
    assert (tile(1).pages_ahead, tile(full).pages_ahead) == (True, False)


def test_a_batch_that_fills_the_gpu_is_prefilled_as_a_whole() -> None:
    for lengths in ([4096], [512] * 16):
        (one,) = passes_of(SERVED[0], step_of(lengths, keys=4096))
        assert (one.tile.block_m, one.segments) == (256, 1)


def test_a_batch_invariant_layer_goes_by_a_requests_own_length() -> None:
    with dry_launch("gfx942"):
        layer = TritonAttention(Request(), META, scale=0.1, batch_invariant=True)
        for new in (1, 3, 5, 40, 500):
            chosen = set()
            for others in ([], [1] * 30, [2000], [1, 64, 65]):
                lengths = [new, *others]
                batch = Batch(
                    query_start_loc=storageless_ints(len(lengths) + 1),
                    seq_lens=storageless_ints(len(lengths)),
                    block_table=storageless_ints(len(lengths), 4096),
                    slot_mapping=storageless([sum(lengths)], torch.int64),
                    min_query_len=min(lengths),
                    max_query_len=max(lengths),
                    max_seq_len=32768,
                )
                (mine,) = (
                    one
                    for one in layer._passes(batch, min(lengths))
                    if one.first <= new <= one.last
                )
                chosen.add((mine.tile, mine.segments))
            assert len(chosen) == 1
            assert chosen.pop()[1] == 1


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_without_a_gpu_a_device_stands_for_the_gpu_of_the_dry_launch(device: str) -> None:
    for gfx in ("gfx942", "gfx1100"):
        with dry_launch(gfx):
            assert target_of(torch.device(device)).name == gfx


@pytest.mark.skipif(torch.cuda.is_available(), reason="Triton has a driver for the GPU here")
def test_without_gpu_interpreter_or_dry_launch_a_device_is_refused() -> None:
    with pytest.raises(BackendInputError, match="TRITON_INTERPRET=1.*dry launch"):
        target_of(torch.device("cpu"))


def test_every_table_has_tiles_for_every_kind() -> None:
    for family, kinds in TILES.items():
        assert set(kinds) == {"prefill", "short", "decode", "latent"}, family
        assert family in launch_config.OTHER_REGISTERS
