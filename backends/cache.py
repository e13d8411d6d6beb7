"""Paged KV caches: their layouts as data, and the operations that write them.

Each operation exists twice: plain torch, the definition, and a Triton kernel that must agree with it
bit for bit. Layouts: docs/reference/backends.md#triton-attn to #flex-attention and #mla.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from pytest_rocm_attn.backends.plans import Recent, described
from pytest_rocm_attn.errors import BackendInputError

if TYPE_CHECKING:
    from pytest_rocm_attn.backends.kernels.launcher import Launch

# Largest finite magnitude: quantisation saturates there.
FP8_MAX = {torch.float8_e4m3fn: 448.0, torch.float8_e4m3fnuz: 240.0}
FP8_BIAS = {torch.float8_e4m3fn: 7, torch.float8_e4m3fnuz: 8}
MOST_REMEMBERED = 256  # plans: one for each number of tokens, in a serving process
_plans: Recent[Launch] = Recent(MOST_REMEMBERED)


@dataclass(frozen=True, slots=True)
class Layout:
    """The order of a cache's axes in memory.

    An axis "slot" or "dim" may be split in two, "slot // x" and "slot % x", with x elements in
    16 bytes.

    Args:
        name: for messages.
        key: axes of the key cache, outermost first.
        value: axes of the value cache.
    """

    name: str
    key: tuple[str, ...]
    value: tuple[str, ...]


NHD = Layout("NHD", ("block", "slot", "head", "dim"), ("block", "slot", "head", "dim"))
SPLIT = Layout(
    "split",
    ("block", "head", "dim // x", "slot", "dim % x"),
    ("block", "head", "dim", "slot"),
)
SHUFFLED = Layout(
    "shuffled",
    ("block", "head", "dim // x", "slot", "dim % x"),
    ("block", "head", "slot // x", "dim", "slot % x"),
)
LAYOUTS = (NHD, SPLIT, SHUFFLED)


def cache_shape(
    axes: tuple[str, ...], blocks: int, block_size: int, kv_heads: int, head_size: int, x: int
) -> tuple[int, ...]:
    """Return the shape of a cache whose axes are given.

    Raises:
        BackendInputError: a split axis is not a multiple of x.
    """
    sizes = {"block": blocks, "slot": block_size, "head": kv_heads, "dim": head_size}
    for axis in ("slot", "dim"):
        if f"{axis} // x" in axes and sizes[axis] % x:
            raise BackendInputError(
                f"cache layout {', '.join(axes)}: {axis} has {sizes[axis]} elements, which is not a"
                f" multiple of x={x} (16 bytes, docs/reference/backends.md#rocm-attn)"
            )
        sizes |= {f"{axis} // x": sizes[axis] // x, f"{axis} % x": x}
    return tuple(sizes[axis] for axis in axes)


def reshape_and_cache_reference(
    key: torch.Tensor,
    value: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    layout: Layout,
    *,
    k_scale: float = 1.0,
    v_scale: float = 1.0,
) -> None:
    """Write new keys and values to their slots: the definition, in plain torch.

    Args: those of `reshape_and_cache`.
    """
    for axes, new, cache, scale in (
        (layout.key, key, key_cache, k_scale),
        (layout.value, value, value_cache, v_scale),
    ):
        # A view [block, slot // x, slot % x, head, dim // x, dim % x], sizes 1 if there is no split.
        view = _logical_view(cache, axes)
        slots, dims = view.shape[1] * view.shape[2], view.shape[4] * view.shape[5]
        written = slot_mapping >= 0
        slot = slot_mapping[written]
        rows = quantise(new[: len(slot_mapping)][written], cache.dtype, scale)
        rows = rows.reshape(-1, rows.shape[1], dims // view.shape[5], view.shape[5])
        offset = slot % slots
        inner = view.shape[2]
        view[slot // slots, offset // inner, offset % inner] = rows


def concat_and_cache_mla_reference(
    kv_c: torch.Tensor,
    k_pe: torch.Tensor,
    cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    *,
    scale: float = 1.0,
) -> None:
    """Write [kv_c | k_pe] to its slots: the definition, in plain torch.

    Args: those of `concat_and_cache_mla`.
    """
    written = slot_mapping >= 0
    slot = slot_mapping[written]
    rows = torch.cat([kv_c, k_pe], dim=1)[: len(slot_mapping)][written]
    block_size = cache.shape[1]
    _bytes(cache)[slot // block_size, slot % block_size] = quantise(rows, cache.dtype, scale)


def quantise(x: torch.Tensor, dtype: torch.dtype, scale: float = 1.0) -> torch.Tensor:
    """Return x as the cache stores it: cast, or x / scale saturated and rounded to fp8, as bytes.

    Args:
        x: values of the model dtype.
        dtype: dtype of the cache; scale is ignored unless it is fp8.
        scale: what one unit of the stored value stands for.
    """
    if dtype not in FP8_MAX:
        return x.to(dtype)
    divisor = torch.tensor(scale, dtype=torch.float32, device=x.device)
    scaled = (x.to(torch.float32) / divisor).clamp(-FP8_MAX[dtype], FP8_MAX[dtype])
    return scaled.to(dtype).view(torch.uint8)


def reshape_and_cache(
    key: torch.Tensor,
    value: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    layout: Layout = NHD,
    *,
    k_scale: torch.Tensor | None = None,
    v_scale: torch.Tensor | None = None,
) -> None:
    """Write new keys and values to their slots, by the Triton kernel.

    Args:
        key: [tokens or more, KV heads, D], last dimension dense.
        value: likewise, the same shape.
        key_cache: axes as layout.key says; the model dtype, or an fp8 dtype.
        value_cache: axes as layout.value says; the dtype of key_cache.
        slot_mapping: [tokens] int64, block * block size + offset; negative: do not write.
        layout: order of the caches' axes.
        k_scale, v_scale: float32 scalars on the device, needed when the cache is fp8: the stored
            value is key / k_scale, saturated.

    Raises:
        BackendInputError: shapes, dtypes or devices disagree; nothing is written.
    """
    # Writes that lie the same are checked and planned once: a model writes a cache a layer.
    written = (key, value, key_cache, value_cache, slot_mapping)
    alike = (layout, *map(described, written))
    launch = _plans.get(alike)
    if launch is None:
        launch = _plan_write(*written, layout)
        if launch is None:  # no tokens
            return
        _plans.keep(alike, launch)
    if key_cache.dtype in FP8_BIAS:
        problem = _scale("k_scale", k_scale, key) or _scale("v_scale", v_scale, key)
        if problem:
            raise BackendInputError(f"reshape_and_cache: {problem}; nothing was written")
        key_cache, value_cache = key_cache.view(torch.uint8), value_cache.view(torch.uint8)
    else:
        k_scale = v_scale = None
    launch(key, value, key_cache, value_cache, slot_mapping, k_scale, v_scale)


def _plan_write(
    key: torch.Tensor,
    value: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    layout: Layout,
) -> Launch | None:
    """Return what writes tensors that lie as these do; None when there is nothing to write.

    Raises:
        BackendInputError: shapes, dtypes or devices disagree.
    """
    fp8 = FP8_BIAS.get(key_cache.dtype, 0)
    group = 16 // key_cache.element_size()
    # fmt: off
    problem = (
        (key.ndim != 3 and f"key has shape {tuple(key.shape)}; it is [tokens, KV heads, head size]")
        or _mismatch("value", value, key, "key")
        or _rows("key", key, slot_mapping) or _rows("value", value, slot_mapping)
        or _elsewhere(key, value=value, key_cache=key_cache, value_cache=value_cache,
                      slot_mapping=slot_mapping)
        or _cache_dtype(key, key_cache, fp8)
        or (key_cache.dtype != value_cache.dtype
            and f"value_cache is {value_cache.dtype}, key_cache is {key_cache.dtype}")
        or _layout("key_cache", key_cache, layout.key, layout, key, group)
        or _layout("value_cache", value_cache, layout.value, layout, key, group)
        or (_slots(key_cache, layout.key) != _slots(value_cache, layout.value)
            and "key_cache and value_cache have different block sizes")
    )
    # fmt: on
    if problem:
        raise BackendInputError(f"reshape_and_cache: {problem}; nothing was written")
    if slot_mapping.shape[0] == 0:
        return None
    from pytest_rocm_attn.backends.kernels.cache import plan_reshape_and_cache

    return plan_reshape_and_cache(
        key,
        value,
        slot_mapping.shape[0],
        block_size=_slots(key_cache, layout.key),
        key_strides=_kernel_strides(key_cache.stride(), layout.key, group),
        value_strides=_kernel_strides(value_cache.stride(), layout.value, group),
        group=group,
        fp8=fp8,
    )


def _layout(
    name: str,
    cache: torch.Tensor,
    axes: tuple[str, ...],
    layout: Layout,
    key: torch.Tensor,
    group: int,
) -> str:
    if len(axes) != cache.ndim:
        return (
            f"{name} has shape {tuple(cache.shape)}; layout {layout.name} wants the axes"
            f" ({', '.join(axes)})"
        )
    _, heads, size = key.shape
    wanted = cache_shape(axes, cache.shape[0], _slots(cache, axes), heads, size, group)
    if tuple(cache.shape) != wanted:
        return (
            f"{name} has shape {tuple(cache.shape)}; layout {layout.name} wants"
            f" ({', '.join(axes)}) = {wanted} for keys of shape {tuple(key.shape)}"
        )
    return ""


def concat_and_cache_mla(
    kv_c: torch.Tensor,
    k_pe: torch.Tensor,
    cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    *,
    scale: torch.Tensor | None = None,
) -> None:
    """Write [kv_c | k_pe] to its slots of MLA's latent cache, by the Triton kernel.

    Args:
        kv_c: [tokens or more, latent rank], normalised, last dimension dense.
        k_pe: [tokens or more, rope size], rope applied, last dimension dense.
        cache: [blocks, block size, latent rank + rope size]; the model dtype, or an fp8 dtype.
        slot_mapping: [tokens] int64; negative: do not write.
        scale: float32 scalar on the device, needed when the cache is fp8.

    Raises:
        BackendInputError: shapes, dtypes or devices disagree; nothing is written.
    """
    written = (kv_c, k_pe, cache, slot_mapping)
    alike = ("latent", *map(described, written))
    launch = _plans.get(alike)
    if launch is None:
        launch = _plan_latent_write(*written)
        if launch is None:  # no tokens
            return
        _plans.keep(alike, launch)
    fp8 = cache.dtype in FP8_BIAS
    if fp8 and (problem := _scale("scale", scale, kv_c)):
        raise BackendInputError(f"concat_and_cache_mla: {problem}; nothing was written")
    launch(kv_c, k_pe, _bytes(cache), slot_mapping, scale if fp8 else None)


def _plan_latent_write(
    kv_c: torch.Tensor, k_pe: torch.Tensor, cache: torch.Tensor, slot_mapping: torch.Tensor
) -> Launch | None:
    """Return what writes tensors that lie as these do; None when there is nothing to write.

    Raises:
        BackendInputError: shapes, dtypes or devices disagree.
    """
    fp8 = FP8_BIAS.get(cache.dtype, 0)
    width = kv_c.shape[-1] + k_pe.shape[-1]
    # fmt: off
    problem = (
        (kv_c.ndim != 2 or k_pe.ndim != 2 or kv_c.dtype != k_pe.dtype) and
        f"kv_c is {kv_c.dtype} {tuple(kv_c.shape)}, k_pe {k_pe.dtype} {tuple(k_pe.shape)};"
        " both are [tokens, columns] of one dtype"
    ) or (
        _rows("kv_c", kv_c, slot_mapping) or _rows("k_pe", k_pe, slot_mapping)
        or _elsewhere(kv_c, k_pe=k_pe, cache=cache, slot_mapping=slot_mapping)
        or _cache_dtype(kv_c, cache, fp8)
        or ((cache.ndim != 3 or cache.shape[2] != width or cache.stride(2) != 1)
            and f"cache has shape {tuple(cache.shape)}, expected [blocks, block size, {width}]")
    )
    # fmt: on
    if problem:
        raise BackendInputError(f"concat_and_cache_mla: {problem}; nothing was written")
    tokens = slot_mapping.shape[0]
    if tokens == 0:
        return None
    from pytest_rocm_attn.backends.kernels.cache import plan_concat_and_cache_mla

    return plan_concat_and_cache_mla(kv_c, k_pe, cache, tokens, fp8=fp8)


def check_slots(slot_mapping: torch.Tensor, blocks: int, block_size: int) -> None:
    """Check that every slot lies in the cache. Reads the device: on request, not on the hot path.

    Raises:
        BackendInputError: one does not; the message names the first, its token and the limit.
    """
    slots = slot_mapping.cpu()
    beyond = (slots >= blocks * block_size).nonzero().flatten()
    if len(beyond):
        token = int(beyond[0])
        raise BackendInputError(
            f"slot_mapping[{token}] is {int(slots[token])}; the cache has {blocks} blocks of"
            f" {block_size} = {blocks * block_size} slots"
            " (docs/reference/backends.md#inputs); nothing was"
            " written"
        )


def _logical_view(cache: torch.Tensor, axes: tuple[str, ...]) -> torch.Tensor:
    """View a cache as [block, slot // x, slot % x, head, dim // x, dim % x]."""
    view = _bytes(cache)
    names = list(axes)
    for axis in ("slot", "dim"):
        if axis in names:  # not split: a group of size 1
            view = view.unsqueeze(names.index(axis) + 1)
            names[names.index(axis) : names.index(axis) + 1] = [f"{axis} // x", f"{axis} % x"]
    order = ("block", "slot // x", "slot % x", "head", "dim // x", "dim % x")
    return view.permute(*(names.index(name) for name in order))


@functools.lru_cache(maxsize=256)
def _kernel_strides(strides: tuple[int, ...], axes: tuple[str, ...], group: int) -> tuple[int, ...]:
    """Return the strides of block, head, slot // x, slot % x, dim // x, dim % x, in elements."""
    stride = dict(zip(axes, strides, strict=True))
    for axis in ("slot", "dim"):
        if axis in stride:
            stride |= {f"{axis} // x": group * stride[axis], f"{axis} % x": stride[axis]}
    order = ("block", "head", "slot // x", "slot % x", "dim // x", "dim % x")
    return tuple(stride[name] for name in order)


def _slots(cache: torch.Tensor, axes: tuple[str, ...]) -> int:
    """Return the block size of a cache."""
    slots = 1
    for axis, size in zip(axes, cache.shape, strict=False):
        slots *= size if axis.startswith("slot") else 1
    return slots


def _bytes(cache: torch.Tensor) -> torch.Tensor:
    """Return fp8 as bytes: indexing and Triton do not know every flavour."""
    return cache.view(torch.uint8) if cache.dtype in FP8_MAX else cache


def _mismatch(name: str, tensor: torch.Tensor, other: torch.Tensor, wanted: str) -> str:
    if tensor.shape != other.shape or tensor.dtype != other.dtype:
        return (
            f"{name} is {tensor.dtype} {tuple(tensor.shape)}, {wanted} is {other.dtype}"
            f" {tuple(other.shape)}; they must agree"
        )
    return ""


def _rows(name: str, tensor: torch.Tensor, slot_mapping: torch.Tensor) -> str:
    if slot_mapping.ndim != 1 or slot_mapping.dtype != torch.int64:
        return f"slot_mapping is {slot_mapping.dtype} {tuple(slot_mapping.shape)}; it is [tokens] int64"
    if tensor.shape[0] < slot_mapping.shape[0]:
        return f"{name} has {tensor.shape[0]} rows for {slot_mapping.shape[0]} slots"
    if tensor.stride(-1) != 1:
        return f"the last dimension of {name} has stride {tensor.stride(-1)}; it must be dense"
    if slot_mapping.numel() and slot_mapping.stride(0) != 1:
        return f"slot_mapping has stride {slot_mapping.stride(0)}; it must be dense"
    return ""


def _scale(name: str, scale: torch.Tensor | None, rows: torch.Tensor) -> str:
    if scale is None:
        return f"{name} is missing; an fp8 cache needs it"
    if scale.numel() != 1 or scale.dtype != torch.float32 or scale.device != rows.device:
        return (
            f"{name} is {scale.dtype} {tuple(scale.shape)} on {scale.device}; it is one float32 on"
            f" {rows.device}"
        )
    return ""


def _elsewhere(first: torch.Tensor, **others: torch.Tensor) -> str:
    for name, tensor in others.items():
        if tensor.device != first.device:
            return f"{name} is on {tensor.device}, the new rows are on {first.device}"
    return ""


def _cache_dtype(new: torch.Tensor, cache: torch.Tensor, fp8: int) -> str:
    if not fp8 and cache.dtype != new.dtype:
        return (
            f"the cache is {cache.dtype}, the new rows are {new.dtype}; the cache holds their dtype,"
            f" or one of {', '.join(map(str, FP8_BIAS))}"
        )
    return ""
