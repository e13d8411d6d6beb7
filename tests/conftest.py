"""What tests of several folders share."""

from __future__ import annotations

import contextlib
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_rocm_attn import hardware
from pytest_rocm_attn.markers import HARDWARE_MARKERS

if TYPE_CHECKING:
    from collections.abc import Callable

HARDWARE = Path(__file__).parent / "hardware"

# Killed processes whose parent died first are reaped by init, at its leisure.
_GRACE = 30.0  # seconds


def leaves_out_hardware(config: pytest.Config) -> bool:
    """Whether hardware tests are left out: no GPU is here, and neither a path nor -m asks for them."""
    if any(name in config.option.markexpr for name in HARDWARE_MARKERS):
        return False
    folder = config.invocation_params.dir
    paths = [(folder / argument.partition("::")[0]).resolve() for argument in config.args]
    asked = any(path.is_relative_to(HARDWARE) for path in paths)
    return not asked and not hardware.detect().gpus


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what would only be skipped, hundreds of times; it is collected all the same."""
    if not leaves_out_hardware(config):
        return
    left_out = [
        item
        for item in items
        if item.path.is_relative_to(HARDWARE)
        and any(item.get_closest_marker(name) for name in HARDWARE_MARKERS)
    ]
    config.hook.pytest_deselected(items=left_out)
    gone = set(left_out)
    items[:] = [item for item in items if item not in gone]


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say that they are left out, so that nobody takes them for passed."""
    if leaves_out_hardware(config):
        terminalreporter.write_line(
            "hardware tests were deselected: no AMD GPU here; `python -m pytest tests/hardware` shows them"
        )


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
