"""Each law: a selector that breaks it is caught with the smallest example, the reference never is."""

from __future__ import annotations

import itertools
import math
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import hypothesis
import pytest

from pytest_rocm_attn import Aiter, Flags, Gpu, Request, Selected
from pytest_rocm_attn.backends import select
from pytest_rocm_attn.conformance.isolation import Observation, Question
from pytest_rocm_attn.conformance.isolation.inside.outcomes import ask as ask_adapter
from pytest_rocm_attn.conformance.tiers.effort import Effort
from pytest_rocm_attn.conformance.tiers.invariants.law import Example
from pytest_rocm_attn.conformance.tiers.invariants.laws import LAWS
from pytest_rocm_attn.conformance.tiers.invariants.switches import SWITCH_LAWS, questions
from pytest_rocm_attn.errors import UnfinishedError
from pytest_rocm_attn.flags import EXPLICIT, MHA, MLA, PREFILL_DECODE, UNIFIED, USE_AITER
from pytest_rocm_attn.outcome import Crashed, TimedOut

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_rocm_attn.conformance.tiers.invariants.law import Law

    Selector = Callable[[Request, dict[str, str], Gpu], str]

BY_ID = {law.id: law for law in LAWS}


def reference(request: Request, environ: dict[str, str], gpu: Gpu) -> str:
    return select(request, Flags(environ), gpu).backend


class Asker:
    """Asks a selector in this process."""

    def __init__(self, selector: Selector) -> None:
        self.selector = selector

    def select(self, request: Request, environ: Any, gpu: Gpu) -> Selected:
        return Selected(self.selector(request, dict(environ), gpu))

    def __call__(self, *questions: Question) -> list[Observation]:
        seen = []
        for question in questions:
            before = dict(os.environ)
            adapter: Any = self  # select() is all that is asked of it
            outcome = ask_adapter(adapter, question.request, dict(question.environ), question.gpu)
            written = tuple(name for name in os.environ if name not in before)
            for name in written:
                del os.environ[name]
            seen.append(Observation(outcome, written=written))
        return seen


class CertainAsker(Asker):
    """Asks again in the same way: the selectors here keep nothing."""

    def certain(self, *questions: Question) -> list[Observation]:
        return self(*questions)


# hypothesis before 6.155 repeats itself more (docs/invariants.md).
EXAMPLES = 200 if hypothesis.__version_info__ >= (6, 155) else 800


def search(law: Law, selector: Selector, gfx: str = "gfx942", examples: int = EXAMPLES) -> Any:
    return law.search(gfx, Asker(selector), Effort(examples=examples))


@pytest.mark.parametrize("gfx", ["gfx942", pytest.param("gfx1201", marks=pytest.mark.slow)])
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.id)
def test_the_reference_keeps_every_law(law: Law, gfx: str) -> None:
    result = search(law, reference, gfx, examples=60)
    assert result.found is None
    assert result.examples >= 50  # fewer than asked for only where cases repeat


def replaced_by_flags(request: Request, environ: dict[str, str], gpu: Gpu) -> str:
    if environ.get(USE_AITER) == "1" and not request.use_mla and not request.use_sparse:
        return "ROCM_AITER_FA"
    return reference(request, environ, gpu)


def flags_forbid_a_name(request: Request, environ: dict[str, str], gpu: Gpu) -> str:
    if environ.get(EXPLICIT) == "ROCM_ATTN" and environ.get(MHA) == "0":
        raise ValueError("ROCM_ATTN needs AITER MHA")
    return reference(request, environ, gpu)


def no_name_for_flex(request: Request, environ: dict[str, str], gpu: Gpu) -> str:
    backend = reference(request, environ, gpu)
    if environ.get(EXPLICIT) == backend == "ROCM_AITER_UNIFIED_ATTN":
        raise ValueError("ROCM_AITER_UNIFIED_ATTN is not supported on ROCm")
    return backend


def unknown_names_fall_back(request: Request, environ: dict[str, str], gpu: Gpu) -> str:
    if environ.get(EXPLICIT) == "TORCH_SDPA":
        return "TRITON_ATTN"
    return reference(request, environ, gpu)


def unified_without_the_switch(request: Request, environ: dict[str, str], gpu: Gpu) -> str:
    if environ.get(UNIFIED) == "1" and EXPLICIT not in environ and not request.use_mla:
        return "ROCM_AITER_UNIFIED_ATTN"
    return reference(request, environ, gpu)


def looks_for_no_package(request: Request, environ: dict[str, str], gpu: Gpu) -> str:
    return reference(request, environ, Gpu(gpu.gfx))


def reads_no_mha(request: Request, environ: dict[str, str], gpu: Gpu) -> str:
    return reference(request, {n: t for n, t in environ.items() if n != MHA}, gpu)


def unified_by_aiter_alone(request: Request, environ: dict[str, str], gpu: Gpu) -> str:
    if Flags(environ)[USE_AITER] and EXPLICIT not in environ and not request.use_mla:
        return "ROCM_AITER_UNIFIED_ATTN"
    return reference(request, environ, gpu)


def reads_no_mla(request: Request, environ: dict[str, str], gpu: Gpu) -> str:
    return reference(request, {n: t for n, t in environ.items() if n != MLA}, gpu)


def ordinary_backend_for_mla(request: Request, environ: dict[str, str], gpu: Gpu) -> str:
    backend = reference(request, environ, gpu)
    return "TRITON_ATTN" if backend == "TRITON_MLA" and request.num_heads == 128 else backend


def zero_counts_as_set(request: Request, environ: dict[str, str], gpu: Gpu) -> str:
    if environ.get(PREFILL_DECODE) == "0":
        environ = environ | {PREFILL_DECODE: "1"}
    return reference(request, environ, gpu)


def true_is_not_understood(request: Request, environ: dict[str, str], gpu: Gpu) -> str:
    read = {name: "0" if text == "true" else text for name, text in environ.items()}
    return reference(request, read, gpu)


def the_last_variable_wins(request: Request, environ: dict[str, str], gpu: Gpu) -> str:
    if list(environ)[-1:] == [PREFILL_DECODE] and USE_AITER in environ and not request.use_mla:
        return "ROCM_ATTN"
    return reference(request, environ, gpu)


def a_quick_start_variable_works(request: Request, environ: dict[str, str], gpu: Gpu) -> str:
    if environ.get("VLLM_USE_AITER_UNIFIED_ATTENTION") == "1":
        return "ROCM_AITER_UNIFIED_ATTN"
    return reference(request, environ, gpu)


def writes(request: Request, environ: dict[str, str], gpu: Gpu) -> str:
    os.environ["ROCM_ATTN_TEST_LEFT_BEHIND"] = "1"
    return reference(request, environ, gpu)


def crashes_on_none(request: Request, environ: dict[str, str], gpu: Gpu) -> str:
    assert request.block_size % 2 in (0, 1)  # type: ignore[operator]  # the defect
    return reference(request, environ, gpu)


def refuses_without_a_name(request: Request, environ: dict[str, str], gpu: Gpu) -> str:
    try:
        return reference(request, environ, gpu)
    except ValueError:
        raise ValueError("this block size is not supported") from None


def refuses_without_a_reason(request: Request, environ: dict[str, str], gpu: Gpu) -> str:
    try:
        return reference(request, environ, gpu)
    except ValueError:
        raise ValueError(f"{environ.get(EXPLICIT, 'TRITON_ATTN')} is no good") from None


def aiter_is_broken(request: Request, environ: dict[str, str], gpu: Gpu) -> str:
    if gpu.aiter is Aiter.PRESENT and request.use_mla:
        raise ValueError("ROCM_AITER_MLA does not support 16 heads")
    return reference(request, environ, gpu)


def aiter_breaks_rocm_attn(request: Request, environ: dict[str, str], gpu: Gpu) -> str:
    backend = reference(request, environ, gpu)
    if Flags(environ)[USE_AITER] and backend == "ROCM_ATTN":
        raise ValueError("ROCM_ATTN does not support AITER")
    return backend


@pytest.mark.parametrize(
    ("law", "selector", "smallest"),
    [
        (
            "an-explicit-choice-is-taken-or-refused-never-replaced",
            replaced_by_flags,
            {"environ": {USE_AITER: "1", EXPLICIT: "TRITON_ATTN"}},
        ),
        (
            "flags-change-nothing-about-an-explicit-choice",
            flags_forbid_a_name,
            {"environ": {MHA: "0", EXPLICIT: "ROCM_ATTN"}},
        ),
        (
            "what-flags-select-can-be-had-by-its-name-alone",
            no_name_for_flex,
            {"environ": {USE_AITER: "1", UNIFIED: "1"}},
        ),
        (
            "a-backend-beyond-the-contract-is-taken-or-refused-never-replaced",
            unknown_names_fall_back,
            {"environ": {EXPLICIT: "TORCH_SDPA"}},
        ),
        (
            "with-aiter-off-no-aiter-backend-is-chosen-by-itself",
            unified_without_the_switch,
            {"environ": {UNIFIED: "1"}},
        ),
        (
            "without-aiter-installed-no-aiter-backend-is-chosen-by-itself",
            looks_for_no_package,
            {"aiter": "absent", "environ": {USE_AITER: "1"}},
        ),
        (
            "aiter-mha-switched-off-never-gives-aiter-fa-by-itself",
            reads_no_mha,
            {"environ": {USE_AITER: "1", MHA: "0"}},
        ),
        (
            "aiter-unified-attention-switched-off-is-not-chosen-by-itself",
            unified_by_aiter_alone,
            {"environ": {USE_AITER: "1", UNIFIED: "0"}},
        ),
        (
            "aiter-mla-switched-off-is-not-chosen-by-itself",
            reads_no_mla,
            {"environ": {USE_AITER: "1", MLA: "0"}, "request": {"use_mla": True}},
        ),
        (
            "an-mla-layer-gets-an-mla-backend-and-no-other-layer-does",
            ordinary_backend_for_mla,
            {"request": {"use_mla": True, "num_heads": 128, "num_kv_heads": 1}},
        ),
        ("unset-equals-default", zero_counts_as_set, {"change": {PREFILL_DECODE: "0"}}),
        (
            "spellings-with-one-meaning-select-the-same",
            true_is_not_understood,
            {"environ": {USE_AITER: "1"}, "change": {USE_AITER: "true"}},
        ),
        (
            "the-order-of-variables-changes-nothing",
            the_last_variable_wins,
            None,
        ),
        (
            "unrelated-variables-change-nothing",
            a_quick_start_variable_works,
            {"change": {"VLLM_USE_AITER_UNIFIED_ATTENTION": "1"}},
        ),
        ("selecting-writes-nothing-to-the-environment", writes, {}),
        ("every-legal-question-is-answered", crashes_on_none, {"request": {"block_size": None}}),
        ("every-refusal-names-backend-and-reason", refuses_without_a_name, None),
        ("every-refusal-names-backend-and-reason", refuses_without_a_reason, None),
        (
            "installing-aiter-never-turns-a-selection-into-a-refusal",
            aiter_is_broken,
            {"aiter": "absent", "request": {"use_mla": True}},
        ),
        (
            "switching-aiter-on-never-turns-a-selection-into-a-refusal",
            aiter_breaks_rocm_attn,
            {"environ": {EXPLICIT: "ROCM_ATTN"}, "change": {USE_AITER: "1"}},
        ),
    ],
)
def test_a_selector_that_breaks_the_law_is_caught_with_the_smallest_example(
    law: str, selector: Selector, smallest: dict[str, Any] | None
) -> None:
    found = search(BY_ID[law], selector).found
    assert found is not None
    case, broken = found
    if smallest is not None:
        data = case.as_data()
        assert {k: data[k] for k in data if k != "request"} == {
            k: smallest[k] for k in smallest if k != "request"
        }
        wanted = Request(**smallest.get("request", {}))
        assert case.request == wanted
    # The example, written and read again, breaks the law in the same words.
    again = Example.from_data("gfx942", case.as_data())
    once_more = BY_ID[law].attempt(again, Asker(selector), Asker(selector))
    assert once_more is not None
    assert once_more.words == broken.words
    assert BY_ID[law].attempt(again, Asker(reference), Asker(reference)) is None


def test_every_law_has_a_selector_here_that_breaks_it() -> None:
    (mark,) = test_a_selector_that_breaks_the_law_is_caught_with_the_smallest_example.pytestmark
    assert {row[0] for row in mark.args[1]} == set(BY_ID)


def test_the_same_seed_tries_the_same_examples_and_another_one_others() -> None:
    law = BY_ID["unset-equals-default"]
    tried: list[list[Question]] = []

    def record(seed: int) -> list[Question]:
        questions: list[Question] = []

        class Recording(Asker):
            def __call__(self, *asked: Question) -> list[Observation]:
                questions.extend(asked)
                return super().__call__(*asked)

        law.search("gfx942", Recording(reference), Effort(seed=seed, examples=30))
        return questions

    tried = [record(0), record(0), record(1)]
    assert tried[0] == tried[1] != tried[2]


def test_a_search_whose_time_is_up_says_so_and_keeps_what_it_found() -> None:
    law = BY_ID["an-explicit-choice-is-taken-or-refused-never-replaced"]
    cut = law.search("gfx942", Asker(reference), Effort(budget=1e-9))
    assert (cut.found, cut.cut, cut.examples) == (None, True, 0)
    with pytest.raises(UnfinishedError, match="stopped after 0 of 200 examples by the time limit"):
        cut.check_finished()
    whole = search(law, reference)
    assert not whole.cut
    whole.check_finished()


def test_a_search_is_the_same_however_much_time_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    def overriding(request: Request, environ: dict[str, str], gpu: Gpu) -> str:
        return (
            "ROCM_AITER_FA" if environ.get(USE_AITER) == "1" else reference(request, environ, gpu)
        )

    law = BY_ID["an-explicit-choice-is-taken-or-refused-never-replaced"]
    quick = [law.search("gfx942", Asker(s), Effort()) for s in (reference, overriding)]
    clock = itertools.count(step=1e6)
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    slow = [law.search("gfx942", Asker(s), Effort()) for s in (reference, overriding)]
    assert [s.examples for s in slow] == [s.examples for s in quick]
    assert [s.found for s in slow] == [s.found for s in quick]
    assert slow[0].found is None
    assert slow[1].found is not None
    assert Effort().end == math.inf


def test_a_crash_satisfies_a_law_about_selections_but_not_the_one_about_answers() -> None:
    def crash(request: Request, environ: dict[str, str], gpu: Gpu) -> str:
        raise AttributeError("no such thing")

    found = search(BY_ID["every-legal-question-is-answered"], crash).found
    assert isinstance(found[1].outcome, Crashed)


@pytest.mark.parametrize("law", SWITCH_LAWS, ids=lambda law: law.id)
def test_a_switch_that_is_never_read_is_found_dead(law: Any) -> None:
    def deaf(request: Request, environ: dict[str, str], gpu: Gpu) -> str:
        read = {name: text for name, text in environ.items() if name != law.name}
        return reference(request, read, gpu)

    gpus = [Gpu("gfx942"), Gpu("gfx1201")]
    alive = law.change(gpus, Asker(reference), is_over=lambda: False)
    assert alive.change is not None
    dead = law.change(gpus, Asker(deaf), is_over=lambda: False)
    assert dead.change is None
    assert dead.tried == dead.total == len(questions(gpus)) // 2
    stopped = law.change(gpus, Asker(deaf), is_over=lambda: True)
    assert (stopped.tried, stopped.change) == (0, None)


def test_a_law_that_is_broken_in_two_ways_names_both() -> None:
    """The smallest would hide that the other does the same."""

    def select(request: Request, environ: dict[str, str], gpu: Gpu) -> str:
        if request.has_sink or request.kv_cache_dtype == "fp8":
            raise AttributeError("not there")
        return reference(request, environ, gpu)

    law, asker = BY_ID["every-legal-question-is-answered"], CertainAsker(select)
    effort = Effort(examples=EXAMPLES)
    (first, _) = law.search("gfx942", asker, effort).found or (None, None)
    assert first is not None
    more = law.further("gfx942", cast("Any", asker), effort, first)
    special = [set(case.request.non_default()) for case in (first, *(case for case, _ in more))]
    assert {"has_sink"} in special
    assert {"kv_cache_dtype"} in special
    assert all(isinstance(broken.outcome, Crashed) for _, broken in more)
    # Each is a breach of its own: none has all that another one has.
    cases = [first, *(case for case, _ in more)]
    assert not [
        (one, other) for one in cases for other in cases if one is not other and one.covers(other)
    ]


def test_a_law_that_is_broken_in_one_way_has_nothing_further() -> None:
    def select(request: Request, environ: dict[str, str], gpu: Gpu) -> str:
        if request.has_sink:
            raise AttributeError("not there")
        return reference(request, environ, gpu)

    law, asker = BY_ID["every-legal-question-is-answered"], CertainAsker(select)
    effort = Effort(examples=EXAMPLES)
    found = law.search("gfx942", asker, effort).found
    assert found is not None
    assert law.further("gfx942", cast("Any", asker), effort, found[0]) == []


@pytest.mark.parametrize("law", SWITCH_LAWS, ids=lambda law: law.id)
def test_a_switch_that_is_dead_on_one_gpu_is_seen_there(law: Any) -> None:
    def deaf_on_one(request: Request, environ: dict[str, str], gpu: Gpu) -> str:
        deaf = gpu.gfx == "gfx950"
        read = {n: text for n, text in environ.items() if n != law.name} if deaf else environ
        return reference(request, read, gpu)

    asker = Asker(deaf_on_one)
    changes = {
        gfx: law.change([Gpu(gfx)], asker, is_over=lambda: False).change
        for gfx in ("gfx942", "gfx950")
    }
    assert changes["gfx942"] is not None
    assert changes["gfx950"] is None
    assert law.has_something_to_switch(Gpu("gfx950"), asker)


def test_a_switch_has_nothing_to_switch_if_its_backend_is_refused_by_name() -> None:
    def without(request: Request, environ: dict[str, str], gpu: Gpu) -> str:
        if "AITER" in environ.get("VLLM_ATTENTION_BACKEND", ""):
            raise ValueError("AITER does not support this GPU")
        return "TRITON_MLA" if request.use_mla else "TRITON_ATTN"

    served = {
        law.name
        for law in SWITCH_LAWS
        if law.has_something_to_switch(Gpu("gfx90a"), Asker(without))
    }
    assert served == {"VLLM_V1_USE_PREFILL_DECODE_ATTENTION"}


def test_a_flip_without_an_answer_on_one_side_shows_nothing() -> None:
    (law, *_) = SWITCH_LAWS

    def fails(request: Request, environ: dict[str, str], gpu: Gpu) -> str:
        if law.name in environ:
            raise KeyError(law.name)
        return "TRITON_ATTN"

    found = law.change([Gpu("gfx942")], Asker(fails), is_over=lambda: False)
    assert found.change is None
    assert found.unanswered == found.tried == found.total


def test_an_answer_that_ran_out_of_time_breaks_no_law_that_compares_two() -> None:
    class CutShort(Asker):
        def __call__(self, *questions: Question) -> list[Observation]:
            seen = super().__call__(*questions)
            return [*seen[:-1], Observation(TimedOut(1.0))] if len(seen) > 1 else seen

    compared = [
        law for law in LAWS if "the same" in law.promise and "by its name" not in law.promise
    ]
    assert len(compared) == 5
    for law in compared:
        assert law.search("gfx942", CutShort(reference), Effort(examples=20)).found is None, law.id


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"environ": {"A": 1}}, "does not map variables to texts"),
        ({"enviro": {}}, "unknown field 'enviro'"),
        ({"aiter": "half"}, "half"),
        ({"request": {"block_size": -1}}, "block_size"),
    ],
)
def test_an_example_that_is_none_is_refused(data: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Example.from_data("gfx942", data)


def test_a_case_survives_being_written_and_read() -> None:
    case = Example(
        Gpu("gfx942", Aiter.ABSENT),
        {USE_AITER: "1"},
        replace(Request(), block_size=None),
        {MHA: "0"},
    )
    assert Example.from_data("gfx942", case.as_data()) == case
