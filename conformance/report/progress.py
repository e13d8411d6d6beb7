"""The progress of a piece of work: in place on a terminal, a line now and then in a file."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pytest

MARK = "rocm-attn: "  # what each line about a run begins with
PATIENCE = 2.0  # seconds in which nothing is shown: most work is done by then
REFRESH = 0.5  # seconds between two texts on a terminal
FIRST, LONGEST = 10.0, 160.0  # seconds to the first line in a file, and at most between two


def pauses(*, in_place: bool) -> Iterator[float]:
    """Yield the seconds before each text: in a file ever more, so that a slow run has few lines."""
    if in_place:
        yield PATIENCE
        yield from itertools.repeat(REFRESH)
    pause = FIRST
    while True:
        yield pause
        pause = min(2 * pause, LONGEST)


class Progress:
    """Shows a text again and again, until it is closed.

    Args:
        file: where to; a stream without a descriptor gets nothing.
        describe: returns the text. It is called from another thread.
        in_place: returns what shows a text, or "" to clear it, at the terminal's cursor; None for a
            file.
        before: returns what stands before a line of a file.
    """

    def __init__(
        self,
        file: IO[Any],
        describe: Callable[[], str],
        in_place: Callable[[str], str] | None,
        before: Callable[[], str] = str,
    ) -> None:
        self._describe = describe
        self._in_place = in_place
        self._before = before
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        # A descriptor of its own: while an item runs, pytest catches what is written to its stdout.
        self._descriptor: int | None = None
        with contextlib.suppress(OSError, ValueError, AttributeError):
            self._descriptor = os.dup(file.fileno())
        if self._descriptor is not None:
            self._thread = threading.Thread(target=self._show, daemon=True)
            self._thread.start()

    def _show(self) -> None:
        shown = False
        for pause in pauses(in_place=self._in_place is not None):
            if self._over.wait(pause):
                break
            shown, text = True, self._describe()
            self._write(
                f"{self._before()}{text}\n" if self._in_place is None else self._in_place(text)
            )
        if self._in_place is not None and shown:
            self._write(self._in_place(""))

    def _write(self, text: str) -> None:
        assert self._descriptor is not None
        with contextlib.suppress(OSError):  # the terminal may be gone
            os.write(self._descriptor, text.encode(errors="replace"))

    def close(self) -> None:
        """End it, and clear what stands on the terminal."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def beside_pytest(config: pytest.Config, describe: Callable[[], str]) -> Progress | None:
    """Show progress to the right of what pytest writes, or in its file; None under -q."""
    writer = config.get_terminal_writer()
    if config.get_verbosity() < 0:
        return None

    def at_cursor(text: str) -> str:
        # After the cursor, which is taken back, so that pytest goes on where it was.
        room = writer.fullwidth - writer.width_of_current_line - 1
        return f"\x1b7{text[: max(0, room)]}\x1b[K\x1b8"

    last = 0

    def to_a_new_line() -> str:
        # In a file pytest may be in the middle of a line, but not if it wrote nothing after ours.
        nonlocal last
        before, last = last, writer.width_of_current_line
        return "\n" if last not in (0, before) else ""

    in_place = at_cursor if writer.hasmarkup else None
    return Progress(writer._file, describe, in_place, to_a_new_line)


def on_own_line(file: IO[str], describe: Callable[[], str]) -> Progress:
    """Show progress on a line of its own of a terminal, or in a file."""
    return Progress(file, describe, (lambda text: f"\r{text}\x1b[K") if file.isatty() else None)
