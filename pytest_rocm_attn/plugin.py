"""The plugin's face: options, markers, and the hooks that hand over to the parts that do the work.

Imported whenever pytest starts, so it imports nothing but pytest and does next to nothing;
benchmarks/startup.py measures that. PYTEST_DONT_REWRITE: there is no assert to rewrite here, and
rewriting costs as much as compiling.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from pytest_rocm_attn import hookspecs, options

# By name, and not with pytest_plugins, which would register and rewrite a second plugin.
from pytest_rocm_attn.fixtures import (
    _rocm_attn_env,
    _rocm_attn_mock,
    dry_launch,
    emulated_rocm,
    mock_rocm,
    rocm_env,
    rocm_gpu,
    rocm_select,
)

if TYPE_CHECKING:
    from collections.abc import Generator

    from pytest_rocm_attn.mock import MockRocm

# What pytest finds here: the fixtures, and below them the hooks.
__all__ = [
    "_rocm_attn_env",
    "_rocm_attn_mock",
    "dry_launch",
    "emulated_rocm",
    "mock_rocm",
    "rocm_env",
    "rocm_gpu",
    "rocm_select",
]

_running: list[tuple[int, pytest.Config]] = []
_MOCK: pytest.StashKey[MockRocm] = pytest.StashKey()

# Those that act on tests; markers.py has what they do. The last four are short forms.
_MARKERS = {
    "rocm_attn_gpu": "(gfx, ...): needs one of these ROCm GPUs; without arguments: any",
    "rocm_attn_aiter": ": needs AMD's aiter (the distribution amd-aiter)",
    "rocm_attn_mock": "(gfx, aiter=True): runs on a mocked ROCm platform",
    "rocm_attn_emulate": "(gfx): as rocm_attn_mock, and executes Triton kernels, on CPU tensors",
    "rocm_attn_env": "(NAME='value'): sets ROCm attention variables, and unsets all others of them",
    "rocm_attn_dry_launch": "(gfx): the target that the dry_launch fixture compiles for",
    "rocm_gpu": "('gfx942', ...): short for rocm_attn_gpu; with other arguments not of this plugin",
    "mock_rocm": "('gfx942', ...): short for rocm_attn_mock; with other arguments not of this plugin",
    "emulated_rocm": "('gfx942'): short for rocm_attn_emulate; with other arguments not of this plugin",
    "rocm_env": "(VLLM_...='value'): short for rocm_attn_env; with other arguments not of this plugin",
}
# Those that select among the matrix's own items.
_LEVELS = {
    "rocm_attn_required": ": a conformance row that the contract's text fixes",
    "rocm_attn_advisory": ": a conformance row beyond the contract's text",
    "rocm_attn_observed": ": a conformance row about what only the code of the upstream release says",
    "rocm_attn_advice": ": a conformance row about what upstream has found to be better",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    options.add(parser)


def running() -> pytest.Config | None:
    """Return the configuration of the pytest run in this process; None in a process forked from it."""
    process, config = _running[-1] if _running else (0, None)
    return config if process == os.getpid() else None


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    pluginmanager.add_hookspecs(hookspecs)


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    for name, text in (_MARKERS | _LEVELS).items():
        config.addinivalue_line("markers", name + text)
    options.check(config)
    run = (os.getpid(), config)
    _running.append(run)
    config.add_cleanup(lambda: _running.remove(run))
    if seconds := options.value(config, "compile-timeout"):
        from pytest_rocm_attn import compile_watch

        config.add_cleanup(compile_watch.set_limit(seconds))
    if config.getoption("rocm_attn_conformance"):
        from pytest_rocm_attn.conformance.run.session import ConformancePlugin

        config.pluginmanager.register(ConformancePlugin(config), "rocm_attn_matrix")
    elif config.getoption("rocm_attn_report"):  # the ini's are the matrix's
        from pytest_rocm_attn.conformance.run.hardware_report import HardwareReport
        from pytest_rocm_attn.markers import needs_hardware

        config.pluginmanager.register(HardwareReport(config, needs_hardware), "rocm_attn_hardware")


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Enter the mock of an option before any conftest or test module is imported."""
    given = {name: options.early_value(early_config, name) for name in ("mock", "emulate")}
    given = {name: value for name, value in given.items() if value is not None}
    if not given:
        return
    if len(given) > 1:
        raise pytest.UsageError(
            "--rocm-attn-emulate mocks the GPU as well; leave --rocm-attn-mock out"
        )
    from pytest_rocm_attn.errors import RocmAttnError
    from pytest_rocm_attn.mock import parse_option

    ((name, value),) = given.items()
    try:
        mock = parse_option(value, emulate=name == "emulate").enter()
    except RocmAttnError as error:
        raise pytest.UsageError(f"--rocm-attn-{name}={value}: {error}") from None
    early_config.add_cleanup(mock.exit)
    early_config.stash[_MOCK] = mock
    if name == "emulate":
        from pytest_rocm_attn.markers import EMULATED

        early_config.stash[EMULATED] = mock.gpu.gfx


def pytest_report_header(config: pytest.Config) -> str | None:
    """Say that the platform of this run is mocked, and as what."""
    mock = config.stash.get(_MOCK, None)
    if mock is None:
        return None
    if mock.emulation is not None:
        return f"rocm-attn: emulated platform: {mock} (--rocm-attn-emulate)"
    return f"rocm-attn: mocked platform: {mock} (--rocm-attn-mock)"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> Generator[None, object, object]:
    """Let this plugin's markers act, once every other plugin has added its own and deselected."""
    result = yield
    marked = [item for item in items if any(m.name in _MARKERS for m in item.iter_markers())]
    if marked:
        from pytest_rocm_attn.markers import prepare

        prepare(config, marked)
    return result


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Let no marker pass unheeded that was added to a test since its collection."""
    for mark in item.own_markers:
        if mark.name in _MARKERS:
            from pytest_rocm_attn.markers import act_late

            act_late(item)
            return


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say that hardware tests did not run, so that their skipping cannot pass for success."""
    if skipped := terminalreporter.stats.get("skipped"):
        from pytest_rocm_attn.markers import not_run, not_run_summary

        if line := not_run_summary(not_run(skipped)):
            terminalreporter.write_line(line, yellow=True)
