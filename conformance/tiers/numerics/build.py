"""From a case to tensors: the problem that a backend gets, and what the judge needs besides it.

Everything that a backend must not read is NaN: slots that no token has, blocks that no request owns,
block 0, and the memory around strided views. Values at the ends of a request, and on both sides of
its window's edge, are so large that they are a visible share of any result: leaving out a key, or
seeing one too many, cannot hide among thousands of others.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from pytest_rocm_attn.problem import MlaDecode, MlaPrefill, PagedAttention

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_rocm_attn.conformance.tiers.numerics.case import Case

Problem: TypeAlias = PagedAttention | MlaDecode | MlaPrefill

FP8 = {"e4m3fn": torch.float8_e4m3fn, "e4m3fnuz": torch.float8_e4m3fnuz}
FP8_NAN = {"e4m3fn": 0x7F, "e4m3fnuz": 0x80}
# No powers of two, whose products would be exact.
K_SCALE, V_SCALE = 0.37, 1.7
SPECIALS = {"nan": math.nan, "plus-inf": math.inf, "minus-inf": -math.inf}
UNWRITTEN = 77.0  # fills the output where NaN may be the right answer
DEFAULT_BLOCK_SIZE = 16
GOLDEN = (5**0.5 - 1) / 2  # whose multiples fill [0, 1) evenly
RANK, ROPE, NOPE, VALUE = 512, 64, 128, 128  # docs/reference/backends.md#mla
SPARE_BLOCKS = 3  # owned by nobody; block 0 is one of them


@dataclass(slots=True)
class Guard:
    """Memory that a backend was lent.

    Args:
        name: for messages.
        memory: the whole buffer, contiguous.
        before: a copy from before the run.
        writable: the part of such a buffer that may be written; None: none of it.
    """

    name: str
    memory: torch.Tensor
    before: torch.Tensor
    writable: Callable[[torch.Tensor], torch.Tensor] | None = None

    def written(self) -> bool:
        """Whether anything outside the writable part was changed."""
        now = self.memory.detach().to("cpu", copy=True)
        if self.writable is not None:
            self.writable(now).copy_(self.writable(self.before))
        return not torch.equal(now.view(torch.uint8), self.before.view(torch.uint8))


@dataclass(slots=True)
class Built:
    """A problem and what it was made from.

    Attributes:
        problem: what the backend gets, on the device.
        guards: all memory that it was lent.
    """

    problem: Problem
    guards: list[Guard] = field(default_factory=list)


class _Builder:
    def __init__(self, case: Case, device: torch.device, only: int | None, slack: float) -> None:
        self.case = case
        self.slack = slack
        self.device = device
        self.dtype: torch.dtype = getattr(torch, case.request.dtype)
        self.random = torch.Generator().manual_seed(zlib.crc32(case.id.encode()))
        self.guards: list[Guard] = []
        self.strided = case.layout == "strided"
        self.block_size = case.request.block_size or DEFAULT_BLOCK_SIZE
        # Each request's data follows from the case alone, whatever else is in the batch.
        chosen = range(len(case.lengths)) if only is None else [only]
        self.chosen = list(chosen)
        self.lengths = [case.lengths[i] for i in self.chosen]

    def normal(self, *shape: int, size: float = 1.0) -> torch.Tensor:
        return size * torch.randn(*shape, generator=self.random)

    def query(self, new: int, heads: int, key: torch.Tensor, factor: float = 1.0) -> torch.Tensor:
        """Return queries whose scores with normal keys, [tokens, heads, columns], spread as the case has it.

        Three of eight rows of a sharp case point at one key that they see: its own token's, which only the
        rows after it see too, or an earlier one, by turns. Together they point at all keys.
        """
        total, own, width = key.shape
        query = self.normal(new, heads, width, size=self.case.score * factor)
        if self.case.sharp and total:
            token, head = torch.arange(new)[:, None], torch.arange(heads)
            last = (total - new + token).clamp(min=0).expand(new, heads)
            even = last % 2 == 0
            sharp = (token + head) % torch.where(even, 4, 2) == 0
            order = (sharp & ~even).flatten().cumsum(0).view(new, heads)
            spread = order * GOLDEN % 1 * (last + 1)
            aim = key[torch.where(even, last, spread.long()), head * own // heads]
            aim = aim * (self.case.sharp * factor / width**0.5)
            query = torch.where(sharp[..., None], aim, query)
        return query

    def plant(
        self, request: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> None:
        """Put the case's special number into one element of a request's rows, [rows, heads, columns].

        The query's and the key's last column, which in MLA is the key's alone, of the first head. Of the
        values one column of each head, which no other place and head has, nor another special number.
        """
        name, number = self.case.special_in, SPECIALS.get(self.case.special, 0.0)
        if not self.case.special or name not in ("query", "key", "value"):
            return
        for place, (owner, position) in enumerate(self.case.special_at):
            if owner == request and name == "query":
                query[-1, 0, -1] = number
            elif owner == request and name == "key":
                key[position, 0, -1] = number
            elif owner == request:
                heads, columns = value.shape[1:]
                head = torch.arange(heads)
                kind = list(SPECIALS).index(self.case.special)
                mine = (place * len(SPECIALS) + kind) * heads + head
                value[position, head, mine * _step(columns) % columns] = number

    def special(self, name: str, number: float) -> float:
        """Return the case's special number if `name` holds it, else `number`."""
        here = self.case.special and self.case.special_in == name
        return SPECIALS[self.case.special] if here else number

    def lend(
        self,
        name: str,
        values: torch.Tensor,
        margin: tuple[int, ...] = (),
        *,
        writable: bool = False,
    ) -> torch.Tensor:
        """Put values on the device, inside a wider poisoned buffer when the layout is strided.

        Args:
            name: for messages.
            values: what the backend sees.
            margin: elements of poison beyond the values along each axis, for strided layouts.
            writable: whether the backend may write them.
        """
        margin = margin if self.strided else ()
        shape = [size + extra for size, extra in zip(values.shape, margin, strict=False)]
        shape += values.shape[len(margin) :]
        inner = tuple(slice(0, size) for size in values.shape)
        buffer = torch.zeros(shape, dtype=values.dtype)
        _poison(buffer, self.case)
        buffer[inner] = values
        memory = buffer.to(self.device)
        may = (lambda whole: whole[inner]) if writable else None
        self.guards.append(Guard(name, memory, buffer.clone(), may))
        return memory[inner]

    def out(self, *shape: int, name: str = "out", dtype: torch.dtype | None = None) -> torch.Tensor:
        fill = UNWRITTEN if self.case.special else math.nan
        unwritten = torch.full(shape, fill, dtype=dtype or self.dtype)
        margin = (2, 1, 16) if len(shape) == 3 else ()
        return self.lend(name, unwritten, margin, writable=True)

    def ints(self, name: str, values: list[int]) -> torch.Tensor:
        return self.lend(name, torch.tensor(values, dtype=torch.int32))

    def starts(self, name: str, lengths: list[int]) -> torch.Tensor:
        return self.ints(name, torch.tensor([0, *lengths]).cumsum(0).tolist())

    def table(self) -> tuple[list[list[int]], torch.Tensor, int]:
        """Return each request's physical blocks in random order, the table, and how many blocks."""
        counts = [-(-total // self.block_size) for _, total in self.lengths]
        order = (torch.randperm(sum(counts), generator=self.random) + 1).tolist()
        owned = [[order.pop() for _ in range(count)] for count in counts]
        table = torch.zeros(len(counts), max([1, *counts]), dtype=torch.int32)
        for i, blocks in enumerate(owned):
            table[i, : len(blocks)] = torch.tensor(blocks, dtype=torch.int32)
        lent = self.lend("block_table", table, (1, 5))
        return owned, lent, sum(counts) + SPARE_BLOCKS

    def fill(
        self, cache: torch.Tensor, rows: Sequence[torch.Tensor], owned: Sequence[Sequence[int]]
    ) -> None:
        """Put each request's tokens, [tokens, ...], into its blocks, [blocks, block size, ...]."""
        _poison(cache, self.case)
        raw, size = _bits(cache), self.block_size
        for tokens, mine in zip(rows, owned, strict=True):
            for number, block in enumerate(mine):
                part = _bits(tokens)[number * size : (number + 1) * size]
                raw[block, : len(part)] = part
                if not math.isnan(self.slack):
                    cache[block, len(part) :] = torch.tensor(self.slack).to(cache.dtype)


def build(
    case: Case, device: torch.device, only: int | None = None, *, slack: float = math.nan
) -> Built:
    """Return the case's problem, or that of one of its requests alone, with the same numbers.

    Args:
        case: the case.
        device: where the tensors go.
        only: the one request, or None for all.
        slack: what fills the slots of a request's last block that hold no token; finite for
            backends that say that they read those (they must not count them).
    """
    builder = _Builder(case, device, only, slack)
    make = {"attention": _attention, "mla-decode": _mla_decode, "mla-prefill": _mla_prefill}
    return Built(assemble(case, builder.lengths, make[case.kind](builder)), builder.guards)


def assemble(case: Case, lengths: Sequence[tuple[int, int]], tensors: dict[str, Any]) -> Problem:
    """Return the problem of a case.

    Args:
        case: the case.
        lengths: of its requests, or of those that are in the problem.
        tensors: the problem's tensors by the names of its fields; a paged cache is cut in two.
    """
    request = case.request
    query_lens = tuple(new for new, _ in lengths)
    longest = max(query_lens, default=0)
    max_seq_len = max((total for _, total in lengths), default=0)
    if case.kind == "mla-decode":
        scale = (NOPE + ROPE) ** -0.5
        return MlaDecode(request=request, max_seq_len=max_seq_len, scale=scale, **tensors)
    if case.kind == "mla-prefill":
        return MlaPrefill(
            request=request,
            max_query_len=longest,
            scale=(NOPE + ROPE) ** -0.5,
            causal=case.causal,
            **tensors,
        )
    key_cache, value_cache = tensors["kv_cache"].unbind(1)
    return PagedAttention(
        request=request,
        key_cache=key_cache,
        value_cache=value_cache,
        query_lens=query_lens,
        max_query_len=longest,
        max_seq_len=max_seq_len,
        scale=request.head_size**-0.5,
        causal=case.causal,
        window=request.sliding_window,
        soft_cap=request.logits_soft_cap,
        **tensors,
    )


def _attention(b: _Builder) -> dict[str, Any]:
    case, request = b.case, b.case.request
    heads, kv_heads, size = request.num_heads, request.num_kv_heads, request.head_size
    fp8 = request.kv_cache_dtype.startswith("fp8")
    rows = []
    # Drawn for all, so that one request alone has the same.
    for number, (new, total) in enumerate(case.lengths):
        kv = b.normal(2, total, kv_heads, size)
        query = b.query(new, heads, kv[0])
        _mark(kv[1], total, request.sliding_window)
        b.plant(number, query, *kv)
        rows.append((query, kv))
    rows = [rows[i] for i in b.chosen]
    slopes = 2.0 ** -torch.linspace(1, 8, heads)
    sinks = b.normal(heads) + case.score
    sinks[0] = b.special("sinks", float(sinks[0]))
    owned, table, blocks = b.table()
    stored = FP8[case.fp8] if fp8 else b.dtype
    cache = torch.zeros(blocks, 2, b.block_size, kv_heads, size, dtype=stored)
    scales = torch.tensor([K_SCALE, V_SCALE]).reshape(2, 1, 1, 1)
    codes = [(kv / scales).clamp(-240, 240) if fp8 else kv for _, kv in rows]
    b.fill(cache.transpose(1, 2), [kv.to(stored).transpose(0, 1) for kv in codes], owned)
    kv_cache = _lend_cache(b, cache)
    # A fused projection: the query is a slice of wider rows.
    query = torch.cat([query for query, _ in rows]).to(b.dtype)
    k_scale, v_scale = (
        torch.tensor(b.special(name, scale) if fp8 else 1.0, device=b.device)
        for name, scale in (("k_scale", K_SCALE), ("v_scale", V_SCALE))
    )
    return {
        "query": b.lend("query", query, (3, 2 * kv_heads)),
        "kv_cache": kv_cache,
        "out": b.out(*query.shape),
        "query_start_loc": b.starts("query_start_loc", [new for new, _ in b.lengths]),
        "seq_lens": b.ints("seq_lens", [total for _, total in b.lengths]),
        "block_table": table,
        "alibi_slopes": b.lend("alibi_slopes", slopes) if request.alibi else None,
        "sinks": b.lend("sinks", sinks.to(b.dtype)) if request.has_sink else None,
        "k_scale": k_scale,
        "v_scale": v_scale,
    }


def _lend_cache(b: _Builder, cache: torch.Tensor) -> torch.Tensor:
    """Return the cache on the device, as [blocks, 2, block size, KV heads, D] in the case's layout."""
    if b.case.layout == "heads-first":
        lent = b.lend("kv_cache", cache.transpose(2, 3).contiguous())
        return lent.transpose(2, 3)
    if b.strided:  # a dimension of layers within each block: ours is the second of three
        layers = torch.zeros(cache.shape[0], 3, *cache.shape[1:], dtype=cache.dtype)
        _poison(layers, b.case)
        layers[:, 1] = cache
        return b.lend("kv_cache", layers)[:, 1]
    return b.lend("kv_cache", cache)


def _mla_decode(b: _Builder) -> dict[str, Any]:
    case, request = b.case, b.case.request
    scale, width = (NOPE + ROPE) ** -0.5, RANK + ROPE
    rows = []
    for number, (new, total) in enumerate(case.lengths):
        latent = b.normal(total, 1, width)
        # Variance of the dot product: width. The scale is not width ** -0.5, so correct for it.
        query = b.query(new, request.num_heads, latent, factor=1 / scale / width**0.5)
        _mark(latent[..., :RANK], total, None)
        b.plant(number, query, latent, latent[..., :RANK])
        rows.append((query, latent[:, 0]))
    rows = [rows[i] for i in b.chosen]
    owned, table, blocks = b.table()
    cache = torch.zeros(blocks, b.block_size, width, dtype=b.dtype)
    b.fill(cache, [latent.to(b.dtype) for _, latent in rows], owned)
    query = torch.cat([query for query, _ in rows]).to(b.dtype)
    return {
        "query": b.lend("query", query, (2, 1, 64)),
        "latent_cache": b.lend("latent_cache", cache, (0, 0, 64)),
        "out": b.out(len(b.lengths), request.num_heads, RANK),
        "seq_lens": b.ints("seq_lens", [total for _, total in b.lengths]),
        "block_table": table,
    }


def _mla_prefill(b: _Builder) -> dict[str, Any]:
    case, heads = b.case, b.case.request.num_heads
    rows = []
    for number, (new, total) in enumerate(case.lengths):
        key, value = b.normal(total, heads, NOPE + ROPE), b.normal(total, heads, VALUE)
        query = b.query(new, heads, key)
        _mark(value, total, None)
        b.plant(number, query, key, value)
        rows.append((query, key, value))
    rows = [rows[i] for i in b.chosen]
    query, key, value = (torch.cat(parts).to(b.dtype) for parts in zip(*rows, strict=True))
    return {
        "query": b.lend("query", query, (2, 1, 64)),
        "key": b.lend("key", key, (2, 1, 128)),
        "value": b.lend("value", value, (2, 0, 64)),
        "out": b.out(len(query), heads, VALUE),
        "lse": b.out(heads, len(query), name="lse", dtype=torch.float32),
        "query_start_loc": b.starts("query_start_loc", [new for new, _ in b.lengths]),
        "key_start_loc": b.starts("key_start_loc", [total for _, total in b.lengths]),
    }


def _step(count: int) -> int:
    """Return a number whose multiples are all places of `count` in turn, any few of them far apart."""
    return next(n for n in range(round(count * GOLDEN), count + 2) if math.gcd(n, count) == 1)


def _mark(values: torch.Tensor, total: int, window: int | None) -> None:
    """Enlarge the values at a request's ends and window edge to a visible share of any mean.

    A 32nd of the keys: twice what bfloat16 rounds away, however flat the weights are.
    """
    places = {0, total - 1} | ({total - window, total - window - 1} if window else set())
    factor = max(1.0, total / 32)
    for place in places:
        if 0 <= place < total:
            values[place] *= factor


def _poison(buffer: torch.Tensor, case: Case) -> None:
    """Fill a buffer with NaN, or a buffer of block numbers with that of a block that holds NaN."""
    if buffer.dtype in FP8.values():
        _bits(buffer).fill_(FP8_NAN[case.fp8])
    elif buffer.is_floating_point():
        buffer.fill_(math.nan)
    else:
        buffer.zero_()  # block 0, which nobody owns and which holds NaN


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """Return an fp8 tensor as bytes, and any other as it is."""
    return tensor.view(torch.uint8) if tensor.dtype in FP8.values() else tensor
