"""Lists of metadata classes that a fork's server takes, read off its source.

A server may look at the class of a step's attention metadata before it goes on, as vLLM's proposers do
(``allowed_attn_types`` in vllm/v1/spec_decode/, v0.11.2 to v0.33.0): what can be selected and is not
listed fails there, in the first step. Runs in the worker.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import pkgutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, get_args

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

_FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class AllowList:
    """Classes, of one of which an object must be.

    Args:
        place: module and name.
        classes: them.
    """

    place: str
    classes: tuple[type, ...]

    def takes(self, cls: type) -> bool:
        """Whether objects of a class are taken."""
        return issubclass(cls, self.classes)


def of(package: ModuleType) -> list[AllowList]:
    """Return the lists in the modules of a package, those that cannot be resolved left out.

    A list counts if the package raises where ``isinstance(..., self.NAME)`` does not hold.
    """
    found: dict[tuple[type, ...], AllowList] = {}
    for info in pkgutil.iter_modules(package.__path__):
        name = f"{package.__name__}.{info.name}"
        spec = importlib.util.find_spec(name)
        source = getattr(spec.loader, "get_source", lambda _: None)(name) if spec else None
        if not source or "isinstance" not in source:
            continue
        tree = ast.parse(source)
        for attribute in set(_tested(tree)):
            classes = tuple(_classes(tree, attribute, name))
            if classes:
                found.setdefault(classes, AllowList(f"{name}.{attribute}", classes))
    return list(found.values())


def _tested(tree: ast.AST) -> Iterator[str]:
    """Yield the attributes of self that an ``isinstance`` compares with, where a failure raises."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.If) or not any(isinstance(s, ast.Raise) for s in node.body):
            continue
        for call in ast.walk(node.test):
            if (
                isinstance(call, ast.Call)
                and getattr(call.func, "id", "") == "isinstance"
                and len(call.args) == 2
                and isinstance(call.args[1], ast.Attribute)
                and getattr(call.args[1].value, "id", "") == "self"
            ):
                yield call.args[1].attr


def _classes(tree: ast.AST, attribute: str, module: str) -> Iterator[type]:
    """Yield the classes that are listed under an attribute of self."""
    for function in ast.walk(tree):
        if not isinstance(function, _FUNCTIONS):
            continue
        for node in ast.walk(function):
            targets = getattr(node, "targets", [getattr(node, "target", None)])
            value = getattr(node, "value", None)
            if value is None or not any(
                isinstance(one, ast.Attribute) and one.attr == attribute for one in targets
            ):
                continue
            for name in _listed(function, value):
                cls = _resolve(function, tree, name, module)
                if isinstance(cls, type):
                    yield cls


def _listed(function: ast.AST, value: ast.AST) -> Iterator[str]:
    """Yield the names in a list: written in one piece, or put together in a variable before."""
    for node in ast.walk(value):
        if isinstance(node, ast.List | ast.Tuple):
            yield from (one.id for one in node.elts if isinstance(one, ast.Name))
    variables = {node.id for node in ast.walk(value) if isinstance(node, ast.Name)}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and any(
            getattr(target, "id", "") in variables for target in node.targets
        ):
            if isinstance(node.value, ast.List | ast.Tuple):
                yield from (one.id for one in node.value.elts if isinstance(one, ast.Name))
        elif (
            isinstance(node, ast.Call)
            and getattr(node.func, "attr", "") == "append"
            and getattr(getattr(node.func, "value", None), "id", "") in variables
        ):
            yield from (one.id for one in node.args if isinstance(one, ast.Name))


def _resolve(function: ast.AST, tree: ast.AST, name: str, module: str) -> Any:
    """Return what a name is in a function: imported there, or known to its module."""
    for scope in (function, tree):
        for node in ast.walk(scope):
            if not isinstance(node, ast.ImportFrom) or node.level or not node.module:
                continue
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    try:
                        return getattr(importlib.import_module(node.module), alias.name, None)
                    except (ImportError, AttributeError):
                        # Of a package, or of operators, that this machine lacks: no such object exists.
                        return None
    return getattr(importlib.import_module(module), name, None)


def metadata_of(backend: Any) -> type | None:
    """Return the class of metadata that a backend's builder makes; None if it does not say."""
    if hasattr(backend, "get_metadata_cls"):
        found: type = backend.get_metadata_cls()
        return found
    for base in inspect.getmro(backend.get_builder_cls()):
        for generic in vars(base).get("__orig_bases__", ()):
            for argument in get_args(generic):
                cls = argument.__bound__ if isinstance(argument, TypeVar) else argument
                if isinstance(cls, type):
                    return cls
    return None
