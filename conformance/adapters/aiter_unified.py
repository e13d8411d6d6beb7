"""AMD aiter's unified attention, unmodified, as a backend under test in the numerics and launch tiers.

    python -m pytest --rocm-attn-conformance --rocm-attn-tier=numerics \\
        --rocm-attn-backends=AITER=pytest_rocm_attn.conformance.adapters.aiter_unified:UnifiedAttention

It descends from vLLM's function and has the same signature. aiter asks for the GPU when it is imported; on
a machine without one, the tiers import it under a mocked GPU. If the installed release does not know a GPU,
name another one in its variable GPU_ARCHS.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_rocm_attn import aiter_probe
from pytest_rocm_attn.conformance.adapters.unified import Unified, first_home
from pytest_rocm_attn.errors import BackendUnderTestError
from pytest_rocm_attn.gpu import Aiter

if TYPE_CHECKING:
    from collections.abc import Callable

# docs/reference/aiter.md#unified-attention, newest first.
HOMES = (
    "aiter.ops.triton.attention.unified_attention",
    "aiter.ops.triton.unified_attention",
)
_MENDS = {
    Aiter.ABSENT: "pip install amd-aiter, or put its source on PYTHONPATH",
    Aiter.BROKEN: "pip install --force-reinstall amd-aiter",
    Aiter.IMPOSTOR: "pip uninstall aiter, then pip install amd-aiter",
}


def function_of_aiter(homes: tuple[str, ...], name: str) -> Callable[..., Any]:
    """Return a function of AMD's aiter from the first of its homes that has it.

    Raises:
        BackendUnderTestError: AMD's aiter is absent, broken or the unrelated package, or has no such
            function.
    """
    probed = aiter_probe.probe()
    if probed.state is not Aiter.PRESENT:
        raise BackendUnderTestError(
            f"AMD's aiter is {probed.state.value}: {probed.reason}; {_MENDS[probed.state]}"
        )
    function, why_not = first_home(homes, name)
    if function is None:
        raise BackendUnderTestError(
            f"aiter's {name} is in none of its known modules ({why_not}); {probed.reason}"
        )
    return function


class UnifiedAttention(Unified):
    """aiter's ``unified_attention``, the kernel of ROCM_AITER_UNIFIED_ATTN; it chooses one kernel or a split one.

    Raises:
        BackendUnderTestError: see function_of_aiter().
    """

    name = "AITER"
    imports_aiter = True
    reads_unused_slots = True  # where a tile is a block, the kernel loads all of it (0.1.7)

    def __init__(self) -> None:
        super().__init__(function_of_aiter(HOMES, "unified_attention"))
