"""The emulated kernels are built once for what they are made of."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_rocm_attn.backends.hip.matrix_layout import SHAPES


def test_a_library_is_built_again_only_if_something_that_it_is_made_of_changes(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    conftest: Any = request.config.pluginmanager.getplugin(
        str(Path(__file__).parent / "conftest.py")
    )
    built: list[str] = []
    version = b"g++ 12"

    def run(command: list[str], **_: Any) -> Any:
        if "--version" not in command:
            built.append(command[-1])
            Path(command[-1]).touch()
        return SimpleNamespace(stdout=version)

    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "a.h").write_text("1")
    monkeypatch.setattr(conftest, "SOURCES", sources)
    monkeypatch.setattr(conftest, "Emulator", lambda path, shape: path)
    monkeypatch.setattr(subprocess, "run", run)

    def library(number: int = 0, kernels: str = "") -> Path:
        found: Path = conftest.build_emulator(SHAPES[number], kernels, tmp_path / "cache")
        return found

    first = library()
    assert library() == first and first.exists()
    assert len(built) == 1
    others = {library(1), library(0, "EACH(...)")}
    (sources / "a.h").write_text("2")
    others.add(library())
    version = b"g++ 13"
    others.add(library())
    assert len(built) == 5
    assert len(others | {first}) == 5
