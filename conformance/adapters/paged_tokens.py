"""The tokens of a paged cache, for kernels that take keys and values without one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from pytest_rocm_attn.problem import PagedAttention


def slots(problem: PagedAttention, request: int, first: int, last: int) -> Any:
    """Return the blocks and the places in them of a request's tokens from first to before last."""
    import torch

    size = problem.key_cache.shape[1]
    positions = torch.arange(first, last, device=problem.query.device)
    return problem.block_table[request][positions // size].long(), positions % size


def tokens(problem: PagedAttention, whole: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return keys and values of the requests with new tokens, of these or of all, in the query's dtype."""
    import torch

    if problem.query.is_meta:  # a dry launch: shapes are all there is
        heads, size = problem.key_cache.shape[2:]
        both = torch.empty(
            2, problem.query.shape[0], heads, size, dtype=problem.query.dtype, device="meta"
        )
        return both[0], both[1]
    parts: list[list[torch.Tensor]] = [[], []]
    for request, new in enumerate(problem.query_lens):
        if not new:
            continue
        total = int(problem.seq_lens[request])
        where = slots(problem, request, 0 if whole else total - new, total)
        for part, cache, scale in zip(
            parts,
            (problem.key_cache, problem.value_cache),
            (problem.k_scale, problem.v_scale),
            strict=True,
        ):
            found = cache[where]
            if found.dtype.itemsize == 1:
                found = found.float() * scale
            part.append(found.to(problem.query.dtype))
    key, value = (torch.cat(part) for part in parts)
    return key, value
