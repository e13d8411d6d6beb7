"""An estimate of the clocks that a loop takes, not a measurement: no GPU ran anything.

Two models, of which the slower one counts:

- a roofline: how long each unit of a SIMD is busy with one wave's iteration, by the rates of
  hardware.toml. All resident waves share the unit, so that is the least time of an iteration for each;
- LLVM's scheduling model: how long one wave takes if it has the SIMD for itself, waiting for its own
  results in order. The waves that are resident share this time. Without llvm-mca the roofline stands
  alone, and `model` says so.

Neither knows bank conflicts, caches, or how waves meet at barriers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.dry_launch.llvm_mca import NoSchedule, schedule
from pytest_rocm_attn.dry_launch.loops import multiply_adds
from pytest_rocm_attn.gpu import target_facts

if TYPE_CHECKING:
    from pytest_rocm_attn.dry_launch.loops import Loop
    from pytest_rocm_attn.gpu import Gpu


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Estimated clocks of a SIMD for one iteration of one wave.

    Attributes:
        busy: clocks of each unit, "matrix", "vector", "transcendental" and "lds", that the loop uses and
            of which hardware.toml has the rate.
        memory: clocks of the SIMD's share of the memory bandwidth, if no load is served by a cache; None
            if hardware.toml lacks a figure. It is not part of `clocks`: many workgroups of a prefill
            read the same keys.
        alone: clocks of a wave that has the SIMD for itself, by LLVM's model; None without llvm-mca.
        waves: resident on the SIMD, which share `alone`; None if the occupancy is unknown.
        model: where the figures come from.
    """

    busy: Mapping[str, float]
    memory: float | None
    alone: float | None
    waves: int | None
    model: str

    @property
    def parts(self) -> dict[str, float]:
        """Clocks by the unit, and as "latency" those of the wave alone, divided among the waves."""
        latency = {} if self.alone is None else {"latency": self.alone / (self.waves or 1)}
        return {**self.busy, **latency}

    @property
    def clocks(self) -> float:
        """The estimate: clocks of the part that takes longest; 0 of an empty loop."""
        return max(self.parts.values(), default=0.0)

    @property
    def bound(self) -> str:
        """The part that takes longest, or ""."""
        return max(self.parts, key=self.parts.__getitem__, default="")

    def as_json(self) -> dict[str, Any]:
        """Return the estimate as a dict of JSON values."""
        return {
            "clocks": self.clocks,
            "bound": self.bound,
            "parts": self.parts,
            "memory": self.memory,
            "alone": self.alone,
            "waves": self.waves,
            "model": self.model,
        }


def estimate(loop: Loop, gpu: Gpu, *, wavefront: int, waves: int | None) -> Estimate:
    """Return the estimate of a loop.

    Args:
        loop: its figures.
        gpu: the target.
        wavefront: lanes of a wave, as compiled.
        waves: that one SIMD holds, or None.
    """
    busy = _busy(loop, gpu, wavefront)
    scheduled = schedule(loop.body, gpu)
    if isinstance(scheduled, NoSchedule):
        alone, model = None, f"roofline of hardware.toml alone: {scheduled.reason}"
    else:
        alone = scheduled.clocks
        model = f"roofline of hardware.toml, and the scheduling model of {scheduled.model}"
        if scheduled.matrix > busy.get("matrix", 0):  # operands whose rate hardware.toml lacks
            busy["matrix"] = scheduled.matrix
    return Estimate(
        busy=busy,
        memory=_memory(loop, gpu, wavefront),
        alone=alone,
        waves=waves,
        model=model,
    )


def simds_per_cu(gpu: Gpu) -> int:
    """Return the SIMDs of a compute unit: four on GCN and CDNA, two on RDNA (their ISA guides)."""
    return 4 if gpu.wavefront == 64 else 2


def _busy(loop: Loop, gpu: Gpu, wavefront: int) -> dict[str, float]:
    # A SIMD of GCN and CDNA has 16 lanes, one of RDNA 32; transcendentals run on a quarter of them
    # (LLVM, SISchedule.td, "quarter rate"), on RDNA at the same time as other vector instructions.
    issue = wavefront / (16 if gpu.wavefront == 64 else 32)
    slow = 4 * issue * loop.transcendental
    fast = issue * (loop.vector_instructions - loop.transcendental)
    busy = {"matrix": _matrix(loop, gpu)}
    if gpu.wavefront == 64:
        busy["vector"] = fast + slow
    else:
        busy |= {"vector": fast + issue * loop.transcendental, "transcendental": slow}
    if (rate := _fact(gpu, "lds_bytes_per_clk_per_cu")) is not None:
        busy["lds"] = loop.lds_bytes * wavefront / (rate / simds_per_cu(gpu))
    return {name: clocks for name, clocks in busy.items() if clocks}


def _matrix(loop: Loop, gpu: Gpu) -> float:
    """Return the clocks of the matrix instructions whose operands' rate is known."""
    clocks = 0.0
    for name, count in loop.matrix.items():
        narrow = re.search(r"_(fp8|bf8|f8f6f4|iu?8)", name) or re.search(r"x\d+_?i8$", name)
        rate = _fact(gpu, f"{'fp8' if narrow else 'fp16'}_flops_per_clk_per_cu")
        if rate is not None and not name.endswith(("f32", "f64")):
            clocks += 2 * multiply_adds(name) * count / (rate / simds_per_cu(gpu))
    return clocks


def _memory(loop: Loop, gpu: Gpu, wavefront: int) -> float | None:
    product = target_facts(gpu.gfx).get("product", [{}])[0]
    figures: dict[str, float] = {
        name: product[name]["v"]
        for name in ("bandwidth_gbs", "peak_fp16_tflops", "cu")
        if name in product
    }
    rate = _fact(gpu, "fp16_flops_per_clk_per_cu")
    if len(figures) < 3 or rate is None:
        return None
    # Bytes a clock and SIMD: the clock is that of the peak rate of the product's compute units.
    clock = figures["peak_fp16_tflops"] * 1e12 / (figures["cu"] * rate)
    share = figures["bandwidth_gbs"] * 1e9 / clock / (figures["cu"] * simds_per_cu(gpu))
    return loop.load_bytes * wavefront / share


def _fact(gpu: Gpu, name: str) -> float | None:
    try:
        return float(gpu.fact(name))
    except KeyError:
        return None
