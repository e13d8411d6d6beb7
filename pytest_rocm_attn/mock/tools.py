"""The ROCm tree of the mocked machine: command-line tools and version files.

Readers and what they parse out of the tools: docs/reference/mock-surface.md#real-aiter to #files. A
tree is written once per process and kind of machine, because programs started from here must find
real files; all trees of a process share one temporary folder, which is removed when the process ends.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_rocm_attn.mock import amdsmi

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_rocm_attn.mock.devices import Device

ROCM_VERSION = amdsmi.VERSION  # one release: the machine has the amdsmi of its ROCm
# HIP's own build, by release; as torch 2.8.0+rocm7.0.2 and the 6.4 wheels print it.
_HIP_BUILDS = {"7.0": "51831-7c9236b16", "6.4": "43482-0f2d60242"}
_PREFIX = "pytest-rocm-attn-mock-"

_root: Path | None = None
_trees: dict[tuple[tuple[str, str], ...], Path] = {}


def hip_version(rocm_version: str) -> str:
    """Return torch.version.hip of a ROCm release: its first two numbers, then HIP's own build.

    If the release's build is not known here, it is that of ROCM_VERSION.
    """
    release, known = ".".join(rocm_version.split(".")[:2]), ".".join(ROCM_VERSION.split(".")[:2])
    return f"{release}.{_HIP_BUILDS.get(release, _HIP_BUILDS[known])}"


def tree(files: Mapping[str, str]) -> Path:
    """Return a folder that holds files (relative path to text); equal contents share a folder.

    Files that start with "#!" are made executable.
    """
    key = tuple(sorted(files.items()))
    folder = _trees.get(key)
    if folder is None or not folder.is_dir():
        folder = _trees[key] = Path(tempfile.mkdtemp(dir=_own_root()))
        for name, text in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
            if text.startswith("#!"):
                path.chmod(0o755)
    return folder


def _own_root() -> Path:
    global _root
    if _root is None or not _root.is_dir():
        _sweep()
        _root = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
        # A forked child inherits this hook and the parent's trees, which are not its to remove.
        atexit.register(_remove, _root, os.getpid())
    return _root


def _remove(root: Path, owner: int) -> None:
    if os.getpid() == owner:
        shutil.rmtree(root, ignore_errors=True)


def _sweep() -> None:
    """Remove the folders of processes that ended without their exit hooks (os._exit, a signal)."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        pid = folder.name[len(_PREFIX) :].split("-")[0]
        if not pid.isdecimal():
            continue
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            with contextlib.suppress(OSError):
                if folder.stat().st_uid == os.getuid():
                    shutil.rmtree(folder, ignore_errors=True)
        except PermissionError:
            continue  # somebody else's process, alive


def is_ours(path: str) -> bool:
    """Whether a PATH entry is the tool folder of a mock."""
    return _PREFIX in path


def rocm_files(device: Device, count: int, rocm_version: str) -> dict[str, str]:
    """Return the ROCm tree of a machine: relative path to text."""
    hip = hip_version(rocm_version)
    major, minor, patch = (rocm_version.split(".") + ["0", "0"])[:3]
    gpus = range(count)
    one = f"{device.market_name}, {device.gpu.gfx}"
    return {
        ".info/version": f"{rocm_version}\n",
        "include/hip/hip_version.h": (
            f"#define HIP_VERSION_MAJOR {major}\n#define HIP_VERSION_MINOR {minor}\n"
            f"#define HIP_VERSION_PATCH {patch}\n"
        ),
        "bin/rocminfo": _script(rocminfo(device, count)),
        "bin/hipconfig": (
            "#!/bin/sh\n"
            'root=$(cd "$(dirname "$0")/.." && pwd)\n'
            'case "$1" in\n'
            '  --path|-p|--rocmpath|-R) printf %s "$root" ;;\n'
            "  --platform|-P) printf amd ;;\n"
            "  --compiler|-c) printf clang ;;\n"
            "  --runtime|-r) printf rocclr ;;\n"
            f"  --version|-v) printf %s {hip} ;;\n"
            f"  '') echo 'HIP version: {hip}' ;;\n"
            "  *) echo \"hipconfig: a stand-in of pytest_rocm_attn.mock, which does not know '$1'\" >&2"
            "; exit 2 ;;\n"
            "esac\n"
        ),
        # Nobody who only selects a backend compiles with it; --version is asked by collect_env.
        "bin/hipcc": (
            "#!/bin/sh\n"
            f'if [ "$1" = --version ]; then echo "HIP version: {hip}"; exit 0; fi\n'
            'echo "hipcc: a stand-in of pytest_rocm_attn.mock compiles nothing;'
            ' put a real clang on PATH" >&2\n'
            "exit 1\n"
        ),
        "bin/rocm_agent_enumerator": _script(
            "gfx000\n" + "".join(f"{device.gpu.gfx}\n" for _ in gpus)
        ),
        "bin/rocm-smi": (
            "#!/bin/sh\n"
            'case "$*" in\n'
            "  *--showdriverversion*--csv*) printf 'name,value\\nDriver version,6.12.12\\n' ;;\n"
            "  *--showdriverversion*) echo 'Driver version: 6.12.12' ;;\n"
            f"  *--showtopo*) cat <<'END'\n{_topology(device, count)}END\n  ;;\n"
            f"  ''|*--showproductname*) cat <<'END'\n"
            + "".join(f"GPU[{index}]\t\t: Card Series: \t\t{one}\n" for index in gpus)
            + "END\n  ;;\n"
            "  *) echo \"rocm-smi: a stand-in of pytest_rocm_attn.mock, which does not know '$*'\" >&2"
            "; exit 2 ;;\n"
            "esac\n"
        ),
    }


def rocminfo(device: Device, count: int) -> str:
    """Return what rocminfo prints. The agent's Name line comes before any ISA line: section 5.3."""
    gpu = device.gpu
    chip = int(device.device_id, 16) if device.device_id != "N/A" else 0
    text = [
        "ROCk module is loaded",
        "=====================",
        "HSA System Attributes",
        "=====================",
        "Runtime Version:         1.15",
        "==========",
        "HSA Agents",
        "==========",
        "*******",
        "Agent 1",
        "*******",
        "  Name:                    CPU",
        "  Uuid:                    CPU-XX",
        "  Marketing Name:          CPU",
        "  Device Type:             CPU",
    ]
    for index in range(count):
        kib = device.total_memory >> 10
        text += [
            "*******",
            f"Agent {index + 2}",
            "*******",
            f"  Name:                    {gpu.gfx}",
            f"  Uuid:                    GPU-{device.serial(index):016x}",
            f"  Marketing Name:          {device.market_name}",
            "  Vendor Name:             AMD",
            "  Feature:                 KERNEL_DISPATCH",
            f"  Node:                    {index + 1}",
            "  Device Type:             GPU",
            f"  Chip ID:                 {chip}(0x{chip:x})",
            f"  Compute Unit:            {device.compute_units or 0}",
            "  SIMDs per CU:            " + ("2" if device.is_rdna else "4"),
            f"  Wavefront Size:          {gpu.wavefront}(0x{gpu.wavefront:x})",
            "  Workgroup Max Size:      1024(0x400)",
            "  Pool Info:",
            "    Pool 1",
            "      Segment:                 GLOBAL; FLAGS: COARSE GRAINED",
            f"      Size:                    {kib}(0x{kib:x}) KB",
            "    Pool 2",
            "      Segment:                 GROUP",
            f"      Size:                    {gpu.lds_bytes >> 10}(0x{gpu.lds_bytes >> 10:x}) KB",
            "  ISA Info:",
            "    ISA 1",
            f"      Name:                    amdgcn-amd-amdhsa--{device.gcn_arch_name}",
            "      Machine Models:          HSA_MACHINE_MODEL_LARGE",
        ]
    return "\n".join([*text, "*** Done ***"]) + "\n"


def _topology(device: Device, count: int) -> str:
    link = "XGMI" if device.product.startswith("Instinct") else "PCIE"
    head = "       " + "".join(f"GPU{index:<9}" for index in range(count))
    rows = [
        f"GPU{row:<4}" + "".join(f"{'0' if row == column else link:<12}" for column in range(count))
        for row in range(count)
    ]
    return "\n".join(["Link Type between two GPUs", head, *rows]) + "\n"


def _script(output: str) -> str:
    return f"#!/bin/sh\ncat <<'END'\n{output}END\n"
