"""What a selector's process remembers: caches and frozen values, found whatever they are called.

Runs in the worker, for workers.Interview.memory. A cache is what has ``cache_clear`` (functools)
or is a container named after caching; a frozen value is a plain value of a class or a module. Only
the package that the selector itself comes from is looked at.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_PLAIN = (bool, int, float, str, type(None))


def handle(message: Mapping[str, Any]) -> Any:
    """Do one of four things, and return plain data.

    - ``{"caches": package}``: the names of caches that hold something;
    - ``{"values": package}``: name -> plain value, of module and class attributes;
    - ``{"forget": [name, ...], "of": package}``: empty these caches;
    - ``{"assign": {name: value}, "of": package}``: set these attributes.
    """
    if "caches" in message:
        return [name for name, _, filled in _caches(message["caches"]) if filled]
    if "values" in message:
        return {name: getattr(owner, key) for name, owner, key in _values(message["values"])}
    if "forget" in message:
        for name, clear, _ in _caches(message["of"]):
            if name in message["forget"]:
                clear()
        return None
    for name, owner, key in list(_values(message["of"])):
        if name in message["assign"]:
            setattr(owner, key, message["assign"][name])
    return None


def _modules(package: str) -> list[ModuleType]:
    """Return the imported modules of a package, its attention modules first."""
    names = [
        name
        for name, module in list(sys.modules.items())
        if isinstance(module, ModuleType) and (name == package or name.startswith(f"{package}."))
    ]
    names.sort(key=lambda name: (not any(word in name for word in _NEAR), name))
    return [sys.modules[name] for name in names]


_NEAR = ("attention.selector", "platforms", "attention", "_aiter_ops", "envs")


def _owners(package: str) -> Iterator[tuple[str, Any]]:
    """Yield (name, module or class) of everything that the package itself defines."""
    for module in _modules(package):
        yield module.__name__, module
        for key, value in list(vars(module).items()):
            if isinstance(value, type) and value.__module__ == module.__name__:
                yield f"{module.__name__}.{key}", value


def _caches(package: str) -> Iterator[tuple[str, Callable[[], object], bool]]:
    """Yield (name, how to empty it, whether it holds something)."""
    seen: set[int] = set()
    for prefix, owner in _owners(package):
        for key, value in list(vars(owner).items()):
            if isinstance(value, dict | list | set) and "cache" in key.lower():
                cache, filled = value, bool(value)
                clear: Callable[[], object] = value.clear
            elif (found := _functools_cache(value)) is not None:
                cache, clear = found, found.cache_clear
                info = getattr(found, "cache_info", None)
                filled = info is None or info().currsize > 0
            else:
                continue
            if id(cache) not in seen:
                seen.add(id(cache))
                yield f"{prefix}.{key}", clear, filled


def _functools_cache(value: Any) -> Any:
    """Return what has cache_clear, below the wrappers and descriptors around it; else None."""
    for _ in range(8):  # wrappers upon wrappers; more would be a loop
        if isinstance(value, type | ModuleType):
            return None
        attributes = getattr(value, "__dict__", {})
        if callable(getattr(type(value), "cache_clear", None)) or "cache_clear" in attributes:
            return value
        if isinstance(value, classmethod | staticmethod):
            value = value.__func__
        elif "__wrapped__" in attributes:
            value = attributes["__wrapped__"]
        else:
            return None
    return None


def _values(package: str) -> Iterator[tuple[str, Any, str]]:
    """Yield (name, owner, attribute) of every plain value."""
    for prefix, owner in _owners(package):
        for key, value in list(vars(owner).items()):
            if isinstance(value, _PLAIN) and not key.startswith("__"):
                yield f"{prefix}.{key}", owner, key
