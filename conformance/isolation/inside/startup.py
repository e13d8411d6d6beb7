"""What importing the selector did, kept for whoever asks later in the same process."""

from __future__ import annotations

# What it asked of the mocked device's runtime, in words; None if nothing is mocked.
runtime_calls: tuple[str, ...] | None = None
