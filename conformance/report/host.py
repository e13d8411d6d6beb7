"""What a run's results rest on: the machine, its libraries, and the device that kernels ran on.

Read off files if that is enough, so that a report costs no import and creates no GPU context; a
device describes itself in the process that used it.
"""

from __future__ import annotations

import contextlib
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn import aiter_probe, doctor, hardware

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import torch

_DRIVER = "sys/module/amdgpu/version"


def libraries(
    root: str | os.PathLike[str] = "/", environ: Mapping[str, str] | None = None
) -> dict[str, str | None]:
    """Return the versions of what attention kernels are made and run by; None for what is not there.

    Args:
        root: where /sys and /opt are; another folder for tests.
        environ: where ROCM_PATH is read from; default the process's own.
    """
    env = os.environ if environ is None else environ
    rocm = env.get("ROCM_PATH") or "/opt/rocm"
    return {
        "torch": doctor.torch_build(),
        "triton": doctor.triton_build(),
        "aiter": aiter_probe.probe().reason,
        "rocm": _line(Path(root, rocm.lstrip("/"), ".info", "version")),
        "amdgpu_driver": _line(Path(root, _DRIVER)),
    }


def gpus() -> list[dict[str, Any]]:
    """Return the real AMD GPUs of this machine, as the kernel driver and rocminfo list them."""
    return [
        {"index": gpu.index, "gfx": gpu.gfx, "name": gpu.name} for gpu in hardware.detect().gpus
    ]


def describe(device: torch.device) -> dict[str, str]:
    """Return the device that kernels run on in this process, and the libraries that run them.

    Returns: name and arch (gcnArchName with its features on an AMD GPU, sm_NN on NVIDIA's, the
        machine's own on a CPU), torch, triton, aiter, and hip or cuda where torch is built for it.
    """
    import torch

    triton = doctor.triton_build().partition(",")[0]  # by its files: ROCm's comes under other names
    # torch's own is a str of another type, which xdist cannot send.
    found = {"torch": str(torch.__version__), "triton": triton}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found["name"] = properties.name
        # A CUDA build has gcnArchName as well, and repeats the name there.
        amd = torch.version.hip is not None
        found["arch"] = (
            properties.gcnArchName if amd else f"sm_{properties.major}{properties.minor}"
        )
    else:
        found |= {"name": "CPU", "arch": platform.machine()}
    for name in ("hip", "cuda") if device.type == "cuda" else ():
        if version := getattr(torch.version, name, None):
            found[name] = str(version)
    with contextlib.suppress(metadata.PackageNotFoundError):
        found["aiter"] = metadata.version("amd-aiter")
    return dict(sorted(found.items()))


def devices_of(details: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return the devices that records' details name, each once, in an order of their own."""
    found = {tuple(sorted(device.items())) for each in details if (device := each.get("device"))}
    return [dict(items) for items in sorted(found)]


def _line(path: Path) -> str | None:
    try:
        return path.read_text("utf-8").strip().partition("\n")[0] or None
    except (OSError, UnicodeDecodeError):
        return None
