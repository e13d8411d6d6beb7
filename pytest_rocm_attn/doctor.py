"""What on this machine affects ROCm attention: ``rocm-attn doctor``.

Nothing is imported to find out: torch, triton and aiter are read as files.
"""

from __future__ import annotations

import ast
import platform
import sys
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_rocm_attn.aiter_probe import Probe, probe, try_import
from pytest_rocm_attn.errors import FlagError, nearest
from pytest_rocm_attn.flags import VARIABLES, check_name
from pytest_rocm_attn.gpu import Aiter

if TYPE_CHECKING:
    from collections.abc import Mapping

# Written in documents, read by no release (docs/reference/environment.md#variables).
NEVER_READ = (
    "VLLM_USE_AITER_UNIFIED_ATTENTION",
    "VLLM_USE_V1",
    "VLLM_USE_TRITON_FLASH_ATTN",
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report.

    Args:
        subject: what was looked at.
        text: what was found.
        trouble: whether the user has something to repair.
    """

    subject: str
    text: str
    trouble: bool = False


def examine(environ: Mapping[str, str], *, import_aiter: bool = False) -> list[Finding]:
    """Return what this machine has, one finding per subject, then one per doubtful variable.

    Args:
        environ: the environment variables to judge.
        import_aiter: also try the import of AMD's aiter, in a process of its own.
    """
    return [
        Finding("python", f"{platform.python_version()} ({sys.executable})"),
        Finding("torch", torch_build()),
        Finding("triton", triton_build()),
        _aiter(try_import() if import_aiter else probe()),
        *_gpus(),
        *doubtful_variables(environ),
    ]


def torch_build() -> str:
    """Return torch's version and what it was built for, read from its version.py."""
    folder = _folder("torch")
    if folder is None:
        return "not installed"
    values = _assigned(folder / "version.py")
    built = [f"{name} {values[name]}" for name in ("hip", "cuda") if values.get(name)]
    return f"{values.get('__version__', 'unknown version')}, {_built_for(built)}"


def _built_for(built: list[str]) -> str:
    return f"built for {', '.join(built)}" if built else "built for CPU only"


def triton_build() -> str:
    """Return triton's version and whether it can compile for AMD GPUs."""
    folder = _folder("triton")
    if folder is None:
        return "not installed"
    amd = (folder / "backends" / "amd" / "compiler.py").exists()
    # ROCm builds come under names of their own, so the version is found by the files.
    version = _assigned(folder / "__init__.py").get("__version__", "unknown version")
    return f"{version}, {'with' if amd else 'without'} the AMD backend"


def doubtful_variables(environ: Mapping[str, str]) -> list[Finding]:
    """Return a finding for each variable that is wrong.

    It cannot be parsed, does not mean what it suggests, is never read, or looks misspelt.
    """
    findings = []
    for name, text in sorted(environ.items()):
        if name in VARIABLES:
            try:
                doubt = VARIABLES[name].doubt(text)
            except FlagError as error:
                doubt = str(error)
            if doubt:
                findings.append(Finding("variable", doubt, trouble=True))
        elif name in NEVER_READ:
            findings.append(
                Finding("variable", f"{name} is read by no release of vLLM; unset it", trouble=True)
            )
        else:
            try:
                check_name(name)
            except FlagError:
                hint = nearest(name, VARIABLES)
                findings.append(Finding("variable", f"{name} is not known.{hint}", trouble=True))
    return findings


def _aiter(found: Probe) -> Finding:
    trouble = found.state in (Aiter.BROKEN, Aiter.IMPOSTOR)
    remedy = ""
    if found.state is Aiter.IMPOSTOR:
        remedy = "; run `pip uninstall aiter && pip install amd-aiter`"
    elif found.state is Aiter.BROKEN:
        remedy = "; run `pip uninstall aiter amd-aiter && pip install amd-aiter`"
    return Finding("aiter", f"{found.state}: {found.reason}{remedy}", trouble)


def _gpus() -> list[Finding]:
    from pytest_rocm_attn.hardware import detect

    detection = detect()
    if not detection.gpus:
        return [Finding("GPU", f"none: {detection.reason}")]
    return [Finding(f"GPU {gpu.index}", f"{gpu.gfx}, {gpu.name}") for gpu in detection.gpus]


def _folder(package: str) -> Path | None:
    try:
        spec = util.find_spec(package)
    except ValueError:  # sys.modules holds a module without a spec, made by hand
        return None
    return Path(spec.origin).parent if spec and spec.origin else None


def _assigned(file: Path) -> dict[str, object]:
    """Return the constants that a Python file assigns at its top level, without running it."""
    try:
        tree = ast.parse(file.read_text("utf-8"))
    except (OSError, SyntaxError):
        return {}
    values: dict[str, object] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            values |= {t.id: node.value.value for t in node.targets if isinstance(t, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Constant):
            values |= (
                {node.target.id: node.value.value} if isinstance(node.target, ast.Name) else {}
            )
    return values
