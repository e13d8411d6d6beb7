"""ROCM_ATTN with its HIP decode emulated on the CPU, as backends under test in the numerics tier.

    python -m pytest --rocm-attn-conformance --rocm-attn-tier=numerics \\
        --rocm-attn-backends=ROCM_ATTN-gfx942=tests/backends/hip/emulated_backend.py:Mfma16

The report's evidence is `source-emulated`: decodes run the HIP source lane by lane, built by g++ when the backend
is made (half a minute); what else a step has runs in Triton's interpreter. Cases that the HIP kernel does
not serve are declined.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.backends.hip.matrix_layout import SHAPES
from pytest_rocm_attn.backends.rocm_attn import RocmAttention
from pytest_rocm_attn.backends.under_test import RocmAttnHip
from pytest_rocm_attn.conformance import adapters

if TYPE_CHECKING:
    from pytest_rocm_attn.backends.paged_layer import PagedLayer
    from pytest_rocm_attn.problem import PagedAttention

# Those that the shipped cases meet: all of them take g++ four times as long.
KERNELS = " ".join(
    f"EACH(::rocm_attn::{dtype}, ::rocm_attn::Cache::{cache}, {head_size}, {block_size})"
    for dtype, cache, head_size, block_size in (
        *((dtype, cache, 64, 16) for dtype in ("F16", "BF16") for cache in ("SAME", "E4M3FN")),
        *((dtype, "E4M3FNUZ", 64, 16) for dtype in ("F16", "BF16")),
        ("F16", "SAME", 64, 32),
        ("F16", "SAME", 128, 16),
    )
)
_build: Any = adapters.load(f"{Path(__file__).with_name('conftest.py')}:build_emulator")


class OnTarget(RocmAttention):
    """The layer as it is on a GPU of the instruction, but for where it runs."""

    gfx: str

    def _prepare(self) -> None:
        super()._prepare()
        self.target = replace(self.target, name=self.gfx)


class _Emulated(RocmAttnHip):
    evidence = "source-emulated"
    struct: str
    plain = False

    def __init__(self) -> None:
        (shape,) = (shape for shape in SHAPES if shape.struct == self.struct)
        library = _build(shape, KERNELS)

        class Layer(OnTarget):
            gfx = shape.targets[0]

        self.layer = Layer
        self.options = MappingProxyType({"library": library, "plain": self.plain})

    def _insist(self, layer: PagedLayer, problem: PagedAttention) -> None:
        self.reach(layer, problem)


class Mfma16(_Emulated):
    """As on gfx90a and gfx942."""

    name, struct = "ROCM_ATTN-Mfma16", "Mfma16"


class Mfma32(_Emulated):
    """As on gfx950."""

    name, struct = "ROCM_ATTN-Mfma32", "Mfma32"


class Wmma11(_Emulated):
    """As on gfx11."""

    name, struct = "ROCM_ATTN-Wmma11", "Wmma11"


class Wmma12(_Emulated):
    """As on gfx12."""

    name, struct = "ROCM_ATTN-Wmma12", "Wmma12"


class Plain(_Emulated):
    """The kernel without matrix instructions."""

    name, struct, plain = "ROCM_ATTN-plain", "Mfma16", True
