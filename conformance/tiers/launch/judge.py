"""Let a backend launch for a shape family, dry, and judge what its kernels take of the GPU."""

from __future__ import annotations

import time
import traceback
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.tiers.launch.problems import storageless_problem
from pytest_rocm_attn.conformance.tiers.numerics.case import Result
from pytest_rocm_attn.conformance.tiers.numerics.judge import solution_of
from pytest_rocm_attn.dry_launch import dry_launch, figures
from pytest_rocm_attn.dry_launch.figures import described, text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_rocm_attn.conformance.tiers.numerics.case import Case
    from pytest_rocm_attn.dry_launch import Launch, Launches
    from pytest_rocm_attn.gpu import Gpu


def examine(backend: Any, case: Case, gpu: Gpu) -> Result:
    """Return the result of a shape family; kind "right" means that every kernel keeps the promises.

    The promises: each kernel compiles and fits the target; none spills vector registers to memory on
    CDNA, where attention kernels have 256 to 512 of them; where the target multiplies matrices of the
    model's dtype, some kernel of the family does it by matrix instructions.

    Args:
        backend: as the numerics tier asks it; NotImplementedError: it does not claim the family.
        case: the family.
        gpu: the mocked GPU, in force.
    """
    solve = solution_of(backend, case)
    if isinstance(solve, Result):
        return solve
    problem = storageless_problem(case, gpu)
    start = time.perf_counter()
    error: Exception | None = None
    trace = ""
    with dry_launch(gpu) as launches:
        try:
            solve(problem)
        except NotImplementedError as refusal:
            return Result("declined", str(refusal))
        except Exception as raised:  # noqa: BLE001  foreign code: whatever it raises is the finding
            error, trace = raised, traceback.format_exc()
    seconds = time.perf_counter() - start
    kernels = tuple(launch.as_json() | described(launch) for launch in launches)
    if launches.rejected:
        words = "; ".join(_rejection(rejected) for rejected in launches.rejected)
        return Result("wrong", words, seconds=seconds, launches=kernels)
    if error is not None:
        name = type(error).__name__
        words = f"raised {name}: {_first_line(error)}"
        return Result(
            "crashed", words, seconds=seconds, traceback=trace, launches=kernels, error=name
        )
    faults = list(_faults(launches, case, gpu))
    words = "; ".join(faults) if faults else _summary(launches)
    kind = "wrong" if faults else "right"
    return Result(kind, words, seconds=seconds, launches=kernels)


def _rejection(rejected: Any) -> str:
    """Return a refusal in Triton's own words, which give the need and the limit in bytes."""
    verb = "compile for" if rejected.launch is None else "fit"
    return f"{rejected.name} does not {verb} {rejected.gfx}: {_first_line(rejected.error)}"


def _first_line(error: object) -> str:
    return str(error).strip().partition("\n")[0]


def _faults(launches: Launches, case: Case, gpu: Gpu) -> Iterator[str]:
    if not launches:
        yield "launched no Triton kernel"
        return
    for launch in launches:
        if not launch.fits:
            yield f"{launch.name} does not fit: {launch.lds_bytes} bytes of LDS of {launch.lds_limit}"
        if gpu.family.startswith("CDNA") and (launch.vgpr_spills or launch.scratch_bytes):
            yield (
                f"{launch.name} spills {launch.vgpr_spills} vector registers,"
                f" {launch.scratch_bytes} bytes per work-item, to memory"
            )
    if multiplies_matrices(gpu, case.request.dtype) and not any(
        launch.matrix_instructions for launch in launches
    ):
        names = ", ".join(sorted({launch.name for launch in launches}))
        yield f"no matrix instruction in {names}"


def multiplies_matrices(gpu: Gpu, dtype: str) -> bool:
    """Return whether the target has matrix instructions that take a dtype.

    Source: hardware.toml, matrix_cores; float32 operands are CDNA's alone (LLVM, V_MFMA_F32_*_F32).
    """
    from pytest_rocm_attn.gpu import target_facts

    cores = target_facts(gpu.gfx).get("matrix_cores", {"v": True})["v"]
    return bool(cores) and (dtype != "float32" or gpu.family.startswith("CDNA"))


def _summary(launches: Launches) -> str:
    return "; ".join(_words(launch) for launch in launches)


def _words(launch: Launch) -> str:
    waves = "?" if launch.occupancy is None else launch.occupancy
    words = (
        f"{launch.name}: {launch.lds_bytes} of {launch.lds_limit} bytes of LDS, {launch.vgprs} VGPRs,"
        f" {waves} waves per SIMD"
    )
    per_score = figures(launch)["vector_per_score"]
    if per_score is None:
        return words
    return f"{words}, {text(per_score)} vector lane operations per score"
