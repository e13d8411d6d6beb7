"""TRITON_MLA: multi-head latent attention.

Contract: docs/reference/backends.md#mla and #triton-mla.

Decode attends over the latent cache itself: 576 columns of key, of which the first 512 are the
value, loaded once. Prefill attends over materialised keys (192) and values (128).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from pytest_rocm_attn.backends.launch_config import Shape, choose_segments, choose_tile
from pytest_rocm_attn.backends.launch_target import target_of
from pytest_rocm_attn.backends.mla_layer import NOPE, RANK, ROPE, VALUE, MlaLayer
from pytest_rocm_attn.backends.plans import kind_of
from pytest_rocm_attn.errors import BackendInputError

if TYPE_CHECKING:
    from pytest_rocm_attn.backends.batch import Batch
    from pytest_rocm_attn.backends.kernels.attention import AttentionPlan
    from pytest_rocm_attn.request import Request


class TritonMLA(MlaLayer):
    """One MLA layer on TRITON_MLA.

    Args:
        request: what the layer needs; request.num_heads is 16 to 128.
        device: where it runs.
        scale: factor of the dot product.
        batch_invariant: never split keys.

    Raises:
        BackendLimitError: the backend does not do what the request asks.
    """

    name = "TRITON_MLA"
    source = "docs/reference/backends.md#triton-mla"

    def __init__(
        self,
        request: Request,
        device: torch.device,
        *,
        scale: float,
        batch_invariant: bool = False,
    ) -> None:
        super().__init__(request, device, scale=scale)
        self.batch_invariant = batch_invariant
        self.target = target_of(self.device)
        element = self.dtype.itemsize
        decode = Shape(request.num_heads, RANK, ROPE, element, element, shared=True)
        self.decode_tile = choose_tile("latent", decode, self.target)
        self.prefill_tile = choose_tile(
            "prefill", Shape(128, VALUE, NOPE + ROPE - VALUE, element, element), self.target
        )
        self._kind = kind_of(self.name, request, self.device, scale, self.target, batch_invariant)

    @classmethod
    def _refusals(cls, request: Request) -> tuple[tuple[bool, str], ...]:
        block_size, heads = request.block_size or 16, request.num_heads
        return (
            (request.dtype == "float32", "dtype float32: it must be float16 or bfloat16"),
            (block_size % 16 != 0, f"block size {block_size}: it must be a multiple of 16"),
            (not 16 <= heads <= 128, f"{heads} heads: it must be 16 to 128"),
            *super()._refusals(request),
        )

    def _decode(
        self,
        query: torch.Tensor,
        cache: torch.Tensor,
        batch: Batch,
        out: torch.Tensor,
        plans: dict[Any, Any],
    ) -> None:
        plan = plans.get("decode")
        if plan is None:
            plan = plans["decode"] = self._plan_decode(query, cache, batch, out)
        plan(
            query,
            cache,
            None,
            out,
            query_start_loc=batch.query_start_loc,
            seq_lens=batch.seq_lens,
            pages=batch.block_table,
        )

    def _plan_decode(
        self, query: torch.Tensor, cache: torch.Tensor, batch: Batch, out: torch.Tensor
    ) -> AttentionPlan:
        from pytest_rocm_attn.backends.kernels.attention import plan_attention

        tile, requests = self.decode_tile, batch.seq_lens.shape[0]
        return plan_attention(
            query,
            cache.unsqueeze(2),
            None,
            out,
            requests=requests,
            pages=batch.block_table,
            page_size=self.block_size,
            min_query_len=1,
            max_query_len=1,
            scale=self.scale,
            tile=tile,
            segments=1
            if self.batch_invariant
            else choose_segments(
                requests * -(-self.request.num_heads // tile.block_m),
                -(-batch.max_seq_len // tile.block_n),
                self.target.processors,
                tile,
            ),
        )

    def prefill(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        out: torch.Tensor,
        *,
        query_start_loc: torch.Tensor,
        key_start_loc: torch.Tensor,
        max_query_len: int,
        causal: bool = True,
        lse: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Attention over materialised keys and values of a ragged batch.

        Args:
            query: [query tokens, heads, 192], last dimension dense, as all others.
            key: [key tokens, heads, 192].
            value: [key tokens, heads, 128].
            out: [query tokens, heads, 128].
            query_start_loc, key_start_loc: [requests + 1] int32, prefix sums.
            max_query_len: the longest query.
            causal: bottom-right aligned; False for a chunk of cached context.
            lse: [heads, query tokens] float32, receives the natural log-sum-exp for merging.
        Returns: out.

        Raises:
            BackendInputError: shapes, dtypes or devices disagree; nothing is launched or written.
        """
        heads, tokens = self.request.num_heads, query.shape[0]
        self._check_prefill(query, key, value, out, query_start_loc, key_start_loc)
        if lse is not None and (
            lse.shape != (heads, tokens)
            or lse.dtype != torch.float32
            or lse.device != self.device
            or lse.stride(1) != 1
        ):
            raise BackendInputError(
                f"TRITON_MLA: lse is {lse.dtype} {tuple(lse.shape)} on {lse.device}, expected float32"
                f" {(heads, tokens)} on {self.device}, last dimension dense"
                " (docs/reference/backends.md#inputs)"
            )
        if tokens == 0:
            return out
        from pytest_rocm_attn.backends.kernels.attention import plan_attention

        plan = plan_attention(
            query,
            key,
            value,
            out,
            requests=key_start_loc.shape[0] - 1,
            pages=key_start_loc,
            page_size=0,
            min_query_len=1,
            max_query_len=max_query_len,
            scale=self.scale,
            tile=self.prefill_tile,
            causal=causal,
            lse=lse,
        )
        plan(
            query,
            key,
            value,
            out,
            query_start_loc=query_start_loc,
            seq_lens=key_start_loc[1:] - key_start_loc[:-1],
            pages=key_start_loc,
            lse=lse,
        )
        return out
