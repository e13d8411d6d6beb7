"""How laws are checked on an example: by what one selection gives, or by a pair of selections."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from pytest_rocm_attn.conformance.promise.grid.outcomes import differ
from pytest_rocm_attn.conformance.promise.mentions import missing
from pytest_rocm_attn.conformance.tiers.invariants.law import Broken
from pytest_rocm_attn.flags import EXPLICIT
from pytest_rocm_attn.gpu import Gpu
from pytest_rocm_attn.outcome import (
    Crashed,
    Died,
    Rejected,
    Selected,
    TimedOut,
    Unrecognised,
)
from pytest_rocm_attn.registry import CLASS_PATHS

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_rocm_attn.conformance.isolation import Question
    from pytest_rocm_attn.conformance.tiers.invariants.law import Ask, Example
    from pytest_rocm_attn.outcome import Outcome


def is_latent(backend: str) -> bool:
    """Whether a backend is for MLA, by its name in vLLM's registry."""
    return "MLA" in backend.split("_")


# --- of one selection -----------------------------------------------------------------------------


def selects(wrong: Callable[[Example, str], str]) -> Callable[[Example, Ask], Broken | None]:
    """Return the check of what is selected: wrong says in words how a backend breaks the law."""

    def check(case: Example, ask: Ask) -> Broken | None:
        question = case.question()
        outcome = ask(question)[0].outcome
        words = wrong(case, outcome.backend) if isinstance(outcome, Selected) else ""
        return Broken(words, question, outcome) if words else None

    return check


def replaced(case: Example, backend: str) -> str:
    named = case.environ[EXPLICIT]
    return f"{named} was named, {backend} was selected" if backend != named else ""


def of_aiter(case: Example, backend: str) -> str:
    return f"{backend} was selected" if backend.startswith("ROCM_AITER_") else ""


def of_another_kind(case: Example, backend: str) -> str:
    kind = "an MLA" if case.request.use_mla else "an ordinary"
    wrong = is_latent(backend) is not case.request.use_mla
    return f"{backend} was selected for {kind} layer" if wrong else ""


def never(unwanted: str) -> Callable[[Example, Ask], Broken | None]:
    return selects(
        lambda _, backend: f"{backend} was selected by itself" if backend == unwanted else ""
    )


def writes_nothing(case: Example, ask: Ask) -> Broken | None:
    question = case.question()
    (seen,) = ask(question)
    if seen.written:
        names = ", ".join(seen.written)
        return Broken(f"it wrote {names}", question, seen.outcome, seen.written)
    return None


def answers(case: Example, ask: Ask) -> Broken | None:
    question = case.question()
    outcome = ask(question)[0].outcome
    if isinstance(outcome, Crashed | TimedOut | Died | Unrecognised):
        return Broken(f"{outcome}", question, outcome)
    return None


# A backend by its name in the registry, or by the name of its class.
_SPOKEN = {*CLASS_PATHS, *(path.rpartition(".")[2] for path in CLASS_PATHS.values() if path)}
# A reason is about something that was asked for, or about the machine.
_REASON = re.compile(
    r"block[ _-]?size|head[ _-]?(size|count|dim|s\b)|dtype|cache|sink|sparse|MLA|gfx|arch|aiter|ROCm"
    r"|platform|GPU|device|att(entio)?n[ _-]?type|encoder|decoder|window|alibi|soft[ _-]?cap"
    r"|prefix|install|compute capability|require|import"
    r"|invalid value|valid (option|value|name|backend)s|unknown|registered",
    re.IGNORECASE,
)


def says_what_and_why(case: Example, ask: Ask) -> Broken | None:
    question = case.question()
    outcome = ask(question)[0].outcome
    if not isinstance(outcome, Rejected):
        return None
    named = case.environ.get(EXPLICIT)
    if named is not None and missing([named], outcome.message):
        return Broken(f"the refusal does not name {named}: {outcome}", question, outcome)
    if named is None and not any(name in outcome.message for name in _SPOKEN):
        return Broken(f"the refusal names no backend: {outcome}", question, outcome)
    rest = outcome.message
    for name in sorted(CLASS_PATHS, key=len, reverse=True):
        rest = rest.replace(name, "")
    if not _REASON.search(rest):
        return Broken(f"the refusal gives no reason: {outcome}", question, outcome)
    return None


# --- of two selections ----------------------------------------------------------------------------


def _two(before: Question, after: Question, ask: Ask) -> tuple[Outcome, Outcome]:
    first, second = ask(before, after)
    return first.outcome, second.outcome


def _flags(environ: dict[str, str]) -> str:
    return " ".join(f"{name}={text!r}" for name, text in environ.items()) or "nothing set"


def as_without_flags(case: Example, ask: Ask) -> Broken | None:
    question = case.question()
    with_flags, without = _two(question, case.question({EXPLICIT: case.environ[EXPLICIT]}), ask)
    if differ(with_flags, without):
        words = f"got {with_flags}; with {EXPLICIT} alone, {without}"
        return Broken(words, question, with_flags)
    return None


def can_be_named(case: Example, ask: Ask) -> Broken | None:
    outcome = ask(case.question())[0].outcome
    if not isinstance(outcome, Selected):
        return None
    by_name = case.question({EXPLICIT: outcome.backend})
    named = ask(by_name)[0].outcome
    if named != outcome:
        words = f"{_flags(case.environ)} gave {outcome}, naming it gave {named}"
        return Broken(words, by_name, named)
    return None


def same_under_change(case: Example, ask: Ask) -> Broken | None:
    after = case.question(case.changed)
    first, second = _two(case.question(), after, ask)
    if differ(first, second):
        words = f"{first} before, {second} with {_flags(case.change)}"
        return Broken(words, after, second)
    return None


def same_in_another_order(case: Example, ask: Ask) -> Broken | None:
    # The change lists the same variables in another order.
    after = case.question(case.change)
    first, second = _two(case.question(), after, ask)
    if differ(first, second):
        orders = ", ".join(case.environ), ", ".join(case.change)
        return Broken(f"{first} in the order {orders[0]}; {second} in {orders[1]}", after, second)
    return None


def is_no_less_installed(case: Example, ask: Ask) -> Broken | None:
    without = case.question()
    present = msgspec.structs.replace(without, gpu=Gpu(case.gpu.gfx))
    return _no_less(without, present, ask, "without aiter", "with it installed")


def is_no_less_switched_on(case: Example, ask: Ask) -> Broken | None:
    on = case.question(case.changed)
    return _no_less(case.question(), on, ask, "switched off", "switched on")


def _no_less(before: Question, after: Question, ask: Ask, one: str, other: str) -> Broken | None:
    first, second = _two(before, after, ask)
    if isinstance(first, Selected) and not isinstance(second, Selected):
        return Broken(f"{first} {one}, {second} {other}", after, second)
    return None
