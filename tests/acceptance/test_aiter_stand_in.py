"""The stand-in aiter has what the attention code of the releases asks of it, and AMD's package has.

Three are compared by their sources: the unpacked releases in ROCM_ATTN_VLLM_DIR (default /work/vllm),
AMD's wheel of PyPI, which is downloaded, and the stand-in. Nothing of AMD's is imported.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_rocm_attn.gpu import Aiter, Gpu
from pytest_rocm_attn.mock import mock_rocm
from pytest_rocm_attn.mock.aiter import _FUNCTIONS, _PARAMETERS

RELEASES = Path(os.environ.get("ROCM_ATTN_VLLM_DIR", "/work/vllm"))
# Where releases call aiter for attention; quantised products and experts are not the mock's matter.
ATTENTION = ("v1/attention", "attention", "platforms", "model_executor/layers/attention")
# Of AMD's package after the newest on PyPI (docs/reference/aiter.md): v0.1.10 moved two modules, and
# the paged attention of ROCM_AITER_FA gained functions that vllm/_aiter_ops.py calls.
LATER = {
    "aiter.get_pa_metadata_v1",
    "aiter.pa_persistent_fwd",
    "aiter.paged_attention_common",
    "aiter.ops.triton.attention.mha.flash_attn_varlen_func",
    "aiter.ops.triton.attention.unified_attention.unified_attention",
}

pytestmark = pytest.mark.slow


@functools.cache
def call_sites() -> frozenset[tuple[str, str]]:
    """Return (module, name) of what the releases' attention code takes from aiter."""
    if not RELEASES.is_dir():
        pytest.skip(f"no unpacked releases in {RELEASES}; see docs/real-vllm.md")
    found = set()
    for release in sorted(RELEASES.iterdir()):
        for folder in ATTENTION:
            for file in (release / "vllm" / folder).rglob("*.py"):
                found |= set(taken(ast.parse(file.read_text("utf-8"))))
    assert len(found) > 30
    return frozenset(found)


def taken(tree: ast.AST) -> Iterator[tuple[str, str]]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "aiter":
            yield from ((str(node.module), alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            names |= {a.asname or a.name for a in node.names if a.name == "aiter"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", None) in names:
            yield "aiter", node.attr


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources of AMD's package."""
    folder = tmp_path_factory.mktemp("aiter")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "amd-aiter", "-d", str(folder)]
    if subprocess.run(command, capture_output=True, timeout=600, check=False).returncode:
        pytest.skip("amd-aiter cannot be downloaded here")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder, [n for n in archive.namelist() if n.endswith(".py")])
    return folder / "aiter"


def defined(file: Path) -> set[str]:
    """Return the functions, classes and values that a module defines at its top, or imports."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))) if file.is_file() else ():
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                found.add(name)
            case ast.ImportFrom(names=names):
                found |= {alias.asname or alias.name for alias in names}
    return found


def in_the_real_one(real: Path, module: str, name: str) -> bool:
    path = real.joinpath(*module.split(".")[1:])
    if module == "aiter":  # its __init__ takes everything from its operators
        return any(name in defined(file) for file in (*real.glob("*.py"), *real.glob("ops/*.py")))
    homes = (path.with_suffix(".py"), path / "__init__.py")
    return any(name in defined(home) for home in homes) or (path / f"{name}.py").is_file()


def test_the_stand_in_has_what_the_releases_take() -> None:
    missing = []
    with mock_rocm(Gpu("gfx942", Aiter.PRESENT)):
        for module, name in sorted(call_sites()):
            found = importlib.import_module(module)
            try:
                getattr(found, name)
            except AttributeError:
                try:
                    importlib.import_module(f"{module}.{name}")
                except ModuleNotFoundError:
                    missing.append(f"{module}.{name}")
    assert missing == []


def test_the_stand_in_has_nothing_that_neither_a_release_takes_nor_amds_package_has(
    real: Path,
) -> None:
    invented = {
        f"{module}.{name}"
        for module, names in _FUNCTIONS.items()
        for name in names
        if (module, name) not in call_sites() and not in_the_real_one(real, module, name)
    }
    assert invented == LATER


def test_a_signature_of_the_stand_in_is_amds_with_what_later_releases_ask_for(real: Path) -> None:
    tree = ast.parse((real / "mla.py").read_text("utf-8"))
    (node,) = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name in _PARAMETERS]
    amds = [argument.arg for argument in node.args.args]
    with mock_rocm(Gpu("gfx942", Aiter.PRESENT)):
        stand_in = inspect.signature(importlib.import_module("aiter.mla").mla_decode_fwd)
    assert list(stand_in.parameters) == [*amds, *(["causal"] if "causal" not in amds else [])]
