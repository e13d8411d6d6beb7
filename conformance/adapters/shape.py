"""What a vLLM-like package looks like, read from its sources without importing it.

Forks keep a version of their own, or a wrong one. What their selector is asked, which backends and
which settings they have, says better from which release they branched.
"""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

PLATFORM = "platforms/rocm.py"
# What is read besides the platform: a kind of feature, and the files that may hold it, the first that exists.
_READ = {
    "asked": ("v1/attention/selector.py", "attention/selector.py"),
    "backend": ("v1/attention/backends/registry.py", "attention/backends/registry.py"),
    "configured": ("config/attention.py",),
    "variable": ("envs.py",),
}
VLLM = "VLLM_"  # what vLLM's own variables start with
_OWN_NAME = re.compile(r"""["']([A-Z][A-Z0-9]*_)ROCM_USE_AITER["']""")
_VARIABLE = re.compile(r"VLLM_\w*(ATTENTION|ATTN|MLA|AITER|TRITON)\w*")
_ROCM = re.compile(r"^\s+_enum\b.*=\s*PlatformEnum\.ROCM\b", re.MULTILINE)
_VERSION = re.compile(r"""^__version__\b.*?=\s*["']([^"']+)["']""", re.MULTILINE)


@dataclass(frozen=True)
class Shape:
    """A package's shape.

    Attributes:
        folder: where the package lies.
        version: what it says of itself; "" if it says nothing.
        features: such as "asked:use_dcp", "backend:TURBOQUANT", "variable:VLLM_ROCM_USE_AITER".
    """

    folder: Path
    version: str
    features: frozenset[str]


def of_spec(spec: str) -> Shape | None:
    """Return the shape of the package that a selector comes from; None if it looks like no vLLM.

    Args:
        spec: MODULE:OBJECT, or FILE.py:OBJECT, a file that imports the package.
    """
    place = spec.rpartition(":")[0]
    names = _imported(Path(place)) if place.endswith(".py") else [place.partition(".")[0]]
    for name in names:
        folder = _folder(name)
        if folder is not None and platform_file(folder) is not None:
            return of_folder(folder)
    return None


def platform_file(folder: Path) -> Path | None:
    """Return the file of a package's platform for ROCm: vLLM's, or what a fork made of it."""
    if (folder / PLATFORM).is_file():
        return folder / PLATFORM
    return next(
        (file for file in sorted(folder.glob("platforms/**/*.py")) if _ROCM.search(_text(file))),
        None,
    )


def of_folder(folder: Path) -> Shape:
    """Return the shape of a package."""
    features = set()
    prefix = _prefix(folder)
    places = {
        "argument": platform_file(folder),
        **{
            kind: next((folder / name for name in files if (folder / name).is_file()), None)
            for kind, files in _READ.items()
        },
    }
    for kind, file in places.items():
        if file is not None and (tree := parsed(file)) is not None:
            features |= {f"{kind}:{name}" for name in _FEATURES[kind](tree, prefix)}
    return Shape(folder, version_of(folder), frozenset(features))


def package_of(spec: str) -> str:
    """Return the package that ``module:object`` is in; "" for a file."""
    place = spec.rpartition(":")[0]
    return "" if place.endswith(".py") else place.partition(".")[0]


def prefix_of_spec(spec: str) -> str:
    """Return what the variables of a selector's package start with: VLLM, or what a fork renamed it to.

    Args:
        spec: MODULE:OBJECT, or FILE.py:OBJECT.
    """
    package = package_of(spec)
    folder = _folder(package) if package else None
    return VLLM if folder is None else _prefix(folder)


def _prefix(folder: Path) -> str:
    found = _OWN_NAME.search(_text(folder / "envs.py"))
    return found[1] if found is not None else VLLM


def _text(file: Path) -> str:
    """Return what is in a file; "" if it cannot be read."""
    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _imported(file: Path) -> Iterator[str]:
    """Yield the top-level packages that a file imports, wherever it does."""
    tree = parsed(file)
    for node in ast.walk(tree) if tree is not None else ():
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def _folder(package: str) -> Path | None:
    try:
        found = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    places = found.submodule_search_locations if found is not None else None
    return Path(next(iter(places))) if places else None


def parsed(file: Path) -> ast.Module | None:
    """Return a file's syntax tree; None if it cannot be read or parsed."""
    try:
        return ast.parse(file.read_text("utf-8"))
    except (OSError, SyntaxError, ValueError):  # what the run will say more about
        return None


def version_of(folder: Path) -> str:
    """Return what a package in a folder says of its version; "" if it says nothing."""
    if (found := _VERSION.search(_text(folder / "_version.py"))) is not None:
        return found[1]
    try:
        return importlib.metadata.version(folder.name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _arguments(tree: ast.Module, _: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == "get_attn_backend_cls":
            yield from (one.arg for one in node.args.args[1:])


def _fields(class_name: str, tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == class_name:
            for each in node.body:
                if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name):
                    yield each.target.id


def _members(tree: ast.Module, _: str) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == "AttentionBackendEnum":
            for each in node.body:
                if isinstance(each, ast.Assign):
                    yield from (one.id for one in each.targets if isinstance(one, ast.Name))


def _variables(tree: ast.Module, prefix: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            for key in node.keys:
                name = key.value if isinstance(key, ast.Constant) else None
                if not isinstance(name, str) or not name.startswith(prefix):
                    continue
                if _VARIABLE.fullmatch(name := VLLM + name.removeprefix(prefix)):
                    yield name


_FEATURES = {
    "argument": _arguments,
    "asked": lambda tree, _: _fields("AttentionSelectorConfig", tree),
    "backend": _members,
    "configured": lambda tree, _: _fields("AttentionConfig", tree),
    "variable": _variables,
}
