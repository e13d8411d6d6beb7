"""Device memory that a module reserves while it is imported.

On a machine with a GPU such an import works, whatever the module is for: vLLM's CUTLASS_MLA has a
workspace of its own (vllm/v1/attention/backends/mla/cutlass_mla.py, g_sm100_workspace), and a
selector that is asked for it by name then refuses. So that it comes this far, what is made on the
device during an import is made on torch's "meta" device, which has shapes and no memory.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.mock import packages
from pytest_rocm_attn.mock.import_watch import when_imported

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from pytest_rocm_attn.mock.patching import Layer


def install(layer: Layer) -> None:
    """Have imports make their tensors of the device on meta, from the import of torch on."""
    if packages.installed("torch"):
        when_imported(layer, "torch", _enter)


def _enter() -> None:
    import torch
    from torch.overrides import TorchFunctionMode
    from torch.utils._device import _device_constructors

    constructors = frozenset(_device_constructors())

    class OnMeta(TorchFunctionMode):
        def __torch_function__(
            self,
            func: Callable[..., Any],
            types: Any,
            args: tuple[Any, ...] = (),
            kwargs: dict[str, Any] | None = None,
        ) -> Any:
            kwargs = kwargs or {}
            device = kwargs.get("device") if func in constructors else None
            if device is not None and torch.device(device).type == "cuda" and _importing():
                kwargs = kwargs | {"device": "meta"}
            return func(*args, **kwargs)

    mode: Any = OnMeta()
    mode.__enter__()


def _importing() -> bool:
    """Whether the caller runs for the body of a module that is being imported."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_name == "<module>":
            above = frame.f_back
            while above is not None and above.f_code.co_filename.startswith("<frozen importlib"):
                if above.f_code.co_name == "exec_module":
                    return True
                above = above.f_back
        frame = frame.f_back
    return False
