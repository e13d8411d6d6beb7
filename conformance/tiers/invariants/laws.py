"""The laws about single questions and about pairs of them.

A law is required where sections 1 to 5 of docs/reference/contract.md fix it, else advisory. Each is
narrow enough that a selector which follows that contract keeps it; the comments say what was left
out, and why.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hypothesis import strategies as st

from pytest_rocm_attn.conformance.tiers import strategies as draw
from pytest_rocm_attn.conformance.tiers.invariants import checks
from pytest_rocm_attn.conformance.tiers.invariants.law import Example, Law
from pytest_rocm_attn.conformance.tiers.strategies import OFF, ON
from pytest_rocm_attn.flags import EXPLICIT, MHA, MLA, UNIFIED, USE_AITER
from pytest_rocm_attn.gpu import Aiter, Gpu
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
    environ: SearchStrategy[dict[str, str]],
    request: SearchStrategy[Request] | None = None,
    change: SearchStrategy[dict[str, str]] | None = None,
    aiter: SearchStrategy[Aiter] = _STATES,
    *,
    keep: Callable[[Example], bool] | None = None,
) -> Callable[[str], SearchStrategy[Example]]:
    """Return what draws examples for a GPU.

    Args:
        environ, request, change, aiter: what their parts are drawn from.
        keep: which of them are tried.
    """

    def on(gfx: str) -> SearchStrategy[Example]:
        drawn = st.builds(
            Example,
            gpu=aiter.map(lambda state: Gpu(gfx, state)),
            environ=environ,
            request=draw.requests() if request is None else request,
            change=st.just({}) if change is None else change,
        )
        return drawn if keep is None else drawn.filter(keep)

    return on


def _or_none(names: tuple[str, ...]) -> tuple[str | None, ...]:
    return (*(None,) * len(names), *names)


_HERE, _AWAY = st.just(Aiter.PRESENT), st.just(Aiter.ABSENT)
_DENSE = draw.requests(sparse=False)
_NAMED_OR_NOT = draw.environments(named=_or_none(CONTRACT_NAMES))
_ANY_NAMED_OR_NOT = draw.environments(named=_or_none(ROCM_BACKENDS))


def _promised(case: Example) -> bool:
    """Whether the contract names the backend for layers of this kind.

    Source: docs/reference/contract.md#supported.
    """
    named = case.environ[EXPLICIT]
    return named in CONTRACT_NAMES and checks.is_latent(named) is case.request.use_mla


def _named_for_its_kind(gfx: str) -> SearchStrategy[Example]:
    cases = _cases(draw.environments(named=CONTRACT_NAMES), _DENSE)
    return cases(gfx).map(_with_a_name_of_its_kind)


def _with_a_name_of_its_kind(case: Example) -> Example:
    if _promised(case):
        return case
    named = _OF_THE_OTHER_KIND[case.environ[EXPLICIT]]
    return replace(case, environ=case.environ | {EXPLICIT: named})


# TRITON_MLA needs a block size of at least 16 (docs/reference/contract.md#s5), so below that
# AITER's is the only MLA backend there is, and 0.12.0 chooses it whatever the switches say
# (docs/reference/contract.md#q6, #q7).
def _has_a_choice(case: Example) -> bool:
    request = case.request
    return not request.use_mla or request.block_size is None or request.block_size >= 16


def _reordered(gfx: str) -> SearchStrategy[Example]:
    several = _cases(_NAMED_OR_NOT, keep=lambda case: len(case.environ) > 1)
    return st.builds(_in_order, several(gfx), st.permutations((*draw.SWITCHES, EXPLICIT)))


def _in_order(case: Example, names: list[str]) -> Example:
    return replace(
        case, change={name: case.environ[name] for name in names if name in case.environ}
    )


def _respelled(gfx: str) -> SearchStrategy[Example]:
    case = _cases(draw.environments(fixed={USE_AITER: ("1", "0")}))
    return st.builds(_spelled, case(gfx), st.sampled_from(draw.SWITCHES), st.sampled_from(range(5)))


def _spelled(case: Example, name: str, number: int) -> Example:
    name = name if name in case.environ else USE_AITER
    spellings = ON if case.environ[name] in ON else OFF
    return replace(case, change={name: spellings[number % len(spellings)]})


def _with_default_added(gfx: str) -> SearchStrategy[Example]:
    return _cases(_NAMED_OR_NOT, change=draw.defaults())(gfx).map(_only_unset)


def _only_unset(case: Example) -> Example:
    change = {name: text for name, text in case.change.items() if name not in case.environ}
    return replace(case, change=change)


def _named_or_by_flags(gfx: str) -> SearchStrategy[Example]:
    named = _cases(draw.environments(named=tuple(CLASS_PATHS)), _DENSE)
    return st.one_of(named(gfx), _cases(draw.environments())(gfx))


LAWS: tuple[Law, ...] = (
    # Sparse layers are left out of the first laws: 0.12.0 has one backend for them and looks at no
    # name (docs/reference/contract.md#q21), which the text neither promises nor forbids.
    Law(
        "an-explicit-choice-is-taken-or-refused-never-replaced",
        "required",
        "docs/reference/contract.md#g1, #g3, #i2, #r8",
        "the named backend, or a refusal",
        _named_for_its_kind,
        checks.selects(checks.replaced),
    ),
    Law(
        "flags-change-nothing-about-an-explicit-choice",
        "required",
        "docs/reference/contract.md#g1, #g3, #i1, #i2",
        "the same as without any flag",
        _named_for_its_kind,
        checks.as_without_flags,
    ),
    Law(
        "what-flags-select-can-be-had-by-its-name-alone",
        "required",
        "docs/reference/contract.md#g1, #i1",
        "the same backend by its name, without flags",
        _cases(draw.environments(), _DENSE),
        checks.can_be_named,
    ),
    Law(
        "a-backend-beyond-the-contract-is-taken-or-refused-never-replaced",
        "advisory",
        "docs/reference/contract.md#q18, #q19; docs/reference/known-regressions.md#rule-1",
        "the named backend, or a refusal",
        _cases(
            draw.environments(named=tuple(CLASS_PATHS)),
            _DENSE,
            keep=lambda case: not _promised(case),
        ),
        checks.selects(checks.replaced),
    ),
    Law(
        "with-aiter-off-no-aiter-backend-is-chosen-by-itself",
        "advisory",
        "docs/reference/environment.md#variables; docs/reference/contract.md#q10",
        "a backend without AITER, or a refusal",
        _cases(draw.environments(fixed={USE_AITER: (None, *OFF)}), _DENSE, keep=_has_a_choice),
        checks.selects(checks.of_aiter),
    ),
    Law(
        "without-aiter-installed-no-aiter-backend-is-chosen-by-itself",
        "advisory",
        "docs/reference/contract.md#q16",
        "a backend without AITER, or a refusal",
        _cases(draw.environments(), _DENSE, aiter=_AWAY),
        checks.selects(checks.of_aiter),
    ),
    Law(
        "aiter-mha-switched-off-never-gives-aiter-fa-by-itself",
        "required",
        "docs/reference/contract.md#i3a",
        "another backend than ROCM_AITER_FA, or a refusal",
        _cases(draw.environments(fixed={MHA: OFF}), draw.ordinary_requests()),
        checks.never("ROCM_AITER_FA"),
    ),
    Law(
        "aiter-unified-attention-switched-off-is-not-chosen-by-itself",
        "advisory",
        "docs/reference/contract.md#automatic; docs/reference/known-regressions.md#rule-3",
        "another backend than ROCM_AITER_UNIFIED_ATTN, or a refusal",
        _cases(draw.environments(fixed={UNIFIED: OFF}), draw.ordinary_requests(), aiter=_HERE),
        checks.never("ROCM_AITER_UNIFIED_ATTN"),
    ),
    Law(
        "aiter-mla-switched-off-is-not-chosen-by-itself",
        "advisory",
        "docs/reference/contract.md#q7; docs/reference/known-regressions.md#rule-3",
        "another backend than ROCM_AITER_MLA, or a refusal",
        _cases(
            draw.environments(fixed={MLA: OFF}),
            draw.mla_requests(),
            aiter=_HERE,
            keep=_has_a_choice,
        ),
        checks.never("ROCM_AITER_MLA"),
    ),
    Law(
        "an-mla-layer-gets-an-mla-backend-and-no-other-layer-does",
        "advisory",
        "docs/reference/contract.md#supported, #q19",
        "a backend of the layer's kind, or a refusal",
        _cases(_ANY_NAMED_OR_NOT),
        checks.selects(checks.of_another_kind),
    ),
    Law(
        "unset-equals-default",
        "advisory",
        "docs/reference/environment.md#parse-rules and #variables",
        "the same as with the variable unset",
        _with_default_added,
        checks.same_under_change,
    ),
    Law(
        "spellings-with-one-meaning-select-the-same",
        "advisory",
        "docs/reference/environment.md#parse-rules and #truth-table, BOOL",
        "the same for every spelling",
        _respelled,
        checks.same_under_change,
    ),
    Law(
        "the-order-of-variables-changes-nothing",
        "advisory",
        "docs/reference/environment.md#parse-rules: a rule looks at its own variable",
        "the same in any order",
        _reordered,
        checks.same_in_another_order,
    ),
    Law(
        "unrelated-variables-change-nothing",
        "advisory",
        "docs/reference/environment.md#variables; docs/reference/contract.md#q33",
        "the same as without the variable",
        _cases(
            _NAMED_OR_NOT,
            change=draw.unrelated(),
        ),
        checks.same_under_change,
    ),
    Law(
        "selecting-writes-nothing-to-the-environment",
        "advisory",
        "docs/reference/environment.md#when-read: variables are read, not written",
        "the environment as it was",
        _cases(_ANY_NAMED_OR_NOT),
        checks.writes_nothing,
    ),
    Law(
        "every-legal-question-is-answered",
        "advisory",
        "docs/contracts.md#refusal: a crash is not a refusal",
        "a backend, or a refusal",
        _cases(_ANY_NAMED_OR_NOT),
        checks.answers,
    ),
    Law(
        "every-refusal-names-backend-and-reason",
        "advisory",
        "docs/reference/contract.md#r4, #q32",
        "a message that names backend and reason",
        _named_or_by_flags,
        checks.says_what_and_why,
    ),
    # Both only on requests that every backend of their kind serves: there is a reason to refuse the
    # others once AITER's backend is the one that was asked for.
    Law(
        "installing-aiter-never-turns-a-selection-into-a-refusal",
        "advisory",
        "docs/reference/contract.md#q16",
        "a backend with aiter installed, as there is one without",
        _cases(
            _NAMED_OR_NOT,
            draw.plain_requests(),
            aiter=_AWAY,
        ),
        checks.is_no_less_installed,
    ),
    Law(
        "switching-aiter-on-never-turns-a-selection-into-a-refusal",
        "advisory",
        "docs/reference/contract.md#a2 to #a6, #a14, #a15, #q15",
        "a backend with AITER on, as there is one with it off",
        _cases(
            draw.environments(named=_or_none(CONTRACT_NAMES), switches=draw.SWITCHES[1:]),
            draw.plain_requests(),
            st.just({USE_AITER: "1"}),
            aiter=_HERE,
        ),
        checks.is_no_less_switched_on,
    ),
)
