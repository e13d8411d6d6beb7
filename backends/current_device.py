"""Kernels run on the GPU that holds their tensors, whichever is the current one.

Runtimes launch on the current device: a kernel that is given another GPU's addresses there may write
nothing and report nothing. Every launch of a backend goes by this rule.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch

from pytest_rocm_attn.errors import BackendInputError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import AbstractContextManager


def gpu_of(tensors: Iterable[Any]) -> int | None:
    """Return the number of the GPU that holds the tensors; None if none of them is on a GPU.

    Args:
        tensors: others than tensors are skipped.

    Raises:
        BackendInputError: they are on several GPUs.
    """
    devices = {
        tensor.device.index
        for tensor in tensors
        if isinstance(tensor, torch.Tensor) and tensor.device.type == "cuda"
    }
    if len(devices) > 1:
        raise BackendInputError(
            "a kernel's tensors are on several GPUs:"
            f" {', '.join(f'cuda:{index}' for index in sorted(devices))}; move them to one; nothing"
            " was launched"
        )
    return devices.pop() if devices else None


def on_gpu_of(tensors: Iterable[Any], current: int | None = None) -> AbstractContextManager[Any]:
    """Return a context in which the GPU that holds the tensors is the current one.

    Args:
        tensors: see `gpu_of`.
        current: the number of the current GPU; None: torch's.

    Raises:
        BackendInputError: they are on several GPUs.
    """
    gpu = gpu_of(tensors)
    if gpu is None:
        return nullcontext()
    current = torch.cuda.current_device() if current is None else current
    return nullcontext() if gpu == current else torch.cuda.device(gpu)
