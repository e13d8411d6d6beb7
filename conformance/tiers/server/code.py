"""Checks of the fork's code: predicates that say yes to what a GPU lacks, and twin calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_rocm_attn.conformance.adapters.kernel_needs import FEATURES
from pytest_rocm_attn.conformance.isolation import Question
from pytest_rocm_attn.conformance.tiers.capabilities.check import Defect, check
from pytest_rocm_attn.flags import USE_AITER
from pytest_rocm_attn.request import Request

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_rocm_attn.conformance.tiers.capabilities.check import CheckItem
    from pytest_rocm_attn.gpu import Gpu

_SWITCHED = {"by-default": {}, "with-aiter-on": {USE_AITER: "1"}}


def code_question(gpu: Gpu, environ: dict[str, str]) -> Question:
    """Return the question what can be read off the fork's code."""
    return Question.of(gpu, environ, Request(), "code")


@check(
    "predicates-know-what-the-gpu-has-{flags}",
    "no predicate says yes to what the GPU does not have",
    "conformance/adapters/kernel_needs.py; vllm-project/vllm#34641, #51964",
    over=lambda _: [{"flags": flags} for flags in _SWITCHED],
    asks=lambda gpu, flags: [code_question(gpu, _SWITCHED[flags])],
    level="advisory",
    environ=lambda flags: _SWITCHED[flags],
)
def predicates_know_the_gpu(item: CheckItem, flags: str) -> Iterator[Defect]:
    answer = item.ask(code_question(item.gpu, _SWITCHED[flags]))
    if answer.trouble:
        yield Defect(f"it cannot be asked: {answer.trouble}", deliberate=answer.deliberate)
        return
    item.counts["predicates"] = len(answer.data["predicates"])
    for predicate, answers in answer.data["predicates"].items():
        for feature in FEATURES:
            if item.gpu.gfx in feature.gpus or not feature.pattern.search(predicate):
                continue
            for arguments, said in answers.items():
                if said == "True":
                    wrong = f"{predicate}({arguments}) is true, and the GPU lacks {feature.name}"
                    yield Defect(f"{wrong} ({feature.source})", environ=_SWITCHED[flags])


@check(
    "twin-calls-heed-the-same",
    "what one call of a function heeds, its twin does not forget",
    "conformance/adapters/twin_calls.py; vllm-project/vllm#33123",
    asks=lambda gpu: [code_question(gpu, {})],
    level="advisory",
)
def twin_calls_heed_the_same(item: CheckItem) -> Iterator[Defect]:
    answer = item.ask(code_question(item.gpu, {}))
    if answer.trouble:
        yield Defect(f"it cannot be read: {answer.trouble}", deliberate=answer.deliberate)
        return
    for twin in answer.data["twins"]:
        place = f"{twin['module']}:{twin['line']}"
        yield Defect(
            f"{place} calls {twin['callee']} with other care than line {twin['other']}:"
            f" {twin['words']}"
        )


@check(
    "the-servers-calls-fit",
    "the platform and each backend take the calls that the server makes by their roots' signatures",
    "conformance/adapters/interfaces.py; vllm-project/vllm#26029",
    asks=lambda gpu: [code_question(gpu, {})],
    level="advisory",
)
def the_servers_calls_fit(item: CheckItem) -> Iterator[Defect]:
    answer = item.ask(code_question(item.gpu, {}))
    if answer.trouble:
        yield Defect(f"it cannot be read: {answer.trouble}", deliberate=answer.deliberate)
        return
    for misfit in answer.data["misfits"]:
        yield Defect(f"{misfit['place']} does not fit {misfit['words']}")


def before_workers_question(gpu: Gpu) -> Question:
    """Return the question what starts the device's runtime before a server starts its workers."""
    return Question.of(gpu, {}, Request(), "before-workers")


@check(
    "questions-before-the-workers-leave-the-runtime-alone",
    "what a server asks of its platform before it starts workers starts no device runtime",
    "docs/server.md#items: a process that has started the runtime cannot fork",
    asks=lambda gpu: [before_workers_question(gpu)],
    level="advisory",
)
def no_question_starts_the_runtime(item: CheckItem) -> Iterator[Defect]:
    answer = item.ask(before_workers_question(item.gpu))
    if answer.trouble:
        yield Defect(f"it cannot be asked: {answer.trouble}", deliberate=answer.deliberate)
        return
    item.counts["questions"] = len(answer.data["asked"])
    for name, calls in answer.data["started"].items():
        yield Defect(f"{name}() of the platform calls {', '.join(calls)}")


CHECKS = (
    no_question_starts_the_runtime,
    predicates_know_the_gpu,
    twin_calls_heed_the_same,
    the_servers_calls_fit,
)
