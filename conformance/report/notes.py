"""Notes about a run as a whole, collected from all its processes."""

from __future__ import annotations

import contextlib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_SENT = "rocm_attn_notes"  # under this name an xdist worker sends its notes


class Notes:
    """Notes, and what is kept for a run to come.

    Attributes:
        lines: notes, one a line.
        unfinished: the run ended before its time, so that what is kept for the next one stays.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.unfinished = False
        self._counted: Counter[str] = Counter()
        self._discarded: list[str] = []

    def texts(self) -> list[str]:
        """Return all notes, each once, in order."""
        counted = [text.format(f"{number:,}") for text, number in self._counted.items()]
        return sorted({*self.lines, *counted})

    def count(self, note: str, number: int) -> None:
        """Make a note about a number, which stands for {} in it and is added up over processes."""
        self._counted[note] += number

    def discard(self, files: Iterable[Path]) -> None:
        """Have files removed when every process of the run has ended and left nothing unfinished."""
        self._discarded += map(str, files)

    def remove_discarded(self) -> None:
        for file in map(Path, self._discarded):
            with contextlib.suppress(OSError):  # others may be in the folder
                file.unlink(missing_ok=True)
                file.parent.rmdir()

    # --- xdist ------------------------------------------------------------------------------------

    def send(self, output: dict[str, Any]) -> None:
        """Send all of it from an xdist worker to the controller."""
        output[_SENT] = [self.lines, dict(self._counted), self._discarded, self.unfinished]

    def take(self, output: Mapping[str, Any]) -> None:
        """Take what a worker that has ended sent; of one that was killed there is nothing."""
        lines, counted, discarded, unfinished = output.get(_SENT, ([], {}, [], True))
        self.lines += lines
        self._counted.update(counted)
        self._discarded += discarded
        self.unfinished |= unfinished
