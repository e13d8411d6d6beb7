"""The argument block of the HIP kernels, as paged_decode.h declares it."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import torch

# As paged_decode.h has them; a test compares.
PARTITION = 256  # tokens that one workgroup takes
MOST_HEADS = 16  # query heads that may share a KV head


class Arguments(ctypes.Structure):
    """struct Arguments of paged_decode.h, field by field."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("out", "partial_out", "partial_max", "partial_sum")),
        *((name, ctypes.c_void_p) for name in ("query", "key", "value", "block_table", "seq_lens")),
        *((name, ctypes.c_void_p) for name in ("query_start_loc", "alibi_slopes")),
        *((name, ctypes.c_void_p) for name in ("k_scale", "v_scale")),
        *((name, ctypes.c_longlong) for name in ("out_stride", "query_stride")),
        *((name, ctypes.c_longlong) for name in ("key_stride", "value_stride", "table_stride")),
        *((name, ctypes.c_int) for name in ("requests", "query_heads", "kv_heads", "partitions")),
        ("scale", ctypes.c_float),
    )

    @classmethod
    def of(
        cls,
        *,
        out: torch.Tensor,
        partial: torch.Tensor,
        query: torch.Tensor,
        key_cache: torch.Tensor,
        value_cache: torch.Tensor,
        block_table: torch.Tensor,
        seq_lens: torch.Tensor,
        query_start_loc: torch.Tensor | None,
        alibi_slopes: torch.Tensor | None,
        k_scale: torch.Tensor | None,
        v_scale: torch.Tensor | None,
        partitions: int,
        scale: float,
    ) -> Self:
        """Return the block for tensors that were checked. They must outlive the launch.

        Args:
            out, query: [rows, query heads, D], heads dense.
            partial: float32, requests * query heads * partitions * (D + 2) elements.
            key_cache: [blocks, KV heads, D / x, block size, x], dense except the first axis.
            value_cache: [blocks, KV heads, D, block size], likewise.
            block_table: [requests, blocks] int32.
            seq_lens: [requests] int32.
            query_start_loc: [requests + 1] int32, or None if row i is request i.
            alibi_slopes: [query heads] float32.
            k_scale, v_scale: one float32 each.
            partitions: how many PARTITIONs the longest request has.
            scale: of the dot product.
        """
        requests, heads = seq_lens.shape[0], query.shape[1]
        places = requests * heads * partitions
        base = partial.data_ptr()
        item = key_cache.element_size()
        return cls(
            out=out.data_ptr(),
            partial_out=base + 8 * places,
            partial_max=base,
            partial_sum=base + 4 * places,
            query=query.data_ptr(),
            key=key_cache.data_ptr(),
            value=value_cache.data_ptr(),
            block_table=block_table.data_ptr(),
            seq_lens=seq_lens.data_ptr(),
            query_start_loc=_address(query_start_loc),
            alibi_slopes=_address(alibi_slopes),
            k_scale=_address(k_scale),
            v_scale=_address(v_scale),
            out_stride=out.stride(0),
            query_stride=query.stride(0),
            key_stride=key_cache.stride(0) * item,
            value_stride=value_cache.stride(0) * item,
            table_stride=block_table.stride(0),
            requests=requests,
            query_heads=heads,
            kv_heads=key_cache.shape[1],
            partitions=partitions,
            scale=scale,
        )


def _address(tensor: torch.Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
