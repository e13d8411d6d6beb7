"""In which order programs take their work, and how they use the caches that they share."""

from __future__ import annotations

import triton
import triton.language as tl

from pytest_rocm_attn.backends.kernels.formats import compiled_for
from pytest_rocm_attn.triton_interpreter import repair

repair()


@triton.constexpr_function
def has_nontemporal_loads():
    """Return whether Triton's modifier `.cg` makes loads that do not displace what the caches hold."""
    return compiled_for()[0] == "hip"


@triton.constexpr_function
def xcds():
    """Return the number of dies, each with an L2 cache of its own, that take workgroups in turn."""
    return 8 if compiled_for()[1] in ("gfx942", "gfx950") else 1


@triton.jit
def place_of(program, programs, SHARERS: tl.constexpr, XCDS: tl.constexpr):
    """Return a program's place in the order of work, a permutation of the programs.

    SHARERS consecutive places read the same keys. Workgroups go to the XCDs in turn, so that those of
    consecutive numbers would read the keys once for each XCD: sharers get numbers that are XCDS apart.
    What does not fill a round of all XCDs keeps its number.
    """
    if SHARERS == 1 or XCDS == 1:
        place = program
    else:
        number = program // XCDS
        moved = (number // SHARERS * XCDS + program % XCDS) * SHARERS + number % SHARERS
        whole = programs // (SHARERS * XCDS) * (SHARERS * XCDS)
        place = tl.where(program < whole, moved, program)
    return place
