"""The tests of this folder run in a process in which Triton interprets kernels on the CPU.

Triton reads TRITON_INTERPRET where a kernel is defined, its own library's kernels included, so a process
either interprets or compiles. A run that asks for nothing but this folder interprets; any other run
deselects its tests and says so (tests/conftest.py). `make test` makes both runs.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent


def pytest_configure(config: pytest.Config) -> None:
    """Interpret, if this folder alone is asked for; xdist's workers inherit it."""
    folder = config.invocation_params.dir
    paths = [(folder / argument.partition("::")[0]).resolve() for argument in config.args]
    if paths and all(path.is_relative_to(FOLDER) for path in paths):
        os.environ.setdefault("TRITON_INTERPRET", "1")
