"""Which real AMD GPUs this machine has, asked without creating a HIP context in this process.

The kernel driver (KFD) publishes its topology as text below /sys/class/kfd. Reading it needs no
library and leaves a later fork free to initialise the GPU. rocminfo, if it is on PATH, gives
the marketing names and is the second opinion; it runs in a process of its own.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_TOPOLOGY = "sys/class/kfd/kfd/topology/nodes"
_DEVICE = "dev/kfd"

HOW_TO_GET = (
    "run on a machine with an AMD GPU and the amdgpu driver (in a container: pass --device=/dev/kfd"
    " --device=/dev/dri and join the groups video and render)"
)


@dataclass(frozen=True, slots=True)
class DetectedGpu:
    """A real GPU that HIP would show to this process.

    Args:
        index: its HIP ordinal, after HIP_VISIBLE_DEVICES and ROCR_VISIBLE_DEVICES.
        gfx: bare target name, such as "gfx942".
        name: marketing name, or the gfx name when rocminfo is not there to tell.
    """

    index: int
    gfx: str
    name: str


@dataclass(frozen=True, slots=True)
class Detection:
    """The visible GPUs, or why there are none.

    Args:
        gpus: in HIP order.
        reason: "" when there are GPUs; else why not and how to get one, fit for a skip reason.
        note: a disagreement between the kernel driver and rocminfo, in words, or "".
    """

    gpus: tuple[DetectedGpu, ...]
    reason: str
    note: str = ""


def gfx_name(version: int) -> str:
    """Return the gfx name of KFD's gfx_target_version (major*10000 + minor*100 + stepping).

    The stepping is one hexadecimal digit: 90010 is gfx90a, 120001 is gfx1201.
    """
    major, minor, stepping = version // 10000, version // 100 % 100, version % 100
    return f"gfx{major}{minor:x}{stepping:x}"


def detect(
    root: str | os.PathLike[str] = "/", environ: Mapping[str, str] | None = None
) -> Detection:
    """Return the AMD GPUs that a HIP program started now would see.

    Args:
        root: where /sys and /dev are; another folder for tests. rocminfo is asked only for "/".
        environ: the environment to read PATH and the visible-devices variables from; default the
            process's own.
    """
    env = os.environ if environ is None else environ
    nodes = Path(root, _TOPOLOGY)
    if not nodes.is_dir():
        return Detection((), f"no AMD GPU driver here (no /{_TOPOLOGY}); {HOW_TO_GET}")
    try:
        found = _from_topology(nodes)
    except (OSError, ValueError) as error:
        return Detection((), f"the topology below /{_TOPOLOGY} is unreadable ({error})")
    if not found:
        return Detection((), f"the amdgpu driver runs but lists no GPU; {HOW_TO_GET}")
    if not os.access(Path(root, _DEVICE), os.R_OK | os.W_OK):
        return Detection(
            (),
            f"this machine has {_listed(found)}, but this process may not open /{_DEVICE}; join the"
            " groups video and render (in a container: --device=/dev/kfd --device=/dev/dri)",
        )
    names, note = _rocminfo(env) if os.fspath(root) == "/" else (None, "")
    visible = list(enumerate(found))
    for variable in ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"):
        if variable == "CUDA_VISIBLE_DEVICES" and "HIP_VISIBLE_DEVICES" in env:
            continue  # HIP reads the CUDA name only if its own is unset
        if (text := env.get(variable)) is None:
            continue
        visible = _restrict(visible, text)
        if not visible:
            return Detection(
                (),
                f"{variable}={text!r} hides every GPU of this machine ({_listed(found)});"
                " unset it, or list GPUs by index",
            )
    # rocminfo is started with this environment, so ROCR_VISIBLE_DEVICES filters its list as well:
    # only an unfiltered list can be matched with the kernel driver's, one to one.
    if names is not None and "ROCR_VISIBLE_DEVICES" not in env:
        if [gfx for gfx, _ in names] != found:
            note = (
                f"the kernel driver lists {_listed(found)}, rocminfo"
                f" {_listed([gfx for gfx, _ in names]) or 'none'}: is the ROCm runtime too old?"
            )
            names = None
    else:
        names = None
    return Detection(
        tuple(
            DetectedGpu(index, gfx, names[physical][1] if names else gfx)
            for index, (physical, gfx) in enumerate(visible)
        ),
        "",
        note,
    )


def _from_topology(nodes: Path) -> list[str]:
    """Return the gfx name of every GPU node, in KFD's order, which is HIP's physical order."""
    found = []
    for node in sorted(nodes.iterdir(), key=lambda path: int(path.name)):
        try:
            text = (node / "properties").read_text("ascii")
        except PermissionError:
            continue  # a node that this container's device cgroup hides
        properties = dict(line.split(maxsplit=1) for line in text.splitlines() if " " in line)
        # CPU nodes have no SIMDs and target version 0.
        if int(properties.get("simd_count", 0)) and int(properties.get("gfx_target_version", 0)):
            found.append(gfx_name(int(properties["gfx_target_version"])))
    return found


def _restrict(visible: list[tuple[int, str]], text: str) -> list[tuple[int, str]]:
    """Apply one visible-devices list: parsing stops at the first index that is not there.

    GPU-<serial> forms name real devices that only the runtime can resolve; any such list keeps as
    many GPUs as it has entries.
    """
    entries = [entry.strip() for entry in text.split(",")]
    if entries[0].startswith("GPU-"):
        return visible[: len(entries)]
    kept: list[tuple[int, str]] = []
    for entry in entries:
        if not entry.isdecimal() or int(entry) >= len(visible):
            break
        if visible[int(entry)] in kept:
            return []  # HIP and torch treat a repeated index as an empty list
        kept.append(visible[int(entry)])
    return kept


def _rocminfo(env: Mapping[str, str]) -> tuple[list[tuple[str, str]] | None, str]:
    """Return ([(gfx, marketing name)], "") as rocminfo lists GPU agents, or (None, a note)."""
    program = shutil.which("rocminfo", path=env.get("PATH"))
    if program is None:
        return None, ""
    try:
        run = subprocess.run(
            [program], env=dict(env), capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        return None, f"rocminfo is on PATH but fails: {error}"
    agents = []
    for block in re.split(r"^Agent \d+", run.stdout, flags=re.MULTILINE)[1:]:
        if re.search(r"Device Type:\s+GPU", block) and (
            name := re.search(r"^\s*Name:\s+(gfx\w+)", block, flags=re.MULTILINE)
        ):
            market = re.search(r"Marketing Name:[ \t]*(.*)", block)
            agents.append((name[1], market[1].strip() if market else name[1]))
    return agents, ""


def _listed(found: list[str]) -> str:
    return ", ".join(found)
