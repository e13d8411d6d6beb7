"""A question, who answers it, and its result."""

from __future__ import annotations

import os
import socket
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from pytest_rocm_attn.conformance.isolation.inside.environment import NOT_REFRESHED
from pytest_rocm_attn.conformance.isolation.inside.neutral import STAND_INS
from pytest_rocm_attn.conformance.isolation.inside.trace import Step
from pytest_rocm_attn.flags import EXPLICIT
from pytest_rocm_attn.gpu import Gpu, known_gpus
from pytest_rocm_attn.outcome import Outcome
from pytest_rocm_attn.request import Request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping


# Kinds of questions about what is imported, whose answers read it, or import on (inside/capabilities.py).
_OF_A_PROCESS = {
    *(
        "names",
        "import",
        "declare",
        "predicates",
        "runtime",
        "server",
        "steps",
        "capability",
        "code",
    ),
    *("interfaces", "devices", "plugins", "before-workers"),
}


class Question(msgspec.Struct, frozen=True):
    """One request, put to the selector on one platform under one environment.

    Args:
        gpu: the platform.
        environ: the variables that are set, as sorted pairs.
        request: what the layer needs.
        kind: "select" for which backend; "named" too, with what the detail names (promise/naming.py);
            the other kinds are those of inside/capabilities.py, and are answered with Told, or as a
        selection is if nothing was selected.
        detail: what else the kind needs to know, as text.
    """

    gpu: Gpu
    environ: tuple[tuple[str, str], ...]
    request: Request
    kind: str = "select"
    detail: str = ""

    @property
    def needs_own_process(self) -> bool:
        """Whether the answer depends on what a process has imported, counted or remembered before.

        No refresh brings that up to date, so that such a question is asked in a process that answers nothing
        else, after an import under the question's own environment.
        """
        return self.kind in _OF_A_PROCESS or any(name in NOT_REFRESHED for name, _ in self.environ)

    @property
    def asks_of_backends(self) -> bool:
        """Whether an answer needs backends, so that it is worth importing them before anything forks."""
        return self.kind != "platform"

    @classmethod
    def of(
        cls,
        gpu: Gpu,
        environ: Mapping[str, str],
        request: Request,
        kind: str = "select",
        detail: str = "",
    ) -> Question:
        return cls(gpu, tuple(sorted(environ.items())), request, kind, detail)


class FailedImport(msgspec.Struct, frozen=True):
    """An import that failed.

    Attributes:
        module: what was to be imported, such as "xgrammar"; "" if it is not known.
        importer: the module that imports it; "" if it is not known.
        found: the module exists, but it lacks a name, or cannot be loaded.
    """

    module: str
    importer: str
    found: bool = False

    def cure(self, own: str, *, mocked: bool) -> str:
        """Return what to do about it, in words.

        Args:
            own: the package that the selector is in.
            mocked: the platform is.
        """
        top = self.module.partition(".")[0]
        where = f" ({self.importer} imports it)" if self.importer else ""
        if not top:
            return ""
        if mocked and top in STAND_INS:
            return f"the mocked platform's {top} lacks it{where}: report that to pytest-rocm-attn"
        if self.module == own and not self.found:
            return f"install {own}, or run `python -m pytest` in the folder that it is in"
        if top == own:
            return f"{self.module} is part of {own} itself{where}: build and install it whole"
        if top in sys.stdlib_module_names:
            return f"{self.module} is part of Python{where}: use another version or build of Python"
        if self.found:
            return f"{self.module} lacks what is imported{where}: install another version of {top}"
        return f"install the package that has {self.module}{where}: `pip install {top}`"


class Observation(msgspec.Struct, frozen=True, tag=True):
    """The result of a question.

    Attributes:
        outcome: what the selector did.
        seconds: how long it took; 0 when it never answered.
        written: environment variables that it set, changed or removed while answering.
        trace: how it reached the answer, if it reports that.
        failed_import: what is behind a crash, if it is an import that failed.
        dropped: fields of the request that the selector cannot be asked, and was not.
    """

    outcome: Outcome
    seconds: float = 0.0
    written: tuple[str, ...] = ()
    trace: tuple[Step, ...] = ()
    failed_import: FailedImport | None = None
    dropped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Subject:
    """The selector under test, and what its process needs.

    Args:
        selector: ``module:object`` or ``file.py:object``.
        pure: it reads nothing but its arguments, so it needs neither mocked platform nor an
            environment of its own.
        preload: neutral modules worth importing once, before anything forks; unused without fork.
        timeout: seconds that one answer may take.
        fork: fork processes; False starts each one from the beginning, as on a system without fork.
        machine: the real GPU to select on, unmocked; None mocks each question's own.
    """

    selector: str
    pure: bool = False
    preload: tuple[str, ...] = ("torch",)
    timeout: float = 30.0
    fork: bool = hasattr(os, "fork") and hasattr(socket, "send_fds")
    machine: Gpu | None = None

    @property
    def evidence(self) -> str:
        """What its answers rest on, as reports name it."""
        return "pure" if self.pure else "mock" if self.machine is None else "real"


def probing(gpus: Iterable[str]) -> list[Question]:
    """Return questions that show whether a selector can be asked at all.

    They are of several kinds, so that one import that only some answers need does not fail them all,
    and on two GPUs at least: what one GPU's platform lacks is a result.

    Args:
        gpus: what a run is about, by name.
    """
    found = [*dict.fromkeys(gpus)] or [*known_gpus()]
    found = [*dict.fromkeys((found[0], found[-1], *known_gpus()))][:_PROBED]
    kinds: list[tuple[dict[str, str], Request]] = [
        ({}, Request()),
        ({}, Request(use_mla=True)),
        ({EXPLICIT: "TRITON_ATTN"}, Request()),
    ]
    return [Question.of(Gpu(gfx), env, request) for gfx in found for env, request in kinds]


_PROBED = 3  # GPUs


class Group(msgspec.Struct):
    """Questions that one process may answer: those of one environment, unless the selector is pure."""

    environ: dict[str, str]
    questions: list[Question] = []


def apart(groups: Iterable[Group]) -> tuple[list[Group], list[Group]]:
    """Return the questions that need a process of their own, and the others, each in their groups."""
    own: list[Group] = []
    others: list[Group] = []
    for group in groups:
        for wanted, into in ((True, own), (False, others)):
            questions = [q for q in group.questions if q.needs_own_process is wanted]
            if questions:
                into.append(Group(group.environ, questions))
    return own, others


def by_environment(
    questions: Iterable[Question],
    environ_of: Callable[[Question], tuple[tuple[str, str], ...]] = lambda question: (
        question.environ
    ),
) -> list[Group]:
    """Return questions in groups, one for each environment, in the order of its first question.

    Args:
        questions: of one platform.
        environ_of: returns the environment of the process that a question needs.
    """
    groups: dict[tuple[tuple[str, str], ...], Group] = {}
    for question in questions:
        environ = environ_of(question)
        groups.setdefault(environ, Group(dict(environ))).questions.append(question)
    return list(groups.values())
