"""What a report says of the machine that its results rest on."""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Any

import pytest
import torch

from pytest_rocm_attn.conformance.report import host

if TYPE_CHECKING:
    from pathlib import Path


def test_the_versions_of_rocm_and_its_driver_are_read_off_files(tmp_path: Path) -> None:
    (tmp_path / "opt/rocm-7/.info").mkdir(parents=True)
    (tmp_path / "opt/rocm-7/.info/version").write_text("7.2.0-53\n")
    (tmp_path / "sys/module/amdgpu").mkdir(parents=True)
    (tmp_path / "sys/module/amdgpu/version").write_text("6.16.6\n")
    found = host.libraries(tmp_path, {"ROCM_PATH": "/opt/rocm-7"})
    assert (found["rocm"], found["amdgpu_driver"]) == ("7.2.0-53", "6.16.6")
    assert str(found["torch"]).startswith(torch.__version__)


def test_what_is_not_there_is_none(tmp_path: Path) -> None:
    found = host.libraries(tmp_path, {})
    assert (found["rocm"], found["amdgpu_driver"]) == (None, None)


def test_a_cpu_describes_itself() -> None:
    found = host.describe(torch.device("cpu"))
    assert found["name"] == "CPU"
    assert found["torch"] == torch.__version__
    assert found["triton"][0].isdigit()
    assert {type(text) for text in found.values()} == {str}  # which xdist can send


@pytest.mark.parametrize(
    ("fields", "arch"),
    [
        ({"gcnArchName": "gfx942:sramecc+:xnack-"}, "gfx942:sramecc+:xnack-"),
        ({"major": 9, "minor": 0, "gcnArchName": "A GPU"}, "sm_90"),  # as torch 2.11 for CUDA
    ],
)
def test_a_gpu_describes_itself(
    monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], arch: str
) -> None:
    properties = types.SimpleNamespace(name="A GPU", **fields)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    hip = "7.2.1" if arch.startswith("gfx") else None
    monkeypatch.setattr(torch.version, "hip", hip)
    found = host.describe(torch.device("cuda", 0))
    assert (found["name"], found["arch"]) == ("A GPU", arch)
    assert found.get("hip") == hip


def test_devices_are_listed_once() -> None:
    one, other = {"name": "A", "torch": "2"}, {"name": "B", "torch": "2"}
    details: list[dict[str, Any]] = [
        {"device": other},
        {"device": one},
        {},
        {"device": dict(other)},
    ]
    assert host.devices_of(details) == [one, other]
