"""The machine that the tests run on, where it has an AMD GPU of its own: it is then judged unmocked.

On such a machine nothing is mocked unless asked for: docs/mock.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_rocm_attn import aiter_probe, hardware
from pytest_rocm_attn.gpu import Aiter, Gpu, known_gpus

if TYPE_CHECKING:
    from collections.abc import Collection


@dataclass(frozen=True, slots=True)
class Machine:
    """A real GPU to judge a selector on.

    Args:
        gpu: the target that HIP shows first, with the state of aiter that is installed here.
        name: its marketing name, or its gfx name.
    """

    gpu: Gpu
    name: str

    @property
    def gfx(self) -> str:
        """The target's name."""
        return self.gpu.gfx

    @property
    def aiter(self) -> Aiter:
        """The state of aiter on it."""
        return self.gpu.aiter

    def __str__(self) -> str:
        return f"{self.gpu.gfx} ({self.name}), aiter {self.gpu.aiter}"


def this_machine(judgeable: Collection[str]) -> Machine | None:
    """Return the first visible AMD GPU of this machine; None if there is none to judge on.

    Args:
        judgeable: the targets that the contract has rows for. On another one, such as the graphics
            part of a desktop processor, there is nothing to judge.
    """
    found = first_gpu()
    return found if found is not None and found.gfx in judgeable else None


def first_gpu() -> Machine | None:
    """Return the first visible AMD GPU of this machine that this package knows; None without one."""
    found = hardware.detect().gpus
    if not found or found[0].gfx not in known_gpus():
        return None
    return Machine(Gpu(found[0].gfx, aiter_probe.probe().state), found[0].name)
