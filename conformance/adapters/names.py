"""Which names the code of a backend refers to, and whether they are there.

Read off the source, function by function, so that a name that only a forward pass would look up is
looked up now: global names, attributes of modules and classes (``torch.ops.vllm.name``), what is
imported inside a function. Functions of the fork that are referred to are followed. Runs in the
worker, under the mock.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import sys
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

# How far functions are followed: a backend's own, the wrappers that these call, what the wrappers
# call. Further on it is the server's plumbing, which does not depend on the backend.
_FOLLOWED = 3
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def missing(module_name: str, top: str) -> list[str]:
    """Return the names that the functions of a module refer to and that are not there, sorted.

    Args:
        module_name: an imported module.
        top: the fork's top-level package, whose functions are followed.

    Returns: each as "dotted.name in module.function".
    """
    found: set[str] = set()
    seen: set[tuple[str, str]] = set()
    waiting = [(module_name, name) for name in _functions(module_name)]
    for _ in range(_FOLLOWED):
        following: list[tuple[str, str]] = []
        for place in waiting:
            if place in seen:
                continue
            seen.add(place)
            module, name = place
            node = _functions(module).get(name)
            if node is None:
                continue
            for dotted, value in _references(node, sys.modules[module]):
                if value is _MISSING:
                    found.add(f"{dotted} in {module.removeprefix(f'{top}.')}.{name}")
                elif (target := _place(value, top)) is not None:
                    following.append(target)
        waiting = following
    return sorted(found)


_MISSING: Any = object()


def _place(value: Any, top: str) -> tuple[str, str] | None:
    """Return (module, qualified name) of a function of the fork, else None."""
    function = inspect.unwrap(value) if callable(value) else None
    if not isinstance(function, FunctionType) or not function.__module__.startswith(f"{top}."):
        return None
    return function.__module__, function.__qualname__


_trees: dict[str, dict[str, ast.AST]] = {}


def _functions(module_name: str) -> dict[str, ast.AST]:
    """Return the functions of an imported module by qualified name, those within others excepted."""
    if module_name not in _trees:
        module = sys.modules.get(module_name)
        try:
            tree = ast.parse(inspect.getsource(module)) if module else ast.Module([], [])
        except (OSError, TypeError):
            tree = ast.Module([], [])
        _trees[module_name] = dict(_named(tree, ""))
    return _trees[module_name]


def _named(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.AST]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, _FUNCTIONS):
            yield prefix + child.name, child
        elif isinstance(child, ast.ClassDef):
            yield from _named(child, f"{prefix}{child.name}.")
        else:
            yield from _named(child, prefix)


def _references(function: ast.AST, module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Yield each dotted name that a function refers to, with what it is, or _MISSING."""
    own = _bound(function)
    imported: dict[str, Any] = {}
    nodes = list(_body(function))
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                dotted = f"{node.module}.{alias.name}"
                value = _imported(node.module, alias.name)
                imported[alias.asname or alias.name] = value
                if value is _MISSING:
                    yield dotted, value
    for node in nodes:
        chain = _chain(node)
        if chain is None:
            continue
        root, *attributes = chain
        if root in imported:
            value = imported[root]
            if value is _MISSING or value is None:
                continue
        elif root in own:
            continue
        else:
            value = vars(module).get(root, getattr(builtins, root, _MISSING))
            if value is _MISSING and hasattr(module, root):  # a module's own __getattr__
                continue
        yield _followed(root, attributes, value)


def _followed(root: str, attributes: list[str], value: Any) -> tuple[str, Any]:
    """Follow attributes as far as they are those of modules and classes, which do not change."""
    dotted = root
    for attribute in attributes:
        if value is _MISSING or not isinstance(value, ModuleType | type):
            break
        dotted = f"{dotted}.{attribute}"
        try:
            value = getattr(value, attribute)
        except AttributeError:
            value = _MISSING
    return dotted, value


def _imported(module: str, name: str) -> Any:
    """Return what ``from module import name`` would give; None if finding out imports too much."""
    if module not in sys.modules and module.partition(".")[0] != "aiter":
        return None
    try:
        found = importlib.import_module(module)
        return getattr(found, name) if hasattr(found, name) else _submodule(module, name)
    except (ImportError, AttributeError):
        return _MISSING


def _submodule(module: str, name: str) -> Any:
    return importlib.import_module(f"{module}.{name}")


def _body(function: ast.AST) -> Iterator[ast.AST]:
    """Yield all nodes of a function's body: no decorators, defaults or annotations."""
    waiting = list(getattr(function, "body", ()))
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, _FUNCTIONS):
            waiting.extend(node.body)
        elif isinstance(node, ast.AnnAssign):
            waiting.extend([node.value] if node.value else [])
        else:
            waiting.extend(ast.iter_child_nodes(node))


def _chain(node: ast.AST) -> list[str] | None:
    """Return ["a", "b", "c"] for the expression a.b.c if it is read, else None."""
    attributes: list[str] = []
    while isinstance(node, ast.Attribute):
        attributes.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or not isinstance(node.ctx, ast.Load):
        return None
    return [node.id, *reversed(attributes)]


def _bound(function: ast.AST) -> set[str]:
    """Return the names that a function, or one within it, binds itself."""
    names: set[str] = set()
    shared: set[str] = set()
    for node in ast.walk(function):
        match node:
            case ast.Name(ctx=ast.Store() | ast.Del()):
                names.add(node.id)
            case ast.arg():
                names.add(node.arg)
            case ast.ExceptHandler(name=str(name)):
                names.add(name)
            case ast.Import() | ast.ImportFrom():
                names |= {a.asname or a.name.partition(".")[0] for a in node.names}
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                names.add(node.name)
            case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                names.add(name)
            case ast.MatchMapping(rest=str(name)):
                names.add(name)
            case ast.Global():
                shared |= set(node.names)
    return names - shared
