"""What every backend's layer is: a request that it takes, on a device, with a scale."""

from __future__ import annotations

import abc
import math
from typing import TYPE_CHECKING

import torch

from pytest_rocm_attn.errors import BackendInputError, BackendLimitError

if TYPE_CHECKING:
    from pytest_rocm_attn.backends.batch import Batch
    from pytest_rocm_attn.request import Request


class Layer(abc.ABC):
    """One attention layer of a backend.

    Args:
        request: what the layer needs.
        device: where it runs.
        scale: factor of the dot product.

    Raises:
        BackendLimitError: the backend does not do what the request asks.
    """

    name: str
    source: str

    def __init__(self, request: Request, device: torch.device, *, scale: float) -> None:
        self.refuse(request)
        if device.type == "cuda" and device.index is None:  # tensors say which one they are on
            device = torch.device("cuda", torch.cuda.current_device())
        if not 0 < scale < math.inf:
            raise BackendLimitError(
                f"{self.name}: scale must be a positive finite number, got {scale}"
            )
        self.request = request
        self.device = device
        self.scale = scale
        self.dtype: torch.dtype = getattr(torch, request.dtype)
        self.block_size = request.block_size or 16

    @classmethod
    def refuse(cls, request: Request) -> None:
        """Check a request against what the backend does.

        Raises:
            BackendLimitError: it asks for more; the message names value, limit and source.
        """
        for refused, what in cls._refusals(request):
            if refused:
                raise BackendLimitError(f"{cls.name} does not support {what} ({cls.source})")

    @classmethod
    @abc.abstractmethod
    def _refusals(cls, request: Request) -> tuple[tuple[bool, str], ...]:
        """Return pairs of whether the request asks for something the backend lacks, and what."""

    def _check_block_table(self, batch: Batch) -> None:
        self._check_device("block_table", batch.block_table)
        if batch.max_seq_len > batch.block_table.shape[1] * self.block_size:
            raise BackendInputError(
                f"{self.name}: a request has {batch.max_seq_len} tokens, block_table has"
                f" {batch.block_table.shape[1]} blocks of {self.block_size} for each"
                " (docs/reference/backends.md#inputs)"
            )

    def _check_device(self, name: str, given: torch.Tensor) -> None:
        if given.device != self.device:
            raise BackendInputError(
                f"{self.name}: {name} is on {given.device}, the layer is on {self.device}"
            )
