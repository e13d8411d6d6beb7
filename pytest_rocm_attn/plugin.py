"""The plugin's face: options, markers, and the hooks that hand over to the parts that do the work.

Imported whenever pytest starts, so it imports nothing but pytest; a test holds it to that.
"""

from __future__ import annotations


import pytest

from pytest_rocm_attn import hookspecs

pytest_plugins = ["pytest_rocm_attn.fixtures"]

# (name, metavar, help). Each has an ini twin, with underscores.
_OPTIONS = (
    (
        "selector",
        "MODULE:OBJECT",
        "selector under test, such as vllm.platforms.rocm:RocmPlatform"
        + " (default: the embedded reference selector)",
    ),
    ("contract", "ID|FILE", "contract to judge by: a shipped id, a TOML file or a folder"),
    ("deviations", "FILE", "the fork's declared deviations"),
    ("tier", "TIER,...", "tiers to run"),
    ("gpu", "GFX,...", "GPUs to run"),
    ("timeout", "SECONDS", "time that one selection may take (default: 30)"),
    ("isolation", "fork|process", "how workers start (default: fork, where there is fork)"),
    ("report", "FILE", "write a report; the suffix says which kind"),
)

_MARKERS = (
    "rocm: needs a ROCm GPU",
    "rocm_gpu(gfx, ...): needs one of these ROCm GPUs",
    "aiter: needs AMD's aiter (the distribution amd-aiter)",
    "mock_rocm(gfx, aiter=True): runs on a mocked ROCm platform",
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
        parser.addini(f"rocm_attn_{name}", text, default=None)
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
