"""The batches of a server's first steps, and the fork's own metadata that is common to all layers."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_rocm_attn.conformance.promise.servers_file import Layer, Server


@dataclass(frozen=True)
class Batch:
    """The requests of one step.

    Attributes:
        name: of the step.
        requests: (tokens to compute, tokens that the cache has already) of each.
    """

    name: str
    requests: tuple[tuple[int, int], ...]

    @property
    def tokens(self) -> int:
        """How many tokens are computed."""
        return sum(new for new, _ in self.requests)

    @property
    def longest(self) -> int:
        """The longest sequence, in tokens."""
        return max(new + old for new, old in self.requests)


def batches(server: Server, layer: Layer) -> list[Batch]:
    """Return the steps that a layer of a server is taken through; runners put decodes first.

    A speculative step is one of a server that speculates: the target verifies all drafted tokens. A drafter that
    is not causal drafts all tokens of each request at once, and computes nothing else (v1/spec_decode/dflash.py, v0.27.1).
    """
    drafted = server.speculative_tokens + 1
    if layer.role == "drafter" and layer.request.use_non_causal:
        return [Batch("drafting", ((drafted, 37), (drafted, 1500)))]
    found = [
        Batch("prefill", ((37, 0), (200, 0))),
        Batch("decode", ((1, 300), (1, 1500))),
        Batch("mixed", ((1, 300), (1, 1500), (40, 600), (37, 0))),
    ]
    if server.speculative_tokens:
        found.append(Batch("speculative", ((drafted, 300), (drafted, 1500))))
    return found


def common_metadata(
    cls: Any, batch: Batch, *, block: int, blocks: int, causal: bool, ranks: int
) -> Any:
    """Return the fork's metadata of a batch, filled by the names of its fields.

    Args:
        cls: the fork's CommonAttentionMetadata.
        batch: the requests.
        block: tokens of a block of the table.
        blocks: how many there are.
        causal: whether the layer's attention is.
        ranks: over how many the context is divided.
    """
    import torch

    new = torch.tensor([new for new, _ in batch.requests], dtype=torch.int32)
    old = torch.tensor([old for _, old in batch.requests], dtype=torch.int32)
    starts = torch.zeros(len(new) + 1, dtype=torch.int32)
    starts[1:] = new.cumsum(0)
    width = -(-batch.longest // block)
    table = torch.arange(len(new) * width, dtype=torch.int32).reshape(len(new), width) % blocks
    positions = torch.cat(
        [torch.arange(before, before + count) for count, before in batch.requests]
    )
    rows = torch.repeat_interleave(torch.arange(len(new)), new)
    slots = table[rows, positions // block].long() * block + positions % block
    local = (new + old + ranks - 1) // ranks
    values = {
        "query_start_loc": starts.cuda(),
        "query_start_loc_cpu": starts,
        "seq_lens": (new + old).cuda(),
        "seq_lens_cpu": new + old,
        "_seq_lens_cpu": new + old,
        "seq_lens_cpu_upper_bound": new + old,
        "num_computed_tokens_cpu": old,
        "_num_computed_tokens_cpu": old,
        "num_reqs": len(new),
        "num_actual_tokens": batch.tokens,
        "max_query_len": int(new.max()),
        "max_seq_len": batch.longest,
        "block_table_tensor": table.cuda(),
        "slot_mapping": slots.cuda(),
        "causal": causal,
        "positions": positions.cuda(),
        "is_prefilling": old == 0,
        "dcp_local_seq_lens": local.cuda() if ranks > 1 else None,
        "dcp_local_seq_lens_cpu": local if ranks > 1 else None,
        "dcp_local_seq_lens_cpu_upper_bound": local if ranks > 1 else None,
    }
    fields = inspect.signature(cls).parameters
    return cls(**{name: value for name, value in values.items() if name in fields})
