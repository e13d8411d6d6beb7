"""FLEX_ATTENTION: torch's flex_attention over the paged cache, the requests' keys as one sequence.

Contract: docs/reference/backends.md#flex-attention. Compiled on a GPU; on the CPU torch's own
unfused form runs. Sinks, which vLLM 0.12.0's constructor ignores without a word, are refused.

The keys of each request are gathered by its block table, padded to the longest request, and laid end to end. A
query sees a key of its own request that causality and window let it see. Padding is cleared on the way: cache
slots that hold no token may hold NaN, and torch multiplies masked values by 0, which does not remove a NaN. Values
of tokens that are not finite are therefore left out too, and added for the queries that see them.
"""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from pytest_rocm_attn.backends.launch_target import INTERPRETER, target_of
from pytest_rocm_attn.backends.paged_layer import Step
from pytest_rocm_attn.backends.rocm_aiter_unified_attn import SplitHalves

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_rocm_attn.backends.batch import Batch
    from pytest_rocm_attn.backends.launch_target import Target
    from pytest_rocm_attn.request import Request


# Of torch's two kernels the one for all lengths. For its decode kernel, which short queries would take,
# torch 2.11 finds no configuration at some dynamic shapes, and raises (seen on an H100).
KERNEL_OPTIONS: Any = {"FORCE_USE_FLEX_ATTENTION": True}


@dataclass(frozen=True, slots=True)
class _Layout:
    """A step's keys laid end to end, each request padded to `length`; for all layers of a kind.

    Args:
        token: [tokens], their numbers.
        real: [tokens] bool: of a request, and not padding of the batch.
        blocks: [requests, blocks] of the cache; 0 if a request has none.
        held: [requests, length] bool: there is a token.
        sees: of batch, head, token and key: whether the token sees the key.
        mask: the same as torch's.
    """

    token: torch.Tensor
    real: torch.Tensor
    blocks: torch.Tensor
    held: torch.Tensor
    sees: Callable[..., torch.Tensor]
    mask: BlockMask

    @staticmethod
    def of(batch: Batch, block_size: int, window: int | None) -> _Layout:
        device, causal = batch.block_table.device, batch.causal
        tokens, requests = batch.slot_mapping.shape[0], batch.seq_lens.shape[0]
        count = -(-batch.max_seq_len // block_size)
        length = count * block_size
        token = torch.arange(tokens, device=device)
        ends = batch.query_start_loc[1:].long()
        owner = torch.searchsorted(ends, token, right=True).clamp(max=requests - 1)
        # Positions in the request, bottom-right aligned: its last token is its last key.
        position = token - ends[owner] + batch.seq_lens[owner]
        held = torch.arange(length, device=device) < batch.seq_lens[:, None]
        used = torch.arange(count, device=device) * block_size < batch.seq_lens[:, None]
        blocks = torch.where(used, batch.block_table[:, :count].long(), 0)

        def sees(b: Any, h: Any, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
            distance = position[q] - k % length
            seen = (owner[q] == k // length) & held.flatten()[k]
            if causal:
                seen = seen & (distance >= 0)
            if window is not None:
                seen = seen & (distance.abs() < window)
            return seen

        mask = create_block_mask(sees, None, None, tokens, requests * length, device=str(device))
        return _Layout(token, token < ends[-1], blocks, held, sees, mask)

    def gathered(self, cache: torch.Tensor) -> torch.Tensor:
        """Return [1, KV heads, requests * length, D], zeros if there is no token."""
        rows = cache[self.blocks].reshape(*self.held.shape, *cache.shape[2:])
        rows = rows.masked_fill(~self.held[:, :, None, None], 0.0)
        return rows.flatten(0, 1).transpose(0, 1)[None]


class FlexAttention(SplitHalves):
    """One attention layer of FLEX_ATTENTION. It has the arguments and errors of PagedLayer.

    Any head size and block size; it claims no batch invariance.
    """

    name = "FLEX_ATTENTION"
    source = "docs/reference/backends.md#flex-attention"

    @classmethod
    def _refusals(cls, request: Request) -> tuple[tuple[bool, str], ...]:
        cache = ("auto", request.dtype)
        kind = request.attn_type
        return (
            (request.use_mla or request.use_sparse, "MLA or sparse attention: use an MLA backend"),
            (
                request.kv_cache_dtype not in cache,
                f"kv_cache_dtype {request.kv_cache_dtype!r}: it must be one of {', '.join(cache)}",
            ),
            (kind not in ("decoder", "encoder_only"), f"{kind} attention"),
            (request.alibi, "ALiBi"),
            (
                request.logits_soft_cap is not None,
                f"a logits soft cap; got {request.logits_soft_cap}",
            ),
            (request.has_sink, "attention sinks (has_sink)"),
            (request.use_mm_prefix, "a bidirectional multimodal prefix"),
        )

    def _target(self, device: torch.device) -> Target:
        # torch runs it on any CPU: Triton need not interpret there.
        return INTERPRETER if device.type == "cpu" else target_of(device)

    def _forward(self, step: Step) -> None:
        layout = step.plans.get("layout")
        if layout is None:
            layout = step.plans["layout"] = _Layout.of(
                step.batch, self.block_size, self.request.sliding_window
            )
        tokens = layout.token.shape[0]
        values = layout.gathered(step.value_cache)
        special = ~values.isfinite()
        with warnings.catch_warnings():
            # On the CPU it is not compiled, and torch says so; that is what is wanted there.
            warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
            result = _attention(self.device.type)(
                step.query[:tokens].transpose(0, 1)[None],
                layout.gathered(step.key_cache),
                values.masked_fill(special, 0.0),
                block_mask=layout.mask,
                scale=self.scale,
                enable_gqa=self.group > 1,
                kernel_options=KERNEL_OPTIONS,
            )
        keys = special.any(-1).any(1).flatten().nonzero().flatten()
        if len(keys):
            seen = layout.sees(None, None, layout.token[:, None], keys[None, :])
            result = result + self._sum(values[:, :, keys], seen)
        out = step.out[:tokens]
        out.copy_(torch.where(layout.real[:, None, None], result[0].transpose(0, 1), out))

    def _sum(self, values: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """Return the sum of values that are not finite over the keys that each token sees.

        Args:
            values: [1, KV heads, keys, D], of which finite ones count as 0.
            seen: [tokens, keys] bool.
        Returns: [1, query heads, tokens, D]: 0, an infinity or NaN.
        """

        def counted(kind: torch.Tensor) -> torch.Tensor:
            return (seen.float() @ kind.float()) > 0

        plus = counted(values.isposinf() | values.isnan())
        minus = counted(values.isneginf() | values.isnan())
        total = torch.zeros_like(plus, dtype=values.dtype)
        total = total.masked_fill(plus, torch.inf) + total.masked_fill(minus, -torch.inf)
        return total.repeat_interleave(self.group, dim=1)


@functools.cache
def _attention(device_type: str) -> Callable[..., torch.Tensor]:
    """Return flex_attention, compiled if there is a GPU to compile it for."""
    attention: Any = flex_attention
    return attention if device_type == "cpu" else torch.compile(attention, dynamic=True)
