"""The GPU that a kernel is launched on, as far as its launch configuration depends on it."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.errors import BackendInputError, BackendLimitError
from pytest_rocm_attn.gpu import Gpu, target_facts

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Target:
    """What the rule needs to know of a GPU.

    Args:
        name: gfx target, "sm_90", or "interpreter".
        family: "CDNA", "RDNA3", "RDNA", "VECTOR", "NVIDIA" or "INTERPRETER".
        wavefront: lanes of a warp.
        lds_bytes: shared memory that one program can have.
        simd_registers: 32-bit registers of a SIMD lane, shared by its resident waves.
        wave_registers: the most that one wave can address.
        processors: compute units (work-group processors on RDNA, multiprocessors on NVIDIA).
    """

    name: str
    family: str
    wavefront: int
    lds_bytes: int
    simd_registers: int
    wave_registers: int
    processors: int


INTERPRETER = Target("interpreter", "INTERPRETER", 32, 1 << 40, 1 << 20, 1 << 20, 4)


def amd_target(gfx: str, processors: int | None = None) -> Target:
    """Return the target of a gfx name, its limits from hardware.toml.

    Args:
        gfx: bare target name.
        processors: as the device reports; by default those of the first listed product.

    Raises:
        UnknownGpuError: hardware.toml does not describe the target.
    """
    gpu = Gpu(gfx)
    row = target_facts(gpu.gfx)
    family = gpu.family
    if not row.get("matrix_cores", {"v": True})["v"]:
        kind = "VECTOR"
    elif family.startswith("RDNA3"):
        kind = "RDNA3"
    elif family.startswith("CDNA") and gpu.wavefront == 64:
        kind = "CDNA"
    else:
        kind = "RDNA"  # CDNA5 too: waves of 32 and WMMA
    product = row.get("product", [{}])[0]
    cus = product.get("cu_per_device", product.get("cu", {"v": 64}))["v"]
    addressable = row["vgprs_addressable_per_wave"]["v"]
    return Target(
        name=gfx,
        family=kind,
        wavefront=gpu.wavefront,
        lds_bytes=gpu.lds_bytes,
        simd_registers=row.get("vgprs_per_simd_lane", {"v": addressable})["v"],
        wave_registers=addressable,
        processors=processors or (cus // 2 if family.startswith("RDNA") else cus),
    )


@functools.cache
def compiles_for(target: Any) -> bool:
    """Return whether Triton has code for a target at all, which depends on its release: compile next to nothing."""
    import triton

    try:
        triton.compile(triton.compiler.ASTSource(triton.jit(_nothing), {}, {}), target)
    except RuntimeError:  # "PassManager::run failed"
        return False
    return True


def _nothing() -> None:
    pass


def target_of(device: torch.device) -> Target:
    """Return the target that a tensor's device stands for.

    A GPU stands for itself. The CPU, and the meta device of a tensor without memory, for whatever runs
    kernels on it: Triton's interpreter (TRITON_INTERPRET=1), or the GPU of a dry launch in force.

    Raises:
        BackendInputError: the device is not a GPU, and nothing runs or compiles kernels on it.
        UnknownGpuError: an AMD GPU that hardware.toml does not describe.
        BackendLimitError: a dry launch for a GPU for which Triton compiles nothing.
    """
    if device.type == "cuda":
        return _gpu_target(device)
    import triton

    if triton.knobs.runtime.interpret and device.type == "cpu":
        return INTERPRETER
    if device.type in ("cpu", "meta"):
        try:
            target = triton.runtime.driver.active.get_current_target()
        except RuntimeError:  # Triton found no GPU, and none is mocked
            target = None
        if target is not None and target.backend == "hip":
            if not compiles_for(target):
                raise BackendLimitError(
                    f"Triton {triton.__version__} compiles nothing for {target.arch}: choose a release of Triton"
                    " that does, or a backend that is not written in Triton"
                )
            return amd_target(target.arch)
    raise BackendInputError(
        f"tensors on {device} cannot be attended over here: use a GPU, set TRITON_INTERPRET=1 before"
        " triton is imported (CPU tensors), or enter a dry launch (docs/dry-launch.md)"
    )


def _gpu_target(device: torch.device) -> Target:
    import torch

    # Any: torch's stub lacks the opt-in limit.
    properties: Any = torch.cuda.get_device_properties(device)
    if torch.version.hip:
        gfx = properties.gcnArchName.partition(":")[0]
        return amd_target(gfx, properties.multi_processor_count)
    return nvidia_target(
        f"sm_{properties.major}{properties.minor}",
        properties.shared_memory_per_block_optin,
        properties.multi_processor_count,
    )


def nvidia_target(name: str, shared_bytes: int, processors: int) -> Target:
    """Return an NVIDIA target: 64 Ki registers a multiprocessor, 255 a thread, on every sm."""
    return Target(name, "NVIDIA", 32, shared_bytes, 65536 // (4 * 32), 255, processors)
