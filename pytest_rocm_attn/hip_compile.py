"""HIP C++ device code compiled for a GPU that is not there: the same record as of a dry launch.

No ROCm is needed, only a clang that knows the target (Debian's clang-22; clang-19 lacks gfx950).
Without ROCm, ``#include <hip/hip_runtime.h>`` finds the small header of dry_launch/hip_include:
HIP's language (``__global__``, ``threadIdx``, ``__shared__``, ``__syncthreads``) and none of its
libraries. Sources that need more name a ROCm tree; Debian 12's HIP 5.2 headers are too old for
clang-22.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_rocm_attn import compile_watch
from pytest_rocm_attn.dry_launch.code_object import (
    CodeObjectKernel,
    count_matrix_instructions,
    function_body,
    read_code_object,
)
from pytest_rocm_attn.dry_launch.record import Kernel
from pytest_rocm_attn.errors import CompileTimeoutError, HipCompileError
from pytest_rocm_attn.gpu import Gpu

INCLUDE = Path(__file__).parent / "dry_launch" / "hip_include"
NO_ROCM = ("-nogpuinc", "-nogpulib", "-fdeclspec", "-isystem", str(INCLUDE))
COMPILER = re.compile(r"amdclang(\+\+)?|clang(\+\+)?(-\d+)?|hipcc")


def compile_hip(
    source: str | Path,
    gpu: str | Gpu,
    *,
    defines: Mapping[str, str | int] | None = None,
    options: Sequence[str] = (),
    rocm: str | Path | None = None,
    compiler: str | Path | None = None,
    timeout: float | None = None,
    rows: int | None = None,
    keys: int | None = None,
) -> tuple[Kernel, ...]:
    """Compile HIP device code for a target and return a record for each of its kernels.

    The LDS of a record is what the source allocates; dynamic LDS of a launch comes on top.
    Occupancy is for the largest workgroup that the kernel allows (``__launch_bounds__``), and
    matrix instructions are those of the kernel's own body, what was inlined into it included.

    Args:
        source: the text, or the path of a file.
        gpu: the target.
        defines: macros and their values.
        options: further options for clang, after ``-O3``.
        rocm: root of a ROCm tree whose headers and device libraries the source needs.
        compiler: a clang; None takes the first on PATH that knows the target.
        timeout: seconds that it may take; None: those of ``--rocm-attn-compile-timeout``, else any.
        rows, keys: what an iteration of a kernel's main loop covers, if it is known: see Kernel.

    Raises:
        UnknownGpuError: hardware.toml does not describe the target.
        HipCompileError: no clang knows the target, or it refuses the source (its own words).
        CompileTimeoutError: it takes longer than it may.
    """
    gpu = Gpu(gpu) if isinstance(gpu, str) else gpu
    clang = str(compiler) if compiler is not None else find_compiler(gpu.gfx)
    compiled = compile_code_object(
        source,
        gpu.gfx,
        defines=defines,
        options=options,
        rocm=rocm,
        compiler=clang,
        timeout=timeout,
    )
    return tuple(
        Kernel.measure(
            gpu,
            kernel,
            compiler=compiler_version(clang),
            matrix_instructions=compiled.matrix_instructions(kernel.name),
            assembly=compiled.assembly,
            rows=rows,
            keys=keys,
        )
        for kernel in compiled.kernels
    )


@dataclass(frozen=True, slots=True)
class Compiled:
    """What a compiler made of a source, before any fact of the GPU is consulted.

    Args:
        assembly: LLVM's assembly of all of it.
        kernels: what the code object says of each kernel.
    """

    assembly: str
    kernels: tuple[CodeObjectKernel, ...]

    def matrix_instructions(self, kernel: str) -> dict[str, int]:
        """Return how often each matrix instruction stands in a kernel's own body."""
        return count_matrix_instructions(function_body(self.assembly, kernel))


def compile_code_object(
    source: str | Path,
    gfx: str,
    *,
    defines: Mapping[str, str | int] | None = None,
    options: Sequence[str] = (),
    rocm: str | Path | None = None,
    compiler: str | Path | None = None,
    timeout: float | None = None,
) -> Compiled:
    """Compile as compile_hip does, also for a target that hardware.toml does not describe.

    Args:
        gfx: the target; the other arguments are those of compile_hip.

    Raises:
        HipCompileError: no clang knows the target, or it refuses the source (its own words).
        CompileTimeoutError: it takes longer than it may.
    """
    clang = str(compiler) if compiler is not None else find_compiler(gfx)
    limit = timeout if timeout is not None else compile_watch.limit()
    with tempfile.TemporaryDirectory() as folder:
        if isinstance(source, Path):
            path = source
        else:
            path = Path(folder, "kernel.hip")
            path.write_text(source, encoding="utf-8")
        assembly, code = Path(folder, "kernel.s"), Path(folder, "kernel.o")
        macros = [f"-D{name}={value}" for name, value in (defines or {}).items()]
        headers = NO_ROCM if rocm is None else (f"--rocm-path={rocm}",)
        what = f"{path.name} for {gfx}"
        command = _compile(clang, gfx, path, assembly, *headers, *macros, "-O3", *options)
        with compile_watch.named(what):
            _run(command, what, limit)
            _run(_assemble(clang, gfx, assembly, code), what, limit)
        return Compiled(assembly.read_text(encoding="utf-8"), read_code_object(code.read_bytes()))


def find_compiler(gfx: str) -> str:
    """Return the path of a compiler on PATH that compiles HIP for the target.

    AMD's own come first, then clang without a version, then the newest.

    Raises:
        HipCompileError: there is none; the message holds what each one said.
    """
    answers = []
    for path in _compilers(os.environ.get("PATH", "")):
        error = _objection(path, gfx)
        if error is None:
            return path
        answers.append(f"{path}: {error}")
    raise HipCompileError(
        f"no compiler on PATH compiles HIP for {gfx}; install a clang that knows it, such as "
        "Debian's clang-22." + "".join(f"\n  {answer}" for answer in answers)
    )


@functools.cache
def compiler_version(compiler: str) -> str:
    """Return name and version of a compiler, such as "clang 22.1.8"."""
    printed = subprocess.run(
        [compiler, "--version"], capture_output=True, text=True, check=False
    ).stdout
    version = re.search(r"clang version (\S+)", printed)
    return f"clang {version.group(1)}" if version else Path(compiler).name


def _compilers(path: str) -> list[str]:
    names = {
        name
        for folder in path.split(os.pathsep)
        if os.path.isdir(folder)
        for name in os.listdir(folder)
        if COMPILER.fullmatch(name)
    }
    found = (shutil.which(name, path=path) for name in sorted(names, key=_preference))
    return [compiler for compiler in found if compiler is not None]


def _preference(name: str) -> tuple[bool, bool, int, str]:
    version = re.search(r"-(\d+)$", name)
    return (
        not name.startswith("amd"),
        name == "hipcc",  # a wrapper, slow to start
        -int(version.group(1)) if version else -10_000,
        name,
    )


@functools.cache
def _objection(compiler: str, gfx: str) -> str | None:
    """Return why a compiler cannot compile for the target, or None when it can.

    It is asked for an empty source: what it says of itself may be about another target.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, assembly = Path(folder, "empty.hip"), Path(folder, "empty.s")
        source.write_text("", encoding="utf-8")
        try:
            done = subprocess.run(
                _compile(compiler, gfx, source, assembly, *NO_ROCM),
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        if done.returncode:
            return done.stderr.strip() or f"exit status {done.returncode}"
        text = assembly.read_text(encoding="utf-8") if assembly.exists() else ""
    return None if f"--{gfx}" in text else "it compiles, but not for that target"


def _compile(clang: str, gfx: str, source: Path, assembly: Path, *options: str) -> list[str]:
    target = ["-x", "hip", "--cuda-device-only", f"--offload-arch={gfx}"]
    return [clang, *target, *options, "-S", "-o", str(assembly), str(source)]


def _assemble(clang: str, gfx: str, assembly: Path, code: Path) -> list[str]:
    target = ["--target=amdgcn-amd-amdhsa", f"-mcpu={gfx}", "-x", "assembler"]
    return [clang, *target, "-c", "-o", str(code), str(assembly)]


def _run(command: list[str], what: str, limit: float | None) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit)
    except OSError as error:
        raise HipCompileError(f"{command[0]} cannot be run: {error}") from error
    except subprocess.TimeoutExpired:
        raise CompileTimeoutError(
            f"compiling {what} by {command[0]} takes longer than the limit of {limit:g} s"
            " (--rocm-attn-compile-timeout, or timeout=)"
        ) from None
    if done.returncode:
        raise HipCompileError(f"{command[0]} refuses the source, {what}:\n{done.stderr.strip()}")
