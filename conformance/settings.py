"""What a run was asked to do: pytest's options and ini values, read and checked once."""

from __future__ import annotations

import dataclasses
import datetime
import inspect
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from pytest_rocm_attn.conformance import adapters, contract, deviations, effort
from pytest_rocm_attn.conformance.machine import this_machine
from pytest_rocm_attn.conformance.numerics import subjects
from pytest_rocm_attn.conformance.report import output
from pytest_rocm_attn.conformance.tiers import DEFAULT_TIERS, TIERS
from pytest_rocm_attn.conformance.workers import Subject
from pytest_rocm_attn.errors import (
    BaselineError,
    ContractError,
    DeviationsError,
    ReportError,
    UnknownGpuError,
    nearest,
)
from pytest_rocm_attn.gpu import Gpu, known_gpus

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pytest_rocm_attn.conformance.baseline import Baseline
    from pytest_rocm_attn.conformance.contract import Cell, Contract
    from pytest_rocm_attn.conformance.deviations import Deviations
    from pytest_rocm_attn.conformance.effort import Effort
    from pytest_rocm_attn.conformance.grid.rules import Rule
    from pytest_rocm_attn.conformance.machine import Machine

DEVIATIONS_FILE = "rocm-attn-deviations.toml"  # in the root folder, found without being named
DEFAULT_BUDGET = 1200.0  # seconds for the whole grid: a selector that takes 1 s a call ends, too


@dataclass(frozen=True)
class Settings:
    """One run of the matrix.

    Attributes:
        subject: the selector under test and how it is run.
        machine: the real GPU that it is run on; None where there is none, or the mock was asked for.
        contract: the rows.
        cells: rows times GPUs, as restricted by the options.
        backends: what the numerics and launch tiers run.
        deviations: what the fork declares; None when it has no file.
        tiers: which tiers run.
        grid_rules: what the contract fixes about the grid, where that tier runs.
        gpus: the targets that --rocm-attn-gpu names; empty for all.
        against: the selector that the grid is compared with, where the user names one.
        baseline: the recording that the grid is compared with, where the user names one.
        grid_budget: seconds that the grid may take.
        cell: the one cell of a slice that is to be asked, or None.
        fresh: answers that an interrupted run left behind are not used.
        strict: whether advisory rows fail.
        reports: where the reports go.
        draft: where a draft of deviations goes, or None.
        today: the day that deviations expire against.
        effort: how hard the searching tiers look.
    """

    subject: Subject
    machine: Machine | None
    contract: Contract
    cells: tuple[Cell, ...]
    backends: tuple[subjects.BackendUnderTest, ...]
    deviations: Deviations | None
    tiers: tuple[str, ...]
    grid_rules: tuple[Rule, ...]
    gpus: tuple[str, ...]
    against: Subject | None
    baseline: Baseline | None
    grid_budget: float
    cell: int | None
    fresh: bool
    strict: bool
    reports: tuple[Path, ...]
    draft: Path | None
    today: datetime.date
    effort: Effort


def value_of(config: pytest.Config, name: str) -> Any:
    """Return an option, or its ini twin where the command line does not give it."""
    given = config.getoption(name)
    return given if given is not None else config.getini(name)


def read(config: pytest.Config) -> Settings:
    """Read and check everything that the options name.

    Raises:
        pytest.UsageError: one line that says which option is wrong, why, and what would do.
    """
    try:
        the_contract = contract.load(value_of(config, "rocm_attn_contract") or "pr-26980")
        gpus = _gpus(value_of(config, "rocm_attn_gpu"))
        the_deviations = _deviations(config)
        tiers = _tiers(value_of(config, "rocm_attn_tier"))
        grid_rules = contract_rules(the_contract) if "grid" in tiers else ()
        the_baseline = _baseline(config)
    except (BaselineError, ContractError, DeviationsError, UnknownGpuError) as error:
        raise pytest.UsageError(str(error)) from None
    subject = subject_of(config)
    cells = _cells(the_contract, gpus, needed="documented" in tiers)
    machine = _machine(config, subject, the_contract, gpus)
    if machine is not None:
        cells = tuple(cell for cell in cells if cell.gpu == machine.gpu)
        # A HIP context does not survive fork, and importing the selector may make one.
        asked = value_of(config, "rocm_attn_isolation")
        fork = subject.fork if asked else False
        subject = dataclasses.replace(subject, fork=fork, machine=machine.gpu)
    return Settings(
        subject=subject,
        machine=machine,
        contract=the_contract,
        cells=cells,
        backends=_backends(config),
        deviations=the_deviations,
        tiers=tiers,
        grid_rules=grid_rules,
        gpus=tuple(gpu.gfx for gpu in gpus),
        against=_against(config),
        baseline=the_baseline,
        grid_budget=_seconds(
            config, "grid-budget", DEFAULT_BUDGET, "the seconds that the grid may take"
        ),
        cell=_cell(config),
        fresh=bool(config.getoption("rocm_attn_fresh")),
        strict=bool(value_of(config, "rocm_attn_strict")),
        reports=reports_of(config),
        draft=_draft(config),
        today=datetime.datetime.now(tz=datetime.UTC).date(),
        effort=effort.read(lambda name: value_of(config, f"rocm_attn_{name}")),
    )


def contract_rules(the_contract: Contract) -> tuple[Rule, ...]:
    """Return what a contract fixes about the grid.

    Raises:
        ContractError: its file holds a mistake.
    """
    from pytest_rocm_attn.conformance.grid import rules  # with the tables of the grid

    folder = the_contract.folder
    return rules.load(folder / contract.GRID_FILE) if folder is not None else ()


def subject_of(config: pytest.Config) -> Subject:
    """Return the selector that the options, or the fork's conftest, name; else the reference.

    Raises:
        pytest.UsageError: an option that does not make sense, in one line.
    """
    spec = value_of(config, "rocm_attn_selector") or _selector_from_hook(config)
    return _subject(config, spec)


def _against(config: pytest.Config) -> Subject | None:
    spec = value_of(config, "rocm_attn_against")
    return _subject(config, spec) if spec else None


def _baseline(config: pytest.Config) -> Baseline | None:
    given = value_of(config, "rocm_attn_baseline")
    if not given:
        return None
    if value_of(config, "rocm_attn_against"):
        raise pytest.UsageError(
            "--rocm-attn-baseline and --rocm-attn-against both say what the grid is compared with;"
            " give one of them"
        )
    from pytest_rocm_attn.conformance import baseline  # with the tables of the grid

    return baseline.load(given)


def _subject(config: pytest.Config, spec: str | None) -> Subject:
    if not spec or spec == adapters.REFERENCE:
        # The reference is a pure function of its arguments: there is no platform to mock.
        return Subject(adapters.REFERENCE, pure=True, preload=(), timeout=_timeout(config))
    isolation = value_of(config, "rocm_attn_isolation") or "fork"
    if isolation not in ("fork", "process"):
        raise pytest.UsageError(
            f"--rocm-attn-isolation={isolation!r} is unknown; it is fork or process"
        )
    default = Subject(spec, timeout=_timeout(config))
    if isolation == "fork":
        return default
    return Subject(spec, timeout=default.timeout, fork=False)


def _selector_from_hook(config: pytest.Config) -> str | None:
    answer = config.hook.pytest_rocm_attn_selector(config=config)
    if answer is None or isinstance(answer, str):
        return answer
    target = answer if inspect.isclass(answer) or inspect.isfunction(answer) else type(answer)
    source = inspect.getsourcefile(target)
    if source is None or "<locals>" in target.__qualname__:
        raise pytest.UsageError(
            f"pytest_rocm_attn_selector returned {answer!r}, which a worker process cannot import;"
            " return 'module:object', or a class or function at the top level of a file"
        )
    return f"{source}:{target.__qualname__}"


def _backends(config: pytest.Config) -> tuple[subjects.BackendUnderTest, ...]:
    given = value_of(config, "rocm_attn_backends")
    named = subjects.parse(given) if given else subjects.from_hook(config)
    return named or subjects.references()


def _timeout(config: pytest.Config) -> float:
    return _seconds(config, "timeout", 30.0, "the seconds one selection may take")


def _seconds(config: pytest.Config, name: str, default: float, meaning: str) -> float:
    text = value_of(config, f"rocm_attn_{name.replace('-', '_')}") or str(default)
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise pytest.UsageError(f"--rocm-attn-{name}={text!r} is not a time; give {meaning}")
    return seconds


def _cell(config: pytest.Config) -> int | None:
    text = config.getoption("rocm_attn_cell")
    if text is None:
        return None
    if not str(text).isdecimal():
        raise pytest.UsageError(
            f"--rocm-attn-cell={text!r} is not the number of a cell; give it as the"
            " command of a condition shows it"
        )
    return int(text)


def _gpus(text: str | None) -> tuple[Gpu, ...]:
    return tuple(Gpu(name.strip()) for name in (text or "").split(",") if name.strip())


def _cells(the_contract: Contract, gpus: Sequence[Gpu], *, needed: bool) -> tuple[Cell, ...]:
    cells = [cell for row in the_contract.rows for cell in row.cells()]
    # Platform by platform, so that the first are judged while the selector is being imported on
    # the next.
    order = {gfx: number for number, gfx in enumerate(known_gpus())}
    cells.sort(key=lambda cell: (order[cell.gpu.gfx], cell.gpu.aiter))
    covered = sorted({cell.gpu.gfx for cell in cells})
    missing = [gpu.gfx for gpu in gpus if gpu.gfx not in covered]
    if missing and needed:
        raise pytest.UsageError(
            f"--rocm-attn-gpu: contract {the_contract.id} has no rows for {', '.join(missing)};"
            f" it covers {', '.join(covered)}"
        )
    wanted = {gpu.gfx for gpu in gpus}
    return tuple(cell for cell in cells if not wanted or cell.gpu.gfx in wanted)


def _machine(
    config: pytest.Config, subject: Subject, the_contract: Contract, gpus: Sequence[Gpu]
) -> Machine | None:
    """Return the real GPU of this machine, unless the mock was asked for or nothing needs a GPU."""
    if subject.pure or value_of(config, "rocm_attn_mock"):
        return None
    found = this_machine({gpu.gfx for row in the_contract.rows for gpu in row.gpus})
    if found is not None and (others := {gpu.gfx for gpu in gpus} - {found.gpu.gfx}):
        names = ", ".join(sorted(others))
        raise pytest.UsageError(
            f"--rocm-attn-gpu: this machine has a real {found}, where nothing is mocked unless asked"
            f" for; to mock {names}, add --rocm-attn-mock={min(others)}"
        )
    return found


def _deviations(config: pytest.Config) -> Deviations | None:
    given = value_of(config, "rocm_attn_deviations")
    if given is not None:  # empty: none, not even the default one
        return deviations.load(config.invocation_params.dir / given) if given else None
    usual = config.rootpath / DEVIATIONS_FILE
    return deviations.load(usual) if usual.exists() else None


def _draft(config: pytest.Config) -> Path | None:
    """Return where a draft of deviations is to go. It never replaces a file."""
    given = value_of(config, "rocm_attn_deviations_draft")
    if not given:
        return None
    path: Path = config.invocation_params.dir / given
    if path.exists():
        raise pytest.UsageError(
            f"--rocm-attn-deviations-draft={given}: {path} exists already; name a new file"
        )
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise pytest.UsageError(
            f"--rocm-attn-deviations-draft={given}: {path.parent} is no folder to write to; name another"
        )
    return path


def _tiers(text: str | None) -> tuple[str, ...]:
    words = text.split(",") if text else DEFAULT_TIERS
    names = tuple(dict.fromkeys(word.strip() for word in words if word.strip()))
    for name in names or ("",):
        if name not in TIERS:
            raise pytest.UsageError(
                f"--rocm-attn-tier: {name!r} is no tier.{nearest(name, TIERS)}"
                f" Tiers: {', '.join(TIERS)}"
            )
    return names


def reports_of(config: pytest.Config) -> tuple[Path, ...]:
    """Return where the run's reports go.

    Raises:
        pytest.UsageError: one of them cannot be written.
    """
    paths = []
    for given in value_of(config, "rocm_attn_report"):
        path = config.invocation_params.dir / given
        try:
            # Found out now rather than after the run; that it can still fail then is handled there.
            output.check(path, given)
        except ReportError as error:
            raise pytest.UsageError(f"--rocm-attn-report={error}") from None
        paths.append(path)
    return tuple(paths)
