"""Occupancy by hand, from hardware.toml's figures for each target."""

from __future__ import annotations

import pytest

from pytest_rocm_attn.dry_launch.code_object import CodeObjectKernel
from pytest_rocm_attn.dry_launch.occupancy import waves_per_simd
from pytest_rocm_attn.gpu import Gpu


def occupancy(
    gfx: str,
    *,
    vgprs: int = 16,
    sgprs: int = 16,
    lds: int = 0,
    warps: int = 4,
    wavefront: int | None = None,
    wgp_mode: bool = True,
) -> int | None:
    gpu = Gpu(gfx)
    lanes = wavefront or gpu.wavefront
    kernel = CodeObjectKernel(
        name="kernel",
        lds_bytes=0,
        scratch_bytes=0,
        vgprs=vgprs,
        agprs=0,
        sgprs=sgprs,
        vgpr_spills=0,
        sgpr_spills=0,
        wavefront=lanes,
        max_workgroup=warps * lanes,
        wgp_mode=wgp_mode,
        code_bytes=4,
    )
    return waves_per_simd(gpu, kernel, lds)


@pytest.mark.parametrize(
    ("gfx", "vgprs", "waves"),
    [
        pytest.param("gfx942", 116, 4, id="gfx942: 512 // 120"),
        pytest.param("gfx942", 128, 4, id="gfx942: 512 // 128"),
        pytest.param("gfx942", 129, 3, id="gfx942: 512 // 136"),
        pytest.param("gfx942", 0, 8, id="gfx942: never more than 8"),
        pytest.param("gfx906", 24, 10, id="gfx906: 256 // 24"),
        pytest.param("gfx1201", 250, 5, id="gfx1201: 1536 // 264"),
        pytest.param("gfx1201", 96, 16, id="gfx1201: 1536 // 96"),
        pytest.param("gfx1201", 97, 12, id="gfx1201: 1536 // 120"),
        pytest.param("gfx1150", 97, 9, id="gfx1150: 1024 // 112"),
    ],
)
def test_vector_registers_limit_it(gfx: str, vgprs: int, waves: int) -> None:
    assert occupancy(gfx, vgprs=vgprs) == waves


@pytest.mark.parametrize(("sgprs", "waves"), [(80, 10), (81, 9), (88, 9), (89, 8), (100, 8)])
def test_scalar_registers_limit_it_on_gfx9(sgprs: int, waves: int) -> None:
    assert occupancy("gfx906", sgprs=sgprs, warps=1) == waves


def test_scalar_registers_do_not_limit_it_on_rdna() -> None:
    assert occupancy("gfx1201", sgprs=106) == 16


@pytest.mark.parametrize(
    ("gfx", "lds", "waves"),
    [
        pytest.param("gfx942", 65536, 1, id="gfx942: one workgroup of 64 KiB"),
        pytest.param("gfx950", 65536, 2, id="gfx950: two of 64 KiB in 160"),
        pytest.param("gfx942", 16384, 4, id="gfx942: four of 16 KiB"),
        pytest.param("gfx1201", 40960, 3, id="gfx1201: three of 40 KiB in the WGP's 128"),
        pytest.param("gfx942", 65537, 0, id="gfx942: does not fit"),
    ],
)
def test_lds_limits_it(gfx: str, lds: int, waves: int) -> None:
    assert occupancy(gfx, lds=lds) == waves


def test_in_cu_mode_two_simds_share_half_the_lds() -> None:
    assert occupancy("gfx1201", lds=40960, wgp_mode=False) == 2  # one of 40 KiB in 64, on two SIMDs


def test_workgroups_are_resident_whole() -> None:
    # 3 waves per SIMD are 12 on four: one workgroup of 8, two waves on each
    assert occupancy("gfx942", vgprs=168, warps=8) == 2
    assert occupancy("gfx942", vgprs=512, warps=8) == 0


def test_the_fullest_simd_counts() -> None:
    assert occupancy("gfx942", lds=65536, warps=1) == 1


def test_wave64_on_rdna_has_half_the_registers() -> None:
    assert occupancy("gfx1201", vgprs=128, wavefront=64) == 5  # 768 // 132


@pytest.mark.parametrize("gfx", ["gfx908", "gfx1250"])
def test_it_is_unknown_without_the_facts(gfx: str) -> None:
    assert occupancy(gfx) is None
