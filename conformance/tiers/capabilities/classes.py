"""Checks of backends' classes: what they declare, whether they import, and whether they build."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.adapters.construct import Stage
from pytest_rocm_attn.conformance.isolation import Question
from pytest_rocm_attn.conformance.tiers.capabilities import cases
from pytest_rocm_attn.conformance.tiers.capabilities.answers import (
    Answer,
    Inapplicable,
    construct_question,
)
from pytest_rocm_attn.conformance.tiers.capabilities.check import (
    Check,
    Defect,
    check,
    each_backend,
)
from pytest_rocm_attn.flags import EXPLICIT, USE_AITER
from pytest_rocm_attn.gpu import Aiter, Gpu
from pytest_rocm_attn.registry import ROCM_BACKENDS
from pytest_rocm_attn.request import Request

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_rocm_attn.conformance.promise.capability_table import Promise
    from pytest_rocm_attn.conformance.tiers.capabilities.check import CheckItem

_SPEC_DECODE = "v1.spec_decode.eagle"
_DENSE_MLA, _SPARSE_MLA = "ROCM_AITER_MLA", "ROCM_AITER_MLA_SPARSE"


# --- the contract's table -------------------------------------------------------------------------


def keeps(promises: Sequence[Promise]) -> Check:
    """Return the check of a contract's table: what backends take, and what they must refuse."""
    return Check(
        name="{promise.id}",
        promise="{promise}",
        source="{promise.source}",
        find=_keeps,
        over=lambda gpu: [{"promise": one} for one in promises if one.asked_on(gpu.gfx)],
        asks=lambda gpu, promise: [question for _, question in _asked(gpu, promise)],
        level="{promise.level}",
        environ=_named,
    )


def _named(promise: Promise) -> dict[str, str]:
    named = {EXPLICIT: promise.backend}
    return named | {USE_AITER: "1"} if "AITER" in promise.backend else named


def _asked(gpu: Gpu, promise: Promise) -> list[tuple[Any, Question]]:
    return [
        (value, construct_question(on, _named(promise), request))
        for value in promise.asked_on(gpu.gfx)
        for on, request in [promise.cell(gpu.gfx, value)]
    ]


def _keeps(item: CheckItem, promise: Promise) -> Iterator[Defect]:
    backend, limit = promise.backend, promise.limit
    # Asked first: if the fork lacks the backend, nothing else can be said either.
    declared = None if limit == "aiter" else item.declared(backend)
    for value, question in _asked(item.gpu, promise):
        answer = item.construct(question)
        says = declared.says(limit, True if limit == "gfx" else value) if declared else None
        wrong = (_not_taken if promise.takes else _not_refused)(answer, says, backend)
        if wrong:
            own = answer.backend == backend
            yield Defect(
                f"{backend} {wrong}",
                answer.request,
                _named(promise),
                # What another backend than the one named did when it was built does not matter.
                (answer.deliberate or not own) and not answer.stumbled,
                answer.traceback if own else "",
                value=f"{limit}={value}",
                answer=answer.pinned if own or not answer.backend else answer.backend,
            )


def _not_taken(answer: Answer, says: bool | None, named: str) -> str:
    if not answer.backend:
        return f"named explicitly, is not selected: {answer.outcome}"
    if answer.backend != named:
        return f"named explicitly, gives way to {answer.backend}"
    if answer.trouble:
        return f"is selected and cannot be built: {answer.trouble}"
    return "is selected and built, and declares that it does not take it" if says is False else ""


def _not_refused(answer: Answer, says: bool | None, named: str) -> str:
    if answer.stumbled:
        return f"is neither selected nor refused: {answer.outcome}"
    if answer.built and answer.backend == named:
        return "is selected and built as if nothing were wrong"
    return "declares that it takes it, and does not" if says else ""


# --- one backend's class --------------------------------------------------------------------------


@check(
    "{backend}-imports",
    "the backend's module can be imported",
    "docs/reference/known-regressions.md#interfaces",
    over=each_backend,
)
def imports(item: CheckItem, backend: str) -> Iterator[Defect]:
    declared = item.declared(backend)
    if declared.trouble:
        wrong = f"{backend} cannot be imported: {declared.trouble}"
        yield Defect(wrong, deliberate=declared.deliberate)


def _declaration(item: CheckItem, backend: str) -> Answer:
    """Return what a backend declares.

    Raises:
        Inapplicable: it cannot be imported, which is another check's defect.
    """
    declared = item.declared(backend)
    if declared.trouble:
        raise Inapplicable(f"{backend} cannot be imported: {declared.trouble}")
    return declared


@check(
    "{backend}-has-a-cache-for-its-block-sizes",
    "its get_kv_cache_shape takes every block size that it declares",
    "docs/reference/known-regressions.md#cap-rocm-attn-any-block; the runner asks both",
    over=each_backend,
)
def has_a_cache(item: CheckItem, backend: str) -> Iterator[Defect]:
    data = _declaration(item, backend).data
    if data["limits"].get("block_size") is None:
        raise Inapplicable(f"{backend} does not declare its block sizes")
    for size, error in data["cache_refuses"].items():
        wrong = f"{backend} declares a block size that its cache cannot have: {error}"
        yield Defect(wrong, value=f"block_size={size}")


@check(
    "{backend}-is-selected-within-its-{limit}",
    "{backend} is selected only for a {limit} that it declares",
    "docs/reference/known-regressions.md#capability",
    over=lambda _: [
        {"backend": one, "limit": limit} for one in ROCM_BACKENDS for limit in cases.DECLARABLE
    ],
)
def is_selected_within(item: CheckItem, backend: str, limit: str) -> Iterator[Defect]:
    declared, gfx = _declaration(item, backend), item.gpu.gfx
    selected = judged = unanswered = 0
    for case, answer in item.parent.selections(item.gpu):
        unanswered += answer.stumbled
        if answer.backend != backend:
            continue
        selected += 1
        value = True if limit == "gfx" else getattr(answer.request, limit)
        says = declared.says(limit, value)
        judged += says is not None
        if says is False:
            yield Defect(
                f"{backend} is selected, and declares that it does not take it",
                answer.request,
                case.environment.environ,
                value=f"{limit}={gfx if limit == 'gfx' else value}",
                answer=backend,
            )
    if not selected:
        but = f" ({unanswered} selections have no answer)" if unanswered else ""
        raise Inapplicable(f"{backend} is never selected on {gfx}{but}")
    if not judged:
        raise Inapplicable(f"{backend} does not declare its {limit}")
    item.counts |= {"selected": selected, "selections without an answer": unanswered}


# --- several of them ------------------------------------------------------------------------------


@check(
    "sparse-mla-takes-no-more-heads-than-dense",
    "the sparse implementation refuses the head counts that its dense twin refuses",
    "docs/reference/known-regressions.md#cap-sparse-mla-few-heads",
)
def takes_no_more_heads(item: CheckItem) -> Iterator[Defect]:
    dense_kernels, sparse_kernels = (
        set(item.declared(backend).data.get("kernels", ())) for backend in (_DENSE_MLA, _SPARSE_MLA)
    )
    # flash_attn_varlen_func is for prefill; head counts do not matter to it.
    if not dense_kernels & sparse_kernels - {"flash_attn_varlen_func"}:
        raise Inapplicable("the sparse implementation calls no kernel of the dense one")
    for heads in cases.HEAD_COUNTS:
        dense, sparse = (
            item.construct(
                construct_question(
                    item.gpu,
                    {EXPLICIT: backend, USE_AITER: "1"},
                    Request(
                        use_mla=True,
                        use_sparse=backend == _SPARSE_MLA,
                        block_size=1,
                        num_heads=heads,
                    ),
                )
            )
            for backend in (_DENSE_MLA, _SPARSE_MLA)
        )
        refused = dense.stage is Stage.CONSTRUCT and dense.deliberate
        if refused and dense.backend == _DENSE_MLA and sparse.built:
            yield Defect(
                f"{sparse.backend} is built with head counts that {_DENSE_MLA}, which calls the"
                " same kernel, refuses",
                sparse.request,
                dict(sparse.question.environ),
                value=f"num_heads={heads}",
                answer=sparse.backend,
            )


@check(
    "spec-decode-needs-no-aiter",
    "speculative decoding imports without aiter",
    "docs/reference/known-regressions.md#itf-eagle-imports-aiter",
    asks=lambda gpu: [
        Question.of(Gpu(gpu.gfx, state), {}, Request(), "import", _SPEC_DECODE)
        for state in (Aiter.PRESENT, Aiter.ABSENT)
    ],
)
def needs_no_aiter(item: CheckItem) -> Iterator[Defect]:
    whole, without = (answer.trouble for answer in map(item.ask, item.questions()))
    if whole:
        raise Inapplicable(f"{_SPEC_DECODE} cannot be imported with aiter either: {whole}")
    if without:
        yield Defect(f"{_SPEC_DECODE} cannot be imported: {without}", deliberate=False)


@check(
    "{case.id}",
    "whatever is selected can be built for the request",
    "docs/reference/known-regressions.md#rule-2",
    over=lambda gpu: [{"gpu": case.gpu, "case": case} for case in cases.cases([gpu.gfx])],
    asks=lambda _, case: questions_of(case),
    level="{case.level}",
    environ=lambda case: case.environment.environ,
)
def builds(item: CheckItem, case: cases.BuildCase) -> Iterator[Defect]:
    environ = case.environment.environ
    for question in questions_of(case):
        answer = item.construct(question)
        if answer.stumbled:
            wrong = f"the selection neither selects nor refuses: {answer.outcome}"
            yield Defect(wrong, answer.request, environ, deliberate=False, answer=answer.pinned)
        elif answer.trouble:
            yield Defect(
                f"{answer.backend} is selected and cannot be built: {answer.trouble}",
                answer.request,
                environ,
                answer.deliberate,
                answer.traceback,
                answer=answer.pinned,
            )


def questions_of(case: cases.BuildCase) -> list[Question]:
    """Return the construct questions of a case."""
    family, environ = case.family, case.environment.environ
    return [
        construct_question(case.gpu, environ, request, none_for_sinks=family.none_for_sinks)
        for request in family.requests
    ]


CHECKS = (*(imports, has_a_cache, is_selected_within, takes_no_more_heads, needs_no_aiter, builds),)
