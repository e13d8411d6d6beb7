"""Changing a package that is expensive to import, once something imports it, and not before."""

from __future__ import annotations

import sys
from importlib.abc import Loader, MetaPathFinder
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    from pytest_rocm_attn.mock.patching import Layer


def when_imported(layer: Layer, name: str, act: Callable[[], None]) -> None:
    """Act now if a package is imported already; otherwise when something imports it.

    The action then runs before that import returns, because downstream modules ask the package at
    their own import and remember the answer. It does not run once the layer has come off.

    Args:
        layer: for as long as it stays on, an import is waited for.
        name: of a top-level package.
        act: what to do; an exception that it raises ends the import.
    """
    if name in sys.modules:
        act()
    else:
        layer.insert(sys.meta_path, _Watch(name, act))


class _Watch(MetaPathFinder):
    """Lets the other finders find the package, and the action follow its import."""

    def __init__(self, name: str, act: Callable[[], None]) -> None:
        self._name, self._act = name, act

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._name:
            return None
        for finder in sys.meta_path[sys.meta_path.index(self) + 1 :]:
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Then(spec.loader, self)
                return spec
        return None

    def imported(self) -> None:
        if self in sys.meta_path:  # else the mock was left between the finding and the loading
            self._act()


class _Then(Loader):
    """A loader that tells the watch once it is done."""

    def __init__(self, loader: Loader, watch: _Watch) -> None:
        self._loader = loader
        self._watch = watch

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # Leave no trace on the module: it outlives the mock.
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._watch.imported()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)
