"""The plugin's face: options, markers, and the hooks that hand over to the parts that do the work.

Imported whenever pytest starts, so it imports nothing but pytest and does next to nothing;
benchmarks/startup.py measures that. PYTEST_DONT_REWRITE: there is no assert to rewrite here, and
rewriting costs as much as compiling.
"""

from __future__ import annotations

import pytest

from pytest_rocm_attn import hookspecs

# By name, and not with pytest_plugins, which would register and rewrite a second plugin.
from pytest_rocm_attn.fixtures import (
    _rocm_attn_markers,
    dry_launch,
    mock_rocm,
    rocm_env,
    rocm_gpu,
    rocm_select,
)

# What pytest finds here: the fixtures, and below them the hooks.
__all__ = ["_rocm_attn_markers", "dry_launch", "mock_rocm", "rocm_env", "rocm_gpu", "rocm_select"]

# (name, metavar, help). Each has an ini twin, with underscores.
_OPTIONS = (
    (
        "selector",
        "MODULE:OBJECT",
        "selector under test, such as vllm.platforms.rocm:RocmPlatform"
        + " (default: the embedded reference selector)",
    ),
    (
        "backends",
        "[NAME=]MODULE:OBJECT,...",
        "backends under test in the numerics tier (default: the reference backends)",
    ),
    ("contract", "ID|FILE", "contract to judge by: a shipped id, a TOML file or a folder"),
    ("deviations", "FILE", "the fork's deviations (default: rocm-attn-deviations.toml, if there)"),
    ("deviations-draft", "FILE", "write a deviations file to fill in, for what fails in this run"),
    ("tier", "TIER,...", "tiers to run"),
    ("gpu", "GFX,...", "GPUs to run"),
    (
        "seed",
        "N",
        "invariants and drawn cases: chooses the examples (default: 0, the same in every run)",
    ),
    ("examples", "N", "invariants and drawn cases: how many one search tries (default: 200)"),
    (
        "budget",
        "SECONDS",
        "invariants and drawn cases: time that one search may take (default: 60)",
    ),
    (
        "example",
        "JSON",
        "invariants and drawn cases: try this one example, as a report gives it, and no other",
    ),
    ("timeout", "SECONDS", "time that one selection may take (default: 30)"),
    ("baseline", "ID|FILE", "recording that the grid is compared with, such as vllm-0.18.1"),
    (
        "against",
        "MODULE:OBJECT",
        "selector that the grid is compared with (default: the reference)",
    ),
    ("grid-budget", "SECONDS", "time that the grid may take (default: 1200)"),
    ("isolation", "fork|process", "how workers start (default: fork, where there is fork)"),
    ("mock", "GFX[,aiter]", "mock a ROCm platform for the whole run, before conftest files load"),
)

_MARKERS = (
    "rocm: needs a ROCm GPU",
    "rocm_gpu(gfx, ...): needs one of these ROCm GPUs",
    "aiter: needs AMD's aiter (the distribution amd-aiter)",
    "mock_rocm(gfx, aiter=True): runs on a mocked ROCm platform",
    "dry_launch(gfx): the target that the dry_launch fixture compiles for",
    "rocm_env(NAME='value'): sets ROCm attention variables, all others of them being unset",
    "required: a conformance row that the contract's text fixes",
    "advisory: a conformance row beyond the contract's text",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("rocm-attn", "ROCm attention backends")
    group.addoption(
        "--rocm-attn-conformance",
        action="store_true",
        help="run the conformance matrix; without a path, nothing but the matrix",
    )
    for name, metavar, text in _OPTIONS:
        group.addoption(f"--rocm-attn-{name}", metavar=metavar, default=None, help=text)
        parser.addini(f"rocm_attn_{name.replace('-', '_')}", text, default=None)
    text = "write a report, of the matrix or else of the hardware tests: .json, .html or .md by its"
    text += " suffix; may be given several times"
    group.addoption("--rocm-attn-report", metavar="FILE", action="append", help=text)
    parser.addini("rocm_attn_report", text, type="linelist", default=[])
    text = "ask one cell of the named slice of the grid, by its number"
    group.addoption("--rocm-attn-cell", metavar="N", default=None, help=text)
    text = "ask again what an interrupted run of the grid has answered"
    group.addoption("--rocm-attn-fresh", action="store_true", help=text)
    text = "advisory rows fail as required ones do"
    group.addoption("--rocm-attn-strict", action="store_const", const=True, help=text)
    parser.addini("rocm_attn_strict", text, type="bool", default=False)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    pluginmanager.add_hookspecs(hookspecs)


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    for marker in _MARKERS:
        config.addinivalue_line("markers", marker)
    if config.getoption("rocm_attn_conformance"):
        from pytest_rocm_attn.conformance.session import ConformancePlugin

        config.pluginmanager.register(ConformancePlugin(config), "rocm_attn_matrix")
    elif config.getoption("rocm_attn_report"):  # the ini's are the matrix's
        from pytest_rocm_attn.conformance.hardware_report import HardwareReport
        from pytest_rocm_attn.markers import HARDWARE_MARKERS

        config.pluginmanager.register(
            HardwareReport(config, HARDWARE_MARKERS), "rocm_attn_hardware"
        )


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Enter the mock of ``--rocm-attn-mock`` before any conftest or test module is imported."""
    given = early_config.known_args_namespace.rocm_attn_mock
    given = given if given is not None else early_config.getini("rocm_attn_mock")
    if not given:
        return
    from pytest_rocm_attn.mock import parse_option

    try:
        mock = parse_option(given).enter()
    except (ValueError, RuntimeError) as error:  # both are ours: a bad option, or a real GPU here
        raise pytest.UsageError(f"--rocm-attn-mock={given}: {error}") from None
    early_config.add_cleanup(mock.exit)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a hardware test that cannot run here, saying what is missing and how to get it."""
    if any(item.get_closest_marker(name) for name in ("rocm", "rocm_gpu", "aiter")):
        from pytest_rocm_attn.markers import skip_what_cannot_run

        skip_what_cannot_run(item)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say that hardware tests did not run, so that their skipping cannot pass for success."""
    if skipped := terminalreporter.stats.get("skipped"):
        from pytest_rocm_attn.markers import not_run, not_run_summary

        if line := not_run_summary(not_run(skipped)):
            terminalreporter.write_line(line, yellow=True)
