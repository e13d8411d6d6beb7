"""What all backends with a paged cache of keys and values share: checks, cache, and the call.

Metadata, shapes and meanings: docs/reference/backends.md#inputs.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from pytest_rocm_attn.backends.cache import FP8_BIAS, NHD, reshape_and_cache
from pytest_rocm_attn.backends.launch_target import target_of
from pytest_rocm_attn.backends.layer import Layer
from pytest_rocm_attn.backends.plans import described, kind_of
from pytest_rocm_attn.errors import BackendInputError, BackendLimitError

if TYPE_CHECKING:
    from pytest_rocm_attn.backends.batch import Batch
    from pytest_rocm_attn.backends.launch_target import Target
    from pytest_rocm_attn.request import Request


@dataclass(slots=True)
class Step:
    """One checked call: what PagedLayer.forward was given, the cache as views in its layout.

    Args:
        query, out: [tokens or more, query heads, D].
        key_cache, value_cache: in the backend's layout, dtype of the model or the fp8 type.
        batch: the step's metadata.
        k_scale, v_scale: float32 scalars where the cache is fp8.
        plans: the backend's own notes on how to compute it: kept for further layers of this kind in
            the step, whose tensors lie the same.
    """

    query: torch.Tensor
    key_cache: torch.Tensor
    value_cache: torch.Tensor
    batch: Batch
    out: torch.Tensor
    k_scale: torch.Tensor | None
    v_scale: torch.Tensor | None
    plans: dict[Any, Any] = field(default_factory=dict)


class PagedLayer(Layer):
    """One attention layer of a backend.

    Args:
        request: what the layer needs.
        device: where it runs.
        scale: factor of the dot product.
        alibi_slopes: [query heads] float32, when request.alibi.
        sinks: [query heads], when request.has_sink.
        fp8_dtype: the platform's fp8 type; by default e4m3fnuz on gfx94x, else e4m3fn.
        batch_invariant: never split keys, so that a request's result does not depend on the others.

    Raises:
        BackendLimitError: the backend does not do what the request or an argument asks.
        BackendInputError: slopes, sinks or fp8_dtype do not match the request.
    """

    layout = NHD
    can_be_batch_invariant = False

    def __init__(
        self,
        request: Request,
        device: torch.device,
        *,
        scale: float,
        alibi_slopes: torch.Tensor | None = None,
        sinks: torch.Tensor | None = None,
        fp8_dtype: torch.dtype | None = None,
        batch_invariant: bool = False,
    ) -> None:
        super().__init__(request, device, scale=scale)
        if batch_invariant and not self.can_be_batch_invariant:
            raise BackendLimitError(
                f"{self.name} does not promise batch invariance ({self.source})"
            )
        for name, tensor, asked in (
            ("alibi_slopes", alibi_slopes, request.alibi),
            ("sinks", sinks, request.has_sink),
        ):
            if (tensor is not None) != asked:
                raise BackendInputError(
                    f"{self.name}: {name} {'missing' if asked else 'given'}, request says {asked}"
                )
            if tensor is not None and tensor.shape != (request.num_heads,):
                raise BackendInputError(
                    f"{self.name}: {name} has shape {tuple(tensor.shape)}, expected"
                    f" ({request.num_heads},): one per query head ({self.source})"
                )
            if tensor is not None and tensor.device != self.device:
                raise BackendInputError(
                    f"{self.name}: {name} is on {tensor.device}, not {self.device}"
                )
        # Dense: kernels read one element a head. A copy is made once a layer, if at all.
        self.alibi_slopes = None if alibi_slopes is None else alibi_slopes.contiguous()
        self.sinks = None if sinks is None else sinks.contiguous()
        self.batch_invariant = batch_invariant
        self.target = self._target(self.device)
        fnuz = "gfx94" in self.target.name
        platform = torch.float8_e4m3fnuz if fnuz else torch.float8_e4m3fn
        is_fp8 = request.kv_cache_dtype.startswith("fp8")
        if fp8_dtype is not None and (not is_fp8 or fp8_dtype not in FP8_BIAS):
            raise BackendInputError(
                f"{self.name}: fp8_dtype is {fp8_dtype}, kv_cache_dtype is"
                f" {request.kv_cache_dtype!r}; give one of {', '.join(map(str, FP8_BIAS))} for an fp8"
                " cache, and none for another"
            )
        self.platform_fp8 = platform
        self.cache_dtype = (fp8_dtype or platform) if is_fp8 else self.dtype
        self.fp8 = FP8_BIAS.get(self.cache_dtype, 0)
        self._row = [request.num_heads, request.head_size]
        self.group = request.num_heads // request.num_kv_heads
        self._prepare()
        self._kind = kind_of(
            self.name, request, self.device, scale, self.target, self.cache_dtype, batch_invariant
        )

    def _target(self, device: torch.device) -> Target:
        """Return what the layer's kernels run on."""
        return target_of(device)

    def _prepare(self) -> None:
        """Choose, or refuse, what the backend launches. Called once, after the checks."""

    @abc.abstractmethod
    def _forward(self, step: Step) -> None:
        """Compute a checked step that has tokens; write step.out."""

    @classmethod
    def _refusals(cls, request: Request) -> tuple[tuple[bool, str], ...]:
        block_size = request.block_size or 16
        size = request.head_size
        # e5m2 stores e4m3, as upstream
        cache = ("auto", request.dtype, "fp8", "fp8_e4m3", "fp8_e5m2")
        attn_type = request.attn_type
        return (
            (request.use_mla or request.use_sparse, "MLA or sparse attention: use an MLA backend"),
            (block_size % 16 != 0, f"block size {block_size}: it must be a multiple of 16"),
            (size < 32 or size > 256, f"head size {size}: it must be 32 to 256"),
            (request.kv_cache_dtype not in cache, f"kv_cache_dtype {request.kv_cache_dtype!r}"),
            (attn_type not in ("decoder", "encoder_decoder"), f"{attn_type} attention"),
            (request.use_mm_prefix, "a bidirectional multimodal prefix"),
        )

    def cache_shape(self, blocks: int) -> tuple[int, int, int, int, int]:
        """Return the shape of the KV cache: (blocks, 2, block size, KV heads, head size)."""
        request = self.request
        return blocks, 2, self.block_size, request.num_kv_heads, request.head_size

    def _blocks(self, kv_cache: torch.Tensor) -> int:
        return kv_cache.shape[0]

    def _halves(self, kv_cache: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the key and value caches in the backend's layout, as views."""
        key_cache, value_cache = kv_cache.unbind(1)
        return key_cache, value_cache

    def write_cache(
        self,
        key: torch.Tensor,
        value: torch.Tensor,
        kv_cache: torch.Tensor,
        batch: Batch,
        *,
        k_scale: torch.Tensor | None = None,
        v_scale: torch.Tensor | None = None,
    ) -> None:
        """Write the step's keys and values, [tokens, KV heads, D], to their slots.

        Raises:
            BackendInputError: see `reshape_and_cache`.
        """
        key_cache, value_cache = self._caches(kv_cache)
        reshape_and_cache(
            key,
            value,
            key_cache,
            value_cache,
            batch.slot_mapping,
            self.layout,
            k_scale=k_scale,
            v_scale=v_scale,
        )

    def forward(
        self,
        query: torch.Tensor,
        kv_cache: torch.Tensor,
        batch: Batch,
        out: torch.Tensor,
        *,
        k_scale: torch.Tensor | None = None,
        v_scale: torch.Tensor | None = None,
        check: bool = False,
    ) -> torch.Tensor:
        """Compute attention of the batch over the cache, which already holds the new tokens.

        Args:
            query: [tokens or more, query heads, D], last dimension dense.
            kv_cache: as `cache_shape` says; dtype of the model, or fp8 (also as uint8).
            batch: the step's metadata.
            out: like query; rows of real tokens are written, further rows are left alone.
            k_scale, v_scale: float32 scalars on the device, when the cache is fp8.
            check: also check slots and block table, which reads the device.
        Returns: out.

        Raises:
            BackendInputError: shapes, dtypes or devices disagree; nothing is launched or written.
        """
        # Alike: layers of one kind, with tensors that lie the same. What holds for one holds for all.
        alike = (self._kind, *described(query), *described(kv_cache), *described(out))
        plans = batch.plans.get(alike)
        if plans is None:
            self._check_cache(kv_cache)
            self._check(query, kv_cache, batch, out)
            plans = batch.plans[alike] = {}
        if self.fp8:
            self._check_scale("k_scale", k_scale)
            self._check_scale("v_scale", v_scale)
        if check:
            batch.check(self._blocks(kv_cache), self.block_size)
        if batch.max_query_len == 0:
            return out
        if self.fp8 and kv_cache.dtype is torch.uint8:
            kv_cache = kv_cache.view(self.cache_dtype)
        key_cache, value_cache = self._halves(kv_cache)
        self._forward(Step(query, key_cache, value_cache, batch, out, k_scale, v_scale, plans))
        return out

    def _caches(self, kv_cache: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the key and value halves, in the cache's own dtype.

        Raises:
            BackendInputError: the cache has another shape or dtype.
        """
        self._check_cache(kv_cache)
        return self._halves(kv_cache.view(self.cache_dtype))

    def _check_cache(self, kv_cache: torch.Tensor) -> None:
        wanted = self.cache_shape(self._blocks(kv_cache)) if kv_cache.dim() == 5 else None
        if kv_cache.shape != wanted or kv_cache.stride(-1) != 1:
            shape = self.cache_shape(-1)
            raise BackendInputError(
                f"{self.name}: kv_cache has shape {tuple(kv_cache.shape)}, expected"
                f" {shape} (-1: any number of blocks) with a dense last dimension ({self.source})"
            )
        if kv_cache.dtype != self.cache_dtype and not (self.fp8 and kv_cache.dtype is torch.uint8):
            raise BackendInputError(
                f"{self.name}: kv_cache is {kv_cache.dtype}, expected {self.cache_dtype} for"
                f" kv_cache_dtype {self.request.kv_cache_dtype!r} ({self.source})"
            )

    def _check(
        self,
        query: torch.Tensor,
        kv_cache: torch.Tensor,
        batch: Batch,
        out: torch.Tensor,
    ) -> None:
        tokens = batch.slot_mapping.shape[0]
        for name, tensor in (("query", query), ("out", out)):
            rows, *row = tensor.shape or (0,)
            if row != self._row or rows < tokens or tensor.stride(-1) != 1:
                raise BackendInputError(
                    f"{self.name}: {name} has shape {tuple(tensor.shape)}, expected at least"
                    f" {(tokens, *self._row)} with a dense last dimension"
                    " (docs/reference/backends.md#inputs)"
                )
            if tensor.dtype != self.dtype:
                raise BackendInputError(
                    f"{self.name}: {name} is {tensor.dtype}, the layer's dtype is {self.dtype}"
                )
        for name, given in (("query", query), ("kv_cache", kv_cache), ("out", out)):
            self._check_device(name, given)
        self._check_block_table(batch)

    def _check_scale(self, name: str, scale: torch.Tensor | None) -> None:
        if scale is None:
            raise BackendInputError(
                f"{self.name}: {name} is missing; an fp8 cache needs both scales"
            )
        if scale.numel() != 1 or scale.dtype != torch.float32:
            raise BackendInputError(
                f"{self.name}: {name} is {scale.dtype} {tuple(scale.shape)}; it is one float32 for the"
                " whole cache (docs/reference/backends.md#inputs)"
            )
        self._check_device(name, scale)
