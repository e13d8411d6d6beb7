"""Our backends as the numerics tier asks them: problems in the tier's terms, solved by the layers.

The tier finds these classes by name and knows nothing else of this package but the oracle.
NotImplementedError is the tier's word for "does not claim this"; the layers' own refusals become it.
"""

from __future__ import annotations

from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch

from pytest_rocm_attn.backends.batch import Batch
from pytest_rocm_attn.backends.flex_attention import FlexAttention
from pytest_rocm_attn.backends.hip.build import library
from pytest_rocm_attn.backends.kernels.repairs import attend_by_key
from pytest_rocm_attn.backends.rocm_aiter_fa import RocmAiterFlashAttention
from pytest_rocm_attn.backends.rocm_aiter_mla import RocmAiterMLA
from pytest_rocm_attn.backends.rocm_aiter_unified_attn import RocmAiterUnifiedAttention
from pytest_rocm_attn.backends.rocm_attn import RocmAttention
from pytest_rocm_attn.backends.triton_attn import TritonAttention
from pytest_rocm_attn.backends.triton_mla import TritonMLA
from pytest_rocm_attn.errors import AiterError, BackendLimitError
from pytest_rocm_attn.flags import Flags

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_rocm_attn.backends.paged_layer import PagedLayer
    from pytest_rocm_attn.problem import MlaDecode, MlaPrefill, PagedAttention


class _OverPagedCache:
    """A backend over a paged cache of keys and values, by its layer.

    Attributes:
        name: as reports call it.
        layer: what solves a problem.
        options: what the layer is made with besides what the problem gives.
        graphs: it may be captured as a CUDA or HIP graph.
        checked: it looks at slots and block table, which reads the device.
        batch_invariant: it promises that a request's result does not depend on the others.
        rounds_cache: it rounds a dequantised fp8 cache to the model's dtype.
        repairs: the Triton function that runs only if a number is not finite.
    """

    name: str
    layer: type[PagedLayer]
    options: Mapping[str, Any] = MappingProxyType({})
    graphs = False
    checked = True
    batch_invariant = False
    rounds_cache = True
    repairs: Any = None

    def attend(self, problem: PagedAttention) -> None:
        """Solve a problem of paged attention."""
        fp8 = problem.key_cache.dtype.itemsize == 1
        with _refusals():
            layer = self.layer(
                problem.request,
                problem.query.device,
                scale=problem.scale,
                alibi_slopes=problem.alibi_slopes,
                sinks=problem.sinks,
                fp8_dtype=problem.key_cache.dtype if fp8 else None,
                batch_invariant=self.batch_invariant,
                **self.options,
            )
            self._insist(layer, problem)
            layer.forward(
                problem.query,
                self._cache(layer, problem),
                _batch(problem),
                problem.out,
                k_scale=problem.k_scale if fp8 else None,
                v_scale=problem.v_scale if fp8 else None,
                check=self.checked and _readable(problem.query),
            )

    def _insist(self, layer: PagedLayer, problem: PagedAttention) -> None:
        """Decline a problem that does not reach what this backend is there to test."""

    def _cache(self, layer: PagedLayer, problem: PagedAttention) -> torch.Tensor:
        """Return the problem's cache as the layer keeps it."""
        return torch.stack([problem.key_cache, problem.value_cache])


class TritonAttn(_OverPagedCache):
    """TRITON_ATTN."""

    name = "TRITON_ATTN"
    repairs = attend_by_key
    layer = TritonAttention
    graphs = True
    rounds_cache = False  # the scales stay in float32

    def _cache(self, layer: PagedLayer, problem: PagedAttention) -> torch.Tensor:
        return problem.kv_cache


class TritonAttnInvariant(TritonAttn):
    """TRITON_ATTN with its promise that a request's result does not depend on the others."""

    name = "TRITON_ATTN-batch-invariant"
    batch_invariant = True


class RocmAttn(_OverPagedCache):
    """ROCM_ATTN, which decodes by its HIP kernel on GPUs that have one and by Triton elsewhere."""

    name = "ROCM_ATTN"
    repairs = attend_by_key
    layer = RocmAttention
    graphs = True
    rounds_cache = False

    def _cache(self, layer: PagedLayer, problem: PagedAttention) -> torch.Tensor:
        return _in_split_layout(layer, problem)


class RocmAttnHip(RocmAttn):
    """ROCM_ATTN with its HIP decode or not at all: cases that it does not reach are declined.

    If the kernel cannot be built, the compiler's error is the outcome.
    """

    name = "ROCM_ATTN-hip"

    def _insist(self, layer: PagedLayer, problem: PagedAttention) -> None:
        self.reach(layer, problem)
        library(layer.device)  # HipBuildError where the layer would fall back to Triton

    def reach(self, layer: PagedLayer, problem: PagedAttention) -> None:
        """Decline a problem of which the HIP kernel decodes nothing."""
        assert isinstance(layer, RocmAttention)
        reason = layer.decode_refusal(problem.max_seq_len, problem.query, problem.out)
        if not reason and 1 not in problem.query_lens:
            reason = "no request decodes"
        if reason:
            raise BackendLimitError(f"ROCM_ATTN's HIP decode is not reached: {reason}")


class RocmAttnPlainHip(RocmAttnHip):
    """ROCM_ATTN with the HIP source's plain kernel, which runs on NVIDIA's GPUs too."""

    name = "ROCM_ATTN-plain-hip"
    options: Mapping[str, Any] = MappingProxyType({"plain": True})


class RocmAttnTriton(RocmAttn):
    """ROCM_ATTN with the HIP kernel switched off: its decodes take Triton's as well."""

    name = "ROCM_ATTN-triton"
    options: Mapping[str, Any] = MappingProxyType(
        {"flags": Flags({"VLLM_ROCM_CUSTOM_PAGED_ATTN": "0"})}
    )


class FlexAttn(_OverPagedCache):
    """FLEX_ATTENTION."""

    name = "FLEX_ATTENTION"
    layer = FlexAttention


class RocmAiterUnifiedAttn(_OverPagedCache):
    """ROCM_AITER_UNIFIED_ATTN."""

    name = "ROCM_AITER_UNIFIED_ATTN"
    imports_aiter = True
    reads_unused_slots = True  # where a tile is a block, aiter's kernel loads all of it (0.1.7)
    layer = RocmAiterUnifiedAttention
    graphs = True


class RocmAiterFa(_OverPagedCache):
    """ROCM_AITER_FA."""

    name = "ROCM_AITER_FA"  # which routes by lengths that it reads from the device
    imports_aiter = needs_gpu = True
    layer = RocmAiterFlashAttention


class TritonMla:
    """TRITON_MLA."""

    name = "TRITON_MLA"
    repairs = attend_by_key
    graphs = True
    checked = True
    batch_invariant = False

    def _layer(self, problem: MlaDecode | MlaPrefill) -> TritonMLA:
        return TritonMLA(
            problem.request,
            problem.query.device,
            scale=problem.scale,
            batch_invariant=self.batch_invariant,
        )

    def mla_decode(self, problem: MlaDecode) -> None:
        """Solve a problem of absorbed decode."""
        with _refusals():
            layer = self._layer(problem)
            layer.decode(
                problem.query,
                problem.latent_cache,
                _decodes(problem),
                problem.out,
                check=self.checked and _readable(problem.query),
            )

    def mla_prefill(self, problem: MlaPrefill) -> None:
        """Solve a problem of materialised prefill."""
        with _refusals():
            self._layer(problem).prefill(
                problem.query,
                problem.key,
                problem.value,
                problem.out,
                query_start_loc=problem.query_start_loc,
                key_start_loc=problem.key_start_loc,
                max_query_len=problem.max_query_len,
                causal=problem.causal,
                lse=problem.lse,
            )


class RocmAiterMla:
    """ROCM_AITER_MLA. Its prefill gives no log-sum-exp, so those cases are not put to it."""

    name = "ROCM_AITER_MLA"
    imports_aiter = needs_gpu = True
    graphs = False  # lists its pages by lengths that it reads from the device
    checked = True
    batch_invariant = False

    def mla_decode(self, problem: MlaDecode) -> None:
        """Solve a problem of absorbed decode."""
        with _refusals():
            layer = RocmAiterMLA(problem.request, problem.query.device, scale=problem.scale)
            out = torch.empty_like(problem.out, memory_format=torch.contiguous_format)
            layer.decode(
                problem.query.contiguous(),
                problem.latent_cache.contiguous(),
                _decodes(problem),
                out,
                check=self.checked and _readable(problem.query),
            )
            problem.out.copy_(out)


class TritonMlaInvariant(TritonMla):
    """TRITON_MLA with its promise that a request's result does not depend on the others."""

    name = "TRITON_MLA-batch-invariant"
    batch_invariant = True


def _readable(tensor: torch.Tensor) -> bool:
    """Whether there is memory to check: a dry launch may come without."""
    return tensor.device.type != "meta"


def _batch(problem: PagedAttention) -> Batch:
    tokens = problem.query.shape[0]
    return Batch(
        query_start_loc=problem.query_start_loc,
        seq_lens=problem.seq_lens,
        block_table=problem.block_table,
        slot_mapping=torch.full((tokens,), -1, device=problem.query.device),
        min_query_len=min((length for length in problem.query_lens if length), default=0),
        max_query_len=problem.max_query_len,
        max_seq_len=problem.max_seq_len,
        causal=problem.causal,
        query_lens=problem.query_lens,
    )


def _decodes(problem: MlaDecode) -> Batch:
    device, requests = problem.query.device, problem.query.shape[0]
    return Batch(
        query_start_loc=torch.arange(requests + 1, dtype=torch.int32, device=device),
        seq_lens=problem.seq_lens,
        block_table=problem.block_table,
        slot_mapping=torch.full((requests,), -1, device=device),
        min_query_len=1,
        max_query_len=1,
        max_seq_len=problem.max_seq_len,
    )


def _in_split_layout(layer: PagedLayer, problem: PagedAttention) -> torch.Tensor:
    """Return the problem's cache as ROCM_ATTN keeps it: (2, blocks, block size, KV heads, D)."""
    blocks, block_size, heads, size = problem.key_cache.shape
    cache = problem.key_cache.new_empty(layer.cache_shape(blocks))
    x = 16 // cache.element_size()
    key = problem.key_cache.reshape(blocks, block_size, heads, size // x, x)
    cache[0].view(blocks, heads, size // x, block_size, x).copy_(key.permute(0, 2, 3, 1, 4))
    cache[1].view(blocks, heads, size, block_size).copy_(problem.value_cache.permute(0, 2, 3, 1))
    return cache


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except (BackendLimitError, AiterError) as error:
        raise NotImplementedError(str(error)) from None
