"""What tests of several folders share."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_rocm_attn import hardware
from pytest_rocm_attn.markers import HARDWARE_MARKERS

# As many threads of torch as cores, in each xdist worker and each process that a test starts, wait for
# each other longer than they compute: the tensors here are small. Set before anything imports torch.
os.environ.setdefault("OMP_NUM_THREADS", "1")

HARDWARE = Path(__file__).parent / "hardware"
INTERPRETED = Path(__file__).parent / "backends" / "interpreted"

# Killed processes whose parent died first are reaped by init, at its leisure.
_GRACE = 30.0  # seconds


def _paths(config: pytest.Config) -> list[Path]:
    """Return the paths that a run asks for."""
    folder = config.invocation_params.dir
    return [(folder / argument.partition("::")[0]).resolve() for argument in config.args]


def leaves_out_hardware(config: pytest.Config) -> bool:
    """Whether hardware tests are left out: no GPU is here, and neither a path nor -m asks for them."""
    if any(name in config.option.markexpr for name in HARDWARE_MARKERS):
        return False
    asked = any(path.is_relative_to(HARDWARE) for path in _paths(config))
    return not asked and not hardware.detect().gpus


def leaves_out_interpreted(config: pytest.Config) -> bool:
    """Whether tests of interpreted kernels are left out: Triton compiles in this process."""
    return os.environ.get("TRITON_INTERPRET") != "1"


def _needs_hardware(item: pytest.Item) -> bool:
    return any(item.get_closest_marker(name) for name in HARDWARE_MARKERS)


# Folder -> whether a run leaves out its tests, which of them, and what it says then.
LEFT_OUT: dict[Path, tuple[Callable[[pytest.Config], bool], Callable[[pytest.Item], bool], str]] = {
    HARDWARE: (
        leaves_out_hardware,
        _needs_hardware,
        "hardware tests were deselected: no AMD GPU here; `python -m pytest tests/hardware` shows them",
    ),
    INTERPRETED: (
        leaves_out_interpreted,
        lambda item: True,
        "tests of interpreted kernels were deselected, as Triton compiles here;"
        + " `python -m pytest tests/backends/interpreted` runs them",
    ),
}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what cannot run in this process; it is collected all the same, so it cannot rot."""
    left_out = [
        item
        for folder, (leaves_out, concerns, _) in LEFT_OUT.items()
        if leaves_out(config)
        for item in items
        if item.path.is_relative_to(folder) and concerns(item)
    ]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        gone = set(left_out)
        items[:] = [item for item in items if item not in gone]


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say what is left out of a run that spans it, so that nobody takes it for passed."""
    for folder, (leaves_out, _, words) in LEFT_OUT.items():
        if any(folder.is_relative_to(path) for path in _paths(config)) and leaves_out(config):
            terminalreporter.write_line(words)


@pytest.fixture
def processes_left(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Mark what the test starts; the function returns what of it goes on running, as command lines."""
    if not Path("/proc/self/environ").exists():
        pytest.skip("needs /proc to see processes")
    token = uuid.uuid4().hex
    monkeypatch.setenv("ROCM_ATTN_TOKEN", token)

    def running() -> list[str]:
        found = []
        for entry in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):  # it has ended, or is another user's
                if token.encode() in entry.read_bytes():
                    found.append((entry.parent / "cmdline").read_text().replace("\0", " "))
        return found

    def left() -> list[str]:
        deadline = time.monotonic() + _GRACE
        while (found := running()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return found

    return left


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
