"""Which aiter is installed, found out without importing it.

Two unrelated packages are imported as ``aiter``; importing AMD's starts compilers, edits sys.path
and may raise SystemExit, so this process never does it (docs/reference/aiter.md#which-aiter and
#import).
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path

from pytest_rocm_attn.gpu import Aiter

# What every release of AMD's package holds and the other one does not.
_AMD_FILES = ("jit/core.py", "ops", "mla.py")


@dataclass(frozen=True, slots=True)
class Probe:
    """The state of aiter on this machine, with the evidence in words."""

    state: Aiter
    reason: str


def probe() -> Probe:
    """Judge the package by its files and by the distributions that are installed.

    BROKEN here means that AMD's package is incomplete or mixed with the other one; whether a whole
    one can be imported is for try_import() to say.
    """
    amd, other = _version("amd-aiter"), _version("aiter")
    found, folder = _find()
    if not found:
        if amd is None:
            return Probe(Aiter.ABSENT, "no module named aiter can be found")
        return Probe(Aiter.BROKEN, f"amd-aiter {amd} is installed, but has no module aiter")
    has = [name for name in _AMD_FILES if folder is not None and (folder / name).exists()]
    version = f"amd-aiter {amd}" if amd else "AMD's aiter (no distribution amd-aiter)"
    if not has and amd is None:
        known = f", distribution aiter {other}" if other else ""
        return Probe(Aiter.IMPOSTOR, f"not AMD's package: {folder or 'a single module'}{known}")
    if len(has) < len(_AMD_FILES):
        missing = ", ".join(name for name in _AMD_FILES if name not in has)
        return Probe(Aiter.BROKEN, f"{version} in {folder} lacks {missing}")
    if other is not None:
        return Probe(
            Aiter.BROKEN, f"{version} shares {folder} with the unrelated distribution aiter {other}"
        )
    return Probe(Aiter.PRESENT, f"{version} in {folder}")


def try_import(seconds: float = 300.0) -> Probe:
    """Import aiter in a process of its own, when probe() finds AMD's whole.

    Args:
        seconds: time limit; the first import may compile.
    """
    found = probe()
    if found.state is not Aiter.PRESENT:
        return found
    try:
        done = subprocess.run(
            [sys.executable, "-c", "import aiter"],
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return Probe(Aiter.BROKEN, f"its import did not end within {seconds:g} s")
    if done.returncode == 0:
        return Probe(Aiter.PRESENT, f"{found.reason}; its import works")
    last = done.stderr.strip().rpartition("\n")[2] or f"exit status {done.returncode}"
    return Probe(Aiter.BROKEN, f"its import fails: {last}")


def _find() -> tuple[bool, Path | None]:
    """Return whether a module aiter can be found, and its folder if it is a package."""
    try:
        spec = util.find_spec("aiter")
    except ValueError:  # sys.modules holds a module without a spec, made by hand
        spec = None
    if spec is None:
        return False, None
    folders = list(spec.submodule_search_locations or ())
    return True, Path(folders[0]) if folders else None


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
