"""What a run was asked to do: pytest's options and ini values, read and checked once."""

from __future__ import annotations

import dataclasses
import datetime
import inspect
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

    from pytest_rocm_attn.conformance.contract import Cell, Contract
    from pytest_rocm_attn.conformance.deviations import Deviations
    from pytest_rocm_attn.conformance.effort import Effort
    from pytest_rocm_attn.conformance.machine import Machine


@dataclass(frozen=True)
class Settings:
    """One run of the matrix.

    Attributes:
        subject: the selector under test and how it is run.
        machine: the real GPU that it is run on; None where there is none, or the mock was asked for.
        contract: the rows.
        backends: what the numerics tier runs.
        cells: rows times GPUs, as restricted by the options.
        deviations: what the fork declares; None when it has no file.
        tiers: which tiers run.
        strict: whether advisory rows fail.
        reports: where the reports go.
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
    strict: bool
    reports: tuple[Path, ...]
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
    except (ContractError, DeviationsError, UnknownGpuError) as error:
        raise pytest.UsageError(str(error)) from None
    subject = subject_of(config)
    cells = _cells(the_contract, gpus)
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
        tiers=_tiers(value_of(config, "rocm_attn_tier")),
        strict=bool(value_of(config, "rocm_attn_strict")),
        reports=_reports(config),
        today=datetime.datetime.now(tz=datetime.UTC).date(),
        effort=effort.read(lambda name: value_of(config, f"rocm_attn_{name}")),
    )


def subject_of(config: pytest.Config) -> Subject:
    """Return the selector that the options, or the fork's conftest, name; else the reference.

    Raises:
        pytest.UsageError: an option that does not make sense, in one line.
    """
    spec = value_of(config, "rocm_attn_selector") or _selector_from_hook(config)
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
    text = value_of(config, "rocm_attn_timeout") or "30"
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise pytest.UsageError(
            f"--rocm-attn-timeout={text!r} is not a time; give the seconds one selection may take"
        )
    return seconds


def _gpus(text: str | None) -> tuple[Gpu, ...]:
    return tuple(Gpu(name.strip()) for name in (text or "").split(",") if name.strip())


def _cells(the_contract: Contract, gpus: Sequence[Gpu]) -> tuple[Cell, ...]:
    cells = [cell for row in the_contract.rows for cell in row.cells()]
    # Platform by platform, so that the first are judged while the selector is being imported on
    # the next.
    order = {gfx: number for number, gfx in enumerate(known_gpus())}
    cells.sort(key=lambda cell: (order[cell.gpu.gfx], cell.gpu.aiter))
    covered = sorted({cell.gpu.gfx for cell in cells})
    if missing := [gpu.gfx for gpu in gpus if gpu.gfx not in covered]:
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
    if not given:
        return None
    return deviations.load(config.invocation_params.dir / given)


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


def _reports(config: pytest.Config) -> tuple[Path, ...]:
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
