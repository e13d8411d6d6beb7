"""The metadata of one step: which tokens belong to which request, and where their keys lie."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from pytest_rocm_attn.backends.cache import check_slots
from pytest_rocm_attn.errors import BackendInputError


@dataclass(frozen=True, slots=True)
class Batch:
    """A ragged batch over a paged cache, built once a step for all layers.

    Source: docs/reference/backends.md#inputs.

    Args:
        query_start_loc: [requests + 1] int32, prefix sums of the query lengths.
        seq_lens: [requests] int32, tokens of each request, the new ones included.
        block_table: [requests, blocks per request] int32, physical block of each logical one.
        slot_mapping: [tokens] int64, where the new tokens go; negative: do not write.
        min_query_len: the shortest query of a request that has one.
        max_query_len: the longest.
        max_seq_len: the longest request.
        causal: bottom-right aligned causality; False: every token sees the whole request.
        query_lens: new tokens of each request, if the host knows them: a launch can then be fitted
            to them. What a step computes does not depend on it.
        plans: what layers work out for this step, for the layers after them; theirs alone.

    Raises:
        BackendInputError: shapes, dtypes or devices disagree. What the tensors hold is not looked at,
            which would wait for the device: `check` does that.
    """

    query_start_loc: torch.Tensor
    seq_lens: torch.Tensor
    block_table: torch.Tensor
    slot_mapping: torch.Tensor
    min_query_len: int
    max_query_len: int
    max_seq_len: int
    causal: bool = True
    query_lens: tuple[int, ...] | None = None
    plans: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        requests = self.seq_lens.shape[0] if self.seq_lens.ndim == 1 else -1
        device = self.block_table.device
        for name, tensor, dtype, shape in (
            ("seq_lens", self.seq_lens, torch.int32, (requests,)),
            ("query_start_loc", self.query_start_loc, torch.int32, (requests + 1,)),
            (
                "block_table",
                self.block_table,
                torch.int32,
                (requests, *self.block_table.shape[1:2]),
            ),
            ("slot_mapping", self.slot_mapping, torch.int64, self.slot_mapping.shape[:1]),
        ):
            problem = ""
            if tensor.dtype != dtype:
                problem = f"is {tensor.dtype}, expected {dtype}"
            elif tensor.shape != shape or tensor.ndim != (2 if name == "block_table" else 1):
                problem = f"has shape {tuple(tensor.shape)} for {max(requests, 0)} requests"
            elif tensor.device != device:
                problem = f"is on {tensor.device}, block_table on {device}"
            elif tensor.numel() and tensor.stride(-1) != 1:
                problem = (
                    f"has stride {tensor.stride(-1)} in its last dimension, which must be dense"
                )
            if problem:
                raise BackendInputError(
                    f"batch: {name} {problem} (docs/reference/backends.md#inputs)"
                )
        if not 0 <= self.min_query_len <= self.max_query_len:
            raise BackendInputError(
                f"batch: min_query_len {self.min_query_len} and max_query_len {self.max_query_len};"
                " the first is the shorter, and neither is negative"
            )

    @staticmethod
    def build(
        query_lens: list[int],
        seq_lens: list[int],
        block_table: torch.Tensor,
        slot_mapping: torch.Tensor,
        *,
        causal: bool = True,
    ) -> Batch:
        """Return the metadata of the given lengths, on the block table's device.

        Raises:
            BackendInputError: the lengths disagree with each other or with the block table.
        """
        problem = ""
        if not len(query_lens) == len(seq_lens) == block_table.shape[0]:
            problem = (
                f"{len(query_lens)} query lengths, {len(seq_lens)} sequence lengths and"
                f" {block_table.shape[0]} rows of the block table"
            )
        for i, (query_len, seq_len) in enumerate(zip(query_lens, seq_lens, strict=False)):
            if not 0 <= query_len <= seq_len:
                problem = (
                    f"request {i} has {query_len} new tokens of {seq_len}; seq_lens includes the"
                    " new tokens (docs/reference/backends.md#inputs)"
                )
        if sum(query_lens) != slot_mapping.shape[0]:
            problem = f"{sum(query_lens)} new tokens for {slot_mapping.shape[0]} slots"
        if problem:
            raise BackendInputError(f"batch: {problem}")
        device = block_table.device
        starts = torch.tensor([0, *query_lens]).cumsum(0)
        return Batch(
            query_start_loc=starts.to(torch.int32).to(device),
            seq_lens=torch.tensor(seq_lens, dtype=torch.int32, device=device),
            block_table=block_table,
            slot_mapping=slot_mapping,
            min_query_len=min((length for length in query_lens if length), default=0),
            max_query_len=max(query_lens, default=0),
            max_seq_len=max(seq_lens, default=0),
            causal=causal,
            query_lens=tuple(query_lens),
        )

    def check(self, blocks: int, block_size: int) -> None:
        """Check slots and block table against a cache. Reads the device: not on the hot path.

        Raises:
            BackendInputError: an entry that a kernel would follow points outside the cache, or a
                request needs more blocks than its row of the table has.
        """
        check_slots(self.slot_mapping, blocks, block_size)
        table = self.block_table.cpu()
        for i, seq_len in enumerate(self.seq_lens.tolist()):
            used = -(-seq_len // block_size)
            if used > table.shape[1]:
                raise BackendInputError(
                    f"block_table row {i} has {table.shape[1]} blocks; {seq_len} tokens need {used}"
                    f" of {block_size}"
                )
            outside = ((table[i, :used] < 0) | (table[i, :used] >= blocks)).nonzero().flatten()
            if len(outside):
                j = int(outside[0])
                raise BackendInputError(
                    f"block_table[{i}, {j}] is {int(table[i, j])}; the cache has blocks 0 to"
                    f" {blocks - 1} (docs/reference/backends.md#inputs); nothing was launched"
                )
