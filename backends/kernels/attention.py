"""Attention over a paged or contiguous KV cache: prefill, chunked prefill, decode, mixed, and MLA.

One kernel. A program owns BLOCK_M rows, (query token, query head) pairs that share one KV head, and a
segment of their keys; it walks the keys in tiles of BLOCK_N with an online softmax. With several segments
the partial results are merged by a second kernel. Semantics: docs/reference/backends.md#inputs and #mla;
mathematics: docs/attention-mathematics.md.

NaN and infinities mean what they do in IEEE arithmetic over the keys that a token sees. A key that some
rows of a program see and others do not has weight 0 in the product with the values, and 0 * NaN is NaN:
a program to which that may have happened leaves a note, and the launch that follows computes its rows once more,
key by key (`repairs.py`): that which merges the segments, or one of its own. The code of the attention kernel
itself would cost registers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pytest_rocm_attn.backends.kernels.attend import _attention_kernel
from pytest_rocm_attn.backends.kernels.formats import NO_FP8
from pytest_rocm_attn.backends.kernels.launcher import Launch, Launcher
from pytest_rocm_attn.backends.kernels.repairs import _repair_and_merge_kernel, _repair_kernel
from pytest_rocm_attn.backends.kernels.results import _merge_segments_kernel
from pytest_rocm_attn.backends.launch_config import padded
from pytest_rocm_attn.backends.launch_tiles import Tile

MERGE_ELEMENTS = 4096  # of all segments' partial results, in one program: 32 registers a lane
MERGE_WARPS = 4
REPAIR_ELEMENTS = (
    4096  # of a program's results, that a repair computes at a time: 8 registers a lane of wave64
)
REPAIR_WARPS = 8


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """The launches that compute the requests of some query lengths. Made by `plan_attention`.

    Args:
        attend: the attention kernel.
        programs: of the attention kernel.
        repair: computes again what it noted; None if no two rows of a program see different keys, or if
            `merge` does so.
        merge: merges the segments; None when the keys are not split.
        partial_size: float32 elements of the segments' partial results.
        repairs: whether `merge` computes again what was noted.
    """

    attend: Launch
    programs: int
    repair: Launch | None = None
    merge: Launch | None = None
    partial_size: int = 0
    repairs: bool = False

    def __call__(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor | None,
        out: torch.Tensor,
        *,
        query_start_loc: torch.Tensor,
        seq_lens: torch.Tensor,
        pages: torch.Tensor,
        lse: torch.Tensor | None = None,
        alibi_slopes: torch.Tensor | None = None,
        sinks: torch.Tensor | None = None,
        k_scale: torch.Tensor | None = None,
        v_scale: torch.Tensor | None = None,
    ) -> None:
        """Write `out` from tensors that lie as those did that the plan was made for.

        Args:
            query, key, value, out, pages: see `plan_attention`.
            query_start_loc: [requests + 1] int32.
            seq_lens: [requests] int32, keys of each request.
            lse: [query heads, tokens] float32, receives the natural log-sum-exp; only with 1 segment.
            alibi_slopes, sinks: [query heads], or None.
            k_scale, v_scale: float32 scalars, read on the device; only when fp8.
        """
        # Allocated at each call: the caching allocator keeps streams and graphs apart.
        broken = partial = None
        if self.repair is not None:
            broken = torch.empty(self.programs, dtype=torch.int32, device=out.device)
        if self.merge is not None:
            partial = torch.empty(self.partial_size, dtype=torch.float32, device=out.device)
        value = key if value is None else value
        batch = (pages, query_start_loc, seq_lens, alibi_slopes, sinks, k_scale, v_scale)
        self.attend(query, key, value, out, lse, partial, broken, *batch)
        if self.repair is not None:
            self.repair(query, key, value, out, lse, broken, *batch)
        if self.merge is not None and self.repairs:
            self.merge(query, key, value, out, partial, *batch)
        elif self.merge is not None:
            self.merge(partial, out, query_start_loc)


def plan_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor | None,
    out: torch.Tensor,
    *,
    requests: int,
    pages: torch.Tensor,
    page_size: int,
    min_query_len: int,
    max_query_len: int,
    scale: float,
    tile: Tile,
    segments: int = 1,
    causal: bool = True,
    window: int | None = None,
    soft_cap: float | None = None,
    fp8: int = NO_FP8,
    lse: torch.Tensor | None = None,
    tokens: int | None = None,
) -> AttentionPlan:
    """Prepare to compute the requests whose query length lies in [min_query_len, max_query_len].

    Nothing is checked here: the backends do that. Rows of other requests are left alone. The plan
    depends on how the tensors lie, not on what they hold.

    Args:
        query: [tokens, query heads, D], last dimension dense.
        key: paged [blocks, page size, KV heads, D], else [key tokens, KV heads, D]; last dimension
            dense; uint8 when fp8. Or paged in the split layout, [blocks, KV heads, D / x, page
            size, x], dense except the first two dimensions.
        value: likewise with Dv columns (split: [blocks, KV heads, Dv, page size]), or None: the
            first Dv columns of `key`.
        out: [tokens, query heads, Dv], dtype of the query, last dimension dense.
        requests: how many.
        pages: paged: block table [requests, blocks] int32; else [requests] int32, the first key
            row of each request.
        page_size: tokens per block; 0 when the keys are contiguous.
        scale: factor of the dot product, positive.
        tile: block sizes and compiler options.
        segments: parts that each request's keys are split into, for requests of one block of rows.
        window, soft_cap: None when absent.
        fp8: NO_FP8, E4M3FN or E4M3FNUZ.
        lse: [query heads, tokens] float32, or None when it is not wanted.
        tokens: rows of the query that belong to a request, from the start; all by default.
    """
    _, heads, key_size = query.shape
    value_size = out.shape[2]
    key_strides = key.stride()
    value_strides = key_strides if value is None else value.stride()
    kv_heads, x = key.shape[-2], 0
    if key.dim() == 5:
        kv_heads, x = key.shape[1], key.shape[4]
        key_strides = (key_strides[0], x, key_strides[1])
        value_strides = (value_strides[0], 1, value_strides[1])
    elif not page_size:
        key_strides, value_strides = (0, *key_strides), (0, *value_strides)
    query_strides, out_strides = query.stride(), out.stride()
    group = heads // kv_heads
    rows_heads = min(group, tile.block_m)
    block_q = tile.block_m // rows_heads
    one_block = max_query_len <= block_q
    tokens = query.shape[0] if tokens is None else tokens
    blocks = requests if one_block else tokens // block_q + requests
    block_d = padded(value_size)
    # A row for each token of the batch, or for as many of each request as this plan serves.
    partial_rows = min(tokens, requests * max_query_len)
    programs = kv_heads * -(-group // rows_heads) * blocks
    differ = min(max_query_len, block_q) > 1 and (causal or window is not None)

    lengths = (requests, min_query_len, max_query_len)
    stride_lse = 0 if lse is None else lse.stride(0)
    scalars = (
        float(scale), None if soft_cap is None else float(soft_cap), window, query_strides[0],
        query_strides[1], *key_strides[:3], *value_strides[:3], out_strides[0], out_strides[1],
    )  # fmt: skip
    tail = key_size - value_size
    attend = _attention.prepare(
        (programs, segments, 1),
        (*lengths, partial_rows, pages.stride(0), stride_lse),
        scalars,
        (
            kv_heads, group, rows_heads, value_size, tail, page_size, x, causal, fp8, value is None,
            one_block, segments > 1, differ, tile.loops, tile.pages_ahead, tile.block_m, tile.block_n,
            block_d,
        ),
        tile.num_warps,
        tile.num_stages,
        {"waves_per_eu": tile.waves_per_eu} if tile.waves_per_eu else None,
    )  # fmt: skip
    shape = (group, rows_heads, value_size, page_size, x or key_size)
    forms = (tail, page_size > 0, causal, fp8)
    if segments == 1:
        if not differ:
            return AttentionPlan(attend, programs)
        repair = _repair.prepare(
            (programs, 1, 1),
            (*lengths, pages.stride(0), stride_lse, kv_heads, *shape, int(one_block), tile.block_m),
            scalars,
            (*forms, max(1, REPAIR_ELEMENTS // block_d), block_d),
            REPAIR_WARPS,
            1,
        )
        return AttentionPlan(attend, programs, repair)
    block_s = padded(segments)
    block_c = min(block_d, max(16, MERGE_ELEMENTS // block_s))
    grid = (requests * max_query_len, heads, block_d // block_c)
    if differ:
        merge = _repair_and_merge.prepare(
            grid,
            (*lengths, partial_rows, pages.stride(0), segments, *shape, tile.block_m, tile.block_n),
            scalars,
            (*forms, block_c, block_s, block_d),
            MERGE_WARPS,
            1,
        )
    else:
        merge = _merge.prepare(
            grid,
            (*lengths, segments, partial_rows),
            (out_strides[0], out_strides[1]),
            (value_size, block_c, block_s),
            MERGE_WARPS,
            1,
        )
    partial_size = partial_rows * heads * segments * (value_size + 1)
    return AttentionPlan(attend, programs * segments, None, merge, partial_size, differ)


_attention = Launcher(_attention_kernel)
_repair = Launcher(_repair_kernel)
_merge = Launcher(_merge_segments_kernel)
_repair_and_merge = Launcher(_repair_and_merge_kernel)
