"""Run a case on a backend and compare with the float64 oracle, element by element.

The oracle and its bounds belong to the reference package (docs/numerics.md: one oracle judges
all), which this package never imports: they are found by name, as the reference selector is.
"""

from __future__ import annotations

import importlib
import inspect
import math
import time
import traceback
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from pytest_rocm_attn.conformance.tiers.numerics.build import Built, build
from pytest_rocm_attn.conformance.tiers.numerics.case import Result
from pytest_rocm_attn.problem import MlaDecode, MlaPrefill, PagedAttention

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_rocm_attn.conformance.tiers.numerics.build import Problem
    from pytest_rocm_attn.conformance.tiers.numerics.case import Case
    from pytest_rocm_attn.emulator.triton_launch import Emulation

ORACLE = "pytest_rocm_attn.backends.oracle"
BOUNDS = "pytest_rocm_attn.backends.error_bounds"

SLACK = 100.0  # far beyond any key or value

# What a backend under test calls its solution of each kind of case.
METHODS = {"attention": "attend", "mla-decode": "mla_decode", "mla-prefill": "mla_prefill"}
_SOLUTIONS = {  # what the oracle calls its own
    PagedAttention: "paged_attention",
    MlaDecode: "mla_decode",
    MlaPrefill: "ragged_attention",
}


def examine(backend: Any, case: Case, device: torch.device) -> Result:
    """Let a backend solve a case, and judge what it wrote.

    Args:
        backend: has the method that METHODS names for the case's kind. NotImplementedError from it
            means that the backend does not claim the case, and it must not have written anything.
        case: the case.
        device: where the tensors go.
    """
    solve = solution_of(backend, case)
    if isinstance(solve, Result):
        return solve
    if case.batch_invariant and not getattr(backend, "batch_invariant", False):
        return Result("declined", "does not claim batch invariance")
    built = build(case, device, slack=slack_for(backend))
    start = time.perf_counter()
    finding = _solve(solve, built)
    seconds = time.perf_counter() - start
    if finding is None:
        finding = foreign_writes(built) or compare(backend, case, built.problem)
    if finding.kind == "right" and case.batch_invariant:
        finding = _alone(backend, case, device, built.problem) or finding
    return replace(finding, seconds=seconds)


def examine_emulated(
    backend: Any, case: Case, device: torch.device, emulation: Emulation
) -> Result:
    """Let a backend solve a case by kernels that are emulated, and judge what it wrote and what ran.

    A backend may name a Triton function that computes again what a number spoiled that is not finite
    (`repairs`). It would also hide what the kernel before it does wrong.
    """
    emulation.watched = getattr(backend, "repairs", None)
    launches, accesses = emulation.launches, emulation.accesses
    result = examine(backend, case, device)
    if result.kind != "right":
        return result
    if emulation.launches == launches and case.tokens:
        return Result("declined", "it launched no Triton kernel: nothing was emulated")
    if emulation.accesses > accesses and not case.special:
        words = (
            f"{emulation.watched.__name__}, which computes again what a number spoiled that is not finite, ran,"
            " and every number of the case is finite"
        )
        return Result("wrong", words, torch.inf, seconds=result.seconds)
    return result


def solution_of(backend: Any, case: Case) -> Callable[[Any], None] | Result:
    """Return what solves a case of this kind; if the backend has nothing that does, its refusal."""
    name = METHODS[case.kind]
    refusal = Result("declined", f"has no {name}: it does not do {case.kind}")
    found: Callable[[Any], None] | Result = getattr(backend, name, refusal)
    return found


def crash_of(error: Exception) -> Result:
    """Return the result of a case in which a backend raised something."""
    name = type(error).__name__
    words = f"raised {name}: {error}"
    return Result("crashed", words, traceback=traceback.format_exc(), error=name)


def slack_for(backend: Any) -> float:
    """Return what fills the unused slots of a request's last block for a backend.

    NaN: they must not be read. A backend that says that it reads them gets a finite number there, which
    would show as clearly if it were counted.
    """
    return SLACK if getattr(backend, "reads_unused_slots", False) else math.nan


def _solve(solve: Any, built: Built) -> Result | None:
    """Call the backend; return what to report unless it did its work."""
    try:
        solve(built.problem)
        if built.problem.out.is_cuda:
            torch.cuda.synchronize(built.problem.out.device)
    except NotImplementedError as error:
        for guard in built.guards:
            guard.writable = None
            if guard.written():
                return Result("wrong", f"declined, and wrote to {guard.name}: {error}")
        return Result("declined", str(error))
    except Exception as error:  # noqa: BLE001  foreign code: whatever it raises is the finding
        return crash_of(error)
    return None


def foreign_writes(built: Built) -> Result | None:
    """Return what a backend wrote to besides its output, if it did."""
    for guard in built.guards:
        if guard.written():
            where = "around out" if guard.writable is not None else "which is an input"
            return Result("wrong", f"wrote to the memory of {guard.name}, {where}", torch.inf)
    return None


def compare(backend: Any, case: Case, problem: Problem) -> Result:
    """Compare what a backend wrote with the oracle's answer to the same tensors."""
    bounds = importlib.import_module(BOUNDS)
    reference = reference_of(problem)
    dtype = getattr(torch, case.request.dtype)
    rounds = problem.request.kv_cache_dtype.startswith("fp8") and getattr(
        backend, "rounds_cache", True
    )
    terms = problem.query.shape[2]
    bound = bounds.output_bound(reference, dtype, terms, rounds_cache=rounds)
    finding = _worst("out", problem.out, reference.out, bound, case)
    if finding.kind == "right" and isinstance(problem, MlaPrefill):
        limit = bounds.lse_bound(reference, dtype, terms).T[:, :, None]
        lse = _worst("lse", problem.lse.T[:, :, None], reference.lse.T[:, :, None], limit, case)
        finding = max(finding, lse, key=lambda found: found.ratio)
    return finding


def _worst(
    name: str, got: torch.Tensor, wanted: torch.Tensor, bound: torch.Tensor, case: Case
) -> Result:
    """Compare [tokens, heads, columns], and say where the largest error lies."""
    got = got.detach().cpu().to(torch.float64)
    if not got.numel():
        return Result("right", "nothing to compute, nothing written")
    same = (got == wanted) | (got.isnan() & wanted.isnan())  # infinities of the same sign too
    ratio = torch.where(same, 0.0, ((got - wanted).abs() / bound)).nan_to_num(torch.inf, torch.inf)
    worst = float(ratio.max())
    where = (ratio == worst).nonzero()[0].tolist()  # torch.unravel_index would import sympy
    value, exact = float(got[tuple(where)]), float(wanted[tuple(where)])
    place = f"{name} of {_token(where[0], case)}, head {where[1]}" + (
        f", column {where[2]}" if name == "out" else ""
    )
    if worst <= 1:
        return Result("right", f"largest error is {worst:.3g} of its bound, at {place}", worst)
    beyond = int((ratio > 1).sum())
    error = f"error {abs(value - exact):.3g} is {worst:.3g} times its bound"
    error += f" {float(bound[tuple(where)]):.3g}, at"
    if not (math.isfinite(value) and math.isfinite(exact)):
        error = "a number that is not finite was lost or invented: at"
    return Result(
        "wrong",
        f"{error} {place}: got {value:.6g}, expected {exact:.6g};"
        f" {beyond} of {ratio.numel()} elements are beyond",
        worst,
    )


def _token(row: int, case: Case) -> str:
    """Return a row of the batch in words."""
    if case.kind == "mla-decode":
        return f"request {row} ({case.lengths[row][1]} tokens)"
    for number, (new, total) in enumerate(case.lengths):
        if row < new:
            return f"request {number} ({new} new of {total} tokens), new token {row}"
        row -= new
    raise AssertionError("a row beyond the batch")


def _alone(backend: Any, case: Case, device: torch.device, whole: Problem) -> Result | None:
    """Return the first request whose result alone is not the same to the bit, if there is one.

    Any NaN is the same as any other: IEEE 754 leaves open which sign and payload an operation gives it.
    """
    solve = getattr(backend, METHODS[case.kind])
    row = 0
    for number, (new, total) in enumerate(case.lengths):
        count = 1 if case.kind == "mla-decode" else new
        one = build(case, device, only=number, slack=slack_for(backend))
        if failed := _solve(solve, one):
            return failed
        batched, alone = whole.out[row : row + count], one.problem.out[:count]
        equal = batched.view(torch.int16) == alone.view(torch.int16)
        differ = int((~(equal | batched.isnan() & alone.isnan())).sum())
        if differ:
            words = (
                f"request {number} ({new} new of {total} tokens) computed alone differs from itself"
                f" in the batch, in {differ} of {alone.numel()} elements"
            )
            return Result("wrong", words, torch.inf)
        row += count
    return None


def reference_of(problem: Problem) -> Any:
    """Return the oracle's answer to a problem: its functions take a problem's fields by name."""
    solve = getattr(importlib.import_module(ORACLE), _SOLUTIONS[type(problem)])
    names = inspect.signature(solve).parameters
    given = {name: getattr(problem, name) for name in names if hasattr(problem, name)}
    if isinstance(problem, PagedAttention):
        given |= {"k_scale": float(problem.k_scale), "v_scale": float(problem.v_scale)}
    elif isinstance(problem, MlaDecode):
        given["value_size"] = problem.out.shape[2]
    return solve(**given)
