"""LLVM's scheduling model of a target, asked through llvm-mca. Optional: it may be absent.

llvm-mca comes with LLVM (Debian: llvm-22) and with ROCm (llvm/bin). LLVM's models of AMD GPUs guide its
scheduler; they are not measurements. That of gfx9 counts in units of four clocks, the time of one vector
instruction of 64 lanes on a SIMD of 16; those of gfx10 and later count clocks (llvm/lib/Target/AMDGPU/
SISchedule.td).
"""

from __future__ import annotations

import functools
import json
import os
import re
import resource
import shutil
import signal
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_rocm_attn.gpu import Gpu

ITERATIONS = 20  # enough for what one iteration leaves to the next
TIME_LIMIT = 5  # seconds of processor time; a thousand instructions take one
# LLVM 22.1.8 does not end on some loops with a multiplication of this kind, whose result has two parts.
_WIDE = re.compile(r"v_mad_(?:co_)?[iu]64_[iu]32(?:_e64)? v\[(\d+):(\d+)\], \S+, (\S+), (\S+), .*")
_NAME = re.compile(r"llvm-mca(?:-(\d+))?")
_ROCM = "/opt/rocm/llvm/bin"


@dataclass(frozen=True, slots=True)
class Schedule:
    """What the model says of a loop's body.

    Attributes:
        clocks: of an iteration, if one wave has the SIMD for itself.
        matrix: for which it keeps the matrix unit busy; 0 if the model has no such unit (RDNA).
        model: whose it is, such as "LLVM 22.1.8".
    """

    clocks: float
    matrix: float
    model: str


@dataclass(frozen=True, slots=True)
class NoSchedule:
    """Why there is none."""

    reason: str


def schedule(body: tuple[str, ...], gpu: Gpu) -> Schedule | NoSchedule:
    """Return the model's time of a loop's body, or why there is none.

    Barriers are left out: the model gives them a latency of 500 to 2,000 that keeps the compiler's
    scheduler from moving code across them, and that no wave takes.

    Args:
        body: the instructions of an iteration, in order.
        gpu: the target.
    """
    program = find(gpu.gfx, os.environ.get("PATH", ""))
    return program if isinstance(program, NoSchedule) else _schedule(program, body, gpu)


@functools.lru_cache(maxsize=256)
def _schedule(program: str, body: tuple[str, ...], gpu: Gpu) -> Schedule | NoSchedule:
    source = "\n".join(text for text in body if not text.startswith("s_barrier"))
    command = [program, *_target(gpu.gfx), f"-iterations={ITERATIONS}", "-json"]
    done = _run(command, source)
    if isinstance(done, NoSchedule) and _WIDE.search(source):
        halves = r"v_mul_lo_u32 v\1, \3, \4\nv_mul_hi_u32 v\2, \3, \4"
        done = _run(command, _WIDE.sub(halves, source))
    if isinstance(done, NoSchedule):
        return done
    said = json.loads(done)
    region = said["CodeRegions"][0]
    unit = 4 if gpu.wavefront == 64 else 1
    matrix = sum(
        use["ResourceUsage"]
        for use in region["ResourcePressureView"]["ResourcePressureInfo"]
        if use["InstructionIndex"] == len(region["Instructions"])  # the sum over the body
        and said["TargetInfo"]["Resources"][use["ResourceIndex"]] == "HWXDL"
    )
    cycles = region["SummaryView"]["TotalCycles"] / ITERATIONS
    return Schedule(unit * cycles, unit * matrix, _version(program))


@functools.cache
def find(gfx: str, path: str) -> str | NoSchedule:
    """Return the newest llvm-mca on a search path, or of ROCm, that knows a target; else why not."""
    answers = []
    for program in _programs(path):
        done = _run([program, *_target(gfx), "-iterations=1"], "s_nop 0\n")
        if isinstance(done, str):
            return program
        answers.append(f"{program}: {done.reason}")
    if answers:
        return NoSchedule(f"no llvm-mca knows {gfx} ({'; '.join(answers)})")
    return NoSchedule(
        "there is no llvm-mca on PATH; it comes with LLVM (Debian: llvm-22) and with ROCm"
    )


def _programs(path: str) -> list[str]:
    found: dict[str, int] = {}
    for folder in (*path.split(os.pathsep), _ROCM):
        for name in os.listdir(folder) if os.path.isdir(folder) else ():
            if (match := _NAME.fullmatch(name)) and (program := shutil.which(name, path=folder)):
                found.setdefault(program, int(match[1] or 0))
    return sorted(found, key=lambda program: (-found[program], program))


def _target(gfx: str) -> Sequence[str]:
    return ("-mtriple=amdgcn-amd-amdhsa", f"-mcpu={gfx}")


def _run(command: list[str], source: str) -> str | NoSchedule:
    try:
        done = subprocess.run(
            command,
            input=source,
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=_limit,
        )
    except OSError as error:
        return NoSchedule(str(error))
    if done.returncode == -signal.SIGXCPU:
        return NoSchedule(f"{command[0]} was ended after {TIME_LIMIT} s of processor time")
    unknown = "is not a recognized processor" in done.stderr  # LLVM warns, and takes another one
    if done.returncode or unknown:
        return NoSchedule(
            done.stderr.strip().partition("\n")[0] or f"exit status {done.returncode}"
        )
    return done.stdout


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (TIME_LIMIT, TIME_LIMIT + 1))


@functools.cache
def _version(program: str) -> str:
    printed = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    version = re.search(r"LLVM version (\S+)", printed.stdout)
    return f"LLVM {version[1]}" if version else program
