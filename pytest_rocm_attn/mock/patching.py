"""Changes to a running process that come off again in any order.

A layer remembers, for every place it changed, what was there before, absence included. Layers
stack. Taking one off from the middle (A on, B on, A off, B off) must not disturb the one above, so
its memory of a place that a higher layer also changed is handed to that layer; every other place is
put back at once. Whatever the order, when the last layer is off the process is as it was.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from types import ModuleType

_ABSENT: Any = object()
_lock = threading.RLock()
_layers: list[Layer] = []


class Layer:
    """One set of changes. Build it, make changes through its methods, take it off with close()."""

    def __init__(self) -> None:
        self._saved: dict[Hashable, Callable[[], None]] = {}
        with _lock:
            _layers.append(self)

    def _remember(self, place: Hashable, restore: Callable[[], None]) -> None:
        self._saved.setdefault(place, restore)

    def set_attribute(self, target: Any, name: str, value: Any) -> None:
        """Set target.name; putting back restores the object's own attribute, or removes it."""
        before = vars(target).get(name, _ABSENT)

        def restore() -> None:
            if before is not _ABSENT:
                setattr(target, name, before)
            elif name in vars(target):
                delattr(target, name)

        self._remember(("attribute", id(target), name), restore)
        setattr(target, name, value)

    def set_environ(self, name: str, value: str) -> None:
        """Set one environment variable."""
        before = os.environ.get(name)

        def restore() -> None:
            if before is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = before

        self._remember(("environ", name), restore)
        os.environ[name] = value

    def keep_environ(self) -> None:
        """Have the whole environment put back, also what the code under the layer changes in it."""
        before = dict(os.environ)

        def restore() -> None:
            for name in os.environ.keys() - before.keys():
                del os.environ[name]
            for name, value in before.items():
                if os.environ.get(name) != value:
                    os.environ[name] = value

        self._remember("environ", restore)

    def shadow_package(self, root: str, module: ModuleType | None | Any = _ABSENT) -> None:
        """Take a package and all below it out of sys.modules until put back.

        Args:
            root: the top-level name.
            module: what to put in its place; None makes the import system answer "not installed".
        """
        before = _family(root)

        def restore() -> None:
            for name in _family(root):
                del sys.modules[name]
            sys.modules.update(before)

        self._remember(("package", root), restore)
        for name in before:
            del sys.modules[name]
        if module is not _ABSENT:
            sys.modules[root] = module

    def insert(self, sequence: list[Any], value: Any) -> None:
        """Put value first in a list."""

        def restore() -> None:
            if any(one is value for one in sequence):
                sequence[:] = [one for one in sequence if one is not value]

        self._remember(("member", id(sequence), id(value)), restore)
        sequence.insert(0, value)

    def on_close(self, place: Hashable, undo: Callable[[], None]) -> None:
        """Call undo when the layer comes off; a higher layer that names the same place does it."""
        self._remember(place, undo)

    def close(self) -> None:
        """Put back every place, last change first; see the module's docstring for the rule."""
        with _lock:
            above = _layers[_layers.index(self) + 1 :]
            _layers.remove(self)
        for place, restore in reversed(self._saved.items()):
            for layer in above:
                if place in layer._saved:
                    layer._saved[place] = restore
                    break
            else:
                restore()
        self._saved.clear()


def _family(root: str) -> dict[str, Any]:
    return {
        name: module
        for name, module in list(sys.modules.items())
        if name == root or name.startswith(root + ".")
    }
