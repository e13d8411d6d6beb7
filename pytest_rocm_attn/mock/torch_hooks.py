"""torch's view of the mocked GPUs, hooked at the bottom (docs/reference/mock-surface.md#torch).

Only what torch asks its C++ side for is replaced, so that torch's own counting, bounds checks and
parsing of the visible-devices variables run as they are.
"""

from __future__ import annotations

import dis
import functools
import importlib
import itertools
import os
import sys
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.errors import MockError
from pytest_rocm_attn.gpu import Amdsmi
from pytest_rocm_attn.mock.errors import needs_device, unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import CodeType, FrameType, ModuleType

    from pytest_rocm_attn.mock.devices import Device, DeviceProperties
    from pytest_rocm_attn.mock.patching import Layer

# Functions of torch._C that a CPU build has and that can only fail without a device.
_DEVICE_ONLY = (
    "_accelerator_emptyCache",
    "_accelerator_emptyHostCache",
    "_accelerator_getDeviceCapability",
    "_accelerator_getDeviceStats",
    "_accelerator_getMemoryInfo",
    "_accelerator_resetAccumulatedStats",
    "_accelerator_resetPeakStats",
    "_accelerator_setStream",
    "_accelerator_synchronizeDevice",
)
# Base classes that a CPU build fills with dummies; torch's Stream, Event and graphs derive from them.
_DEVICE_CLASSES = ("_CudaStreamBase", "_CudaEventBase", "_CUDAGraph", "_MemPool")
# Functions that remember an answer about the devices: (module, function).
_CACHES = (
    ("torch.cuda", "_check_bf16_tensor_supported"),
    ("torch.utils._triton", "has_triton"),
    ("torch.utils._triton", "has_triton_tma"),
    ("torch.utils._triton", "has_triton_tma_device"),
    ("torch.utils._triton", "has_triton_tensor_descriptor_host_tma"),
    ("torch.utils._triton", "has_triton_experimental_host_tma"),
    ("torch.utils._triton", "has_triton_stable_tma_api"),
    ("torch.utils._triton", "has_datacenter_blackwell_tma_device"),
    ("torch.utils._triton", "triton_key"),
    ("torch.utils._triton", "triton_hash_with_backend"),
)
_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: a class made in Python, whose attributes can be set


def install(
    layer: Layer,
    device: Device,
    count: int,
    hip: str,
    amdsmi: ModuleType | None,
    runtime_calls: list[str],
) -> None:
    """Make torch see count GPUs of one kind until the layer comes off.

    Args:
        layer: takes every change.
        device: the kind of GPU.
        count: how many physical GPUs there are.
        hip: torch.version.hip.
        amdsmi: the module that torch asks; None if there is none.
        runtime_calls: takes what would have started the HIP runtime.
    """
    import torch

    hooks = _Hooks(device, count, runtime_calls)
    put = layer.set_attribute
    fake_tensor = importlib.import_module("torch._subclasses.fake_tensor")
    # In torch 2.10 one flag stands for pynvml and amdsmi, whichever the build would ask.
    flag = "_HAS_AMDSMI" if hasattr(torch.cuda, "_HAS_AMDSMI") else "_HAS_PYNVML"
    cache = "_cached_hip_to_amdsmi"
    replaced: list[tuple[Any, str, Any]] = [
        (torch.version, "hip", hip),
        (torch.version, "cuda", None),
        (torch._C, "_has_cuda", True),  # torch.backends.cuda.is_built(), true of ROCm builds
        *((torch._C, name, hook) for name, hook in hooks.replaced().items()),
        # torch.cuda.graphs copied the dummy of a CPU build when it was imported.
        (torch.cuda.graphs, "_cuda_isCurrentStreamCapturing", lambda: False),
        # torch.cuda.random copied both by name.
        *((module, "_lazy_init", hooks.lazy_init) for module in (torch.cuda, torch.cuda.random)),
        *((module, "_lazy_call", hooks.lazy_call) for module in (torch.cuda, torch.cuda.random)),
        # torch keeps the devices' random states around what it compiles, on the CPU too.
        (torch.cuda, "default_generators", tuple(torch.Generator() for _ in range(count))),
        (torch.Tensor, "pin_memory", hooks.device_only("pinned memory")),
        (torch.cuda, "_initialized", False),
        (torch.cuda, "_cached_device_count", None),
        (torch.cuda, "_exchange_device", hooks.exchange),
        (torch.cuda, "_maybe_exchange_device", hooks.exchange),
        (torch.cuda, "_cudart", _Runtime(device)),
        (torch.cuda, flag, amdsmi is not None),
        # torch 2.10 and 2.11 do not cache how HIP's indices map to amdsmi's.
        *([(torch.cuda, cache, None)] if hasattr(torch.cuda, cache) else []),
        # Readies the device for the backward pass of fake tensors, which need none.
        (fake_tensor, "init_gpu_context", lambda device: None),
    ]
    added: list[tuple[Any, str, Any]] = [
        *((torch._C, name, hook) for name, hook in hooks.added().items()),
        (torch._C, "__getattr__", hooks.missing),
        (torch.cuda, "_get_device_properties", hooks.properties),
        *([(torch.cuda, "amdsmi", amdsmi)] if amdsmi is not None else []),
    ]
    if lacking := [
        f"{owner.__name__}.{name}" for owner, name, _ in replaced if not hasattr(owner, name)
    ]:
        raise MockError(
            f"this torch ({torch.__version__}) has no {', '.join(lacking)}; the mock was made for"
            " torch 2.10 to 2.13: use one of those, or teach pytest_rocm_attn/mock/torch_hooks.py"
        )
    for owner, name, value in (*replaced, *added):
        put(owner, name, value)
    for name in _DEVICE_ONLY:
        if hasattr(torch._C, name):
            put(torch._C, name, hooks.device_only(f"torch._C.{name}"))
    for name in _DEVICE_CLASSES:
        base = getattr(torch._C, name, None)
        if base is not None and base.__flags__ & _HEAP_TYPE:
            put(base, "__new__", hooks.device_only(f"torch._C.{name}"))
    clear_caches()
    layer.on_close("torch caches", clear_caches)


def clear_caches() -> None:
    """Forget what torch's helpers remember about the devices, in modules already imported."""
    for module_name, name in _CACHES:
        clear = getattr(getattr(sys.modules.get(module_name), name, None), "cache_clear", None)
        if clear is not None:
            clear()


class _Hooks:
    def __init__(self, device: Device, count: int, runtime_calls: list[str]) -> None:
        self._device = device
        self._count = count
        self._current = 0
        self._runtime_calls = runtime_calls

    def started(self) -> None:
        """Note what would have started the HIP runtime: torch's function, and who called it.

        One function of torch asks several times; that is reported once.
        """
        frame, called = sys._getframe(2), ""
        while frame.f_back is not None and _is_torchs(frame):
            called = f"{frame.f_globals['__name__']}.{frame.f_code.co_qualname}()"
            frame = frame.f_back
        where = f"{frame.f_globals.get('__name__', '?')}:{frame.f_lineno}"
        call = f"{called or 'torch._C'}, called at {where}"
        if self._runtime_calls[-1:] != [call]:
            self._runtime_calls.append(call)

    def added(self) -> dict[str, Callable[..., Any]]:
        """Return the functions of torch._C that a CPU build lacks."""
        return {
            # Its presence alone makes torch.cuda._is_compiled() true.
            "_cuda_getDeviceCount": self.visible_count,
            "_cuda_getDevice": lambda: self._current,
            "_cuda_setDevice": self.select,
            "_cuda_isInBadFork": lambda: False,
            # torch._dynamo.device_interface imports this name as soon as _is_compiled() is true.
            "_cuda_getCurrentRawStream": lambda index: 0,
            "_cuda_canDeviceAccessPeer": lambda index, peer: True,
            "_cuda_resetPeakMemoryStats": lambda index: None,
            "_cuda_resetAccumulatedMemoryStats": lambda index: None,
            "_cuda_getArchFlags": lambda: self._device.gpu.gfx,
        }

    def replaced(self) -> dict[str, Callable[..., Any]]:
        """Return the replacements for functions of torch._C that every build has."""
        import torch

        accelerator = torch.device("cuda")
        return {
            "_cuda_isCurrentStreamCapturing": lambda: False,
            "_accelerator_getAccelerator": lambda: accelerator,
            # The default stream's name, which torch.compile wants on the CPU too; type 1 is CUDA.
            "_accelerator_getStream": lambda index: torch.Stream(
                stream_id=0, device_index=index, device_type=1
            ),
            "_accelerator_getDeviceIndex": lambda: self._current,
            "_accelerator_setDeviceIndex": self.select,
            "_accelerator_isAllocatorInitialized": lambda: False,
            "_accelerator_exchangeDevice": self.exchange,
            "_accelerator_maybeExchangeDevice": self.exchange,
        }

    def visible_count(self) -> int:
        """What the HIP runtime counts: the same parse that torch makes of the variables."""
        import torch

        if self._device.gpu.amdsmi is not Amdsmi.WHOLE:
            # HIP counts what the kernel driver shows it, whatever amdsmi can tell; of variables it
            # takes ordinals up to the first that it lacks.
            visible: list[Any] = list(torch.cuda._parse_visible_devices())
            known = itertools.takewhile(
                lambda one: isinstance(one, str) or 0 <= int(one) < self._count, visible
            )
            return min(len(list(known)), self._count)
        # -1 means that amdsmi could not tell, and torch asks the runtime, which is us.
        counted = torch.cuda._device_count_amdsmi()
        return int(counted) if counted >= 0 else self._count

    def select(self, index: int) -> None:
        if index >= 0:
            self.started()
        if index >= self.visible_count():
            raise RuntimeError(
                f"HIP error: invalid device ordinal ({index}; the mocked machine shows"
                f" {self.visible_count()} {self._device.gpu.gfx})"
            )
        if index >= 0:
            self._current = index

    def exchange(self, index: int) -> int:
        """Select a device; return the one before, as torch's device guards want it."""
        if index < 0:
            return -1
        before = self._current
        self.select(index)
        return before

    def properties(self, index: int) -> DeviceProperties:
        import torch

        # torch has checked the bound. Which physical GPU it is shows in its serial and bus only.
        visible = torch.cuda._parse_visible_devices()
        if visible and isinstance(visible[0], str):
            return self._device.properties(_ordinals(visible)[index])
        number = int(visible[index])
        if listed := os.environ.get("ROCR_VISIBLE_DEVICES"):
            # HIP counts what ROCr leaves; torch's list has HIP's numbers.
            number = _ordinals(listed.split(","))[number]
        return self._device.properties(number)

    def lazy_init(self) -> None:
        """Stand for torch.cuda._lazy_init: nothing for torch's Python, an error for its C++.

        torch's Python functions call it by name before they ask the device. C++ calls it when a
        tensor is about to be made on the device; Python then shows the frame of the user's code,
        at a call of something else. Returning to C++ would mark its CUDA state as initialised for
        the rest of the process, past the mock's end.
        """
        __tracebackhide__ = True
        caller = sys._getframe(1)
        self.started()
        if self._device.gpu.amdsmi is Amdsmi.EMPTY:
            # Once started, torch asks HIP for the count; before that an empty list means no GPU.
            sys.modules["torch.cuda"]._initialized = True  # type: ignore[attr-defined]  # torch has it
        if not _calls(caller.f_code, caller.f_lasti, "_lazy_init"):
            raise needs_device("a tensor on device 'cuda'", self._device.gpu.gfx)

    def lazy_call(self, callable: Callable[[], None], **kinds: bool) -> None:
        """Stand for torch.cuda._lazy_call: act now, as nothing will be initialised later."""
        callable()

    def device_only(self, what: str) -> Callable[..., Any]:
        gfx = self._device.gpu.gfx

        def function(*args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            raise needs_device(what, gfx)

        return function

    def missing(self, name: str) -> Any:
        """Stand for torch._C's own answer to an attribute that it lacks (PEP 562)."""
        __tracebackhide__ = True
        if name.startswith(("_cuda_", "_cudnn_", "_nccl_")):
            raise unknown(
                "torch._C",
                name,
                "it needs a real GPU and the test belongs on hardware (marker rocm_attn_gpu); or, where the"
                " host can answer, set it: monkeypatch.setattr(torch._C, ..., raising=False)",
            )
        raise AttributeError(f"module 'torch._C' has no attribute {name!r}")


def _ordinals(listed: Sequence[str]) -> list[int]:
    """Return the numbers of devices that a list of visible ones names, by number or by UUID."""
    import torch

    if listed[0].strip().isdecimal():
        return [int(one) for one in listed]
    uuids = torch.cuda._raw_device_uuid_amdsmi() or []
    return [int(one) for one in torch.cuda._transform_uuid_to_ordinals([*listed], uuids)]


@functools.cache
def _calls(code: CodeType, position: int, name: str) -> bool:
    """Whether the instruction at a position of code calls, without arguments, what name looks up."""
    looked_up = called = None
    for instruction in dis.get_instructions(code):
        if instruction.offset > position:  # which may be that of a cache entry after the call
            break
        if instruction.opname not in ("PRECALL", "CACHE", "PUSH_NULL", "NOP"):
            called = looked_up if instruction.opname.startswith("CALL") else None
            looked_up = instruction.argval if instruction.opname.startswith("LOAD_") else None
    return bool(called == name)


def _is_torchs(frame: FrameType) -> bool:
    name = frame.f_globals.get("__name__", "")
    return name in (__name__, "torch") or name.startswith("torch.")


class _Runtime:
    """Stands for torch.cuda.cudart(): an idle GPU's memory, and nothing else."""

    class cudaError:
        success = 0

    def __init__(self, device: Device) -> None:
        self._device = device

    def cudaMemGetInfo(self, device: int) -> tuple[int, int]:
        return self._device.total_memory, self._device.total_memory

    def __getattr__(self, name: str) -> Any:
        __tracebackhide__ = True
        raise unknown(
            "torch.cuda.cudart()",
            name,
            "it needs a real GPU and the test belongs on hardware (marker rocm_attn_gpu)",
        )
