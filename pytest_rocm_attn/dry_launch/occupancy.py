"""Occupancy: how many waves of a kernel one SIMD can hold, from the registers and LDS they take.

All hardware figures come from hardware.toml; a target that lacks one has no occupancy (None).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_rocm_attn.dry_launch.code_object import CodeObjectKernel
    from pytest_rocm_attn.gpu import Gpu

LANE_BYTES = 4  # one VGPR of one lane


def waves_per_simd(gpu: Gpu, kernel: CodeObjectKernel, lds_bytes: int) -> int | None:
    """Return the most waves of a kernel that are resident on one SIMD at once.

    waves by registers = min(max_waves_per_simd,
                             vgprs_per_simd_lane // (VGPRs rounded up to vgpr_alloc_granule),
                             total_sgprs_per_simd // SGPRs)
    workgroups = min(waves by registers * SIMDs // waves per workgroup, LDS // lds_bytes)
    occupancy = workgroups * waves per workgroup / SIMDs, rounded up

    SIMDs and LDS are those that share one LDS: a CU (GCN, CDNA, and RDNA in CU mode) or a
    work-group processor (RDNA in WGP mode). Workgroups are resident whole or not at all, and have
    the largest size that the kernel was compiled for. 0 means that not even one fits.
    The SGPR quotient equals LLVM's table for gfx9 (80, 88, 100 SGPRs give 10, 9, 8 waves); targets
    without total_sgprs_per_simd allocate SGPRs per wave at a fixed size and are not limited by it.
    LDS is not rounded up to its allocation granule, which hardware.toml does not record.

    Args:
        gpu: the target.
        kernel: its registers, wavefront size, workgroup size and mode.
        lds_bytes: LDS of one workgroup, dynamic allocation included.

    Returns: None when hardware.toml lacks a figure that the formula needs.
    """
    try:
        registers = int(gpu.fact("vgprs_per_simd_lane"))
        granule = int(gpu.fact("vgpr_alloc_granule"))
        waves = int(gpu.fact("max_waves_per_simd"))
        simds, lds = _lds_share(gpu, registers, kernel.wgp_mode)
    except KeyError:
        return None
    if kernel.wavefront > gpu.wavefront:  # wave64 on RDNA: hardware.toml's figures are for wave32
        ratio = kernel.wavefront // gpu.wavefront
        registers, granule = registers // ratio, granule // ratio
    allocated = -(-max(kernel.vgprs, 1) // granule) * granule
    waves = min(waves, registers // allocated)
    if (scalars := _fact(gpu, "total_sgprs_per_simd")) is not None:
        waves = min(waves, scalars // max(kernel.sgprs, 1))
    workgroup = -(-kernel.max_workgroup // kernel.wavefront)
    workgroups = waves * simds // workgroup
    if lds_bytes:
        workgroups = min(workgroups, lds // lds_bytes)
    return -(-workgroups * workgroup // simds)


def _lds_share(gpu: Gpu, registers: int, wgp_mode: bool) -> tuple[int, int]:
    """Return the number of SIMDs that share one LDS, and its bytes; KeyError without the facts."""
    simd_bytes = registers * gpu.wavefront * LANE_BYTES
    per_wgp = _fact(gpu, "lds_kib_per_wgp")
    if per_wgp is None:
        return gpu.fact("vgpr_file_kib_per_cu") * 1024 // simd_bytes, gpu.lds_bytes
    cus = 1 if wgp_mode else 2
    return gpu.fact("vgpr_file_kib") * 1024 // simd_bytes // cus, per_wgp * 1024 // cus


def _fact(gpu: Gpu, name: str) -> int | None:
    try:
        return int(gpu.fact(name))
    except KeyError:
        return None
