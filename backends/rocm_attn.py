"""ROCM_ATTN: chunked prefill in Triton, paged decode in HIP, over a cache in the split layout.

Contract: docs/reference/backends.md#rocm-attn. Unlike vLLM 0.12.0's, the soft cap is honoured, a
window of W keeps W keys, and the HIP decode serves RDNA within the same limits as CDNA. Beyond
the HIP kernel's limits, decodes take the Triton kernel, and `decode_refusal` says why.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from pytest_rocm_attn.backends.cache import SPLIT, cache_shape
from pytest_rocm_attn.backends.hip.arguments import MOST_HEADS, PARTITION
from pytest_rocm_attn.backends.hip.matrix_layout import SHAPES
from pytest_rocm_attn.backends.triton_attn import TritonAttention
from pytest_rocm_attn.errors import BackendInputError, HipBuildError

if TYPE_CHECKING:
    from pytest_rocm_attn.backends.hip.build import Library
    from pytest_rocm_attn.backends.launch_tiles import Tile
    from pytest_rocm_attn.backends.paged_layer import Step
    from pytest_rocm_attn.flags import Flags
    from pytest_rocm_attn.request import Request

LOGGER = logging.getLogger(__name__)
SOURCE = "docs/reference/backends.md#rocm-attn"
HEAD_SIZES = (32, 64, 80, 96, 128, 160, 192, 224, 256)
HIP_HEAD_SIZES, HIP_BLOCK_SIZES, HIP_MOST_TOKENS = (64, 128), (16, 32), 131072
# Keys of a prefill tile over the split layout, whose addresses take registers: with 64, as TRITON_ATTN has
# over its own, windows, soft cap, ALiBi and float32 spill on gfx942 and gfx950 (launch tier).
CDNA_PREFILL_KEYS = 32
MATRIX_TARGETS = frozenset(target for shape in SHAPES for target in shape.targets)


def decode_refusal(request: Request, target: str, max_seq_len: int, flags: Flags | None) -> str:
    """Return why the HIP kernel does not serve a layer's decodes, or "" when it does.

    Args:
        request: what the layer needs.
        target: gfx name of the GPU, or "" for one that is not AMD's.
        max_seq_len: tokens of the longest request.
        flags: the environment; None if it has no say.
    """
    group = request.num_heads // request.num_kv_heads
    aiter_paged = (
        flags is not None
        and flags["VLLM_ROCM_USE_AITER"]
        and flags["VLLM_ROCM_USE_AITER_PAGED_ATTN"]
    )
    reasons = (
        (target not in MATRIX_TARGETS, f"GPU {target or 'not of AMD'}: no matrix kernel for it"),
        (request.sliding_window is not None, "a sliding window"),
        (request.logits_soft_cap is not None, "a logits soft cap"),
        (request.has_sink, "sinks"),
        (request.dtype not in ("float16", "bfloat16"), f"dtype {request.dtype}"),
        (request.head_size not in HIP_HEAD_SIZES, f"head size {request.head_size}: 64 or 128"),
        (
            (request.block_size or 16) not in HIP_BLOCK_SIZES,
            f"block size {request.block_size}: 16 or 32",
        ),
        (group > MOST_HEADS, f"{group} query heads to a KV head: at most {MOST_HEADS}"),
        (max_seq_len > HIP_MOST_TOKENS, f"{max_seq_len} tokens: at most {HIP_MOST_TOKENS}"),
        (
            flags is not None and not flags["VLLM_ROCM_CUSTOM_PAGED_ATTN"],
            "VLLM_ROCM_CUSTOM_PAGED_ATTN is off",
        ),
        (aiter_paged, "VLLM_ROCM_USE_AITER and VLLM_ROCM_USE_AITER_PAGED_ATTN are both on"),
    )
    return next((reason for holds, reason in reasons if holds), "")


class RocmAttention(TritonAttention):
    """One attention layer on ROCM_ATTN.

    Args:
        request, device, scale, alibi_slopes, sinks, fp8_dtype, batch_invariant: as TritonAttention.
        flags: the environment's switches, as far as they choose the decode kernel.
        library: the HIP kernels; None builds them at the first decode that they can serve.
        plain: use the HIP source's plain kernel, on any GPU: for tests, and to compare with.

    Raises:
        BackendLimitError: the backend does not do what the request asks.
        BackendInputError: slopes or sinks do not match the request.
    """

    name = "ROCM_ATTN"
    source = SOURCE
    layout = SPLIT

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
        flags: Flags | None = None,
        library: Library | None = None,
        plain: bool = False,
    ) -> None:
        super().__init__(
            request,
            device,
            scale=scale,
            alibi_slopes=alibi_slopes,
            sinks=sinks,
            fp8_dtype=fp8_dtype,
            batch_invariant=batch_invariant,
        )
        self._flags = flags
        self._library = library
        self._plain = plain
        self._told: set[str] = set()

    def _fitted(self, tile: Tile) -> Tile:
        if self.target.family == "CDNA" and tile.loops:  # a prefill's
            return replace(tile, block_n=min(tile.block_n, CDNA_PREFILL_KEYS))
        return tile

    @classmethod
    def _refusals(cls, request: Request) -> tuple[tuple[bool, str], ...]:
        size = request.head_size
        return (
            *super()._refusals(request),
            (size not in HEAD_SIZES, f"head size {size}: it must be one of {HEAD_SIZES}"),
            (
                request.kv_cache_dtype == "fp8_e5m2",
                "kv_cache_dtype 'fp8_e5m2': its HIP kernel reads e4m3",
            ),
        )

    def cache_shape(self, blocks: int) -> tuple[int, int, int, int, int]:
        """Return the shape of the KV cache: (2, blocks, block size, KV heads, head size).

        That is how it is allocated; the bytes of each half are used in the split layout.
        """
        request = self.request
        return 2, blocks, self.block_size, request.num_kv_heads, request.head_size

    def decode_refusal(self, max_seq_len: int, query: torch.Tensor, out: torch.Tensor) -> str:
        """Return why a step's decodes take the Triton kernel, or "" for the HIP kernel."""
        target = self.target.name if self.target.name.startswith("gfx") else ""
        if self._plain:  # it runs on any GPU; the other limits are the source's own
            target = next(iter(MATRIX_TARGETS))
        reason = decode_refusal(self.request, target, max_seq_len, self._flags)
        size = self.request.head_size
        others = (
            # It would by the longest request of the batch take one kernel or the other.
            (self.batch_invariant, "batch_invariant: one kernel for any length"),
            (self.device.type == "cpu" and self._library is None, "the CPU has no HIP kernels"),
            ((query.stride(-2), out.stride(-2)) != (size, size), "heads that lie apart"),
            (
                query.stride(0) % 8 != 0 or query.data_ptr() % 16 != 0,
                "query rows that are not aligned to 16 bytes",
            ),
        )
        return reason or next((words for holds, words in others if holds), "")

    def _blocks(self, kv_cache: torch.Tensor) -> int:
        return kv_cache.shape[1]

    def _halves(self, kv_cache: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if not (kv_cache[0].is_contiguous() and kv_cache[1].is_contiguous()):
            raise BackendInputError(
                f"ROCM_ATTN: kv_cache has strides {kv_cache.stride()}; each half must be contiguous,"
                f" as its bytes are used in the split layout ({SOURCE})"
            )
        _, blocks, block_size, heads, size = kv_cache.shape
        x = 16 // kv_cache.element_size()
        return (
            kv_cache[0].view(cache_shape(SPLIT.key, blocks, block_size, heads, size, x)),
            kv_cache[1].view(cache_shape(SPLIT.value, blocks, block_size, heads, size, x)),
        )

    def _decode(self, step: Step) -> bool:
        query, out, batch = step.query, step.out, step.batch
        reason = self.decode_refusal(batch.max_seq_len, query, out)
        library = None if reason else self._kernels()
        if library is None:
            self._tell(reason)
            return False
        library.decode(
            query=query,
            key_cache=step.key_cache,
            value_cache=step.value_cache,
            out=out,
            block_table=batch.block_table,
            seq_lens=batch.seq_lens,
            query_start_loc=batch.query_start_loc,
            partitions=max(1, -(-batch.max_seq_len // PARTITION)),
            scale=self.scale,
            alibi_slopes=self.alibi_slopes,
            k_scale=step.k_scale if self.fp8 else None,
            v_scale=step.v_scale if self.fp8 else None,
            fp8_bias=self.fp8,
            plain=self._plain,
        )
        return True

    def _kernels(self) -> Library | None:
        if self._library is None:
            from pytest_rocm_attn.backends.hip.build import library

            try:
                self._library = library(self.device)
            except HipBuildError as error:
                self._tell(str(error))
        return self._library

    def _tell(self, reason: str) -> None:
        """Say, once for each reason, that decodes take the Triton kernel."""
        if reason and reason not in self._told:
            self._told.add(reason)
            LOGGER.info("ROCM_ATTN: decodes take the Triton kernel: %s (%s)", reason, SOURCE)
