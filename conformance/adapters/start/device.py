"""The device of a step that is taken without one.

Tensors that the fork makes on the device are on the CPU and say that they are not. Triton's kernels are compiled
for the target and are not executed; calls of closed kernels are recorded. So no value of a kernel is there, and
what a kernel would read or write, inside its slots or outside, is not seen.
"""

from __future__ import annotations

import contextlib
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn import compile_watch
from pytest_rocm_attn.conformance.adapters.closed.calls import Recorder
from pytest_rocm_attn.dry_launch import dry_launch
from pytest_rocm_attn.errors import UnwrittenTensorWarning
from pytest_rocm_attn.mock import cpu_tensors
from pytest_rocm_attn.mock.patching import Layer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_rocm_attn.conformance.adapters.closed.calls import KernelCall
    from pytest_rocm_attn.conformance.adapters.closed.signatures import Aiter
    from pytest_rocm_attn.dry_launch import Launches

# For one kernel. A tile of a whole block of 2,048 tokens, as vLLM had it to 0.20, takes LLVM minutes.
COMPILES_WITHIN = compile_watch.CpuSeconds(10)
_SMALL = 1 << 20  # elements; larger memory stays as the system gives it, which costs nothing


@dataclass
class Device:
    """What happens on it.

    Attributes:
        launches: of Triton's kernels, so far.
        recorder: of closed kernels.
    """

    launches: Launches
    recorder: Recorder

    @property
    def calls(self) -> list[KernelCall]:
        """The calls of closed kernels, so far."""
        return self.recorder.calls


@contextlib.contextmanager
def device(aiter: Aiter) -> Iterator[Device]:
    """Have a device while the block runs: the mocked one.

    Args:
        aiter: whose signatures its functions have.
    """
    layer, recorder = Layer(), Recorder(aiter)
    cpu_tensors.install(layer, _zero)
    try:
        with (
            warnings.catch_warnings(),
            dry_launch(compile_timeout=COMPILES_WITHIN) as launches,
            recorder.answering(),
        ):
            warnings.simplefilter("ignore", UnwrittenTensorWarning)
            yield Device(launches, recorder)
    finally:
        layer.close()


def _zero(tensor: Any) -> None:
    """Fill with what is a valid index, length and scale everywhere: no kernel will write it."""
    if tensor.numel() <= _SMALL:
        tensor.zero_()
