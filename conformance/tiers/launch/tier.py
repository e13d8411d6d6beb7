"""The launch tier: every shape family, on every backend under test, for every target.

docs/launch-tier.md says what is promised and how to bring a backend along.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.tiers.base import Planned, Tier
from pytest_rocm_attn.conformance.tiers.numerics.case import Case, load
from pytest_rocm_attn.conformance.tiers.numerics.kernel_item import KernelItem
from pytest_rocm_attn.gpu import Gpu

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_rocm_attn.conformance.promise.verdict import Judgement
    from pytest_rocm_attn.conformance.tiers.numerics.case import Result
    from pytest_rocm_attn.conformance.tiers.settings import Settings

# If --rocm-attn-gpu names none: of what vLLM's images are built for (hardware.toml, docker_archs_0_12).
TARGETS = ("gfx90a", "gfx942", "gfx950", "gfx1100", "gfx1151", "gfx1201")


def shipped() -> tuple[Case, ...]:
    """Return the shape families that this distribution carries."""
    folder = Path(str(files("pytest_rocm_attn.conformance.tiers.launch"))) / "families"
    return tuple(
        case for file in sorted(folder.glob("*.toml")) for case in load(file, families=True)
    )


class LaunchTier(Tier):
    """Node id ``rocm-attn::launch``."""

    @classmethod
    def plan(cls, settings: Settings) -> Iterator[Planned]:
        families = shipped()
        gpus = tuple(Gpu(gfx) for gfx in settings.gpus or TARGETS)
        for backend in settings.backends:
            if backend.compiled == "":
                continue
            for gpu in gpus:  # one process after another
                for case in filter(backend.takes, families):
                    arguments = {"backend": backend, "case": case}
                    yield Planned(f"{backend.name}::{case.id}", LaunchItem, gpu, arguments)


class LaunchItem(KernelItem):
    """One family for one target: node id ``rocm-attn::launch::TRITON_ATTN::decode[gfx942]``."""

    expected = "compiles, fits, no spill on CDNA, uses matrix instructions"
    case_label = "family"
    evidence = "launch"
    gpu: Gpu
    case: Case

    def __init__(self, *, case: Case, **kwargs: Any) -> None:
        super().__init__(case=case, level=case.level, **kwargs)

    def process(self) -> tuple[str, ...]:
        return (self.backend.compiled or self.backend.spec, "launch", self.gpu.gfx)

    def judge(self) -> Judgement:
        return self.judge_result(self.lane.ask(self.case), self.case)

    def shortfall(self, result: Result, case: Case) -> str:
        return f"{self.backend.name} for {self.gpu.gfx}, {case.id}"

    def more(self, result: Result) -> dict[str, Any]:
        return {"launches": list(result.launches)}
