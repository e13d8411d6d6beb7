"""Checks of the fork's code: predicates that say yes to what a GPU lacks, and twin calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_rocm_attn.conformance.adapters.kernel_needs import FEATURES
from pytest_rocm_attn.conformance.tiers.capabilities.check import Defect
from pytest_rocm_attn.conformance.tiers.server.answered import SWITCHED, answered, over_switched

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_rocm_attn.conformance.tiers.capabilities.answers import Answer
    from pytest_rocm_attn.conformance.tiers.capabilities.check import CheckItem


@answered(
    "predicates-know-what-the-gpu-has-{flags}",
    "no predicate says yes to what the GPU does not have",
    "conformance/adapters/kernel_needs.py; vllm-project/vllm#34641, #51964",
    "code",
    over=over_switched,
    environ=lambda flags: SWITCHED[flags],
)
def predicates_know_the_gpu(item: CheckItem, answer: Answer, flags: str) -> Iterator[Defect]:
    item.counts["predicates"] = len(answer.data["predicates"])
    for predicate, answers in answer.data["predicates"].items():
        for feature in FEATURES:
            if item.gpu.gfx in feature.gpus or not feature.pattern.search(predicate):
                continue
            for arguments, said in answers.items():
                if said == "True":
                    wrong = f"{predicate}({arguments}) is true, and the GPU lacks {feature.name}"
                    yield Defect(f"{wrong} ({feature.source})", environ=SWITCHED[flags])


@answered(
    "twin-calls-heed-the-same",
    "what one call of a function heeds, its twin does not forget",
    "conformance/adapters/twin_calls.py; vllm-project/vllm#33123",
    "code",
)
def twin_calls_heed_the_same(item: CheckItem, answer: Answer) -> Iterator[Defect]:
    for twin in answer.data["twins"]:
        place = f"{twin['module']}:{twin['line']}"
        yield Defect(
            f"{place} calls {twin['callee']} with other care than line {twin['other']}:"
            f" {twin['words']}"
        )


@answered(
    "the-servers-calls-fit",
    "the platform and each backend have what the server uses, and take its calls",
    "conformance/adapters/interfaces.py; vllm-project/vllm#26029, #36845",
    "interfaces",
)
def the_servers_calls_fit(item: CheckItem, answer: Answer) -> Iterator[Defect]:
    for misfit in answer.data["misfits"]:
        yield Defect(f"{misfit['place']} does not fit {misfit['words']}")


@answered(
    "questions-before-the-workers-leave-the-runtime-alone",
    "what a server asks of its platform before it starts workers starts no device runtime",
    "docs/server.md#items: a process that has started the runtime cannot fork",
    "before-workers",
)
def no_question_starts_the_runtime(item: CheckItem, answer: Answer) -> Iterator[Defect]:
    item.counts["questions"] = len(answer.data["asked"])
    for name, calls in answer.data["started"].items():
        yield Defect(f"{name}() of the platform calls {', '.join(calls)}")


VISIBLE = {
    "hip": {"HIP_VISIBLE_DEVICES": "3,1"},
    "cuda": {"CUDA_VISIBLE_DEVICES": "3,1"},
    "rocr": {"ROCR_VISIBLE_DEVICES": "2,3"},
    "rocr-and-hip": {"ROCR_VISIBLE_DEVICES": "2,3", "HIP_VISIBLE_DEVICES": "1"},
}


@answered(
    "a-device-is-the-same-for-platform-and-runtime-under-{variables}",
    "the platform means the device by an ordinal that the runtime gives it",
    "https://rocm.docs.amd.com/en/latest/conceptual/gpu-isolation.html",
    "devices",
    over=lambda _: [{"variables": variables} for variables in VISIBLE],
    environ=lambda variables: VISIBLE[variables],
)
def means_the_visible_device(item: CheckItem, answer: Answer, variables: str) -> Iterator[Defect]:
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
