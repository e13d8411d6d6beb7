"""A fork's checkout: where its selector lies, found in its files without importing them."""

from __future__ import annotations

import ast
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_rocm_attn.conformance.adapters.shape import parsed, platform_file

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROOTS = ("", "src")  # folders of a checkout that its packages may lie in
SELECTS = "get_attn_backend_cls"  # the method of vLLM's platform that selects


@dataclass(frozen=True)
class Found:
    """A selector in a checkout.

    Attributes:
        root: the folder that must be on the import path.
        package: the folder of the package that it is in.
        spec: ``module:object``.
    """

    root: Path
    package: Path
    spec: str


def find(checkout: Path) -> Found | None:
    """Return the selector of a checkout that looks like vLLM's; None if there is none."""
    for root in (checkout / name for name in _ROOTS):
        for package in sorted(root.iterdir()) if root.is_dir() else ():
            if (file := platform_file(package)) is None:
                continue
            for name in _selecting(file):
                parts = file.relative_to(root).with_suffix("").parts
                module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
                return Found(root, package, f"{module}:{name}")
    return None


def root_of(checkout: Path, spec: str) -> Path | None:
    """Return the folder of a checkout that the module of ``module:object`` is imported from.

    None if the checkout does not have that module's package.
    """
    top = spec.partition(":")[0].partition(".")[0]
    for root in (checkout / name for name in _ROOTS):
        if (root / top).is_dir() or (root / f"{top}.py").is_file():
            return root
    return None


def place_here(spec: str) -> tuple[Path, int] | None:
    """Return the place of a selector that this process can import, which it does not; see place_of()."""
    place = spec.rpartition(":")[0]
    if place.endswith(".py"):
        return place_of(Path.cwd(), spec)
    try:
        found = importlib.util.find_spec(place.partition(".")[0])
    except (ImportError, ValueError):
        return None
    if found is None or found.origin is None:
        return None
    origin = Path(found.origin)
    root = origin.parent.parent if found.submodule_search_locations else origin.parent
    return place_of(root, spec)


def place_of(root: Path, spec: str) -> tuple[Path, int] | None:
    """Return the file of a selector and the line at which the function that selects begins.

    Args:
        root: the folder that its module is imported from, or that its file's path starts from.
        spec: ``module:object`` or ``file.py:object``; of a class, the method that selects counts.

    Returns None if the file, or the function in it, cannot be found.
    """
    place, _, name = spec.rpartition(":")
    if place.endswith(".py"):
        candidates = [root / place]
    else:
        path = root.joinpath(*place.split("."))
        candidates = [path.with_suffix(".py"), path / "__init__.py"]
    for file in candidates:
        node: ast.AST | None = parsed(file) if file.is_file() else None
        if node is None:
            continue
        for part in name.split("."):
            node = _member(node, part) or node
        if isinstance(node, ast.ClassDef):
            node = _member(node, SELECTS) or _member(node, "select") or node
        line = getattr(node, "lineno", None)
        return (file, line) if line is not None else None
    return None


def _selecting(file: Path) -> Iterator[str]:
    """Yield the classes of a file that select."""
    tree = parsed(file) if file.is_file() else None
    for node in tree.body if tree is not None else ():
        if isinstance(node, ast.ClassDef) and _member(node, SELECTS) is not None:
            yield node.name


def _member(node: ast.AST, name: str) -> ast.AST | None:
    """Return the class or function of that name in a module or class."""
    kinds = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for each in getattr(node, "body", ()):
        if isinstance(each, kinds) and each.name == name:
            return each
    return None
