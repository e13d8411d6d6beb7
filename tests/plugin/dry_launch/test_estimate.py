"""Estimates of a loop's clocks, by hand: the roofline, LLVM's model where llvm-mca is there, and without it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_rocm_attn.dry_launch.estimate import Estimate, estimate
from pytest_rocm_attn.dry_launch.llvm_mca import NoSchedule, schedule
from pytest_rocm_attn.dry_launch.loops import Loop, innermost_loops
from pytest_rocm_attn.gpu import Gpu

BODY = """\
\t.amdgcn_target "amdgcn-amd-amdhsa--{gfx}"
\t.text
kernel:
.LBB0_1:
{body}
\ts_cbranch_scc1 .LBB0_1
\ts_endpgm
\t.section .rodata
\t.amdhsa_kernel kernel
\t.end_amdhsa_kernel
"""


def loop(gfx: str, *body: str) -> Loop:
    text = BODY.format(gfx=gfx, body="\n".join(f"\t{line}" for line in body))
    (found,) = innermost_loops(text, "kernel")
    return found


@pytest.fixture
def without_llvm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("pytest_rocm_attn.dry_launch.llvm_mca._ROCM", str(tmp_path))


MFMA = "v_mfma_f32_32x32x8_f16 a[0:15], v[0:1], v[2:3], a[0:15]"


@pytest.mark.usefixtures("without_llvm")
def test_each_unit_of_cdna_is_busy_by_its_rate() -> None:
    found = estimate(
        loop(
            "gfx942",
            MFMA,
            MFMA,
            "v_add_f32_e32 v4, v5, v6",
            "v_exp_f32_e32 v4, v4",
            "ds_read_b128 v[8:11], v12",
            "global_load_dwordx4 v[8:11], v[12:13], off",
        ),
        Gpu("gfx942"),
        wavefront=64,
        waves=2,
    )
    # 2,048 operations a clock and CU, 512 a SIMD: 2 * 32 * 32 * 8 * 2 of them. A vector instruction takes
    # four clocks, a transcendental 16. LDS: 128 bytes a clock and CU, 32 a SIMD, for 64 lanes of 16.
    assert found.busy == {"matrix": 64, "vector": 20, "lds": 32}
    assert (found.clocks, found.bound) == (64, "matrix")
    # 1,307.4 TFLOP/s of 304 CUs are 2.1 GHz; 5,300 GB/s are 2.076 bytes a clock and SIMD, for 1,024 bytes.
    assert found.memory == pytest.approx(1024 / (5300 / 2.1 / 304 / 4), rel=1e-3)


@pytest.mark.usefixtures("without_llvm")
def test_each_unit_of_rdna_is_busy_by_its_rate() -> None:
    body = (
        "v_wmma_f32_16x16x16_bf16 v[16:23], v[24:27], v[28:31], v[16:23]",
        "v_dual_mul_f32 v0, v1, v2 :: v_dual_add_f32 v3, v4, v5",
        "v_exp_f32_e32 v4, v4",
        "ds_load_b64 v[8:9], v12",
    )
    found = estimate(loop("gfx1201", *body), Gpu("gfx1201"), wavefront=32, waves=8)
    # 1,024 operations a clock and CU, 512 a SIMD. A dual instruction takes one clock as one does;
    # a transcendental one to issue and four in its own unit. LDS: 64 bytes a clock and SIMD.
    assert found.busy == {"matrix": 16, "vector": 2, "transcendental": 4, "lds": 4}
    wide = estimate(loop("gfx1201", *body), Gpu("gfx1201"), wavefront=64, waves=4)
    assert (wide.busy["vector"], wide.busy["lds"]) == (4, 8)


@pytest.mark.usefixtures("without_llvm")
def test_without_llvm_mca_the_roofline_stands_alone_and_the_estimate_says_so() -> None:
    found = estimate(loop("gfx942", MFMA), Gpu("gfx942"), wavefront=64, waves=2)
    assert found.alone is None
    assert found.clocks == 32
    assert found.model == (
        "roofline of hardware.toml alone: there is no llvm-mca on PATH; it comes with LLVM (Debian:"
        " llvm-22) and with ROCm"
    )


@pytest.mark.usefixtures("without_llvm")
def test_an_llvm_mca_that_does_not_know_the_target_is_not_believed(tmp_path: Path) -> None:
    """LLVM 14 warns of gfx942 and answers for another processor."""
    program = tmp_path / "llvm-mca-14"
    program.write_text(
        "#!/bin/sh\necho \"'gfx942' is not a recognized processor for this target\" >&2\n"
    )
    program.chmod(0o755)
    found = schedule(("s_nop 0",), Gpu("gfx942"))
    assert isinstance(found, NoSchedule)
    assert f"no llvm-mca knows gfx942 ({program}: 'gfx942' is not a recognized" in found.reason


@pytest.mark.usefixtures("without_llvm")
def test_an_llvm_mca_that_does_not_end_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As LLVM 22.1.8 does on some loops."""
    program = tmp_path / "llvm-mca-22"
    program.write_text('#!/bin/sh\ncase "$*" in *json*) while :; do :; done;; esac\n')
    program.chmod(0o755)
    monkeypatch.setattr("pytest_rocm_attn.dry_launch.llvm_mca.TIME_LIMIT", 1)
    found = schedule(("s_nop 7",), Gpu("gfx942"))
    assert found == NoSchedule(f"{program} was ended after 1 s of processor time")


@pytest.mark.usefixtures("without_llvm")
def test_a_wide_multiplication_is_halved_for_an_llvm_mca_that_does_not_end_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "llvm-mca-22"
    program.write_text(
        "#!/bin/sh\nread line\n"
        'case "$line" in v_mad*) while :; do :; done;; esac\n'
        'test "$line" = "v_mul_lo_u32 v20, v21, s26" && read line\n'
        'test "$line" = "v_mul_hi_u32 v21, v21, s26" && cycles=400\n'
        'echo \'{"TargetInfo": {"Resources": []}, "CodeRegions": [{"Instructions": [],'
        ' "ResourcePressureView": {"ResourcePressureInfo": []},'
        ' "SummaryView": {"TotalCycles": \'${cycles:-0}\'}}]}\'\n'.replace("\\'", "'")
    )
    program.chmod(0o755)
    monkeypatch.setattr("pytest_rocm_attn.dry_launch.llvm_mca.TIME_LIMIT", 1)
    found = schedule(("v_mad_i64_i32 v[20:21], s[42:43], v21, s26, 0",), Gpu("gfx942"))
    assert not isinstance(found, NoSchedule)
    assert found.clocks == 4 * 400 / 20


def test_the_resident_waves_share_the_time_of_a_wave_alone() -> None:
    found = Estimate(
        busy={"matrix": 64.0, "vector": 20.0}, memory=None, alone=600.0, waves=4, model="two"
    )
    assert (found.clocks, found.bound) == (150, "latency")
    assert found.as_json()["parts"] == {"matrix": 64, "vector": 20, "latency": 150}


@pytest.mark.parametrize(
    ("gfx", "body", "alone", "matrix"),
    [
        # CDNA2's ISA guide: 32x32x8 takes 16 passes of four clocks, CDNA3's: 8.
        ("gfx90a", ("v_mfma_f32_32x32x8f16 a[0:15], v[0:1], v[2:3], a[0:15]",), 64, 64),
        ("gfx942", (MFMA,), 32, 32),
        # float32 operands, of which hardware.toml has no rate: 16 passes.
        ("gfx942", ("v_mfma_f32_32x32x2_f32 a[0:15], v0, v1, a[0:15]",), 64, 64),
        ("gfx950", ("v_mfma_f32_32x32x16_f16 a[0:15], v[0:3], v[4:7], a[0:15]",), 32, 32),
        # A sum that waits for itself: five clocks of latency (SISchedule.td, GFX11 and GFX12).
        ("gfx1100", ("v_add_f32_e32 v4, v4, v6",) * 40, 200, None),
        ("gfx1201", ("v_add_f32_e32 v4, v4, v6",) * 40, 200, None),
    ],
)
def test_llvms_model_times_a_wave_that_is_alone(
    gfx: str, body: tuple[str, ...], alone: float, matrix: float | None
) -> None:
    asked = schedule(("s_nop 0",), Gpu(gfx))
    if isinstance(asked, NoSchedule):
        pytest.skip(asked.reason)
    found = estimate(loop(gfx, *body), Gpu(gfx), wavefront=Gpu(gfx).wavefront, waves=1)
    assert found.alone == pytest.approx(alone, rel=0.15)  # and the branch back
    assert found.busy.get("matrix") == matrix
    assert f"the scheduling model of {asked.model}" in found.model


def test_a_barrier_adds_no_latency_of_the_schedulers() -> None:
    asked = schedule(("s_nop 0",), Gpu("gfx942"))
    if isinstance(asked, NoSchedule):
        pytest.skip(asked.reason)
    with_it = schedule(("s_barrier", "v_add_f32_e32 v4, v5, v6"), Gpu("gfx942"))
    assert with_it == schedule(("v_add_f32_e32 v4, v5, v6",), Gpu("gfx942"))
