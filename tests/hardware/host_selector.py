"""A selector that reads the machine as a server's does: torch's device, aiter, the environment.

The test of selection puts it to the real machine and to the mock of it.
"""

from __future__ import annotations

import os

from pytest_rocm_attn import Gpu, Request, aiter_probe
from pytest_rocm_attn.backends import select as choose
from pytest_rocm_attn.flags import Flags


def select(request: Request) -> str:
    """Return the backend that the reference chooses for what this process finds on the machine."""
    import torch

    assert torch.version.hip, "torch is not built for ROCm"
    gfx = torch.cuda.get_device_properties(0).gcnArchName.partition(":")[0]
    gpu = Gpu(gfx, aiter_probe.probe().state)
    return choose(request, Flags(os.environ), gpu).backend
