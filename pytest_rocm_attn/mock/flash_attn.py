"""The package ``flash_attn`` as vLLM's ROCm paths look for it.

Source: docs/reference/mock-surface.md#stand-ins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.mock import device_calls
from pytest_rocm_attn.mock.errors import needs_device
from pytest_rocm_attn.mock.packages import StandIn

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

VERSION = "2.8.3"
_FUNCTIONS = (
    "flash_attn_func",
    "flash_attn_varlen_func",
    "flash_attn_with_kvcache",
    "flash_attn_qkvpacked_func",
    "flash_attn_varlen_qkvpacked_func",
)


def device_function(name: str, module: str, gfx: str) -> Callable[..., Any]:
    """Return a function that can be imported and passed around, and says why it cannot run.

    While device_calls.answered_by() is in force, it is answered there.
    """

    def function(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        if (answer := device_calls.current()) is not None:
            return answer(module, name, args, kwargs)
        raise needs_device(f"{module}.{name}", gfx)

    function.__name__ = function.__qualname__ = name
    function.__module__ = module
    return function


def stand_in(gfx: str) -> StandIn:
    """Return flash_attn for one target."""

    def interface(module: ModuleType) -> None:
        for name in _FUNCTIONS:
            setattr(module, name, device_function(name, module.__name__, gfx))

    def package(module: ModuleType) -> None:
        interface(module)
        vars(module)["__version__"] = VERSION

    def rotary(module: ModuleType) -> None:
        for name in ("apply_rotary", "apply_rotary_emb"):
            setattr(module, name, device_function(name, module.__name__, gfx))

    def nothing(module: ModuleType) -> None:
        pass

    return StandIn(
        "flash_attn",
        {
            "flash_attn": package,
            "flash_attn.flash_attn_interface": interface,
            "flash_attn.flash_attn_triton_amd": nothing,
            "flash_attn.layers": nothing,
            "flash_attn.layers.rotary": rotary,
            "flash_attn.ops": nothing,
            "flash_attn.ops.triton": nothing,
            "flash_attn.ops.triton.rotary": rotary,
        },
        distribution="flash_attn",
        version=VERSION,
        how_to_add="install the real flash_attn and pass MockRocm(..., flash_attn=False), or set"
        " it on the module in your test",
    )
