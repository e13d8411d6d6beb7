"""Modules that every platform imports alike, which are imported once, before anything forks."""

from __future__ import annotations

import contextlib
import gc
import importlib
import sys
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

STAND_INS = ("aiter", "amdsmi", "flash_attn")  # packages that the mocked platform stands in for
_PLATFORM_PACKAGES = {"torch", "triton", "functorch", "__main__", *STAND_INS}


def preload(names: Iterable[str]) -> None:
    """Import what every platform would import again, as far as it is there."""
    for name in names:
        # A module that cannot be imported here is imported, or fails, at the place that needs it.
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    gc.freeze()  # keeps pages shared with the children


def neutral_modules(selector: str) -> list[str]:
    """Return imported modules that every platform would import alike, in the order of import.

    A package is neutral when it has nothing of torch, Triton, the selector's own package or a
    mocked one in any of its modules, so that no part of it can have looked at the platform.
    """
    own = selector.partition(":")[0].partition(".")[0]
    partial = {own, *_PLATFORM_PACKAGES}
    packages: dict[str, list[str]] = {}
    for name, module in list(sys.modules.items()):
        top = name.partition(".")[0]
        packages.setdefault(top, []).append(name)
        values = list(getattr(module, "__dict__", {}).values())
        # The standard library is neutral, even if somebody has patched a function into it.
        if top not in sys.stdlib_module_names and any(_home(value) in partial for value in values):
            partial.add(top)
    return [name for top, names in packages.items() if top not in partial for name in names]


def _home(value: object) -> str:
    """Return the top-level package that a module, class or function comes from, else ""."""
    if isinstance(value, ModuleType):
        name = value.__dict__.get("__name__", "")
    elif isinstance(value, type | FunctionType):
        name = value.__module__
    else:
        return ""  # anything else may do anything when it is looked at
    return name.partition(".")[0] if isinstance(name, str) else ""
