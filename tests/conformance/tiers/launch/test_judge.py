"""What the launch tier says of a backend that fits, does not fit, crashes, or launches nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget

from pytest_rocm_attn.backends.launch_target import compiles_for
from pytest_rocm_attn.conformance.tiers.launch.judge import examine, multiplies_matrices
from pytest_rocm_attn.conformance.tiers.launch.problems import storageless_problem
from pytest_rocm_attn.conformance.tiers.launch.tier import TARGETS, shipped
from pytest_rocm_attn.conformance.tiers.numerics.case import Case
from pytest_rocm_attn.gpu import Gpu
from pytest_rocm_attn.request import Request

CASE = Case("c", "w", "attention", Request(dtype="bfloat16"), ((1, 131072), (7, 7)))


@triton.jit  # type: ignore[untyped-decorator]  # Triton ships no types
def _product(x_ptr, out_ptr, SIZE: tl.constexpr):  # type: ignore[no-untyped-def]  # Triton's language
    index = tl.arange(0, SIZE)
    x = tl.load(x_ptr + index[:, None] * SIZE + index[None, :])
    tl.store(out_ptr + index[:, None] * SIZE + index[None, :], tl.dot(x, x))


@triton.jit  # type: ignore[untyped-decorator]  # Triton ships no types
def _gather(x_ptr, SIZE: tl.constexpr):  # type: ignore[no-untyped-def]  # Triton's language; its source lies in LDS
    index = tl.arange(0, SIZE)
    tl.store(x_ptr + index, tl.gather(tl.load(x_ptr + index), index, 0))


def attending(attend: Any) -> Any:
    """Return a backend with one method."""
    return type("Backend", (), {"attend": staticmethod(attend)})()


def multiply(problem: Any) -> None:
    _product[(1,)](problem.query, problem.out, SIZE=16)


def test_a_kernel_that_fits_and_multiplies_matrices_is_right() -> None:
    finding = examine(attending(multiply), CASE, Gpu("gfx942"))
    assert finding.kind == "right"
    (kernel,) = finding.launches
    assert (kernel["name"], kernel["gfx"], kernel["fits"]) == ("_product", "gfx942", True)
    assert "of 65536 bytes of LDS" in finding.words


def test_a_kernel_that_does_not_fit_is_named_with_tritons_own_byte_counts() -> None:
    def overflow(problem: Any) -> None:
        _gather[(1,)](problem.query.view(torch.float32), SIZE=32768)

    finding = examine(attending(overflow), CASE, Gpu("gfx1201"))
    assert finding.kind == "wrong"
    assert "_gather does not fit gfx1201" in finding.words
    assert "Required: 131072, Hardware limit: 65536" in finding.words


def test_a_kernel_that_does_not_compile_is_wrong() -> None:
    def incompatible(problem: Any) -> None:
        _product[(1,)](problem.query, problem.out, SIZE=15)  # no power of two

    finding = examine(attending(incompatible), CASE, Gpu("gfx942"))
    assert finding.kind == "wrong"
    assert "_product does not compile for gfx942" in finding.words


def test_a_kernel_without_matrix_instructions_is_wrong_where_there_are_some() -> None:
    def copy(problem: Any) -> None:
        _gather[(1,)](problem.query.view(torch.float32), SIZE=64)

    assert examine(attending(copy), CASE, Gpu("gfx942")).words == "no matrix instruction in _gather"


def test_a_kernel_without_matrix_instructions_is_right_where_there_are_none() -> None:
    def copy(problem: Any) -> None:
        _gather[(1,)](problem.query.view(torch.float32), SIZE=64)

    if not compiles_for(GPUTarget("hip", "gfx1030", 32)):  # Triton 3.9.0 knows none of these GPUs
        pytest.skip(f"Triton {triton.__version__} compiles nothing for gfx1030")
    assert examine(attending(copy), CASE, Gpu("gfx1030")).kind == "right"


def test_a_backend_that_launches_nothing_is_wrong() -> None:
    finding = examine(attending(lambda problem: None), CASE, Gpu("gfx942"))
    assert (finding.kind, finding.words) == ("wrong", "launched no Triton kernel")


def test_an_exception_is_a_crash_and_a_refusal_is_not() -> None:
    def crash(problem: Any) -> None:
        raise TypeError("unexpected keyword")

    def refuse(problem: Any) -> None:
        raise NotImplementedError("no 131,072 tokens")

    crashed = examine(attending(crash), CASE, Gpu("gfx942"))
    assert (crashed.kind, crashed.words) == ("crashed", "raised TypeError: unexpected keyword")
    assert "in crash" in crashed.traceback
    declined = examine(attending(refuse), CASE, Gpu("gfx942"))
    assert (declined.kind, declined.words) == ("declined", "no 131,072 tokens")


def test_a_backend_without_the_method_declines() -> None:
    finding = examine(object(), CASE, Gpu("gfx942"))
    assert finding.kind == "declined"
    assert "attend" in finding.words


@pytest.mark.parametrize("case", shipped(), ids=lambda case: case.id)
def test_every_family_is_a_problem_of_any_size_without_memory(case: Case) -> None:
    problem = storageless_problem(case, Gpu("gfx942"))
    assert problem.query.device.type == problem.out.device.type == "meta"
    assert problem.query.shape[0] == case.tokens
    assert problem.request is case.request


def test_families_reach_contexts_of_131072_tokens_in_every_kind() -> None:
    longest: dict[str, int] = {}
    for case in shipped():
        totals = [total for _, total in case.lengths]
        longest[case.kind] = max([longest.get(case.kind, 0), *totals])
    assert longest == dict.fromkeys(("attention", "mla-decode", "mla-prefill"), 131072)


def test_an_fp8_cache_has_the_flavour_of_its_gpu() -> None:
    case = replace(CASE, request=Request(kv_cache_dtype="fp8"))
    flavours = {
        gfx: storageless_problem(case, Gpu(gfx)).kv_cache.dtype  # type: ignore[union-attr]  # attention
        for gfx in ("gfx942", "gfx950")
    }
    assert flavours == {"gfx942": torch.float8_e4m3fnuz, "gfx950": torch.float8_e4m3fn}


def test_only_cdna_multiplies_float32_matrices() -> None:
    assert [gfx for gfx in TARGETS if multiplies_matrices(Gpu(gfx), "float32")] == [
        "gfx90a",
        "gfx942",
        "gfx950",
    ]
    assert all(multiplies_matrices(Gpu(gfx), "bfloat16") for gfx in TARGETS)
    assert not multiplies_matrices(Gpu("gfx1030"), "bfloat16")
