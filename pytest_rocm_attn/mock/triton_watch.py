"""Triton's driver for the mocked GPU, put in place when Triton is there and not before.

Importing Triton costs more than all of the mock. So a mock that is entered without it waits, and sets
the driver when something imports Triton: before that import returns, because downstream modules ask
the driver at their own import and remember the answer
(docs/reference/mock-surface.md#silent-downgrades, row 8).
"""

from __future__ import annotations

import sys
from importlib.abc import Loader, MetaPathFinder
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

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
    if "triton" in sys.modules:
        activation.do()
    else:
        layer.insert(sys.meta_path, _Watch(activation))


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


class _Watch(MetaPathFinder):
    """Lets the other finders find Triton, and the activation follow its import."""

    def __init__(self, activation: _Activation) -> None:
        self._activation = activation

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "triton":
            return None
        for finder in sys.meta_path[sys.meta_path.index(self) + 1 :]:
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Then(spec.loader, self)
                return spec
        return None

    def imported(self) -> None:
        if self in sys.meta_path:  # else the mock was left between the finding and the loading
            self._activation.do()


class _Then(Loader):
    """A loader that tells the watch once it is done."""

    def __init__(self, loader: Loader, watch: _Watch) -> None:
        self._loader = loader
        self._watch = watch

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # Leave no trace on the module: it outlives the mock.
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._watch.imported()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)
