"""Our backends as the numerics tier asks them: problems in the tier's terms, solved by the layers.

The tier finds these classes by name and knows nothing else of this package but the oracle.
NotImplementedError is the tier's word for "does not claim this"; the layers' own refusals become it.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from pytest_rocm_attn.backends.batch import Batch
from pytest_rocm_attn.backends.triton_attn import TritonAttention
from pytest_rocm_attn.backends.triton_mla import TritonMLA
from pytest_rocm_attn.errors import BackendLimitError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_rocm_attn.problem import MlaDecode, MlaPrefill, PagedAttention


class TritonAttn:
    """TRITON_ATTN."""

    name = "TRITON_ATTN"
    batch_invariant = False
    rounds_cache = False  # the scales stay in float32

    def attend(self, problem: PagedAttention) -> None:
        """Solve a problem of paged attention."""
        fp8 = problem.key_cache.dtype.itemsize == 1
        with _refusals():
            layer = TritonAttention(
                problem.request,
                problem.query.device,
                scale=problem.scale,
                alibi_slopes=problem.alibi_slopes,
                sinks=problem.sinks,
                fp8_dtype=problem.key_cache.dtype if fp8 else None,
                batch_invariant=self.batch_invariant,
            )
            layer.forward(
                problem.query,
                problem.kv_cache,
                _batch(problem),
                problem.out,
                k_scale=problem.k_scale if fp8 else None,
                v_scale=problem.v_scale if fp8 else None,
                check=True,
            )


class TritonAttnInvariant(TritonAttn):
    """TRITON_ATTN with its promise that a request's result does not depend on the others."""

    name = "TRITON_ATTN-batch-invariant"
    batch_invariant = True


class TritonMla:
    """TRITON_MLA."""

    name = "TRITON_MLA"
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
        device, requests = problem.query.device, problem.query.shape[0]
        batch = Batch(
            query_start_loc=torch.arange(requests + 1, dtype=torch.int32, device=device),
            seq_lens=problem.seq_lens,
            block_table=problem.block_table,
            slot_mapping=torch.full((requests,), -1, device=device),
            min_query_len=1,
            max_query_len=1,
            max_seq_len=problem.max_seq_len,
        )
        with _refusals():
            layer = self._layer(problem)
            layer.decode(problem.query, problem.latent_cache, batch, problem.out, check=True)

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


class TritonMlaInvariant(TritonMla):
    """TRITON_MLA with its promise that a request's result does not depend on the others."""

    name = "TRITON_MLA-batch-invariant"
    batch_invariant = True


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
    )


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except BackendLimitError as error:
        raise NotImplementedError(str(error)) from None
