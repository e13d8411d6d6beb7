"""Detection of real GPUs, on made-up sysfs trees. Numbers: KFD's own encoding of gfx targets."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_rocm_attn import hardware
from pytest_rocm_attn.hardware import DetectedGpu, detect, gfx_name

CPU = "cpu_cores_count 64\nsimd_count 0\ngfx_target_version 0\n"


def gpu(version: int) -> str:
    return f"cpu_cores_count 0\nsimd_count 1216\nlds_size_in_kb 64\ngfx_target_version {version}\n"


def machine(root: Path, *nodes: str, kfd: bool = True) -> Path:
    folder = root / "sys/class/kfd/kfd/topology/nodes"
    for index, properties in enumerate(nodes):
        (folder / str(index)).mkdir(parents=True)
        (folder / str(index) / "properties").write_text(properties)
    if kfd:
        (root / "dev").mkdir()
        (root / "dev/kfd").touch()
    return root


@pytest.mark.parametrize(
    ("version", "gfx"),
    [
        (90006, "gfx906"),
        (90008, "gfx908"),
        (90010, "gfx90a"),
        (90402, "gfx942"),
        (90500, "gfx950"),
        (100300, "gfx1030"),
        (110000, "gfx1100"),
        (110001, "gfx1101"),
        (110501, "gfx1151"),
        (120001, "gfx1201"),
        (120500, "gfx1250"),
    ],
)
def test_a_target_version_of_the_driver_becomes_a_gfx_name(version: int, gfx: str) -> None:
    assert gfx_name(version) == gfx


def test_gpus_are_listed_in_the_order_of_the_nodes_and_cpu_nodes_are_not(tmp_path: Path) -> None:
    machine(tmp_path, CPU, CPU, *[gpu(90402)] * 8, gpu(110000))  # node 10 sorts after node 9
    found = detect(tmp_path, {})
    assert [one.gfx for one in found.gpus] == ["gfx942"] * 8 + ["gfx1100"]
    assert [one.index for one in found.gpus] == list(range(9))
    assert found.reason == ""


def test_no_driver_says_so_and_how_to_get_a_gpu(tmp_path: Path) -> None:
    found = detect(tmp_path, {})
    assert found.gpus == ()
    assert "no AMD GPU driver" in found.reason
    assert "/dev/kfd" in found.reason


def test_a_driver_without_gpus_says_so(tmp_path: Path) -> None:
    assert "lists no GPU" in detect(machine(tmp_path, CPU), {}).reason


def test_a_missing_device_file_names_the_gpus_it_keeps_from_us(tmp_path: Path) -> None:
    found = detect(machine(tmp_path, CPU, gpu(90402), kfd=False), {})
    assert found.gpus == ()
    assert "gfx942" in found.reason
    assert "/dev/kfd" in found.reason


def test_a_broken_topology_is_a_reason_and_not_a_traceback(tmp_path: Path) -> None:
    found = detect(machine(tmp_path, "simd_count many\n"), {})
    assert found.gpus == ()
    assert "unreadable" in found.reason


@pytest.mark.parametrize(
    ("environ", "gfx"),
    [
        ({"HIP_VISIBLE_DEVICES": "1"}, ["gfx1100"]),
        ({"HIP_VISIBLE_DEVICES": "2,0"}, ["gfx1201", "gfx942"]),
        ({"HIP_VISIBLE_DEVICES": "0,9,1"}, ["gfx942"]),  # stops at the first invalid index
        ({"HIP_VISIBLE_DEVICES": ""}, []),
        ({"HIP_VISIBLE_DEVICES": "-1"}, []),
        ({"HIP_VISIBLE_DEVICES": "1,1"}, []),
        ({"ROCR_VISIBLE_DEVICES": "1,2", "HIP_VISIBLE_DEVICES": "1"}, ["gfx1201"]),
        ({"CUDA_VISIBLE_DEVICES": "1"}, ["gfx1100"]),
        ({"CUDA_VISIBLE_DEVICES": "1", "HIP_VISIBLE_DEVICES": "0"}, ["gfx942"]),
        ({"HIP_VISIBLE_DEVICES": "GPU-0123456789abcdef"}, ["gfx942"]),
    ],
)
def test_visible_devices_variables_filter_and_reorder(
    tmp_path: Path, environ: dict[str, str], gfx: list[str]
) -> None:
    found = detect(machine(tmp_path, CPU, gpu(90402), gpu(110000), gpu(120001)), environ)
    assert [one.gfx for one in found.gpus] == gfx
    assert [one.index for one in found.gpus] == list(range(len(gfx)))
    if not gfx:
        assert "HIP_VISIBLE_DEVICES" in found.reason
        assert "gfx942" in found.reason


ROCMINFO = """#!/bin/sh
cat <<'END'
*******
Agent 1
*******
  Name:                    AMD EPYC 9654
  Marketing Name:          AMD EPYC 9654
  Device Type:             CPU
*******
Agent 2
*******
  Name:                    gfx942
  Marketing Name:          AMD Instinct MI300X
  Device Type:             GPU
  ISA Info:
    ISA 1
      Name:                    amdgcn-amd-amdhsa--gfx942:sramecc+:xnack-
END
"""


def rocminfo(folder: Path, text: str = ROCMINFO) -> dict[str, str]:
    program = folder / "rocminfo"
    program.write_text(text)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return {"PATH": f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin"}


def detect_as_root(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, environ: dict[str, str], *nodes: str
) -> hardware.Detection:
    """Run detect() for "/", with the tree under tmp_path in its place."""
    machine(tmp_path, *nodes)
    monkeypatch.setattr(hardware, "_TOPOLOGY", str(tmp_path / hardware._TOPOLOGY))
    monkeypatch.setattr(hardware, "_DEVICE", str(tmp_path / hardware._DEVICE))
    return detect("/", environ)


def test_rocminfo_gives_the_marketing_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = detect_as_root(monkeypatch, tmp_path, rocminfo(tmp_path), CPU, gpu(90402))
    assert found.gpus == (DetectedGpu(0, "gfx942", "AMD Instinct MI300X"),)
    assert found.note == ""


def test_a_disagreement_with_rocminfo_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = detect_as_root(monkeypatch, tmp_path, rocminfo(tmp_path), CPU, gpu(120001))
    assert found.gpus == (DetectedGpu(0, "gfx1201", "gfx1201"),)
    assert "gfx1201" in found.note
    assert "gfx942" in found.note


def test_a_failing_rocminfo_is_noted_and_the_driver_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = rocminfo(tmp_path, "#!/bin/sh\nexit 3\n")
    found = detect_as_root(monkeypatch, tmp_path, failing, CPU, gpu(90402))
    assert [one.gfx for one in found.gpus] == ["gfx942"]
    assert "rocminfo" in found.note


def test_detection_imports_no_torch() -> None:
    code = (
        "import sys; from pytest_rocm_attn.hardware import detect; detect();"
        " sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
