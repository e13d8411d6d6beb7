"""Stand-in packages that the import system itself finds: real specs, real paths, real metadata.

A module put into sys.modules by hand has no spec and no path, and find_spec() then raises instead of
answering (docs/reference/mock-surface.md#silent-downgrades, row 11). So the stand-ins come from a
finder at the head of sys.meta_path, built again by every import, below a folder whose files exist
for code that probes by path (docs/reference/aiter.md#which-aiter).
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from dataclasses import dataclass, field
from email.message import Message
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.mock.errors import unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
    from types import ModuleType


@dataclass(frozen=True)
class StandIn:
    """One package to stand in for.

    Args:
        name: its top-level import name.
        modules: what to do to each new, empty module, by dotted name; a dotted name that others
            start with is a package.
        distribution: name of its distribution, or "" for none.
        version: version of its distribution.
        how_to_add: what a user must do who needs another attribute of it.
    """

    name: str
    modules: Mapping[str, Callable[[ModuleType], None]]
    distribution: str = ""
    version: str = ""
    how_to_add: str = field(default="report it to pytest-rocm-attn, or set it in your test")

    def is_package(self, name: str) -> bool:
        return name == self.name or any(other.startswith(name + ".") for other in self.modules)

    def file(self, name: str) -> str:
        """Path of a module below the folder that the package lives in."""
        tail = "/__init__.py" if self.is_package(name) else ".py"
        return name.replace(".", "/") + tail


class StandInFinder(MetaPathFinder, Loader):
    """Finds and loads stand-ins, and answers importlib.metadata for them.

    Args:
        stand_ins: the packages.
        folder: where their files are; see files().
    """

    def __init__(self, stand_ins: Iterable[StandIn], folder: Path) -> None:
        self._folder = folder
        self._owner = {name: stand_in for stand_in in stand_ins for name in stand_in.modules}
        self._stand_ins = tuple(stand_ins)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        stand_in = self._owner.get(fullname)
        if stand_in is None or not self._in_force():
            return None
        file = self._folder / stand_in.file(fullname)
        spec = ModuleSpec(fullname, self, origin=str(file))
        spec.has_location = True
        if stand_in.is_package(fullname):
            spec.submodule_search_locations = [str(file.parent)]
        return spec

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        stand_in = self._owner[name]

        def __getattr__(attribute: str) -> Any:  # PEP 562
            __tracebackhide__ = True
            # Dunder names are asked for by the interpreter and by inspect; they say nothing.
            if attribute.startswith("__"):
                raise AttributeError(f"module {name!r} has no attribute {attribute!r}")
            raise unknown(name, attribute, stand_in.how_to_add)

        vars(module)["__getattr__"] = __getattr__
        stand_in.modules[name](module)

    def _in_force(self) -> bool:
        """Of nested mocks only the one entered last answers."""
        return next(one for one in sys.meta_path if isinstance(one, StandInFinder)) is self

    def find_distributions(
        self, context: importlib.metadata.DistributionFinder.Context
    ) -> Iterable[importlib.metadata.Distribution]:
        for stand_in in self._stand_ins if self._in_force() else ():
            if stand_in.distribution and (
                context.name is None or _same_name(context.name, stand_in.distribution)
            ):
                yield _Distribution(stand_in, self._folder)


class _Distribution(importlib.metadata.Distribution):
    def __init__(self, stand_in: StandIn, folder: Path) -> None:
        self._stand_in = stand_in
        self._folder = folder

    def read_text(self, filename: str) -> str | None:
        if filename == "METADATA":
            message = Message()
            message["Metadata-Version"] = "2.1"
            message["Name"] = self._stand_in.distribution
            message["Version"] = self._stand_in.version
            return message.as_string()
        if filename == "top_level.txt":
            return self._stand_in.name + "\n"
        return None

    def locate_file(self, path: Any) -> Any:
        return self._folder / path


def files(stand_ins: Iterable[StandIn]) -> dict[str, str]:
    """Return the files to write for stand-ins: relative path to text."""
    note = "# Stand-in of pytest_rocm_attn.mock; its contents are made when it is imported.\n"
    return {stand_in.file(name): note for stand_in in stand_ins for name in stand_in.modules}


def without(hidden: Collection[str], find: Any) -> Any:
    """Return MetadataPathFinder.find_distributions without the distributions of some names.

    Args:
        hidden: distribution names, in lower case with dashes.
        find: the function, bound, as it is now; one that this function made is unwrapped first.
    """
    find = getattr(find, "__wrapped__", find)

    def find_distributions(*args: Any, **kwargs: Any) -> Iterator[importlib.metadata.Distribution]:
        for found in find(*args, **kwargs):
            if normal(found.metadata["Name"] or "") not in hidden:
                yield found

    vars(find_distributions)["__wrapped__"] = find
    return staticmethod(find_distributions)


def _same_name(one: str, other: str) -> bool:
    return normal(one) == normal(other)


def normal(name: str) -> str:
    """Return a distribution's name in the form that names are compared in."""
    return name.lower().replace("_", "-")


def installed(name: str) -> bool:
    """Whether a top-level package can be imported, without importing it."""
    if name in sys.modules:
        return sys.modules[name] is not None
    return importlib.util.find_spec(name) is not None
