"""Launch a Triton kernel many times at little cost to the host.

`kernel[grid](...)` binds, describes and looks up every argument on each call, which takes longer than
many a decode step. A Launcher does that once per combination that Triton tells apart and then hands
the addresses to the compiled kernel itself, as Triton's `compiled[grid](...)` does.

What it remembers is keyed by no less than what Triton compiles for: dtype and address modulo 16 of
every tensor (on AMD also whether its storage is within 2 GiB, which decides over buffer
instructions), the value of every specialised scalar, the constants, the compiler's options, the
device and the driver. Not watched, as they are set before a process starts: Triton's knobs for
debugging (TRITON_DEBUG and the like).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import triton

# Triton's AMD backend: a tensor whose storage is no larger is addressed with 32-bit offsets.
LARGEST_OFFSET = 2**31 - 1
MOST_REMEMBERED = 1024  # combinations; a model needs a few, and Triton itself forgets none
# Other subclasses go through Triton: a FakeTensor has no address, until the mocked driver gives it one.
WITH_ADDRESS = frozenset({torch.Tensor, torch.nn.Parameter, type(None)})
INTERPRETED: bool = triton.knobs.runtime.interpret


class Launcher:
    """One kernel, and what was compiled of it for the active driver.

    Args:
        kernel: function under @triton.jit. Its parameters are, in this order: tensors, integers that
            it names in do_not_specialize, further scalars, constexprs.
    """

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel
        self._compiled: dict[Any, Any] = {}
        self._driver: Any = None
        self._is_amd = False

    def __call__(
        self,
        grid: tuple[int, int, int],
        tensors: tuple[torch.Tensor | None, ...],
        varying: tuple[int, ...],
        scalars: tuple[int | float | None, ...],
        constants: tuple[Any, ...],
        num_warps: int,
        num_stages: int,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Launch the kernel on the current device and stream.

        Args:
            grid: programs along each axis.
            tensors: the first arguments; a tensor stays where it is until the call returns.
            varying: integers below 2**31 that change from call to call.
            scalars: arguments that rarely change; each value is remembered on its own.
            constants: values of the constexprs, hashable.
            num_warps, num_stages: the compiler's.
            options: further options of the compiler, by name.
        """
        arguments = (*varying, *scalars, *constants)
        if (
            INTERPRETED
            or self.kernel.pre_run_hooks
            or not WITH_ADDRESS.issuperset(map(type, tensors))
        ):
            self._launch(grid, (*tensors, *arguments), num_warps, num_stages, options)
            return
        driver = triton.runtime.driver.active
        if driver is not self._driver:  # another GPU is mocked, or none any more
            self._compiled.clear()
            self._driver = driver
            self._is_amd = driver.get_current_target().backend == "hip"
        addresses = [None if tensor is None else tensor.data_ptr() for tensor in tensors]
        device = driver.get_current_device()
        key = (
            device,
            num_warps,
            num_stages,
            scalars,
            constants,
            *[
                None if address is None else (tensor.dtype, address % 16)  # type: ignore[union-attr]  # None alike
                for tensor, address in zip(tensors, addresses, strict=True)
            ],
            *((options or {}).items()),
        )
        if self._is_amd:
            key += tuple(
                tensor is not None and tensor.untyped_storage().nbytes() <= LARGEST_OFFSET
                for tensor in tensors
            )
        compiled = self._compiled.get(key)
        if compiled is None:
            if len(self._compiled) >= MOST_REMEMBERED:
                self._compiled.clear()
            self._compiled[key] = self._launch(
                grid, (*tensors, *arguments), num_warps, num_stages, options
            )
            return
        runtime = triton.knobs.runtime
        if runtime.launch_enter_hook.calls or runtime.launch_exit_hook.calls:
            compiled[grid](*addresses, *arguments)
            return
        # What compiled[grid] does when no profiler listens, less what it prepares for one.
        compiled.run(
            *grid,
            driver.get_current_stream(device),
            compiled.function,
            compiled.packed_metadata,
            None,
            None,
            None,
            *addresses,
            *arguments,
        )

    def _launch(
        self,
        grid: tuple[int, int, int],
        arguments: tuple[Any, ...],
        num_warps: int,
        num_stages: int,
        options: Mapping[str, Any] | None,
    ) -> Any:
        return self.kernel[grid](
            *arguments, num_warps=num_warps, num_stages=num_stages, **(options or {})
        )
