"""What a run of the matrix was asked to do, as tiers see it; run/settings.py reads it off the options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import datetime
    from collections.abc import Mapping
    from pathlib import Path

    from pytest_rocm_attn.conformance.isolation import Subject
    from pytest_rocm_attn.conformance.isolation.machine import Machine
    from pytest_rocm_attn.conformance.promise.contract import Contract
    from pytest_rocm_attn.conformance.promise.deviations import Deviations
    from pytest_rocm_attn.conformance.promise.grid.rules import Rule
    from pytest_rocm_attn.conformance.promise.rows import RowOnGpu
    from pytest_rocm_attn.conformance.promise.servers_file import Server
    from pytest_rocm_attn.conformance.tiers.effort import Effort
    from pytest_rocm_attn.conformance.tiers.numerics.subjects import BackendUnderTest


class Recorded(Protocol):
    """The answers of a release over the whole grid; a baseline.Baseline is one."""

    @property
    def id(self) -> str:
        """What it is called."""

    @property
    def tables(self) -> Mapping[str, Any]:
        """Family of requests -> a table with ``codes``, by cell, and the ``outcomes`` they mean."""


@dataclass(frozen=True)
class Settings:
    """One run of the matrix.

    Attributes:
        subject: the selector under test and how it is run.
        machine: the real GPU that it is run on; None if there is none, or the mock was asked for.
        contract: the rows.
        cells: rows times GPUs, as restricted by the options.
        backends: what the numerics and launch tiers run.
        deviations: what the fork declares; None when it has no file.
        tiers: which tiers run.
        grid_rules: what the contract fixes about the grid, if that tier runs or deviations are read.
        gpus: the targets that --rocm-attn-gpu names; empty for all.
        against: the selector that the grid is compared with, where the user names one.
        baseline: the recording that the grid is compared with, where the user names one.
        recorded: what the release that the selector is judged by answered over the grid; None if no
            recording of it ships, or answers under the mock are not what is judged.
        servers: the descriptions that tier server starts, if it runs.
        grid_budget: seconds that the grid may take.
        cell: the one cell of a slice that is to be asked, or None.
        fresh: answers that an interrupted run left behind are not used.
        strict: whether advisory rows fail.
        reports: where the reports go.
        draft: where a draft of deviations goes, or None.
        today: the day that deviations expire against.
        effort: how hard the searching tiers look.
        emulate: the target whose machine code the numerics tier executes on the CPU; "" for none.
    """

    subject: Subject
    machine: Machine | None
    contract: Contract
    cells: tuple[RowOnGpu, ...]
    backends: tuple[BackendUnderTest, ...]
    deviations: Deviations | None
    tiers: tuple[str, ...]
    grid_rules: tuple[Rule, ...]
    gpus: tuple[str, ...]
    against: Subject | None
    baseline: Recorded | None
    recorded: Recorded | None
    servers: tuple[Server, ...]
    grid_budget: float
    cell: int | None
    fresh: bool
    strict: bool
    reports: tuple[Path, ...]
    draft: Path | None
    today: datetime.date
    effort: Effort
    emulate: str
