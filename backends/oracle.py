"""Attention over a paged KV cache in float64 on the CPU: the one judge of every backend.

Plain loops over requests and heads, no tiling, no online softmax, so that it can be checked by eye
against docs/reference/backends.md#inputs (masks, soft cap, ALiBi, sinks, log-sum-exp) and 4.1
(MLA). With each result it returns the sums that the error bounds need (error_bounds.py).

NaN and infinities mean what they do in IEEE arithmetic, over the keys that a token sees: one that a token
does not see is not multiplied by a weight of 0, and changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

_E = torch.float64


@dataclass(frozen=True, slots=True)
class Reference:
    """The exact answer and what bounds the error of a floating-point one. All float64, on the CPU.

    Args:
        out: [tokens, query heads, value size].
        lse: [query heads, tokens], natural log of the softmax denominator, the sink in it;
            -inf where a token sees nothing.
        weighted: [tokens, query heads, value size], sum over keys of p * |v|, for finite v.
        visible: [tokens, query heads, value size], sum of |v| over visible keys with finite v, over
            the denominator exp(lse - max score).
        score: [tokens, query heads], largest scale * sum of |q * k| over visible keys that have a
            weight.
        offset: [tokens, query heads], largest |ALiBi bias| over visible keys, plus the soft cap,
            plus |sink|: the size of what a score passes through on its way to the exponential.
        keys: [tokens], number of visible keys.
    """

    out: torch.Tensor
    lse: torch.Tensor
    weighted: torch.Tensor
    visible: torch.Tensor
    score: torch.Tensor
    offset: torch.Tensor
    keys: torch.Tensor

    @staticmethod
    def empty(tokens: int, heads: int, value_size: int) -> Reference:
        """Return the answer for tokens that see nothing: zeros, and -inf for the log-sum-exp."""
        zeros = torch.zeros(tokens, heads, value_size, dtype=_E)
        return Reference(
            out=zeros,
            lse=torch.full((heads, tokens), -torch.inf, dtype=_E),
            weighted=zeros.clone(),
            visible=zeros.clone(),
            score=torch.zeros(tokens, heads, dtype=_E),
            offset=torch.zeros(tokens, heads, dtype=_E),
            keys=torch.zeros(tokens, dtype=torch.int64),
        )


def visible_keys(
    query_len: int, seq_len: int, *, causal: bool = True, window: int | None = None
) -> torch.Tensor:
    """Return which keys each query token sees, [query_len, seq_len] bool.

    Query token j sits at position seq_len - query_len + j (bottom-right aligned). Causal: keys at or
    before it, the newest `window` of them. Not causal: all keys, or those nearer than `window` on
    either side (docs/reference/backends.md#inputs and #flex-attention).
    """
    position = torch.arange(seq_len - query_len, seq_len)[:, None]
    distance = position - torch.arange(seq_len)[None, :]
    seen = distance >= 0 if causal else torch.ones_like(distance, dtype=torch.bool)
    if window is not None:
        seen &= distance.abs() < window
    return seen


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    scale: float,
    causal: bool = True,
    window: int | None = None,
    soft_cap: float | None = None,
    alibi_slopes: torch.Tensor | None = None,
    sinks: torch.Tensor | None = None,
) -> Reference:
    """Attention of one request.

    Keys and values that no token sees may hold anything, NaN too: blocks that a window has left
    behind are reused.

    Args:
        query: [query_len, query heads, D], the newest tokens of the request.
        key: [seq_len, KV heads, D]; query head h uses KV head h // (query heads / KV heads).
        value: [seq_len, KV heads, Dv].
        scale: factor of the dot product.
        causal, window: see `visible_keys`.
        soft_cap: c, for c * tanh(score / c); applied before the mask and before ALiBi.
        alibi_slopes: [query heads]; the score gets slope * (key position - query position).
        sinks: [query heads], logit of one further key whose value is zero; not scaled.
    """
    query_len, heads, _ = query.shape
    seq_len, kv_heads, value_size = value.shape
    result = Reference.empty(query_len, heads, value_size)
    if query_len == 0:
        return result
    q, k, v = query.to(_E).cpu(), key.to(_E).cpu(), value.to(_E).cpu()
    seen = visible_keys(query_len, seq_len, causal=causal, window=window)
    distance = torch.arange(seq_len)[None, :] - torch.arange(seq_len - query_len, seq_len)[:, None]
    unseen = ~seen.any(0)
    if unseen.any():
        k, v = (rows.masked_fill(unseen[:, None, None], 0.0) for rows in (k, v))
    result.keys.copy_(seen.sum(1))
    group = heads // kv_heads
    for head in range(heads):
        if head % group == 0:  # what the query heads of one KV head share
            k_head, k_sizes = k[:, head // group], k[:, head // group].abs()
            finite, special = _apart(v[:, head // group])
            v_sizes = finite.abs()
            visible = seen.to(_E) @ v_sizes
        scores = scale * (q[:, head] @ k_head.T)
        sizes = abs(scale) * (q[:, head].abs() @ k_sizes.T)
        if soft_cap is not None:
            scores = soft_cap * torch.tanh(scores / soft_cap)
            result.offset[:, head] = soft_cap
        if alibi_slopes is not None:
            bias = float(alibi_slopes[head]) * distance.to(_E)
            scores = scores + bias
            result.offset[:, head] += _largest(bias.abs().masked_fill(~seen, 0.0))
        scores = scores.masked_fill(~seen, -torch.inf)
        # A key whose score is -inf has no weight, however its score errs.
        result.score[:, head] = _largest(sizes.masked_fill(scores == -torch.inf, 0.0))
        if sinks is not None:
            sink = torch.full((query_len, 1), float(sinks[head]), dtype=_E)
            result.offset[:, head] += sink[:, 0].abs().nan_to_num(posinf=0.0)  # -inf: no sink
            scores = torch.cat([scores, sink], dim=1)
        lse = torch.logsumexp(scores, dim=1) if scores.shape[1] else result.lse[head]
        some = lse != -torch.inf
        p = torch.exp(scores - lse[:, None].masked_fill(~some[:, None], 0.0))[:, :seq_len]
        result.lse[head] = lse
        result.out[:, head] = p @ finite + _special(p, special, seen)
        result.weighted[:, head] = p @ v_sizes
        mass = torch.exp(lse - _largest(scores, empty=-torch.inf)).masked_fill(~lse.isfinite(), 1.0)
        result.visible[:, head] = visible / mass[:, None]
    return result


def paged_attention(
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    *,
    query_start_loc: torch.Tensor,
    seq_lens: torch.Tensor,
    block_table: torch.Tensor,
    scale: float,
    causal: bool = True,
    window: int | None = None,
    soft_cap: float | None = None,
    alibi_slopes: torch.Tensor | None = None,
    sinks: torch.Tensor | None = None,
    k_scale: float = 1.0,
    v_scale: float = 1.0,
) -> Reference:
    """Attention of a ragged batch over a paged cache.

    Args:
        query: [tokens, query heads, D]; request i owns rows query_start_loc[i] to
            query_start_loc[i + 1].
        key_cache: [blocks, block size, KV heads, D], any dtype; a stored fp8 value stands for
            value * k_scale.
        value_cache: [blocks, block size, KV heads, Dv], likewise with v_scale.
        query_start_loc: [requests + 1].
        seq_lens: [requests], tokens of each request, the new ones included.
        block_table: [requests, blocks per request], physical block of each logical one.
        scale, causal, window, soft_cap, alibi_slopes, sinks: see `attend`.
    """
    block_size = key_cache.shape[1]
    total = Reference.empty(query.shape[0], query.shape[1], value_cache.shape[3])
    starts = query_start_loc.tolist()
    for i, seq_len in enumerate(seq_lens.tolist()):
        rows = slice(starts[i], starts[i + 1])
        blocks = block_table[i, : -(-seq_len // block_size)].long().cpu()
        part = attend(
            query[rows],
            _gather(key_cache, blocks, seq_len, k_scale),
            _gather(value_cache, blocks, seq_len, v_scale),
            scale=scale,
            causal=causal,
            window=window,
            soft_cap=soft_cap,
            alibi_slopes=alibi_slopes,
            sinks=sinks,
        )
        total.lse[:, rows] = part.lse
        for name in ("out", "weighted", "visible", "score", "offset", "keys"):
            getattr(total, name)[rows] = getattr(part, name)
    return total


def mla_decode(
    query: torch.Tensor,
    latent_cache: torch.Tensor,
    *,
    seq_lens: torch.Tensor,
    block_table: torch.Tensor,
    scale: float,
    value_size: int = 512,
) -> Reference:
    """Absorbed MLA decode, one token per request (docs/reference/backends.md#mla).

    Args:
        query: [requests, heads, latent size], the key projection absorbed.
        latent_cache: [blocks, block size, latent size]; the whole row is the key of every head, its
            first `value_size` columns are the value.
        seq_lens, block_table, scale: see `paged_attention`.
    """
    cache = latent_cache[:, :, None, :]
    return paged_attention(
        query,
        cache,
        cache[..., :value_size],
        query_start_loc=torch.arange(query.shape[0] + 1),
        seq_lens=seq_lens,
        block_table=block_table,
        scale=scale,
    )


def ragged_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    query_start_loc: torch.Tensor,
    key_start_loc: torch.Tensor,
    scale: float,
    causal: bool = True,
) -> Reference:
    """Attention of a ragged batch over contiguous keys and values, as MLA's prefill needs it.

    Args:
        query: [query tokens, heads, D].
        key: [key tokens, KV heads, D]; request i owns rows key_start_loc[i] to key_start_loc[i + 1].
        value: [key tokens, KV heads, Dv].
        query_start_loc, key_start_loc: [requests + 1].
        scale, causal: see `attend`.
    """
    total = Reference.empty(query.shape[0], query.shape[1], value.shape[2])
    starts, key_starts = query_start_loc.tolist(), key_start_loc.tolist()
    for i in range(len(starts) - 1):
        rows, keys = slice(starts[i], starts[i + 1]), slice(key_starts[i], key_starts[i + 1])
        part = attend(query[rows], key[keys], value[keys], scale=scale, causal=causal)
        total.lse[:, rows] = part.lse
        for name in ("out", "weighted", "visible", "score", "offset", "keys"):
            getattr(total, name)[rows] = getattr(part, name)
    return total


def merge_states(
    outs: list[torch.Tensor], lses: list[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Merge attention over disjoint parts of the keys (docs/reference/backends.md#inputs).

    Args:
        outs: each [tokens, heads, Dv].
        lses: each [heads, tokens], natural log; +inf and -inf both mean an empty part.
    Returns: (out, lse) over all parts, float64; zeros and -inf where every part is empty.
    """
    stack = torch.stack([part.to(_E) for part in lses])
    stack = stack.masked_fill(stack == torch.inf, -torch.inf)
    lse = torch.logsumexp(stack, dim=0)
    weights = torch.exp(stack - lse.masked_fill(lse == -torch.inf, 0.0))
    values = torch.stack([part.to(_E) for part in outs])
    weights = weights.transpose(1, 2)[..., None]
    return torch.where(weights > 0, weights * values, 0.0).sum(0), lse


def _gather(cache: torch.Tensor, blocks: torch.Tensor, seq_len: int, scale: float) -> torch.Tensor:
    """Return the first seq_len rows of a request, [seq_len, heads, size] float64, times a scale."""
    rows = cache.cpu()[blocks].to(_E).reshape(-1, *cache.shape[2:])[:seq_len]
    return rows if scale == 1 else rows * scale


def _apart(values: torch.Tensor) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
    """Return values, [keys, columns], with 0 for what is not finite, and the rows that have such, by key."""
    special = ~values.isfinite()
    rows = {key: values[key] for key in special.any(1).nonzero().flatten().tolist()}
    return values.masked_fill(special, 0.0) if rows else values, rows


def _special(
    p: torch.Tensor, special: dict[int, torch.Tensor], seen: torch.Tensor
) -> torch.Tensor | float:
    """Return the sum over visible keys of p * v for those v that are not finite, [tokens, columns]."""
    total: torch.Tensor | float = 0.0
    for key, values in special.items():
        here = seen[:, key, None] & ~values.isfinite()
        total = total + (p[:, key, None] * values).masked_fill(~here, 0.0)
    return total


def _largest(rows: torch.Tensor, empty: float = 0.0) -> torch.Tensor:
    """Return the largest of each row; `empty` where rows have no columns."""
    return rows.amax(1) if rows.shape[1] else torch.full(rows.shape[:1], empty, dtype=_E)
