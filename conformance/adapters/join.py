"""The join of a selection and of the kernel that a backend then runs.

A backend is chosen by what its class declares, and its code asks a predicate about the kernel that it is named
for, such as ROCM_ATTN's custom paged attention. If the predicate refuses the request, another kernel runs, and
another backend may be the better choice (vllm-project/vllm#54440). Runs in the worker.
"""

from __future__ import annotations

import inspect
import sys
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.adapters import predicates

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from pytest_rocm_attn.request import Request


def refusing(impl: Any, request: Request, platform: ModuleType, top: str) -> Iterator[str]:
    """Yield, in words, the predicates by which an implementation chooses, and that refuse a request.

    Args:
        impl: the class of the implementation.
        request: what the layer is, with the block that its kernels are given.
        platform: the module of the platform, which has the predicates.
        top: the fork's top-level package.
    """
    home = sys.modules.get(getattr(getattr(impl, "forward", None), "__module__", ""))
    if home is None:
        return
    values = _values(request)
    for name, predicate in predicates.candidates(platform).items():
        parameters = inspect.signature(predicate).parameters
        if any(one.default is one.empty and one.name not in values for one in parameters.values()):
            continue
        given = {key: value for key, value in values.items() if key in parameters}
        for choice in predicates.choices(name, list(parameters), top):
            chooser = getattr(sys.modules[choice.module], choice.function, None)
            own = choice.module == home.__name__
            if (own or (chooser is not None and chooser in vars(home).values())) and not predicate(
                **given
            ):
                place = f"{choice.module}.{choice.function}"
                yield f"{name} is false, by which {place} chooses: another kernel runs than its own"
                break


def _values(request: Request) -> dict[str, Any]:
    import torch

    dtype = getattr(torch, request.dtype)
    group = request.num_heads // request.num_kv_heads
    plain = {name: values[0] for name, values in predicates.plain_values().items()}
    return plain | {
        "qtype": dtype,
        "dtype": dtype,
        "head_size": request.head_size,
        "block_size": request.block_size,
        "gqa_ratio": group,
        "num_queries_per_kv": group,
        "sliding_window": request.sliding_window or 0,
        "kv_cache_dtype": request.kv_cache_dtype,
        "sinks": torch.zeros(request.num_heads) if request.has_sink else None,
    }
