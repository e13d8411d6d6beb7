"""The HIP decode kernels against the float64 oracle, run on the CPU by emulator.h.

Evidence: source-emulated. The kernels' own source runs, lane by lane; matrix instructions follow their
documented layouts (backends/hip/matrix_layout.py), and nothing ran on an AMD GPU.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from pytest_rocm_attn.backends.error_bounds import output_bound
from pytest_rocm_attn.backends.hip.matrix_layout import SHAPES, MatrixShape
from pytest_rocm_attn.backends.oracle import attend

Build = Callable[..., Any]
KINDS: dict[str, dict[str, Any]] = {
    "fp16 128 16": {"dtype": torch.float16, "head_size": 128, "block_size": 16},
    "bf16 64 32": {"dtype": torch.bfloat16, "head_size": 64, "block_size": 32},
    "bf16 e4m3fn 128 32": {
        "dtype": torch.bfloat16,
        "head_size": 128,
        "block_size": 32,
        "fp8": torch.float8_e4m3fn,
    },
    "fp16 e4m3fnuz 64 16": {
        "dtype": torch.float16,
        "head_size": 64,
        "block_size": 16,
        "fp8": torch.float8_e4m3fnuz,
    },
}
# Both sides of each edge: a token, a tile of 16, a block, a wave's share of 32 and 64, a partition.
LENGTHS = [1, 16, 33, 64, 65, 255, 257, 520]


@pytest.fixture(params=list(KINDS.values()), ids=list(KINDS))
def kind(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = request.param
    return found


# The plain kernel depends on a wave's lanes only, of which there are 64 (SHAPES[0]) or 32 (SHAPES[-1]).
KERNELS = [(shape, False) for shape in SHAPES] + [(SHAPES[0], True), (SHAPES[-1], True)]


@pytest.fixture(
    params=KERNELS, ids=lambda one: f"{one[0].struct} {'plain' if one[1] else 'matrix'}"
)
def decode(request: pytest.FixtureRequest, emulator: Build) -> Build:
    """A function that runs one step on one kernel, and returns the output."""
    shape, plain = request.param
    return functools.partial(emulator(shape).run, plain=plain)


def worst(step: Any, out: torch.Tensor) -> float:
    """Return the largest error over its bound; NaN where the kernel wrote none."""
    ratios = []
    for i, (key, value) in enumerate(zip(step.keys, step.values, strict=True)):
        exact = attend(
            step.query[i : i + 1],
            key,
            value,
            scale=step.scale,
            alibi_slopes=step.alibi_slopes,
        )
        bound = output_bound(exact, step.query.dtype, step.query.shape[-1])
        ratios.append(((out[i : i + 1].double() - exact.out).abs() / bound).max())
    return float(torch.stack(ratios).max())


def test_the_matrix_kernel_is_attention(
    emulator: Build, make_step: Build, shape: MatrixShape, kind: dict[str, Any]
) -> None:
    # Each shape and each kind meets a part of a tile's rows and all of them; the slow test has every pair.
    number = SHAPES.index(shape) + list(KINDS.values()).index(kind)
    step = make_step(LENGTHS, group=(5, 16)[number % 2], kv_heads=1, **kind)
    assert worst(step, emulator(shape).run(step, plain=False)) <= 1


@pytest.mark.parametrize("group", [1, 4, 7, 16])
def test_the_plain_kernel_is_attention(
    emulator: Build, make_step: Build, kind: dict[str, Any], group: int
) -> None:
    step = make_step(LENGTHS, group=group, kv_heads=1, **kind)
    assert worst(step, emulator(SHAPES[0]).run(step, plain=True)) <= 1


def test_alibi_leans_towards_the_newest_token(decode: Build, make_step: Build) -> None:
    step = make_step([40, 300], group=5, alibi=True, **KINDS["fp16 128 16"])
    out = decode(step)
    assert worst(step, out) <= 1
    step.alibi_slopes = None
    assert worst(step, out) > 1


def test_one_partition_is_written_without_a_second_pass(decode: Build, make_step: Build) -> None:
    step = make_step([1, 200, 256], group=2, **KINDS["bf16 64 32"])
    assert worst(step, decode(step)) <= 1


@pytest.mark.parametrize("longest", [60, 300])
def test_requests_with_several_new_tokens_are_left_to_prefill(
    decode: Build, make_step: Build, longest: int
) -> None:
    """Rows 0 and 4 are decodes, rows 1 to 3 belong to a prefill."""
    step = make_step([longest, 20, 30], group=4, **KINDS["fp16 128 16"])
    step.query = torch.randn(5, *step.query.shape[1:]).to(torch.float16)
    out = decode(step, rows=[0, 1, 4, 5])
    assert out[1:4].isnan().all()
    step.query, step.keys, step.values = step.query[[0, 4]], step.keys[::2], step.values[::2]
    assert worst(step, out[[0, 4]]) <= 1


@pytest.mark.parametrize("other", [30, 300])
def test_a_request_without_tokens_gives_zeros(decode: Build, make_step: Build, other: int) -> None:
    step = make_step([other, 30], group=4, **KINDS["fp16 128 16"])
    step.seq_lens[1] = 0
    out = decode(step)
    assert out[1].eq(0).all()
    assert out[0].isfinite().all()


def test_a_result_does_not_depend_on_the_other_requests(decode: Build, make_step: Build) -> None:
    step = make_step([70, 250, 16], group=4, **KINDS["bf16 64 32"])
    together = decode(step)
    step.query, step.seq_lens, step.block_table = (
        step.query[1:2].clone(),
        step.seq_lens[1:2].clone(),
        step.block_table[1:2].clone(),
    )
    assert torch.equal(decode(step), together[1:2])


@pytest.mark.parametrize(
    "name",
    ["key", *(pytest.param(name, marks=pytest.mark.slow) for name in ("query", "value"))],
)
def test_what_is_not_finite_is_in_the_result(decode: Build, make_step: Build, name: str) -> None:
    for length, number in itertools.product((60, 300), (math.nan, math.inf, -math.inf)):
        step = make_step([length, 33], group=4, **KINDS["fp16 128 16"])
        step.plant(name, request=0, token=length // 2, number=number)
        got = decode(step)
        for i, (key, value) in enumerate(zip(step.keys, step.values, strict=True)):
            wanted = attend(step.query[i : i + 1], key, value, scale=step.scale).out
            assert torch.equal(got[i : i + 1].isnan(), wanted.isnan()), (length, number)
            infinite = wanted.isinf()
            assert torch.equal(got[i : i + 1].double()[infinite], wanted[infinite])
            assert got[i : i + 1][wanted.isfinite()].isfinite().all()


def test_a_key_too_few_is_noticed(emulator: Build, make_step: Build) -> None:
    """The bound would not let the commonest mistake through."""
    step = make_step([33, 256], group=4, **KINDS["fp16 128 16"])
    out = emulator(SHAPES[0]).run(step, plain=False)
    step.keys = [key[:-1] for key in step.keys]
    step.values = [value[:-1] for value in step.values]
    assert worst(step, out) > 1


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("fp8", [None, torch.float8_e4m3fn, torch.float8_e4m3fnuz], ids=str)
@pytest.mark.parametrize("head_size", [64, 128])
@pytest.mark.parametrize("block_size", [16, 32])
def test_every_kernel_at_every_ratio(
    emulator: Build,
    make_step: Build,
    shape: MatrixShape,
    dtype: torch.dtype,
    fp8: torch.dtype | None,
    head_size: int,
    block_size: int,
) -> None:
    library = emulator(shape, every_kernel=True)
    for group in range(1, 17):
        step = make_step(
            [1, 17, 300, 1025],
            dtype=dtype,
            fp8=fp8,
            head_size=head_size,
            block_size=block_size,
            group=group,
            kv_heads=1,
            alibi=group % 2 == 0,
            seed=group,
        )
        for plain in (False, True):
            assert worst(step, library.run(step, plain=plain)) <= 1, (group, plain)
