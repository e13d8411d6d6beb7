"""What every test of dry launch needs: a cache of its own, and Triton as its users have it."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def triton_cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One disk cache per session, so that a kernel which several tests launch compiles once."""
    return str(tmp_path_factory.mktemp("triton-cache"))


@pytest.fixture(autouse=True)
def triton_environment(monkeypatch: pytest.MonkeyPatch, triton_cache: str) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", triton_cache)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    # Triton 3.9 warns when the variable is unset; 1 is the default of all releases until then.
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")
