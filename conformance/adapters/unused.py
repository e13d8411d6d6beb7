"""Stand-ins for packages that a server imports on its way to a choice, and that the choice does not call.

A server's wheel can then be asked without its dependencies, such as torchvision built for another torch.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@contextlib.contextmanager
def stand_ins(*packages: str) -> Iterator[None]:
    """Have something to import for each of these packages that is not installed, while the block runs."""
    # What transformers finds out about optional packages it finds out before, and keeps.
    with contextlib.suppress(ImportError):
        optional: Any = importlib.import_module("transformers.utils.import_utils")
        optional.is_torchvision_available()
    finder = _Finder([name for name in packages if importlib.util.find_spec(name) is None])
    sys.meta_path.append(finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _StandInKind(type):
    """A class whose every attribute is such a class."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _StandInKind(name, (), {})


class _Unused(ModuleType):
    """A module whose every name is a class without meaning."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__ = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _StandInKind(name, (), {})


class _Finder(MetaPathFinder, Loader):
    def __init__(self, packages: Sequence[str]) -> None:
        self._packages = packages

    def find_spec(self, name: str, *where: Any) -> ModuleSpec | None:
        if name.partition(".")[0] not in self._packages:
            return None
        return ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Unused(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Fill nothing in: the module answers for itself."""
