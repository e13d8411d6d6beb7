"""Launch a Triton kernel many times at little cost to the host.

`kernel[grid](...)` binds, describes and looks up every argument on each call, which takes longer than
many a decode step. A Launcher does that once per combination that Triton tells apart and then hands
the addresses to the compiled kernel itself, as Triton's `compiled[grid](...)` does. What a caller
would pass again and again, it prepares once: `launcher.prepare(...)` is a Launch, called with tensors.

What it remembers is keyed by no less than what Triton compiles for: dtype and address modulo 16 of
every tensor (on AMD also whether its storage is within 2 GiB, which decides over buffer
instructions), the value of every specialised scalar, the constants, the compiler's options, the
device and the driver. Not watched, as they are set before a process starts: Triton's knobs for
debugging (TRITON_DEBUG and the like).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import triton

from pytest_rocm_attn.backends.current_device import gpu_of, on_gpu_of
from pytest_rocm_attn.backends.plans import Recent

# Triton's AMD backend: a tensor whose storage is not larger is addressed with 32-bit offsets.
LARGEST_OFFSET = 2**31 - 1
MOST_REMEMBERED = 1024  # combinations; a model needs a few, and Triton itself forgets none
# Other subclasses go through Triton: a FakeTensor has no address, until the mocked driver gives it one.
WITH_ADDRESS = frozenset({torch.Tensor, torch.nn.Parameter, type(None)})
INTERPRETED: bool = triton.knobs.runtime.interpret


class Launcher:
    """One kernel, with its compiled forms for the active driver.

    Args:
        kernel: function under @triton.jit. Its parameters are, in this order: tensors, integers that
            it names in do_not_specialize, further scalars, constexprs.
    """

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel
        self._compiled: Recent[Any] = Recent(MOST_REMEMBERED)
        self._driver: Any = None

    def prepare(
        self,
        grid: tuple[int, int, int],
        varying: tuple[int, ...],
        scalars: tuple[int | float | None, ...],
        constants: tuple[Any, ...],
        num_warps: int,
        num_stages: int,
        options: Mapping[str, Any] | None = None,
    ) -> Launch:
        """Return a launch that lacks nothing but its tensors.

        Args:
            grid: programs along each axis.
            varying: integers below 2**31 that change from call to call.
            scalars: arguments that rarely change; each value is remembered on its own.
            constants: values of the constexprs, hashable.
            num_warps, num_stages: the compiler's.
            options: further options of the compiler, by name.
        """
        return Launch(self, grid, varying, scalars, constants, num_warps, num_stages, options)

    def compiled(self, driver: Any, key: Any, launch: Callable[[], Any]) -> tuple[Any, bool]:
        """Return what was compiled for a key, and whether `launch` had to be called to compile it."""
        if driver is not self._driver:  # another GPU is mocked, or none any more
            self._compiled = Recent(MOST_REMEMBERED)
            self._driver = driver
        found = self._compiled.get(key)
        if found is not None:
            return found, False
        made = launch()
        if made is not None:  # else Triton compiled nothing, as under a mock that refuses
            self._compiled.keep(key, made)
        return made, True


class Launch:
    """One kernel on one grid, with all arguments but the tensors. Made by `Launcher.prepare`."""

    __slots__ = (
        "_arguments",
        "_grid",
        "_key",
        "_last",
        "_launcher",
        "_options",
    )

    def __init__(
        self,
        launcher: Launcher,
        grid: tuple[int, int, int],
        varying: tuple[int, ...],
        scalars: tuple[int | float | None, ...],
        constants: tuple[Any, ...],
        num_warps: int,
        num_stages: int,
        options: Mapping[str, Any] | None,
    ) -> None:
        self._launcher = launcher
        self._grid = grid
        self._arguments = (*varying, *scalars, *constants)
        self._options = {"num_warps": num_warps, "num_stages": num_stages} | dict(options or {})
        self._key = (scalars, constants, tuple(self._options.items()))
        # The last call: driver, whether AMD's, what its tensors were compiled for, the outcome.
        # Replaced as a whole, as another thread may be launching.
        self._last: tuple[Any, bool, Any, Any] = (None, False, None, None)

    def __call__(self, *tensors: torch.Tensor | None) -> None:
        """Launch the kernel on the GPU that holds the tensors, and on its current stream.

        Args:
            tensors: the first arguments; a tensor keeps its address until the call returns. Those
                of one Launch are on one device in every call.

        Raises:
            BackendInputError: the tensors are on several GPUs.
        """
        if INTERPRETED:
            self._through_triton(tensors)
            return
        driver = triton.runtime.driver.active
        if getattr(driver, "emulates", False):  # it checks accesses against tensors, not addresses
            self._through_triton(tensors)
            return
        if self._launcher.kernel.pre_run_hooks or not WITH_ADDRESS.issuperset(map(type, tensors)):
            with on_gpu_of(tensors, driver.get_current_device()):
                self._through_triton(tensors)
            return
        last_driver, is_amd, last_seen, compiled = self._last
        if driver is not last_driver:
            is_amd, last_seen = driver.get_current_target().backend == "hip", None
        device = driver.get_current_device()
        addresses = [None if tensor is None else tensor.data_ptr() for tensor in tensors]
        seen = [device, *[None if address is None else address % 16 for address in addresses]]
        seen += [None if tensor is None else tensor.dtype for tensor in tensors]
        if is_amd:
            seen += [
                tensor is not None and tensor.untyped_storage().nbytes() <= LARGEST_OFFSET
                for tensor in tensors
            ]
        if seen != last_seen:
            if gpu_of(tensors) not in (None, device):
                with on_gpu_of(tensors, device):
                    self(*tensors)
                return
            compiled, launched = self._launcher.compiled(
                driver, (self._key, *seen), lambda: self._through_triton(tensors)
            )
            self._last = (driver, is_amd, seen, compiled)
            if launched:
                return
        runtime = triton.knobs.runtime
        if runtime.launch_enter_hook.calls or runtime.launch_exit_hook.calls:
            compiled[self._grid](*addresses, *self._arguments)
            return
        # What compiled[grid] does when no profiler listens, less what it prepares for one.
        compiled.run(
            *self._grid,
            driver.get_current_stream(device),
            compiled.function,
            compiled.packed_metadata,
            None,
            None,
            None,
            *addresses,
            *self._arguments,
        )

    def _through_triton(self, tensors: tuple[torch.Tensor | None, ...]) -> Any:
        return self._launcher.kernel[self._grid](*tensors, *self._arguments, **self._options)
