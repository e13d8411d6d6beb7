"""Run a case as servers run decodes: captured as a graph once, replayed on other data.

A graph holds what the host decided while it was captured. What a step changes (queries, lengths, block
table) must be read from the device at each replay, into the same tensors; a kernel choice, a grid or a
length that was taken from the captured step shows here as a wrong result.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from pytest_rocm_attn.conformance.tiers.numerics.build import DEFAULT_BLOCK_SIZE, build
from pytest_rocm_attn.conformance.tiers.numerics.case import Result
from pytest_rocm_attn.conformance.tiers.numerics.judge import (
    compare,
    crash_of,
    foreign_writes,
    slack_for,
    solution_of,
)
from pytest_rocm_attn.problem import MlaPrefill

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_rocm_attn.conformance.tiers.numerics.build import Built
    from pytest_rocm_attn.conformance.tiers.numerics.case import Case

    # Takes what is to be captured, already run once; returns what replays it.
    Capture = Callable[[Callable[[], None]], Callable[[], None]]


def examine_replayed(
    backend: Any, case: Case, device: torch.device, capture: Capture | None = None
) -> Result:
    """Capture a backend's solution of a case, change the step in place, replay, and judge.

    Args:
        backend: as the numerics tier asks it. It is captured only where its attribute `graphs` is
            true, and told by `checked = False` not to look at the device from the host.
        case: the case, over a paged cache.
        device: where the tensors go.
        capture: how to capture; None: by torch.cuda, as CUDA and HIP graphs.
    """
    solve = solution_of(backend, case)
    if isinstance(solve, Result):
        return solve
    if not getattr(backend, "graphs", False):
        return Result("declined", "does not claim to be captured as a graph")
    if capture is None:
        if device.type != "cuda":
            return Result("declined", "graphs are captured on a GPU")
        capture = _as_graph
    backend.checked = False
    built = build(case, device, slack=slack_for(backend))
    try:
        solve(built.problem)  # kernels are compiled before anything is captured
        again = capture(lambda: solve(built.problem))
        changed = change(built, case)
        start = time.perf_counter()
        again()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    except NotImplementedError as error:
        return Result("declined", str(error))
    except Exception as error:  # noqa: BLE001  foreign code: whatever it raises is the finding
        return crash_of(error)
    seconds = time.perf_counter() - start
    finding = foreign_writes(built) or compare(backend, changed, built.problem)
    return replace(finding, words=f"replayed: {finding.words}", seconds=seconds)


def change(built: Built, case: Case) -> Case:
    """Turn a built step into another one in place: queries, lengths, order of blocks; output is NaN.

    A request keeps its new tokens and loses those of its cached tokens that do not fill a block, and
    a third of the rest; the blocks that are left are read in reverse order.

    Returns: the case that the step now is.

    Raises:
        NotImplementedError: the case has no paged cache, or none of its requests can be changed so.
    """
    problem = built.problem
    if isinstance(problem, MlaPrefill):
        raise NotImplementedError("prefill over contiguous keys is not captured")
    size = case.request.block_size or DEFAULT_BLOCK_SIZE
    lengths = []
    for i, (new, total) in enumerate(case.lengths):
        full = total // size
        left = max(new, full * size - full * size // 3)
        if not new or left > full * size or left >= total:
            lengths.append((new, total))
            continue
        problem.block_table[i, :full] = problem.block_table[i, :full].flip(0)
        lengths.append((new, left))
    if lengths == list(case.lengths):
        raise NotImplementedError("no request is long enough to lose a block")
    problem.seq_lens.copy_(torch.tensor([total for _, total in lengths], dtype=torch.int32))
    problem.query.copy_(-problem.query.flip(0).roll(1, dims=1))
    problem.out.fill_(math.nan)
    for guard in built.guards:
        guard.before = guard.memory.detach().to("cpu", copy=True)
    return replace(case, lengths=tuple(lengths))


def _as_graph(run: Callable[[], None]) -> Callable[[], None]:
    """Capture by torch.cuda: a CUDA graph, or a HIP graph on a ROCm build."""
    cuda: Any = torch.cuda  # of which not all is typed
    side = cuda.Stream()
    side.wait_stream(cuda.current_stream())
    with cuda.stream(side):  # torch's rule: warm up on a stream that is not the default one
        run()
    cuda.current_stream().wait_stream(side)
    graph = cuda.CUDAGraph()
    with cuda.graph(graph):
        run()
    replay: Callable[[], None] = graph.replay
    return replay
