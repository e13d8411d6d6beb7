"""The launch tier: every shape family, on every backend under test, for every target.

docs/launch-tier.md says what is promised and how to bring a backend along.
"""

from __future__ import annotations

from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_rocm_attn.conformance.promise.verdict import Judgement, verdict_on
from pytest_rocm_attn.conformance.tiers.base import ConformanceItem, Planned, Tier
from pytest_rocm_attn.conformance.tiers.numerics.case import Case, load
from pytest_rocm_attn.conformance.tiers.numerics.lane import Lane, Lanes
from pytest_rocm_attn.gpu import Gpu

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_rocm_attn.conformance.tiers.numerics.finding import Finding
    from pytest_rocm_attn.conformance.tiers.numerics.subjects import BackendUnderTest
    from pytest_rocm_attn.conformance.tiers.settings import Settings

# Where --rocm-attn-gpu names none: what vLLM-style servers ship for (hardware.toml, docker_archs).
TARGETS = ("gfx90a", "gfx942", "gfx950", "gfx1100", "gfx1151", "gfx1201")
WORKER = "pytest_rocm_attn.conformance.tiers.launch.worker"
OPEN_LANES = 2  # each is a process that holds torch and a compiler
SLOWNESS = 20  # compiling a family may take this many times as long as one selection
_LANES = pytest.StashKey[Lanes]()


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
                    row_id, arguments = (
                        f"{backend.name}::{case.id}",
                        {"backend": backend, "case": case},
                    )
                    yield Planned(row_id, LaunchItem, gpu, arguments)


class LaunchItem(ConformanceItem):
    """One family for one target: node id ``rocm-attn::launch::TRITON_ATTN::decode[gfx942]``."""

    gpu: Gpu

    def __init__(self, *, backend: BackendUnderTest, case: Case, **kwargs: Any) -> None:
        super().__init__(level=case.level, **kwargs)
        self.backend = backend
        self.case = case
        self.finding: Finding | None = None

    @property
    def lane(self) -> Lane:
        """The process that the backend launches in for this item's target."""
        lanes = self.config.stash.get(_LANES, None)
        if lanes is None:
            timeout = SLOWNESS * self.plugin.settings.subject.timeout
            lanes = self.config.stash[_LANES] = Lanes(timeout, most=OPEN_LANES, worker=WORKER)
            self.config.add_cleanup(lanes.close)
        return lanes.of(self.backend.compiled or self.backend.spec, self.gpu.gfx)

    def judge(self) -> Judgement:
        self.finding = self.lane.ask(self.case)
        if self.finding.kind == "declined":
            self.decline(self.backend.name, self.evidence, self.finding.words)
        shortfall = ""
        if self.finding.kind != "right":
            shortfall = (
                f"{self.backend.name} for {self.gpu.gfx}, {self.case.id}: {self.finding.words}"
            )
        return verdict_on(
            shortfall,
            self.level,
            [self.finding.got],
            self.claims(),
            strict=self.plugin.settings.strict,
        )

    def story(self) -> list[tuple[str, str]]:
        assert self.finding is not None
        story = super().story()
        story.insert(1, ("family", self.case.words))
        if self.finding.traceback:
            story.append(("traceback", "\n" + self.finding.traceback))
        return story

    @property
    def evidence(self) -> str:
        return "launch"

    def known(self) -> dict[str, Any]:
        return {
            "request": asdict(self.case.request),
            "expect": {"words": "compiles, fits, no spill on CDNA, uses matrix instructions"},
            "source": self.case.why,
            "details": {
                "backend": {"name": self.backend.name, "spec": self.backend.spec},
                "case": self.case.to_json(),
            },
        }

    def fields(self) -> dict[str, Any]:
        assert self.finding is not None
        return {
            "outcome": {"kind": self.finding.kind, "words": self.finding.words},
            "seconds": round(self.finding.seconds, 6),
            "details": self.known()["details"] | {"launches": list(self.finding.launches)},
        }
