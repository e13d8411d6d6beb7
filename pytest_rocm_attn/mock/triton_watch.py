"""Triton's driver for the mocked GPU, put in place when Triton is there and not before.

It is in place before the import of Triton returns, because downstream modules ask the driver at their
own import and remember the answer (docs/reference/mock-surface.md#silent-downgrades, row 8).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_rocm_attn.mock.import_watch import when_imported

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_rocm_attn.gpu import Gpu
    from pytest_rocm_attn.mock.patching import Layer
    from pytest_rocm_attn.mock.triton_driver import Execute


def install(layer: Layer, gpu: Gpu, execute: Execute | None = None) -> None:
    """Have Triton's active driver be that of gpu until the layer comes off.

    Args:
        layer: takes every change.
        gpu: the mocked GPU.
        execute: runs what is launched, as triton_driver.activate describes.

    Raises:
        MockError: Triton is imported already and its driver cannot be replaced.
    """
    activation = _Activation(gpu, execute)
    layer.on_close(("triton", id(activation)), activation.undo)
    when_imported(layer, "triton", activation.do)


class _Activation:
    def __init__(self, gpu: Gpu, execute: Execute | None) -> None:
        self._gpu, self._execute = gpu, execute
        self._undo: Callable[[], None] | None = None

    def do(self) -> None:
        from pytest_rocm_attn.mock.triton_driver import activate

        self._undo = activate(self._gpu, self._execute)

    def undo(self) -> None:
        if self._undo is not None:
            self._undo()
