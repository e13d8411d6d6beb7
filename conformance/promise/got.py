"""The result of an item as far as a deviation pins it: a backend's name, or one of a few kinds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_rocm_attn.outcome import Crashed, Died, Rejected, Selected, TimedOut, Unrecognised

if TYPE_CHECKING:
    from pytest_rocm_attn.outcome import Outcome

REFUSAL, CRASH, TIMEOUT, DIED, NO_BACKEND, WRONG = (
    *("refusal", "crash", "timeout", "died", "no-backend", "wrong"),
)
KINDS = {
    REFUSAL: "a deliberate refusal",
    CRASH: "a crash",
    TIMEOUT: "no answer in time",
    DIED: "the end of its process",
    NO_BACKEND: "an answer that names no backend",
    WRONG: "a wrong result",  # of a kernel; a law that is broken; what a backend says of itself
}
CRASHES = (CRASH, TIMEOUT, DIED)


@dataclass(frozen=True, slots=True)
class Got:
    """A result.

    Attributes:
        answer: a backend's registry name, or one of KINDS.
        message: what a refusal or a crash said, or what is wrong in words.
    """

    answer: str
    message: str = ""

    def __str__(self) -> str:
        kind = KINDS.get(self.answer, self.answer)
        return f"{kind}: {self.message}" if self.message else kind


def got_of(outcome: Outcome) -> Got:
    """Return what a selector's outcome is to a deviation."""
    match outcome:
        case Selected(backend):
            return Got(backend)
        case Rejected(error, message):
            return Got(REFUSAL, f"{error}: {message}")
        case Crashed(error, traceback):
            last = traceback.strip().rpartition("\n")[2].strip()
            return Got(CRASH, last if last.startswith(error) else f"{error}: {last}".rstrip(": "))
        case TimedOut():
            return Got(TIMEOUT)
        case Died():
            return Got(DIED)
        case Unrecognised(value):
            return Got(NO_BACKEND, value)
    return Got(WRONG, str(outcome))
