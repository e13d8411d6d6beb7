"""Dry launch: kernels compiled for, and checked against, a GPU that is not there.

from pytest_rocm_attn.dry_launch import dry_launch

with dry_launch("gfx1201") as launches:
    attention(q, k, v)  # anyone's unmodified host code and @triton.jit kernels
launches.assert_fits(spills=0)
print(launches.table())
"""

from __future__ import annotations

from pytest_rocm_attn.dry_launch.estimate import Estimate
from pytest_rocm_attn.dry_launch.figures import compare, figures
from pytest_rocm_attn.dry_launch.loops import Loop
from pytest_rocm_attn.dry_launch.record import Kernel, Launch, Launches, Rejection, table
from pytest_rocm_attn.dry_launch.session import dry_launch, storageless

__all__ = [
    "Estimate",
    "Kernel",
    "Launch",
    "Launches",
    "Loop",
    "Rejection",
    "compare",
    "dry_launch",
    "figures",
    "storageless",
    "table",
]
