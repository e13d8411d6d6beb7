"""The capabilities tier: what backends declare, and whether what is selected can be built.

docs/capabilities.md says which items there are, and what each of them means.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.isolation import Question
from pytest_rocm_attn.conformance.tiers.capabilities import cases, server_items, views
from pytest_rocm_attn.conformance.tiers.capabilities.findings import Finding
from pytest_rocm_attn.conformance.tiers.capabilities.item import CapabilityItem
from pytest_rocm_attn.conformance.tiers.items import Tier
from pytest_rocm_attn.gpu import Aiter, Gpu
from pytest_rocm_attn.registry import ROCM_BACKENDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_rocm_attn.conformance.promise.capability_table import Promise
    from pytest_rocm_attn.conformance.run.settings import Settings

# Limits of a request that classes declare, and selections are held against.
_DECLARED = tuple(cases.DECLARABLE)
_SPEC_DECODE = "v1.spec_decode.eagle"
_DENSE_MLA, _SPARSE_MLA = "ROCM_AITER_MLA", "ROCM_AITER_MLA_SPARSE"


class CapabilitiesTier(Tier):
    """Node id ``rocm-attn::capabilities``."""

    @classmethod
    def names(cls, settings: Settings) -> list[str]:
        return [name for name, _, _ in _plan(settings)]

    @classmethod
    def first_question(cls, settings: Settings) -> Question | None:
        gfx = next(iter(_targets(settings)), None)
        return None if gfx is None or settings.subject.pure else _plain_question(gfx)

    @classmethod
    def header(cls, settings: Settings) -> list[str]:
        reason = (
            "rocm-attn: tier capabilities does not apply: the selector is a pure function, which"
            " names backends and has none to build (docs/capabilities.md)"
        )
        return [reason] if settings.subject.pure else []

    def selections(self, gpu: Gpu) -> list[tuple[cases.Case, views.Construction]]:
        """Return what all cases of a GPU with aiter select."""
        if gpu not in self._selections:
            every = [case for case in cases.cases([gpu.gfx]) if case.gpu == gpu]
            asked = [(case, question) for case in every for question in case_questions(case)]
            self.plugin.started_pool().submit(question for _, question in asked)
            self._selections[gpu] = [
                (case, views.construction(question, self.plugin.observe))
                for case, question in asked
            ]
        return self._selections[gpu]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._selections: dict[Gpu, list[tuple[cases.Case, views.Construction]]] = {}

    def collect(self) -> Iterator[CapabilityItem]:
        for name, item, arguments in _plan(self.plugin.settings):
            yield item.of(self, name, **arguments)


def case_questions(case: cases.Case) -> list[Question]:
    """Return the construct questions of a case."""
    return [
        views.construct_question(
            case.gpu,
            case.environment.environ,
            request,
            none_for_sinks=case.family.none_for_sinks,
        )
        for request in case.family.requests
    ]


def _plain_question(gfx: str) -> Question:
    from pytest_rocm_attn.request import Request

    return Question.of(Gpu(gfx), {}, Request())


def _targets(settings: Settings) -> list[str]:
    return list(dict.fromkeys(cell.gpu.gfx for cell in settings.cells))


def _plan(settings: Settings) -> Iterator[tuple[str, type[CapabilityItem], dict[str, Any]]]:
    """Return the items: name, class, and what they are made with."""
    if settings.subject.pure:
        return
    targets = _targets(settings)
    promises = settings.contract.capabilities
    for gfx in targets:
        for promise in promises:
            if promise.asked_on(gfx):
                yield f"{promise.id}[{gfx}]", PromiseItem, {"gpu": Gpu(gfx), "promise": promise}
        for backend in ROCM_BACKENDS:
            words = backend.lower().replace("_", "-")
            common = {"gpu": Gpu(gfx), "backend": backend}
            yield f"{words}-imports[{gfx}]", ImportItem, common
            yield f"{words}-has-a-cache-for-its-block-sizes[{gfx}]", CacheItem, common
            for limit in _DECLARED:
                name = f"{words}-is-selected-within-its-{limit.replace('_', '-')}[{gfx}]"
                yield name, DeclaredItem, {**common, "limit": limit}
        yield f"sparse-mla-takes-no-more-heads-than-dense[{gfx}]", TwinItem, {"gpu": Gpu(gfx)}
        yield f"spec-decode-needs-no-aiter[{gfx}]", SpecDecodeItem, {"gpu": Gpu(gfx)}
        for name, item, arguments in server_items.plan(Gpu(gfx)):
            yield f"{name}[{gfx}]", item, arguments
    for case in cases.cases(targets):
        yield f"{case.id}[{case.gpu.gfx}]", ConstructItem, {"gpu": case.gpu, "case": case}


# --- items ----------------------------------------------------------------------------------------


class ConstructItem(CapabilityItem):
    """Whatever is selected for a family of requests can be built for them."""

    expectation = "whatever is selected can be built for the request"
    source = "known-regressions.md rule 2: a selected backend must construct for that very request"

    def __init__(self, *, case: cases.Case, **kwargs: Any) -> None:
        super().__init__(level=case.level, **kwargs)
        self.case = case

    @property
    def environ(self) -> Mapping[str, str]:
        return self.case.environment.environ

    def questions(self) -> list[Question]:
        return case_questions(self.case)

    def find(self) -> Iterator[Finding]:
        for question in self.questions():
            answer = self.ask(question)
            if views.stumbled(answer.outcome):
                wrong = f"the selection neither selects nor refuses: {answer.outcome}"
                yield Finding(
                    wrong, answer.request, self.environ, deliberate=False, answer=answer.answer
                )
            elif answer.trouble:
                yield Finding(
                    f"{answer.backend} is selected and cannot be built: {answer.trouble}",
                    answer.request,
                    self.environ,
                    answer.deliberate,
                    answer.traceback,
                    answer=answer.answer,
                )


class PromiseItem(CapabilityItem):
    """The contract's table, one entry: what a backend takes, or what it must refuse."""

    def __init__(self, *, promise: Promise, **kwargs: Any) -> None:
        super().__init__(level=promise.level, **kwargs)
        self.promise = promise
        self.source = promise.source
        verb = "takes" if promise.takes else "does not take"
        values = ", ".join(map(str, promise.values))
        self.expectation = f"{promise.backend} {verb} {promise.limit} {values}"

    @property
    def environ(self) -> Mapping[str, str]:
        named = {cases.EXPLICIT: self.promise.backend}
        return named | {cases.AITER: "1"} if "AITER" in self.promise.backend else named

    def questions(self) -> list[Question]:
        return [question for _, question in self._asked()]

    def _asked(self) -> list[tuple[Any, Question]]:
        assert self.gpu is not None
        asked = []
        for value in self.promise.asked_on(self.gpu.gfx):
            gpu, request = self.promise.cell(self.gpu.gfx, value)
            asked.append((value, views.construct_question(gpu, self.environ, request)))
        return asked

    def find(self) -> Iterator[Finding]:
        assert self.gpu is not None
        promise = self.promise
        # Asked first: where the fork lacks the backend, nothing else can be said either.
        declared = None if promise.limit == "aiter" else self.declared(promise.backend, self.gpu)
        for value, question in self._asked():
            answer = self.ask(question)
            says = None
            if declared is not None:
                says = declared.says(promise.limit, True if promise.limit == "gfx" else value)
            wrong = self._taken(answer, says) if promise.takes else self._refused(answer, says)
            if wrong:
                yield Finding(
                    f"{promise.backend} {wrong}",
                    answer.request,
                    self.environ,
                    # What another backend than the one named did when it was built is no matter.
                    (answer.deliberate or answer.backend != promise.backend)
                    and not views.stumbled(answer.outcome),
                    answer.traceback if answer.backend == promise.backend else "",
                    value=f"{promise.limit}={value}",
                    answer=(
                        answer.answer if answer.backend in ("", promise.backend) else answer.backend
                    ),
                )

    def _taken(self, answer: views.Construction, says: bool | None) -> str:
        if not answer.backend:
            return f"named explicitly, is not selected: {answer.outcome}"
        if answer.backend != self.promise.backend:
            return f"named explicitly, gives way to {answer.backend}"
        if answer.trouble:
            return f"is selected and cannot be built: {answer.trouble}"
        return (
            "is selected and built, and declares that it does not take it" if says is False else ""
        )

    def _refused(self, answer: views.Construction, says: bool | None) -> str:
        if views.stumbled(answer.outcome):
            return f"is neither selected nor refused: {answer.outcome}"
        if answer.built and answer.backend == self.promise.backend:
            return "is selected and built as if nothing were wrong"
        return "declares that it takes it, and does not" if says else ""


class BackendItem(CapabilityItem):
    """An item about one backend."""

    def __init__(self, *, backend: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.backend = backend

    def declaration(self) -> views.Declaration:
        """Return what the backend declares.

        Raises:
            views.Inapplicable: it cannot be imported, which is another item's finding.
        """
        assert self.gpu is not None
        declared = self.declared(self.backend, self.gpu)
        if declared.import_error:
            raise views.Inapplicable(f"{self.backend} cannot be imported: {declared.import_error}")
        return declared


class ImportItem(BackendItem):
    """A backend's module can be imported where aiter is present."""

    expectation = "the backend's module can be imported"
    source = "known-regressions.md: imports, with aiter whole"

    def find(self) -> Iterator[Finding]:
        assert self.gpu is not None
        declared = self.declared(self.backend, self.gpu)
        if declared.import_error:
            wrong = f"{self.backend} cannot be imported: {declared.import_error}"
            yield Finding(wrong, deliberate=declared.deliberate)


class CacheItem(BackendItem):
    """The cache blocks that a class declares are blocks that its own cache can have."""

    expectation = "its get_kv_cache_shape takes every block size that it declares"
    source = "known-regressions.md cap-rocm-attn-any-block; the runner asks both"

    def find(self) -> Iterator[Finding]:
        declared = self.declaration()
        if declared.data["limits"].get("block_size") is None:
            raise views.Inapplicable(f"undeclared: {self.backend} does not say its block sizes")
        for size, error in declared.data["cache_refuses"].items():
            yield Finding(
                f"{self.backend} declares a block size that its cache cannot have: {error}",
                value=f"block_size={size}",
            )


class DeclaredItem(BackendItem):
    """Whatever is selected declares that it supports the request, as to one limit."""

    source = "known-regressions.md: what a backend says it takes and what it is given differ"

    def __init__(self, *, limit: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.limit = limit
        self.expectation = f"{self.backend} is selected only for a {limit} that it declares"

    def find(self) -> Iterator[Finding]:
        assert self.gpu is not None
        declared = self.declaration()
        selected = judged = unanswered = 0
        tier = self.parent
        assert isinstance(tier, CapabilitiesTier)
        for case, answer in tier.selections(self.gpu):
            unanswered += views.stumbled(answer.outcome)
            if answer.backend != self.backend:
                continue
            selected += 1
            value = True if self.limit == "gfx" else getattr(answer.request, self.limit)
            says = declared.says(self.limit, value)
            judged += says is not None
            if says is False:
                wrong = f"{self.backend} is selected, and declares that it does not take it"
                shown = self.gpu.gfx if self.limit == "gfx" else value
                environ = case.environment.environ
                yield Finding(
                    wrong,
                    answer.request,
                    environ,
                    value=f"{self.limit}={shown}",
                    answer=answer.backend,
                )
        if not selected:
            but = f" ({unanswered} selections have no answer)" if unanswered else ""
            raise views.Inapplicable(f"{self.backend} is never selected on {self.gpu.gfx}{but}")
        if not judged:
            raise views.Inapplicable(f"undeclared: {self.backend} does not say its {self.limit}")
        self.counts |= {"selected": selected, "selections without an answer": unanswered}


class TwinItem(CapabilityItem):
    """Two implementations that call one kernel take the same head counts, or one pads."""

    expectation = "the sparse implementation refuses the head counts that its dense twin refuses"
    source = "known-regressions.md cap-sparse-mla-few-heads"

    def find(self) -> Iterator[Finding]:
        assert self.gpu is not None
        kernels = [
            set(self.declared(backend, self.gpu).data.get("kernels", ()))
            for backend in (_DENSE_MLA, _SPARSE_MLA)
        ]
        # flash_attn_varlen_func is for prefill; head counts do not matter to it.
        if not kernels[0] & kernels[1] - {"flash_attn_varlen_func"}:
            raise views.Inapplicable("the sparse implementation calls no kernel of the dense one")
        for dense, sparse in zip(self._asked(_DENSE_MLA), self._asked(_SPARSE_MLA), strict=True):
            one, other = self.ask(dense), self.ask(sparse)
            refused = one.trouble.startswith("building ") and one.deliberate
            if refused and one.backend == _DENSE_MLA and other.built:
                yield Finding(
                    f"{other.backend} is built with head counts that {_DENSE_MLA}, which calls the"
                    " same kernel, refuses",
                    other.request,
                    dict(sparse.environ),
                    value=f"num_heads={other.request.num_heads}",
                    answer=other.backend,
                )

    def _asked(self, backend: str) -> list[Question]:
        assert self.gpu is not None
        from pytest_rocm_attn.request import Request

        environ = {cases.EXPLICIT: backend, cases.AITER: "1"}
        return [
            views.construct_question(
                self.gpu,
                environ,
                Request(
                    use_mla=True,
                    use_sparse=backend == _SPARSE_MLA,
                    block_size=1,
                    num_heads=heads,
                ),
            )
            for heads in cases.HEAD_COUNTS
        ]


class SpecDecodeItem(CapabilityItem):
    """Speculative decoding can be imported without aiter, if it can be with it."""

    expectation = "speculative decoding imports without aiter"
    source = "known-regressions.md itf-eagle-imports-aiter"

    def find(self) -> Iterator[Finding]:
        assert self.gpu is not None
        whole, *others = (
            views.import_trouble(self._question(state), self.plugin.observe)
            for state in (Aiter.PRESENT, Aiter.ABSENT)
        )
        if whole:
            raise views.Inapplicable(
                f"{_SPEC_DECODE} cannot be imported with aiter either: {whole}"
            )
        for trouble in filter(None, others):
            yield Finding(f"{_SPEC_DECODE} cannot be imported: {trouble}", deliberate=False)

    def questions(self) -> list[Question]:
        return [self._question(state) for state in (Aiter.PRESENT, Aiter.ABSENT)]

    def _question(self, state: Aiter) -> Question:
        from pytest_rocm_attn.request import Request

        assert self.gpu is not None
        return Question.of(Gpu(self.gpu.gfx, state), {}, Request(), "import", _SPEC_DECODE)
