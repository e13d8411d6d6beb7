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


def interfaces_question(gpu: Gpu) -> Question:
    """Return the question what the server uses of its platform and of backends, and what does not fit."""
    return Question.of(gpu, {}, Request(), "interfaces")


@check(
    "the-servers-calls-fit",
    "the platform and each backend have what the server uses, and take its calls",
    "conformance/adapters/interfaces.py; vllm-project/vllm#26029, #36845",
    asks=lambda gpu: [interfaces_question(gpu)],
    level="advisory",
)
def the_servers_calls_fit(item: CheckItem) -> Iterator[Defect]:
    answer = item.ask(interfaces_question(item.gpu))
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


VISIBLE = {
    "hip": {"HIP_VISIBLE_DEVICES": "3,1"},
    "cuda": {"CUDA_VISIBLE_DEVICES": "3,1"},
    "rocr": {"ROCR_VISIBLE_DEVICES": "2,3"},
    "rocr-and-hip": {"ROCR_VISIBLE_DEVICES": "2,3", "HIP_VISIBLE_DEVICES": "1"},
}


def devices_question(gpu: Gpu, variables: str) -> Question:
    """Return the question which device the platform means by each ordinal under some of VISIBLE."""
    return Question.of(gpu, VISIBLE[variables], Request(), "devices")


@check(
    "a-device-is-the-same-for-platform-and-runtime-under-{variables}",
    "the platform means the device by an ordinal that the runtime gives it",
    "https://rocm.docs.amd.com/en/latest/conceptual/gpu-isolation.html",
    over=lambda _: [{"variables": variables} for variables in VISIBLE],
    asks=lambda gpu, variables: [devices_question(gpu, variables)],
    level="advisory",
    environ=lambda variables: VISIBLE[variables],
)
def means_the_visible_device(item: CheckItem, variables: str) -> Iterator[Defect]:
    answer = item.ask(devices_question(item.gpu, variables))
    if answer.trouble:
        yield Defect(
            f"it cannot be asked: {answer.trouble}",
            environ=VISIBLE[variables],
            deliberate=answer.deliberate,
        )
        return
    item.counts["devices"] = len(answer.data["devices"])
    for one in answer.data["devices"]:
        if one["said"] != one["is"]:
            yield Defect(
                f"device {one['device']} is number {one['is']} of the machine, and the platform says"
                f" {one['said']}",
                environ=VISIBLE[variables],
            )


CHECKS = (
    means_the_visible_device,
    no_question_starts_the_runtime,
    predicates_know_the_gpu,
    twin_calls_heed_the_same,
    the_servers_calls_fit,
)
