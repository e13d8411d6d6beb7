"""What tests of several files here share."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def no_torch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that hides torch from a process that has it first on its path."""
    folder = tmp_path_factory.mktemp("no-torch")
    (folder / "torch.py").write_text("raise ImportError('torch is hidden from this test')\n")
    return folder


@pytest.fixture
def without_torch(no_torch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide torch from the processes that a test starts: selecting needs none of it.

    A selector's first process imports torch ahead of it, which takes longer than these tests do.
    """
    monkeypatch.syspath_prepend(str(no_torch))  # which worker processes get
    monkeypatch.setenv("PYTHONPATH", str(no_torch), prepend=os.pathsep)
