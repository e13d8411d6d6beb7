"""The plugin's face: options, markers, and the hooks that hand over to the parts that do the work.

Imported whenever pytest starts, so it imports nothing but pytest and does next to nothing;
benchmarks/startup.py measures that. PYTEST_DONT_REWRITE: there is no assert to rewrite here, and
rewriting costs as much as compiling.
"""

from __future__ import annotations

import pytest

from pytest_rocm_attn import hookspecs, options

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
    options.add(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    pluginmanager.add_hookspecs(hookspecs)


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    for marker in _MARKERS:
        config.addinivalue_line("markers", marker)
    options.check(config)
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
    given = options.early_value(early_config, "mock")
    if given is None:
        return
    from pytest_rocm_attn.mock import parse_option

    try:
        mock = parse_option(given).enter()
    except (ValueError, RuntimeError) as error:  # both are ours, such as that a real GPU is here
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
