"""The laws about single questions and about pairs of them.

A law is required where sections 1 to 5 of docs/reference/contract.md fix it, else advisory. Each is
narrow enough that a selector which follows that contract keeps it; the comments say what was left
out, and why.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from hypothesis import strategies as st

from pytest_rocm_attn.conformance.isolation import Question
from pytest_rocm_attn.conformance.promise.grid.outcomes import differ
from pytest_rocm_attn.conformance.promise.mentions import missing
from pytest_rocm_attn.conformance.tiers import strategies as draw
from pytest_rocm_attn.conformance.tiers.invariants.law import Ask, Broken, Case, Law
from pytest_rocm_attn.conformance.tiers.strategies import AITER, MHA, MLA, NAMED, OFF, ON, UNIFIED
from pytest_rocm_attn.gpu import Aiter, Gpu
from pytest_rocm_attn.outcome import (
    Crashed,
    Died,
    Outcome,
    Rejected,
    Selected,
    TimedOut,
    Unrecognised,
)
from pytest_rocm_attn.registry import CLASS_PATHS, ROCM_BACKENDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypothesis.strategies import SearchStrategy

    from pytest_rocm_attn.request import Request

# Those that the contract names (docs/reference/contract.md#supported, #r8). The text leaves
# the other names open (docs/reference/contract.md#q18).
CONTRACT_NAMES = (
    "TRITON_ATTN",
    "ROCM_ATTN",
    "ROCM_AITER_UNIFIED_ATTN",
    "ROCM_AITER_FA",
    "FLEX_ATTENTION",
    "TRITON_MLA",
    "ROCM_AITER_MLA",
)
# What stands for a name of the other kind of layer, so that half of the cases are not thrown away.
_OF_THE_OTHER_KIND = {
    "TRITON_MLA": "TRITON_ATTN",
    "ROCM_AITER_MLA": "ROCM_AITER_FA",
    "TRITON_ATTN": "TRITON_MLA",
    "ROCM_ATTN": "TRITON_MLA",
    "FLEX_ATTENTION": "TRITON_MLA",
    "ROCM_AITER_UNIFIED_ATTN": "ROCM_AITER_MLA",
    "ROCM_AITER_FA": "ROCM_AITER_MLA",
}
_STATES = st.sampled_from((Aiter.PRESENT, Aiter.PRESENT, Aiter.ABSENT))


def _cases(
    gfx: str,
    environ: SearchStrategy[dict[str, str]],
    request: SearchStrategy[Request] | None = None,
    change: SearchStrategy[dict[str, str]] | None = None,
    aiter: SearchStrategy[Aiter] = _STATES,
) -> SearchStrategy[Case]:
    return st.builds(
        Case,
        gpu=aiter.map(lambda state: Gpu(gfx, state)),
        environ=environ,
        request=draw.requests() if request is None else request,
        change=st.just({}) if change is None else change,
    )


def _or_none(names: tuple[str, ...]) -> tuple[str | None, ...]:
    return (*(None,) * len(names), *names)


_HERE = st.just(Aiter.PRESENT)


def _one(case: Case, ask: Ask) -> tuple[Question, Outcome]:
    question = case.question()
    (seen,) = ask(question)
    return question, seen.outcome


def _is_latent(backend: str) -> bool:
    """Whether a backend is for MLA, by its name in vLLM's registry."""
    return "MLA" in backend.split("_")


def _is_aiters(backend: str) -> bool:
    return backend.startswith("ROCM_AITER_")


def _flags(environ: dict[str, str]) -> str:
    return " ".join(f"{name}={text!r}" for name, text in environ.items()) or "nothing set"


def _promised(case: Case) -> bool:
    """Whether the contract names the backend for layers of this kind.

    Source: docs/reference/contract.md#supported.
    """
    named = case.environ[NAMED]
    return named in CONTRACT_NAMES and _is_latent(named) is case.request.use_mla


def _named_for_its_kind(gfx: str) -> SearchStrategy[Case]:
    case = _cases(gfx, draw.environments(named=CONTRACT_NAMES), draw.requests(sparse=False))
    return case.map(_with_a_name_of_its_kind)


def _with_a_name_of_its_kind(case: Case) -> Case:
    if _promised(case):
        return case
    named = _OF_THE_OTHER_KIND[case.environ[NAMED]]
    return replace(case, environ=case.environ | {NAMED: named})


# --- an explicit choice ---------------------------------------------------------------------------


def _taken_or_refused(case: Case, ask: Ask) -> Broken | None:
    question, outcome = _one(case, ask)
    named = case.environ[NAMED]
    if isinstance(outcome, Selected) and outcome.backend != named:
        return Broken(f"{named} was named, {outcome} was selected", question, outcome)
    return None


def _as_without_flags(case: Case, ask: Ask) -> Broken | None:
    question = case.question()
    alone = case.question({NAMED: case.environ[NAMED]})
    with_flags, without = (seen.outcome for seen in ask(question, alone))
    if differ(with_flags, without):
        words = f"got {with_flags}; with {NAMED} alone, {without}"
        return Broken(words, question, with_flags)
    return None


def _can_be_named(case: Case, ask: Ask) -> Broken | None:
    _, outcome = _one(case, ask)
    if not isinstance(outcome, Selected):
        return None
    by_name = case.question({NAMED: outcome.backend})
    (seen,) = ask(by_name)
    if seen.outcome != outcome:
        words = f"{_flags(case.environ)} gave {outcome}, naming it gave {seen.outcome}"
        return Broken(words, by_name, seen.outcome)
    return None


# --- what must not be chosen by itself ------------------------------------------------------------


def _no_aiter_backend(case: Case, ask: Ask) -> Broken | None:
    question, outcome = _one(case, ask)
    if isinstance(outcome, Selected) and _is_aiters(outcome.backend):
        return Broken(f"{outcome} was selected", question, outcome)
    return None


def _not(backend: str) -> Callable[[Case, Ask], Broken | None]:
    def check(case: Case, ask: Ask) -> Broken | None:
        question, outcome = _one(case, ask)
        if outcome == Selected(backend):
            return Broken(f"{outcome} was selected by itself", question, outcome)
        return None

    return check


def _of_the_same_kind(case: Case, ask: Ask) -> Broken | None:
    question, outcome = _one(case, ask)
    latent = case.request.use_mla
    if isinstance(outcome, Selected) and _is_latent(outcome.backend) is not latent:
        kind = "an MLA" if latent else "an ordinary"
        return Broken(f"{outcome} was selected for {kind} layer", question, outcome)
    return None


# TRITON_MLA needs a block size of at least 16 (docs/reference/contract.md#s5), so below that
# AITER's is the only MLA backend there is, and 0.12.0 chooses it whatever the switches say
# (docs/reference/contract.md#q6, #q7).
def _has_a_choice(case: Case) -> bool:
    request = case.request
    return not request.use_mla or request.block_size is None or request.block_size >= 16


# --- what must not matter -------------------------------------------------------------------------


def _same_under_change(case: Case, ask: Ask) -> Broken | None:
    before, after = case.question(), case.question(case.changed)
    first, second = (seen.outcome for seen in ask(before, after))
    if differ(first, second):
        words = f"{first} before, {second} with {_flags(case.change)}"
        return Broken(words, after, second)
    return None


def _same_in_another_order(case: Case, ask: Ask) -> Broken | None:
    # The change lists the same variables in another order.
    before, after = case.question(), case.question(case.change)
    first, second = (seen.outcome for seen in ask(before, after))
    if differ(first, second):
        words = (
            f"{first} in the order {', '.join(case.environ)}; {second} in {', '.join(case.change)}"
        )
        return Broken(words, after, second)
    return None


def _reordered(gfx: str) -> SearchStrategy[Case]:
    environ = draw.environments(named=_or_none(CONTRACT_NAMES))
    order = st.permutations((*draw.SWITCHES, NAMED))
    case = _cases(gfx, environ).filter(lambda case: len(case.environ) > 1)
    return st.builds(_in_order, case, order)


def _in_order(case: Case, names: list[str]) -> Case:
    return replace(
        case, change={name: case.environ[name] for name in names if name in case.environ}
    )


def _respelled(gfx: str) -> SearchStrategy[Case]:
    case = _cases(gfx, draw.environments(fixed={AITER: ("1", "0")}))
    return st.builds(_spelled, case, st.sampled_from(draw.SWITCHES), st.sampled_from(range(5)))


def _spelled(case: Case, name: str, number: int) -> Case:
    name = name if name in case.environ else AITER
    spellings = ON if case.environ[name] in ON else OFF
    return replace(case, change={name: spellings[number % len(spellings)]})


def _with_default_added(gfx: str) -> SearchStrategy[Case]:
    environ = draw.environments(named=_or_none(CONTRACT_NAMES))
    return _cases(gfx, environ, change=draw.defaults()).map(_only_unset)


def _only_unset(case: Case) -> Case:
    change = {name: text for name, text in case.change.items() if name not in case.environ}
    return replace(case, change=change)


def _writes_nothing(case: Case, ask: Ask) -> Broken | None:
    question = case.question()
    (seen,) = ask(question)
    if seen.written:
        names = ", ".join(seen.written)
        return Broken(f"it wrote {names}", question, seen.outcome, seen.written)
    return None


# --- refusals, and answers at all -----------------------------------------------------------------

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


def _says_what_and_why(case: Case, ask: Ask) -> Broken | None:
    question, outcome = _one(case, ask)
    if not isinstance(outcome, Rejected):
        return None
    named = case.environ.get(NAMED)
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


def _answers(case: Case, ask: Ask) -> Broken | None:
    question, outcome = _one(case, ask)
    if isinstance(outcome, Crashed | TimedOut | Died | Unrecognised):
        return Broken(f"{outcome}", question, outcome)
    return None


# --- more must not become less --------------------------------------------------------------------


def _installed(case: Case, ask: Ask) -> Broken | None:
    without = case.question()
    present = Question(Gpu(case.gpu.gfx), without.environ, without.request)
    first, second = (seen.outcome for seen in ask(without, present))
    return _no_less(first, second, present, "without aiter", "with it installed")


def _switched_on(case: Case, ask: Ask) -> Broken | None:
    off, on = case.question(), case.question(case.changed)
    first, second = (seen.outcome for seen in ask(off, on))
    return _no_less(first, second, on, "switched off", "switched on")


def _no_less(
    first: Outcome, second: Outcome, question: Question, before: str, after: str
) -> Broken | None:
    if isinstance(first, Selected) and not isinstance(second, Selected):
        return Broken(f"{first} {before}, {second} {after}", question, second)
    return None


LAWS: tuple[Law, ...] = (
    # Sparse layers are left out of the first laws: 0.12.0 has one backend for them and looks at no
    # name (docs/reference/contract.md#q21), which the text neither promises nor forbids.
    Law(
        "an-explicit-choice-is-taken-or-refused-never-replaced",
        "required",
        "docs/reference/contract.md#g1, #g3, #i2, #r8",
        "the named backend, or a refusal",
        _named_for_its_kind,
        _taken_or_refused,
    ),
    Law(
        "flags-change-nothing-about-an-explicit-choice",
        "required",
        "docs/reference/contract.md#g1, #g3, #i1, #i2",
        "the same as without any flag",
        _named_for_its_kind,
        _as_without_flags,
    ),
    Law(
        "what-flags-select-can-be-had-by-its-name-alone",
        "required",
        "docs/reference/contract.md#g1, #i1",
        "the same backend by its name, without flags",
        lambda gfx: _cases(gfx, draw.environments(), draw.requests(sparse=False)),
        _can_be_named,
    ),
    Law(
        "a-backend-beyond-the-contract-is-taken-or-refused-never-replaced",
        "advisory",
        "docs/reference/contract.md#q18, #q19; docs/reference/known-regressions.md#rule-1",
        "the named backend, or a refusal",
        lambda gfx: _cases(
            gfx, draw.environments(named=tuple(CLASS_PATHS)), draw.requests(sparse=False)
        ).filter(lambda case: not _promised(case)),
        _taken_or_refused,
    ),
    Law(
        "with-aiter-off-no-aiter-backend-is-chosen-by-itself",
        "advisory",
        "docs/reference/environment.md#variables; docs/reference/contract.md#q10",
        "a backend without AITER, or a refusal",
        lambda gfx: _cases(
            gfx,
            draw.environments(fixed={AITER: (None, *OFF)}),
            draw.requests(sparse=False),
        ).filter(_has_a_choice),
        _no_aiter_backend,
    ),
    Law(
        "without-aiter-installed-no-aiter-backend-is-chosen-by-itself",
        "advisory",
        "docs/reference/contract.md#q16",
        "a backend without AITER, or a refusal",
        lambda gfx: _cases(
            gfx, draw.environments(), draw.requests(sparse=False), aiter=st.just(Aiter.ABSENT)
        ),
        _no_aiter_backend,
    ),
    Law(
        "aiter-mha-switched-off-never-gives-aiter-fa-by-itself",
        "required",
        "docs/reference/contract.md#i3a",
        "another backend than ROCM_AITER_FA, or a refusal",
        lambda gfx: _cases(gfx, draw.environments(fixed={MHA: OFF}), draw.ordinary_requests()),
        _not("ROCM_AITER_FA"),
    ),
    Law(
        "aiter-unified-attention-switched-off-is-not-chosen-by-itself",
        "advisory",
        "docs/reference/contract.md#automatic; docs/reference/known-regressions.md#rule-3",
        "another backend than ROCM_AITER_UNIFIED_ATTN, or a refusal",
        lambda gfx: _cases(
            gfx, draw.environments(fixed={UNIFIED: OFF}), draw.ordinary_requests(), aiter=_HERE
        ),
        _not("ROCM_AITER_UNIFIED_ATTN"),
    ),
    Law(
        "aiter-mla-switched-off-is-not-chosen-by-itself",
        "advisory",
        "docs/reference/contract.md#q7; docs/reference/known-regressions.md#rule-3",
        "another backend than ROCM_AITER_MLA, or a refusal",
        lambda gfx: _cases(
            gfx, draw.environments(fixed={MLA: OFF}), draw.mla_requests(), aiter=_HERE
        ).filter(_has_a_choice),
        _not("ROCM_AITER_MLA"),
    ),
    Law(
        "an-mla-layer-gets-an-mla-backend-and-no-other-layer-does",
        "advisory",
        "docs/reference/contract.md#supported, #q19",
        "a backend of the layer's kind, or a refusal",
        lambda gfx: _cases(gfx, draw.environments(named=_or_none(ROCM_BACKENDS))),
        _of_the_same_kind,
    ),
    Law(
        "unset-equals-default",
        "advisory",
        "docs/reference/environment.md#parse-rules and #variables",
        "the same as with the variable unset",
        _with_default_added,
        _same_under_change,
    ),
    Law(
        "spellings-with-one-meaning-select-the-same",
        "advisory",
        "docs/reference/environment.md#parse-rules and #truth-table, BOOL",
        "the same for every spelling",
        _respelled,
        _same_under_change,
    ),
    Law(
        "the-order-of-variables-changes-nothing",
        "advisory",
        "docs/reference/environment.md#parse-rules: a rule looks at its own variable",
        "the same in any order",
        _reordered,
        _same_in_another_order,
    ),
    Law(
        "unrelated-variables-change-nothing",
        "advisory",
        "docs/reference/environment.md#variables; docs/reference/contract.md#q33",
        "the same as without the variable",
        lambda gfx: _cases(
            gfx,
            draw.environments(named=_or_none(CONTRACT_NAMES)),
            change=draw.unrelated(),
        ),
        _same_under_change,
    ),
    Law(
        "selecting-writes-nothing-to-the-environment",
        "advisory",
        "docs/reference/environment.md#when-read: variables are read, not written",
        "the environment as it was",
        lambda gfx: _cases(gfx, draw.environments(named=_or_none(ROCM_BACKENDS))),
        _writes_nothing,
    ),
    Law(
        "every-legal-question-is-answered",
        "advisory",
        "docs/contracts.md#refusal: a crash is not a refusal",
        "a backend, or a refusal",
        lambda gfx: _cases(gfx, draw.environments(named=_or_none(ROCM_BACKENDS))),
        _answers,
    ),
    Law(
        "every-refusal-names-backend-and-reason",
        "advisory",
        "docs/reference/contract.md#r4, #q32",
        "a message that names backend and reason",
        lambda gfx: st.one_of(
            _cases(gfx, draw.environments(named=tuple(CLASS_PATHS)), draw.requests(sparse=False)),
            _cases(gfx, draw.environments()),
        ),
        _says_what_and_why,
    ),
    # Both only on requests that every backend of their kind serves: there is a reason to refuse the
    # others once AITER's backend is the one that was asked for.
    Law(
        "installing-aiter-never-turns-a-selection-into-a-refusal",
        "advisory",
        "docs/reference/contract.md#q16",
        "a backend with aiter installed, as there is one without",
        lambda gfx: _cases(
            gfx,
            draw.environments(named=_or_none(CONTRACT_NAMES)),
            draw.plain_requests(),
            aiter=st.just(Aiter.ABSENT),
        ),
        _installed,
    ),
    Law(
        "switching-aiter-on-never-turns-a-selection-into-a-refusal",
        "advisory",
        "docs/reference/contract.md#a2 to #a6, #a14, #a15, #q15",
        "a backend with AITER on, as there is one with it off",
        lambda gfx: _cases(
            gfx,
            draw.environments(named=_or_none(CONTRACT_NAMES), switches=draw.SWITCHES[1:]),
            draw.plain_requests(),
            st.just({AITER: "1"}),
            aiter=_HERE,
        ),
        _switched_on,
    ),
)
