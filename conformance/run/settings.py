"""What a run was asked to do: pytest's options and ini values, read and checked once."""

from __future__ import annotations

import dataclasses
import datetime
import inspect
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_rocm_attn import options
from pytest_rocm_attn.conformance import adapters
from pytest_rocm_attn.conformance.adapters import shape
from pytest_rocm_attn.conformance.isolation import Subject
from pytest_rocm_attn.conformance.isolation.machine import this_machine
from pytest_rocm_attn.conformance.promise import contract, deviations, release, upstream
from pytest_rocm_attn.conformance.promise.contract import rules_of
from pytest_rocm_attn.conformance.promise.servers_file import ServersError, described
from pytest_rocm_attn.conformance.report import output
from pytest_rocm_attn.conformance.tiers.effort import Effort
from pytest_rocm_attn.conformance.tiers.numerics import subjects
from pytest_rocm_attn.conformance.tiers.settings import Settings
from pytest_rocm_attn.errors import (
    BaselineError,
    ContractError,
    DeviationsError,
    ReportError,
)
from pytest_rocm_attn.gpu import known_gpus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_rocm_attn.conformance.baseline.baseline import Baseline
    from pytest_rocm_attn.conformance.isolation.machine import Machine
    from pytest_rocm_attn.conformance.promise.contract import Contract
    from pytest_rocm_attn.conformance.promise.deviations import Deviations
    from pytest_rocm_attn.conformance.promise.rows import RowOnGpu
    from pytest_rocm_attn.conformance.promise.upstream import Upstream
    from pytest_rocm_attn.conformance.tiers.settings import Recorded

OF_THE_CONTRACT = (
    "documented",
    "invariants",
    "capabilities",
    "server",
    "upstream",
)  # tiers that run on its GPUs
# Options that replace what a tier does, and would be passed over in silence without it.
_OF_TIERS = {
    "example": ("invariants", "numerics"),
    "cell": ("grid", "upstream"),
    "servers": ("server",),
}
DEVIATIONS_FILE = "rocm-attn-deviations.toml"  # in the root folder, found without being named


def read(config: pytest.Config) -> Settings:
    """Read everything that the options name.

    Raises:
        pytest.UsageError: one line that says which option is wrong, why, and what is expected.
    """

    def value(name: str) -> Any:
        return options.value(config, name)

    try:
        the_contract = contract.load(value("contract"))
        if the_contract.by_age:
            the_contract = the_contract.at(_upstream(config))
        the_deviations = _deviations(config)
        recorded = _recorded(the_contract)
        tiers = value("tier")
        if recorded is not None and not options.is_given(config, "tier"):
            tiers = (*tiers, "upstream")
        # The names of rules matter to deviations whichever tiers run.
        needed = "grid" in tiers or the_deviations is not None or value("deviations-draft")
        grid_rules = rules_of(the_contract) if needed else ()
        the_baseline = _baseline(config)
        servers = described(value("servers")) if "server" in tiers else ()
    except (BaselineError, ContractError, DeviationsError, ServersError) as error:
        raise pytest.UsageError(str(error)) from None
    for name, about in _OF_TIERS.items():
        if value(name) is not None and not set(about) & set(tiers):
            raise pytest.UsageError(
                f"--rocm-attn-{name} is about tier {' or '.join(about)}, which this run does not have;"
                f" add --rocm-attn-tier={about[0]}"
            )
    gpus = value("gpu")
    subject = subject_of(config)
    cells = _cells(the_contract, gpus, needed=[tier for tier in tiers if tier in OF_THE_CONTRACT])
    machine = _machine(config, subject, the_contract, gpus)
    if machine is not None:
        recorded = None  # of mocked platforms
        if not options.is_given(config, "tier"):
            tiers = value("tier")
        cells = tuple(cell for cell in cells if cell.gpu == machine.gpu)
        # A HIP context does not survive fork, and importing the selector may make one.
        fork = subject.fork if value("isolation") else False
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
        gpus=gpus,
        against=_against(config),
        baseline=the_baseline,
        recorded=recorded,
        servers=servers,
        grid_budget=value("grid-budget"),
        cell=value("cell"),
        fresh=value("fresh"),
        strict=value("strict"),
        reports=reports_of(config),
        draft=_draft(config),
        today=datetime.datetime.now(tz=datetime.UTC).date(),
        effort=Effort(value("seed"), value("examples"), value("budget"), value("example")),
        emulate=_emulated(value("emulate")),
    )


def nothing_to_run(settings: Settings, tier: str) -> pytest.UsageError:
    """Return the error of a run in which a tier has no item; one line that says why."""
    if settings.machine is not None:
        return pytest.UsageError(
            f"contract {settings.contract.id} has nothing for tier {tier} to run on this machine's own"
            f" {settings.machine}; --rocm-attn-mock={settings.machine.gfx} mocks all GPUs"
        )
    backends = ", ".join(backend.name for backend in settings.backends)
    return pytest.UsageError(
        f"tier {tier} has nothing to run for contract {settings.contract.id} and the backends"
        f" {backends}; name another contract, or other backends"
    )


def subject_of(config: pytest.Config) -> Subject:
    """Return the selector that the options, or the fork's conftest, name; else the reference.

    Raises:
        pytest.UsageError: an option that does not make sense, in one line.
    """
    spec = options.value(config, "selector") or _selector_from_hook(config)
    return _subject(config, spec)


def _against(config: pytest.Config) -> Subject | None:
    spec = options.value(config, "against")
    return _subject(config, spec) if spec else None


def _baseline(config: pytest.Config) -> Baseline | None:
    given = options.value(config, "baseline")
    if given is None:
        return None
    if options.value(config, "against"):
        raise pytest.UsageError(
            "--rocm-attn-baseline and --rocm-attn-against both say what the grid is compared with;"
            " give one of them"
        )
    from pytest_rocm_attn.conformance.baseline import baseline  # with the tables of the grid
    from pytest_rocm_attn.conformance.promise.grid.design import standard

    found = baseline.load(given)
    found.require(standard())
    return found


def _recorded(the_contract: Contract) -> Recorded | None:
    """Return what the release that the selector is judged by answered; None if it is not recorded."""
    upstream = the_contract.upstream
    if upstream is None or not upstream.inherited:
        return None
    from pytest_rocm_attn.conformance.baseline import baseline

    name = f"vllm-{release.words(upstream.release)}"
    return baseline.Shipped(name) if name in baseline.shipped() else None


def _subject(config: pytest.Config, spec: str | None) -> Subject:
    timeout = options.value(config, "timeout")
    if not spec or spec == adapters.REFERENCE:
        # The reference is a pure function of its arguments: there is no platform to mock.
        return Subject(adapters.REFERENCE, pure=True, preload=(), timeout=timeout)
    default = Subject(spec, timeout=timeout)
    if options.value(config, "isolation") != "process":
        return default
    return Subject(spec, timeout=timeout, fork=False)


def _upstream(config: pytest.Config) -> Upstream:
    """Return the release that the selector is judged by."""
    text = options.value(config, "upstream")
    if text != "auto":
        return upstream.given(text)
    spec = options.value(config, "selector") or _selector_from_hook(config) or adapters.REFERENCE
    found = shape.of_spec(spec) if spec != adapters.REFERENCE else None
    if found is None:
        words = (
            "the reference follows" if spec == adapters.REFERENCE else "it is not vLLM; judged by"
        )
        return upstream.Upstream(upstream.ORIGINAL, f"{words} PR #26980", inherited=False)
    return upstream.found(found.features, found.version, upstream.shapes())


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


def _emulated(text: str | None) -> str:
    from pytest_rocm_attn.mock import parse_option

    return "" if text is None else parse_option(text).gpu.gfx


def _backends(config: pytest.Config) -> tuple[subjects.BackendUnderTest, ...]:
    given = options.value(config, "backends")
    if given is not None:
        return subjects.parse(given)
    return subjects.from_hook(config) or subjects.references()


def repeated(config: pytest.Config) -> dict[str, Any]:
    """Return the options that a printed command repeats, by name.

    Those of the command line, and what conftest files name: a command that names an item names no
    folder, and so may not find the same conftest files.
    """
    given = options.repeated(config)
    if options.value(config, "selector") is None and (spec := _selector_from_hook(config)):
        given["selector"] = _from_here(config, spec)
    if options.value(config, "backends") is None and (found := subjects.from_hook(config)):
        named = (f"{backend.name}={_from_here(config, backend.spec)}" for backend in found)
        given["backends"] = ",".join(named)
    return given


def _from_here(config: pytest.Config, spec: str) -> str:
    """Return a spec with a file's path relative to where pytest was started, if it lies below."""
    place, _, name = spec.rpartition(":")
    folder = config.invocation_params.dir
    inside = place.endswith(".py") and Path(place).is_relative_to(folder)
    return f"{Path(place).relative_to(folder)}:{name}" if inside else spec


def _cells(
    the_contract: Contract, gpus: Sequence[str], *, needed: Sequence[str]
) -> tuple[RowOnGpu, ...]:
    cells = list(the_contract.cells(gpus))
    # Platform by platform, so that the first are judged while the selector is being imported on
    # the next.
    order = {gfx: number for number, gfx in enumerate(known_gpus())}
    cells.sort(key=lambda cell: (order[cell.gpu.gfx], cell.gpu.aiter))
    found = {cell.gpu.gfx for cell in cells}
    missing = [gfx for gfx in gpus if gfx not in found]
    if missing and needed:
        covered = sorted(
            {cell.gpu.gfx for cell in the_contract.cells()} | {*the_contract.relatives}
        )
        raise pytest.UsageError(
            f"--rocm-attn-gpu: contract {the_contract.id} has no rows for {', '.join(missing)},"
            f" so that tier {needed[0]} has nothing to run there; it covers {', '.join(covered)}"
        )
    return tuple(cells)


def _machine(
    config: pytest.Config, subject: Subject, the_contract: Contract, gpus: Sequence[str]
) -> Machine | None:
    """Return the real GPU of this machine, unless the mock was asked for or nothing needs a GPU."""
    if subject.pure or options.value(config, "mock"):
        return None
    found = this_machine({gpu.gfx for row in the_contract.rows for gpu in row.gpus})
    if found is not None and (others := set(gpus) - {found.gpu.gfx}):
        names = ", ".join(sorted(others))
        raise pytest.UsageError(
            f"--rocm-attn-gpu: this machine has a real {found}, on which nothing is mocked unless asked"
            f" for; to mock {names}, add --rocm-attn-mock={min(others)}"
        )
    return found


def _deviations(config: pytest.Config) -> Deviations | None:
    given = options.value(config, "deviations")
    drafted = options.value(config, "deviations-draft")
    if given and given == drafted and not (config.invocation_params.dir / given).exists():
        return None  # the draft will make it
    if given is not None:  # empty: none, not even the default one
        return deviations.load(config.invocation_params.dir / given) if given else None
    usual = config.rootpath / DEVIATIONS_FILE
    return deviations.load(usual) if usual.exists() else None


def _draft(config: pytest.Config) -> Path | None:
    """Return where a draft of deviations is to go. It never replaces what a file declares."""
    given = options.value(config, "deviations-draft")
    if given is None:
        return None
    path: Path = config.invocation_params.dir / given
    if path.exists() and (not path.is_file() or _declares(path)):
        raise pytest.UsageError(
            f"--rocm-attn-deviations-draft={given}: {path} exists already and is not a deviations"
            " file without entries; name a new file"
        )
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise pytest.UsageError(
            f"--rocm-attn-deviations-draft={given}: {path.parent} does not exist or is not a folder that can be written to; name another"
        )
    return path


def _declares(path: Path) -> bool:
    """Say whether a file has entries, or what only its author can read."""
    try:
        return bool(deviations.load(path).entries)
    except DeviationsError:
        return True


def reports_of(config: pytest.Config) -> tuple[Path, ...]:
    """Return where the run's reports go.

    Raises:
        pytest.UsageError: one of them cannot be written.
    """
    paths = []
    for given in options.value(config, "report"):
        path = config.invocation_params.dir / given
        try:
            # Found out now rather than after the run; that it can still fail then is handled there.
            output.check(path, given)
        except ReportError as error:
            raise pytest.UsageError(f"--rocm-attn-report={error}") from None
        paths.append(path)
    return tuple(paths)
