"""What came of a numerics case, as plain data that crosses a process boundary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pytest_rocm_attn.conformance.promise.got import CRASH, WRONG, Got


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of a case on a backend.

    Attributes:
        kind: "right", "wrong", "declined" or "crashed".
        words: what was found, in one line.
        ratio: the largest error over its bound; infinite for what is NaN or was not written.
        seconds: how long the backend took.
        traceback: of a crash.
        answer: what a deviation pins of a crash that is a hang or a death; "" for any other.
        launches: the kernels that were launched, as their records' as_json(); the launch tier's.
    """

    kind: str
    words: str
    ratio: float = 0.0
    seconds: float = 0.0
    traceback: str = ""
    launches: tuple[dict[str, Any], ...] = ()
    answer: str = ""

    @property
    def got(self) -> Got:
        """The result as a deviation pins it."""
        return Got(self.answer or (CRASH if self.kind == "crashed" else WRONG), self.words)
