"""What both MLA backends share: the latent cache, what the request must be, and the checks.

Dimensions, cache and call: docs/reference/backends.md#mla.
"""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, Any

import torch

from pytest_rocm_attn.backends.cache import concat_and_cache_mla
from pytest_rocm_attn.backends.layer import Layer
from pytest_rocm_attn.backends.plans import described, kind_of
from pytest_rocm_attn.errors import BackendInputError, BackendLimitError

if TYPE_CHECKING:
    from pytest_rocm_attn.backends.batch import Batch
    from pytest_rocm_attn.request import Request

RANK, ROPE, NOPE, VALUE = 512, 64, 128, 128  # docs/reference/backends.md#mla


class MlaLayer(Layer):
    """One MLA layer of a backend.

    Args:
        request: what the layer needs.
        device: where it runs.
        scale: factor of the dot product.

    Raises:
        BackendLimitError: the backend does not do what the request asks.
    """

    contiguous = False  # what its kernels need of a tensor; else only a dense last dimension

    def __init__(self, request: Request, device: torch.device, *, scale: float) -> None:
        super().__init__(request, device, scale=scale)
        self._kind = kind_of(self.name, request, self.device, scale)

    @abc.abstractmethod
    def _decode(
        self,
        query: torch.Tensor,
        cache: torch.Tensor,
        batch: Batch,
        out: torch.Tensor,
        plans: dict[Any, Any],
    ) -> None:
        """Compute a checked step that has tokens; write out.

        Args:
            query, cache, batch, out: as `decode` was given them.
            plans: the backend's own notes on how: kept for further layers of this kind in the step,
                whose tensors lie the same.
        """

    @classmethod
    def _refusals(cls, request: Request) -> tuple[tuple[bool, str], ...]:
        return (
            (not request.use_mla or request.use_sparse, "anything but dense MLA"),
            (request.head_size != RANK + ROPE, f"head size {request.head_size}: it must be 576"),
            (
                request.kv_cache_dtype not in ("auto", request.dtype),
                f"kv_cache_dtype {request.kv_cache_dtype!r}: it must be 'auto'",
            ),
            (request.attn_type != "decoder", f"{request.attn_type} attention"),
            (request.alibi, "ALiBi"),
            (request.has_sink, "sinks"),
            (request.sliding_window is not None, f"a sliding window of {request.sliding_window}"),
            (request.logits_soft_cap is not None, f"a soft cap of {request.logits_soft_cap}"),
        )

    def cache_shape(self, blocks: int) -> tuple[int, int, int]:
        """Return the shape of the latent cache: (blocks, block size, 576)."""
        return blocks, self.block_size, RANK + ROPE

    def write_cache(
        self, kv_c: torch.Tensor, k_pe: torch.Tensor, cache: torch.Tensor, batch: Batch
    ) -> None:
        """Write the step's latent rows, [tokens, 512] and [tokens, 64], to their slots.

        Raises:
            BackendInputError: see `concat_and_cache_mla`.
        """
        concat_and_cache_mla(kv_c, k_pe, cache, batch.slot_mapping)

    def decode(
        self,
        query: torch.Tensor,
        cache: torch.Tensor,
        batch: Batch,
        out: torch.Tensor,
        *,
        check: bool = False,
    ) -> torch.Tensor:
        """Absorbed decode, one token per request.

        Every tensor has a dense last dimension, or is contiguous where the backend says so.

        Args:
            query: [requests, heads, 576]: the absorbed query, then its rope part.
            cache: as `cache_shape` says.
            batch: the step's metadata, every query length at most 1.
            out: [requests, heads, 512].
            check: also check slots and block table, which reads the device.
        Returns: out.

        Raises:
            BackendInputError: shapes, dtypes or devices disagree; nothing is launched or written.
            BackendLimitError: a request has more tokens than one, or is not causal.
        """
        # Alike: layers of one kind, with tensors that lie the same. What holds for one holds for all.
        alike = (self._kind, *described(query), *described(cache), *described(out))
        plans = batch.plans.get(alike)
        if plans is None:
            self._check_decode(query, cache, batch, out)
            plans = batch.plans[alike] = {}
        if check:
            batch.check(cache.shape[0], self.block_size)
        if batch.max_query_len:
            self._decode(query, cache, batch, out, plans)
        return out

    def _check_decode(
        self, query: torch.Tensor, cache: torch.Tensor, batch: Batch, out: torch.Tensor
    ) -> None:
        tokens, heads = batch.slot_mapping.shape[0], self.request.num_heads
        self._check("query", query, (tokens, heads, RANK + ROPE))
        self._check("out", out, (tokens, heads, RANK))
        self._check("cache", cache, self.cache_shape(cache.shape[0] if cache.ndim else 0))
        self._check_block_table(batch)
        if batch.max_query_len > 1 or not batch.causal:
            raise BackendLimitError(
                f"{self.name} decodes one token per request, causally; got {batch.max_query_len} tokens"
                f" ({self.source}: reorder threshold 1); use prefill"
            )

    def _check_prefill(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        out: torch.Tensor,
        query_start_loc: torch.Tensor,
        key_start_loc: torch.Tensor,
    ) -> None:
        heads, tokens, keys = self.request.num_heads, query.shape[0], key.shape[0]
        self._check("query", query, (tokens, heads, NOPE + ROPE))
        self._check("key", key, (keys, heads, NOPE + ROPE))
        self._check("value", value, (keys, heads, VALUE))
        self._check("out", out, (tokens, heads, VALUE))
        if query_start_loc.shape != key_start_loc.shape:
            raise BackendInputError(
                f"{self.name}: query_start_loc has shape {tuple(query_start_loc.shape)},"
                f" key_start_loc {tuple(key_start_loc.shape)}"
            )
        for name, starts in (
            ("query_start_loc", query_start_loc),
            ("key_start_loc", key_start_loc),
        ):
            dense = starts.ndim == 1 and starts.numel() > 0 and starts.stride(0) == 1
            if starts.dtype != torch.int32 or not dense or starts.device != self.device:
                raise BackendInputError(
                    f"{self.name}: {name} is {starts.dtype} {tuple(starts.shape)} on"
                    f" {starts.device}, expected dense int32 [requests + 1] on {self.device}"
                    " (docs/reference/backends.md#inputs)"
                )

    def _check(self, name: str, tensor: torch.Tensor, wanted: tuple[int, ...]) -> None:
        dense = tensor.is_contiguous() if self.contiguous else tensor.stride()[-1:] == (1,)
        if tuple(tensor.shape) != wanted or not dense:
            layout = ", contiguous" if self.contiguous else " with a dense last dimension"
            raise BackendInputError(
                f"{self.name}: {name} has shape {tuple(tensor.shape)}, expected {wanted}{layout}"
                " (docs/reference/backends.md#mla)"
            )
        if tensor.dtype != self.dtype:
            raise BackendInputError(
                f"{self.name}: {name} is {tensor.dtype}, the layer's dtype is {self.dtype}"
            )
        self._check_device(name, tensor)
