"""What tests of several folders share."""

from __future__ import annotations

import contextlib
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

# Killed processes whose parent died first are reaped by init, at its leisure.
_GRACE = 30.0  # seconds


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
