"""Tensors that believe they are on the mocked GPU, and live on the CPU, where kernels are emulated.

``torch.empty(..., device="cuda")``, ``x.cuda()`` and ``x.to("cuda")`` give CPU tensors that are
marked; what is computed of a marked tensor is marked; a marked tensor says ``device="cuda:0"`` and
``is_cuda``. New memory that nothing has filled holds NaN, or the lowest integer, unless who installs
this fills it otherwise. Pinned memory is memory.
"""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_rocm_attn.mock.patching import Layer

_MARK = "_rocm_attn_on_device"


def install(layer: Layer, fill: Callable[[Any], None] | None = None) -> None:
    """Let tensors believe it until the layer comes off.

    Args:
        layer: takes every change.
        fill: fills new memory; None for NaN, or the lowest integer.
    """
    import torch

    mode = _mode(fill or _fill)
    mode.__enter__()
    layer.on_close(("tensors on the CPU", id(mode)), functools.partial(_take_off, mode))
    layer.set_attribute(torch.cuda, "synchronize", lambda device=None: None)
    stream = SimpleNamespace(synchronize=lambda: None)
    layer.set_attribute(torch.cuda, "current_stream", lambda device=None: stream)
    # The mock's refuses, and no mode sees it.
    layer.set_attribute(torch.Tensor, "pin_memory", lambda self, device=None: self)


def _take_off(mode: Any) -> None:
    """Take a mode off the stack, wherever in it it is."""
    import torch

    above = []
    while torch._C._len_torch_function_stack():
        top = torch._C._pop_torch_function_stack()
        if top is mode:
            break
        above.append(top)
    for other in reversed(above):
        torch._C._push_on_torch_function_stack(other)


def _mode(fill: Callable[[Any], None]) -> Any:
    import torch
    from torch.overrides import TorchFunctionMode
    from torch.utils._device import _device_constructors

    tensor: Any = torch.Tensor
    # What a tensor's own attributes answer; the keys are what __torch_function__ is given for them.
    says = {
        tensor.device.__get__: torch.device("cuda", 0),
        tensor.is_cuda.__get__: True,
        tensor.is_cpu.__get__: False,
        tensor.get_device: 0,
    }
    unfilled = {torch.empty, torch.empty_like, torch.empty_strided, tensor.new_empty}
    constructors = frozenset(_device_constructors())

    class OnCpu(TorchFunctionMode):
        def __torch_function__(
            self,
            func: Callable[..., Any],
            types: Any,
            args: tuple[Any, ...] = (),
            kwargs: dict[str, Any] | None = None,
        ) -> Any:
            kwargs = dict(kwargs or {})
            if func in says:
                return says[func] if _is_marked(args[0]) else func(*args, **kwargs)
            if func is tensor.cuda:
                return args[0] if _is_marked(args[0]) else _mark(args[0].clone())
            if func is tensor.cpu:
                return args[0].clone() if _is_marked(args[0]) else args[0]
            if func is tensor.to:
                return _to(args, kwargs)
            kwargs.pop("pin_memory", None)
            marks = _is_cuda(kwargs.get("device"))
            if marks:
                kwargs["device"] = "cpu"
            elif kwargs.get("device") is None and func in constructors:
                marks = _is_cuda(_default_device())
                if marks:
                    kwargs["device"] = "cpu"
            elif kwargs.get("device") is not None:  # by name on another device
                return func(*args, **kwargs)
            marks = marks or _any_marked(args) or _any_marked(kwargs.values())
            result = func(*args, **kwargs)
            if marks:
                _mark(result)
                if func in unfilled:
                    fill(result)
            return result

    return OnCpu()


def _default_device() -> Any:
    """Return the device of torch.set_default_device or of ``with torch.device(...)``, or None."""
    from torch.overrides import _get_current_function_mode_stack
    from torch.utils._device import DeviceContext

    modes = reversed(_get_current_function_mode_stack())
    return next((mode.device for mode in modes if isinstance(mode, DeviceContext)), None)


def _to(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Carry out ``tensor.to(...)``: a move makes a copy, as between devices."""

    import torch

    tensor, *rest = args
    places = [*rest, *kwargs.values()]
    target = next((one for one in places if isinstance(one, str | int | torch.device)
                   and not isinstance(one, bool)), None)  # fmt: skip
    like = next((one for one in rest if isinstance(one, torch.Tensor)), None)
    if like is not None:
        target = "cuda" if _is_marked(like) else "cpu"
    onto = _is_marked(tensor) if target is None else _is_cuda(target)
    rest = ["cpu" if _is_cuda(one) else one for one in rest]
    kwargs = {name: "cpu" if _is_cuda(one) else one for name, one in kwargs.items()}
    result = torch.Tensor.to(tensor, *rest, **kwargs)
    if onto != _is_marked(tensor) and result is tensor:
        result = tensor.clone()
    if onto:
        return _mark(result)
    if _is_marked(result):
        delattr(result, _MARK)
    return result


def _is_cuda(device: Any) -> bool:
    import torch

    if isinstance(device, str):
        return device.partition(":")[0] == "cuda"
    if isinstance(device, torch.device):
        return device.type == "cuda"
    return isinstance(device, int) and not isinstance(device, bool)


def _is_marked(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor) and getattr(value, _MARK, False)


def _any_marked(values: Any) -> bool:
    return any(
        _is_marked(value) or (isinstance(value, list | tuple) and _any_marked(value))
        for value in values
    )


def _mark(result: Any) -> Any:
    import torch

    if isinstance(result, torch.Tensor):
        if not hasattr(result, _MARK):
            setattr(result, _MARK, True)
    elif isinstance(result, list | tuple):
        for one in result:
            _mark(one)
    return result


def _fill(tensor: Any) -> None:
    import torch

    if tensor.dtype.is_floating_point and tensor.dtype.itemsize > 1:
        tensor.fill_(float("nan"))
    elif tensor.dtype.itemsize == 1:
        tensor.view(torch.uint8).fill_(0xFF)
    elif not tensor.dtype.is_complex:
        tensor.fill_(torch.iinfo(tensor.dtype).min)
