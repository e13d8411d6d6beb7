"""Conformance tests, mocked ROCm platforms and reference attention backends for vLLM-style servers.

The pytest plugin is ``pytest_rocm_attn.plugin``; the vocabulary shared by everything here is
re-exported below. Importing this package costs nothing: names resolve on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_rocm_attn.errors import RocmAttnError, SelectionError
    from pytest_rocm_attn.flags import Flags
    from pytest_rocm_attn.gpu import Aiter, Amdsmi, Gpu
    from pytest_rocm_attn.outcome import Crashed, Died, Rejected, Selected, TimedOut, Unrecognised
    from pytest_rocm_attn.request import Request

    __version__: str

__all__ = [
    "Aiter",
    "Amdsmi",
    "Crashed",
    "Died",
    "Flags",
    "Gpu",
    "Rejected",
    "Request",
    "RocmAttnError",
    "Selected",
    "SelectionError",
    "TimedOut",
    "Unrecognised",
    "__version__",
]

_HOMES = {
    "Aiter": "gpu",
    "Amdsmi": "gpu",
    "Crashed": "outcome",
    "Died": "outcome",
    "Flags": "flags",
    "Gpu": "gpu",
    "Rejected": "outcome",
    "Request": "request",
    "RocmAttnError": "errors",
    "Selected": "outcome",
    "SelectionError": "errors",
    "TimedOut": "outcome",
    "Unrecognised": "outcome",
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("pytest-rocm-attn")
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
