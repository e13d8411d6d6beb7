"""Hooks that a fork's conftest may implement."""

from __future__ import annotations

import pytest


@pytest.hookspec(firstresult=True)
def pytest_rocm_attn_selector(config: pytest.Config) -> object:
    """Return the selector under test, where ``--rocm-attn-selector`` does not name one.

    Either ``"module:object"``, or a class with ``select(request, environ, gpu)``, or a function of
    that kind, at the top level of a file. It is imported again inside worker processes, under the
    mocked platform, so import the fork inside its methods or rely on that import being unmocked.
    """


@pytest.hookspec
def pytest_rocm_attn_backends(config: pytest.Config) -> object:
    """Return the backends that the numerics tier tests, where ``--rocm-attn-backends`` names none.

    A mapping of names to ``"module:object"`` or ``"file.py:object"``, or a list of such texts. The
    object is a class, or an instance, with a method for each kind of problem that it solves:
    ``attend(problem)``, ``mla_decode(problem)``, ``mla_prefill(problem)``; see docs/numerics.md.
    It is imported in a worker process.
    """
