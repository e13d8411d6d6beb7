"""Read what a backend class declares of itself, by the shape of the class and never by its version.

vLLM's classes speak through methods (``supports_head_size``), lists that methods return
(``get_supported_head_sizes``) and plain attributes (``supported_dtypes``); which of them exist
differs by release (docs/reference/backends.md#declared). What comes back is plain data.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

# What a class says of a limit that no class but the common root mentions is a default, not a
# declaration, unless somebody decides by it.
OWN = "own"
INHERITED = "inherited"


@dataclass(frozen=True)
class _Accessors:
    """The places in which a class may declare one limit: a predicate, or a list (empty: any value)."""

    predicate: str = ""
    lists: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return (self.predicate, *self.lists) if self.predicate else self.lists


_ACCESSORS: dict[str, _Accessors] = {
    "head_size": _Accessors(
        "supports_head_size", ("get_supported_head_sizes", "supported_head_sizes")
    ),
    "dtype": _Accessors("supports_dtype", ("get_supported_dtypes", "supported_dtypes")),
    "kv_cache_dtype": _Accessors(
        "supports_kv_cache_dtype", ("get_supported_kv_cache_dtypes", "supported_kv_cache_dtypes")
    ),
    # No predicate: vLLM's supports_block_size also asks which sizes its command line admits.
    "block_size": _Accessors(
        "", ("get_supported_kernel_block_sizes", "supported_kernel_block_sizes")
    ),
    "attn_type": _Accessors("supports_attn_type"),
    "has_sink": _Accessors("supports_sink"),
    "use_mla": _Accessors("is_mla"),
    "use_sparse": _Accessors("is_sparse"),
    "gfx": _Accessors("supports_compute_capability"),
}


def of(
    cls: type, asked: Mapping[str, Iterable[Any]], convert: Callable[[str, Any], Any]
) -> dict[str, Any]:
    """Return what a class declares.

    Args:
        cls: a backend class.
        asked: for each limit, the values to ask about.
        convert: makes of (limit, value) what the class is asked with, such as a torch.dtype.

    Returns: limit -> ``{"by": "own" or "inherited", "takes": [values], "not": [values]}``; a limit
        that the class has no accessor for is left out: undeclared. If asking raised, the limit
        is ``{"by": ..., "error": "..."}``.
    """
    said: dict[str, Any] = {}
    for limit, accessors in _ACCESSORS.items():
        owners = [owner for name in accessors.names if (owner := _owner(cls, name)) is not None]
        if not owners:
            continue
        root = _root(cls)
        entry: dict[str, Any] = {"by": OWN if any(o is not root for o in owners) else INHERITED}
        try:
            answers = [
                (value, _takes(cls, limit, accessors, convert(limit, value)))
                for value in asked[limit]
            ]
        except Exception as error:  # noqa: BLE001  foreign code: what it raises is its declaration
            entry["error"] = f"{type(error).__name__}: {error}"[:500]
        else:
            entry["takes"] = [value for value, takes in answers if takes]
            entry["not"] = [value for value, takes in answers if not takes]
        said[limit] = entry
    return said


def _takes(cls: Any, limit: str, accessors: _Accessors, value: Any) -> bool:
    if accessors.predicate and hasattr(cls, accessors.predicate):
        predicate = getattr(cls, accessors.predicate)
        if limit == "has_sink":
            return bool(predicate()) or not value
        if limit in ("use_mla", "use_sparse"):  # these say what a backend is
            return bool(predicate()) is bool(value)
        return bool(predicate(value))
    listed = block_sizes(cls) if limit == "block_size" else _list(cls, accessors.lists)
    if limit == "block_size":
        # A cache block that is a multiple of a kernel block is split into kernel blocks.
        return not listed or any(value % size == 0 for size, _ in listed)
    return not listed or value in listed


def block_sizes(cls: Any) -> list[tuple[int, bool]]:
    """Return the kernel block sizes that a class declares.

    Returns: (size, multiples) pairs: multiples says that the kernel takes multiples of the size
        too. An empty list stands for any size, as it does in vLLM.
    """
    listed = _list(cls, _ACCESSORS["block_size"].lists)
    return [
        (int(getattr(one, "base", one)), not isinstance(one, int))  # vLLM's MultipleOf has a base
        for one in listed
    ]


def kernel_block_size(cls: Any, block_size: int) -> int | None:
    """Return the kernel block that the runner would split a cache block into, or None for none.

    As vLLM's select_common_block_size has it for a single backend: the cache block itself where a
    kernel takes it, else the largest listed size that divides it.
    """
    sizes = block_sizes(cls)
    if not sizes:
        return block_size
    for size, multiples in sizes:
        if block_size == size or (multiples and block_size % size == 0):
            return block_size
    return max((s for s, multiples in sizes if not multiples and block_size % s == 0), default=None)


def _list(cls: Any, names: Iterable[str]) -> list[Any]:
    for name in names:
        if (found := getattr(cls, name, None)) is not None:
            return list(found() if callable(found) else found)
    return []


def _owner(cls: type, name: str) -> type | None:
    """Return the class that defines an attribute, None for none."""
    return next((base for base in cls.__mro__ if name in vars(base)), None)


def _root(cls: type) -> type:
    """Return the common root of a backend class: the last class that is not Python's own."""
    own = [base for base in cls.__mro__ if base.__module__ not in ("builtins", "abc", "typing")]
    return own[-1]


def validates(module_name: str) -> bool:
    """Whether a module (a platform's) asks the classes, by calling their validate_configuration.

    If nobody asks, what a class inherits from the common root decides nothing.
    """
    return any(
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "validate_configuration"
        for node in ast.walk(_tree(module_name))
    )


def cache_refusals(cls: Any, sizes: Iterable[int]) -> dict[str, str]:
    """Return which cache blocks a class's own cache shape refuses: size as text -> the error."""
    refused: dict[str, str] = {}
    if not hasattr(cls, "get_kv_cache_shape"):
        return refused
    for size in sizes:
        kernel_block = kernel_block_size(cls, size)
        if kernel_block is None:
            refused[str(size)] = "none of its kernel block sizes divides it"
            continue
        try:
            cls.get_kv_cache_shape(1, kernel_block, 1, 128)
        except Exception as error:  # noqa: BLE001  foreign code: what it raises is its refusal
            refused[str(size)] = f"{type(error).__name__}: {error}"[:200]
    return refused


# Attention kernels of aiter and of vLLM that implementations share
# (docs/reference/aiter.md#functions).
_KERNELS = ("mla_decode_fwd", "unified_attention", "paged_attention_v1", "flash_attn_varlen_func")


def kernels_called(module_name: str) -> list[str]:
    """Return which of the known attention kernels a module's code calls, in any spelling."""
    called: set[str] = set()
    for node in ast.walk(_tree(module_name)):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            called.update(kernel for kernel in _KERNELS if str(name).endswith(kernel))
    return sorted(called)


def _tree(module_name: str) -> ast.AST:
    """Return the syntax tree of an imported module; an empty one where it has no source."""
    try:
        return ast.parse(inspect.getsource(importlib.import_module(module_name)))
    except (OSError, TypeError):
        return ast.Module([], [])
