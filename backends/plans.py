"""What the layers of a step have in common, so that it is worked out once.

A model calls dozens of layers in a step that differ in nothing but their weights. What is checked of
one, and planned for it, holds for all: `Batch.plans` keeps it, by what it depends on.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Hashable

    import torch


def described(tensor: torch.Tensor) -> tuple[Any, ...]:
    """Return how a tensor lies, without what it holds and where."""
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device


@functools.lru_cache(maxsize=1024)
def kind_of(name: str, *what: Hashable) -> object:
    """Return one object for equal layers: on the path of every call it is compared by identity.

    Args:
        name: the backend's.
        what: all that its checks and plans depend on, beside batch and tensors.
    """
    return object()
