"""What the layers of a step have in common, so that it is worked out once.

A model calls dozens of layers in a step that differ in nothing but their weights. What is checked of
one, and planned for it, holds for all: `Batch.plans` keeps it, by what it depends on.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable

    import torch

T = TypeVar("T")


class Recent(Generic[T]):
    """What was worked out, by what it depends on; of many, those used last.

    Args:
        most: how many are kept.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: dict[Hashable, T] = {}  # the one used last comes last

    def get(self, key: Hashable) -> T | None:
        """Return what was kept for a key, if it still is."""
        found = self._kept.pop(key, None)
        if found is not None:
            self._kept[key] = found
        return found

    def keep(self, key: Hashable, value: T) -> T:
        """Keep a value, which is not None, and return it."""
        while len(self._kept) >= self._most:
            self._kept.pop(next(iter(self._kept)), None)
        self._kept[key] = value
        return value

    def __len__(self) -> int:
        return len(self._kept)


def described(tensor: torch.Tensor) -> tuple[Any, ...]:
    """Return how a tensor lies, without what it holds and where."""
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device


@functools.lru_cache(maxsize=1024)
def kind_of(name: str, *what: Hashable) -> object:
    """Return one object for equal layers: on the path of every call it is compared by identity.

    Args:
        name: the backend's.
        what: all that its checks and plans depend on, besides batch and tensors.
    """
    return object()
