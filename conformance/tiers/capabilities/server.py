"""Checks of what the server makes of the machine and of a choice, around the selection itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.isolation import Question
from pytest_rocm_attn.conformance.report.words import environment_words
from pytest_rocm_attn.conformance.tiers.capabilities import cases
from pytest_rocm_attn.conformance.tiers.capabilities.answers import Answer, Inapplicable
from pytest_rocm_attn.conformance.tiers.capabilities.check import Defect, check, each_backend
from pytest_rocm_attn.flags import EXPLICIT, USE_AITER
from pytest_rocm_attn.gpu import Amdsmi, Gpu
from pytest_rocm_attn.registry import ROCM_BACKENDS
from pytest_rocm_attn.request import Request

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_rocm_attn.conformance.tiers.capabilities.check import CheckItem

_SDPA, _TRITON = "TORCH_SDPA", "TRITON_ATTN"


@check(
    "the-platform-imports-without-the-runtime",
    "importing the platform asks nothing of the device's runtime",
    "docs/reference/known-regressions.md#itf-cuda-init-on-import",
    asks=lambda gpu: [Question.of(gpu, {}, Request(), "runtime")],
)
def imports_without_the_runtime(item: CheckItem) -> Iterator[Defect]:
    """A runtime that is started would bar the server from forking."""
    (answer,) = map(item.ask, item.questions())
    if answer.trouble:
        yield Defect(f"the import could not be watched: {answer.trouble}", deliberate=False)
    for call in answer.data.get("calls", ()):
        yield Defect(f"importing the platform starts the device's runtime: {call}")


@check(
    "the-platform-is-found-where-amdsmi-is-{state}",
    "the ROCm platform is found where amdsmi is {state}",
    "docs/reference/known-regressions.md#itf-amdsmi-lists-nothing",
    # The contract says nothing about an amdsmi that is not whole.
    over=lambda _: [
        {"state": state, "level": "required" if state is Amdsmi.WHOLE else "advisory"}
        for state in Amdsmi
    ],
    asks=lambda gpu, state, level: [
        Question.of(Gpu(gpu.gfx, gpu.aiter, one), {}, Request(), "platform")
        for one in dict.fromkeys((Amdsmi.WHOLE, state))
    ],
    level="{level}",
)
def is_found(item: CheckItem, state: Amdsmi, level: str) -> Iterator[Defect]:
    if item.plugin.settings.subject.machine is not None:
        raise Inapplicable("nothing is mocked, and this machine's amdsmi is as it is")
    whole, *others = map(item.ask, item.questions())
    if others and (whole.trouble or not whole.data["is_rocm"]):
        raise Inapplicable("no ROCm platform is found where amdsmi is whole either")
    for answer in others or [whole]:
        if answer.trouble:
            wrong = f"no platform can be found: {answer.trouble}"
            yield Defect(wrong, deliberate=answer.deliberate)
        elif not answer.data["is_rocm"]:
            yield Defect(f"the platform that is found is {answer.data['platform']}")


@check(
    "{backend}-has-one-cache-block-however-chosen",
    "{backend} is given the same cache block however it is chosen",
    "docs/reference/known-regressions.md#cap-unified-cache-block-16",
    over=each_backend,
    asks=lambda gpu, backend: [
        Question.of(gpu, environment.environ, request, "cache-block")
        for request, environment in cases.ways(backend)
    ],
)
def has_one_cache_block(item: CheckItem, backend: str) -> Iterator[Defect]:
    given: dict[Any, list[Mapping[str, str]]] = {}
    for question in item.questions():
        answer = item.ask(question)
        environ = dict(question.environ)
        if answer.trouble and not answer.refused:
            # Another backend's may fail for reasons of its own.
            if environ.get(EXPLICIT) == backend:
                wrong = f"the configuration cannot be completed: {answer.trouble}"
                yield Defect(wrong, question.request, environ, answer.deliberate)
        elif answer.data.get("backend") == backend:
            given.setdefault(answer.data["block_size"], []).append(environ)
    item.counts["chosen"] = sum(map(len, given.values()))
    if item.counts["chosen"] < 2:
        raise Inapplicable(f"{backend} is chosen in one way at most")
    if len(given) > 1:
        sizes = "; ".join(
            f"{size} with {environment_words(ways[0])}" for size, ways in given.items()
        )
        yield Defect(f"{backend}'s cache blocks differ by how it is chosen: {sizes}")


def _switched_off(backend: str) -> dict[str, str]:
    return {EXPLICIT: backend, USE_AITER: "0"}


@check(
    "{backend}-finds-its-functions-with-aiter-off",
    "{backend}, named with AITER off, finds the functions that it finds with AITER on",
    "docs/reference/known-regressions.md#itf-explicit-aiter-without-switch",
    over=lambda _: [{"backend": backend} for backend in ROCM_BACKENDS if "AITER" in backend],
    asks=lambda gpu, backend: [
        Question.of(gpu, {USE_AITER: switch}, cases.plain(backend), "names", backend)
        for switch in ("1", "0")
    ],
    environ=_switched_off,
)
def finds_its_functions(item: CheckItem, backend: str) -> Iterator[Defect]:
    on, off = map(item.ask, item.questions())
    for answer, words in ((on, "on"), (off, "off")):
        if answer.trouble:
            # Whether it may be refused or fail is what other checks are about.
            raise Inapplicable(f"{backend} is not built with AITER {words}: {answer.trouble}")
        if answer.data["backend"] != backend:
            raise Inapplicable(
                f"{backend} gives way to {answer.data['backend']} with AITER {words}"
            )
    for name in off.data["missing"]:
        if name not in on.data["missing"]:
            wrong = f"{backend} refers to what is there only with AITER on"
            yield Defect(wrong, cases.plain(backend), _switched_off(backend), value=name)


@check(
    "rocm-attn-tells-its-kernels-apart",
    "what only one of its kernels is given decides between them",
    "docs/reference/known-regressions.md#itf-predicate-lacks-sinks",
    asks=lambda gpu: [Question.of(gpu, {}, Request(), "predicates")],
)
def tells_its_kernels_apart(item: CheckItem) -> Iterator[Defect]:
    (answer,) = map(item.ask, item.questions())
    if answer.trouble:
        yield Defect(f"it cannot be asked: {answer.trouble}", deliberate=answer.deliberate)
        return
    found = answer.data["predicates"].values()
    if not any(predicate["callers"] for predicate in found):
        raise Inapplicable("the fork has no predicate that chooses between two kernels")
    yield from (Defect(wrong) for predicate in found for wrong in predicate["unheeded"])


# --- vision ---------------------------------------------------------------------------------------

_HEADS = (64, 72, 80)  # of vision transformers
_VISION = "docs/reference/known-regressions.md#vit-sdpa-on-gfx1151"


def _chosen(
    item: CheckItem, head_size: int, environ: Mapping[str, str] | None = None, override: str = ""
) -> Answer:
    """Ask for the backend of a vision layer."""
    request = Request(head_size=head_size, attn_type="encoder_only")
    return item.ask(Question.of(item.gpu, environ or {}, request, "vision", override))


def _by_default(item: CheckItem) -> Iterator[tuple[str, Answer]]:
    """Ask for the backends of vision layers by default, by head size.

    Raises:
        Inapplicable: the fork does not say which backends it supports for vision.
    """
    for head_size in _HEADS:
        answer = _chosen(item, head_size)
        if not answer.trouble and answer.data["supported"] is None:
            raise Inapplicable("the platform does not list the backends for vision layers")
        yield f"head_size={head_size}", answer


@check(
    "vision-takes-the-backend-that-is-named",
    "a backend that is named for vision layers is taken or refused, never replaced",
    "docs/reference/known-regressions.md#vit-override-ignored",
)
def vision_takes_what_is_named(item: CheckItem) -> Iterator[Defect]:
    supported = _chosen(item, _HEADS[0]).data.get("supported")
    for override in supported if supported is not None else (_SDPA, "FLASH_ATTN"):
        for environ in ({}, {USE_AITER: "1"}):
            answer = _chosen(item, _HEADS[0], environ, override)
            named = f"{override}, named for vision layers,"
            if answer.trouble and not answer.deliberate:
                wrong = f"{named} is not a refusal: {answer.trouble}"
                yield Defect(wrong, environ=environ, deliberate=False)
            elif not answer.trouble and answer.data["backend"] != override:
                wrong = f"{named} gives way to {answer.data['backend']}"
                yield Defect(wrong, environ=environ, value=environment_words(environ))


@check(
    "vision-by-default-is-supported",
    "the default for vision layers is one that the platform says it supports",
    _VISION,
)
def vision_by_default_is_supported(item: CheckItem) -> Iterator[Defect]:
    for value, answer in _by_default(item):
        if answer.trouble:
            wrong = f"vision layers are given none: {answer.trouble}"
            yield Defect(wrong, deliberate=answer.deliberate, value=value)
        elif answer.data["backend"] not in answer.data["supported"]:
            wrong = f"vision layers are given {answer.data['backend']}, which is not listed"
            yield Defect(wrong, value=value)


@check(
    "vision-by-default-is-no-sdpa-on-rdna",
    "TORCH_SDPA, which gives NaN on RDNA, is not the default if TRITON_ATTN is listed",
    _VISION,
    over=lambda gpu: [{}] if gpu.family.startswith("RDNA") else [],
    level="advisory",
)
def vision_by_default_is_no_sdpa(item: CheckItem) -> Iterator[Defect]:
    for value, answer in _by_default(item):
        if answer.trouble:
            raise Inapplicable(f"vision layers are given none: {answer.trouble}")
        if _TRITON not in answer.data["supported"]:
            raise Inapplicable("the platform lists no TRITON_ATTN for vision layers")
        if answer.data["backend"] == _SDPA:
            yield Defect(
                f"vision layers are given {_SDPA}, though {_TRITON} is listed", value=value
            )


CHECKS = (
    *(imports_without_the_runtime, is_found, has_one_cache_block, finds_its_functions),
    *(tells_its_kernels_apart, vision_takes_what_is_named),
    *(vision_by_default_is_supported, vision_by_default_is_no_sdpa),
)
