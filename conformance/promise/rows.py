"""What a contract promises: its rows, what each expects, and a row on one GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from pytest_rocm_attn.conformance.promise.release import FIRST, LAST, Release

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_rocm_attn.conformance.promise.naming import Named
    from pytest_rocm_attn.conformance.promise.reasons import Reason
    from pytest_rocm_attn.gpu import Gpu
    from pytest_rocm_attn.request import Request

# "observed": what only the code of a release says; "advice": valid, but upstream has something better.
Level: TypeAlias = Literal["required", "advisory", "observed", "advice"]
# What a row's source is: document, pull request, upstream test, recipe; a comment in the code that
# states an intent, the code alone. Only the first four can require something.
Grade: TypeAlias = Literal["D", "P", "T", "R", "K", "W"]
REQUIRING: tuple[Grade, ...] = ("D", "P", "T", "R")


@dataclass(frozen=True, slots=True)
class ExpectBackend:
    """The selector must answer with this backend, by its registry name."""

    backend: str

    def __str__(self) -> str:
        return self.backend


@dataclass(frozen=True, slots=True)
class ExpectRefusal:
    """The selector must refuse, for these reasons, with a message that mentions these words.

    Attributes:
        mentions: the words (mentions.py): what only a word can say, such as a backend's name.
        reasons: the reasons, whatever their words.
    """

    mentions: tuple[str, ...]
    reasons: tuple[Reason, ...] = ()

    def __str__(self) -> str:
        why = f" for {' and '.join(self.reasons)}" if self.reasons else ""
        said = f" that mentions {', '.join(map(repr, self.mentions))}" if self.mentions else ""
        return f"a refusal{why}{said}"


@dataclass(frozen=True, slots=True)
class ExpectNever:
    """The selector must refuse, or answer with another backend than these."""

    backends: tuple[str, ...]

    def __str__(self) -> str:
        return f"anything but {' or '.join(self.backends)}"


@dataclass(frozen=True, slots=True)
class ExpectServed:
    """The selector must answer with a backend, whichever it is."""

    def __str__(self) -> str:
        return "a backend"


Expect: TypeAlias = ExpectBackend | ExpectRefusal | ExpectNever | ExpectServed


@dataclass(frozen=True, slots=True)
class Row:
    """One promise of a contract.

    Args:
        id: kebab-case, unique in the contract, reads like a sentence.
        source: the clause it was written from.
        level: "required", or "advisory" for what goes beyond the contract's text; in a contract by
            age "observed" or "advice" too.
        env: the environment variables that are set, as text; all other variables are unset.
        gpus: the targets that the promise holds on, all with the same state of aiter.
        request: what the attention layer needs.
        expect: the backend, or a refusal.
        file: the file that holds the row.
        note: why, where the source alone does not say it.
        named: what the user names; None in a contract that names backends by its variable.
        since: the first release that promises it.
        until: the first one that no longer does.
        by: what ended it: a pull request or a document.
        why: what that changed, in a few words.
        by_family: it is promised on every GPU, or on a family of them, of which `gpus` are some.
    """

    id: str
    source: str
    level: Level
    env: Mapping[str, str]
    gpus: tuple[Gpu, ...]
    request: Request
    expect: Expect
    file: str
    note: str = ""
    named: Named | None = None
    since: Release = FIRST
    until: Release = LAST
    by: str = ""
    why: str = ""
    by_family: bool = False

    def holds_in(self, upstream: Release) -> bool:
        """Say whether a release promises it."""
        return self.since <= upstream < self.until

    def cells(self) -> tuple[RowOnGpu, ...]:
        """Return the row on each of its GPUs."""
        return tuple(RowOnGpu(self, gpu) for gpu in self.gpus)


@dataclass(frozen=True, slots=True)
class RowOnGpu:
    """One row on one GPU: the unit that is run and judged."""

    row: Row
    gpu: Gpu

    @property
    def id(self) -> str:
        """The row's id and, in brackets, the target: "triton-is-the-default[gfx942]"."""
        return f"{self.row.id}[{self.gpu.gfx}]"
