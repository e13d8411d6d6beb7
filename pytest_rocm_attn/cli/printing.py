"""How the commands answer."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

OK, REFUSED = 0, 1  # exit codes: the answer is positive; it is a refusal


def print_json(value: dict[str, Any]) -> None:
    """Print an answer for programs, with the version of its form."""
    print_lines([json.dumps({"schema": 1} | value, indent=2)])


def print_lines(lines: Iterable[str]) -> None:
    """Print lines, as far as somebody reads them."""
    try:
        print("\n".join(lines), flush=True)
    except BrokenPipeError:
        # The reader (head, less) has seen enough. The interpreter flushes once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
