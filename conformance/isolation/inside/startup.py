"""What importing the selector did, kept for whoever asks later in the same process."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# What it asked of the mocked device's runtime, in words; None if nothing is mocked.
runtime_calls: tuple[str, ...] | None = None

# Returns what the process has asked of it by now; None if nothing is mocked.
calls_by_now: Callable[[], tuple[str, ...]] | None = None
