"""Calls of functions that only a device could answer, answered by someone else while a block runs.

The stand-ins of aiter and of flash_attn ask here before they say that they cannot run.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    # Called with the module and the name of a function, and what that is called with.
    Answer = Callable[[str, str, tuple[Any, ...], dict[str, Any]], Any]

_answers: list[Answer] = []


@contextlib.contextmanager
def answered_by(answer: Answer) -> Iterator[None]:
    """Have such calls answered by a function; the innermost block's holds."""
    _answers.append(answer)
    try:
        yield
    finally:
        _answers.remove(answer)


def current() -> Answer | None:
    """Return what answers now, or None."""
    return _answers[-1] if _answers else None
