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
    from collections.abc import Callable, Hashable, Iterable, Mapping
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

    @property
    def is_first(self) -> bool:
        """Whether nothing lies below the layer."""
        return _layers[0] is self

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

    def shadow_packages(self, roots: Mapping[str, bool]) -> None:
        """Take packages and all below them out of sys.modules until put back.

        Args:
            roots: top-level names, and whether a finder may find them again while the layer is in place. For those
                that it may not, the import system answers "not installed".
        """
        before = _families(roots)

        def restore() -> None:
            for name in _families(roots):
                del sys.modules[name]
            sys.modules.update(before)

        self._remember(("packages", *roots), restore)
        for name in before:
            del sys.modules[name]
        for name, can_be_found in roots.items():
            if not can_be_found:
                sys.modules[name] = None  # type: ignore[assignment]  # importlib's own marker

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


def _families(roots: Iterable[str]) -> dict[str, ModuleType]:
    """Return the entries of sys.modules that are one of roots or below one."""
    exact, below = set(roots), tuple(f"{root}." for root in roots)
    names = [name for name in list(sys.modules) if name in exact or name.startswith(below)]
    return {name: sys.modules[name] for name in names}
