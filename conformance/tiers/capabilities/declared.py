"""Checks of what a backend's class declares against what its implementation does, built without the selector."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.isolation import Question
from pytest_rocm_attn.conformance.tiers.capabilities import cases
from pytest_rocm_attn.conformance.tiers.capabilities.answers import Inapplicable
from pytest_rocm_attn.conformance.tiers.capabilities.check import Defect, check, each_backend
from pytest_rocm_attn.flags import EXPLICIT, USE_AITER
from pytest_rocm_attn.request import Request

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_rocm_attn.conformance.tiers.capabilities.answers import Answer
    from pytest_rocm_attn.conformance.tiers.capabilities.check import CheckItem
    from pytest_rocm_attn.gpu import Gpu

# What an implementation is built with, one at a time; the other limits say what a backend is.
_VARIED = ("head_size", "dtype", "kv_cache_dtype", "block_size", "attn_type", "has_sink")
_PLAIN = "a plain layer"


def build_question(gpu: Gpu, backend: str, request: Request, values: dict[str, Any]) -> Question:
    """Return the question whether a backend can be built, directly, with each of these values."""
    environ = {EXPLICIT: backend} | ({USE_AITER: "1"} if "AITER" in backend else {})
    detail = json.dumps({"backend": backend, "values": values}, sort_keys=True)
    return Question.of(gpu, environ, request, "build", detail)


def plain_layer(declared: Answer) -> Request:
    """Return a layer of the kind that a backend serves, with values that it declares."""
    latent = declared.says("use_mla", True) is True and declared.says("use_mla", False) is False
    fields: dict[str, Any] = {"use_mla": latent}
    if latent:
        fields |= {"head_size": 576, "use_sparse": declared.says("use_sparse", False) is False}
    for limit, values in (("dtype", ("bfloat16", "float16")), ("block_size", (16, 64, 1, 128))):
        taken = (value for value in values if declared.says(limit, value) is not False)
        fields[limit] = next(taken, values[0])
    return Request(**fields)


def _built(item: CheckItem, backend: str) -> Iterator[tuple[str, Any, bool | None, Any]]:
    """Yield (limit, value, whether the class declares it, what building raised) of each value.

    Raises:
        Inapplicable: the class cannot be imported, or not even a plain layer can be built.
    """
    declared = item.declared(backend)
    if declared.trouble:
        raise Inapplicable(f"{backend} cannot be imported: {declared.trouble}")
    request = plain_layer(declared)
    varied = [limit for limit in _VARIED if not (request.use_mla and limit == "head_size")]
    values = {limit: list(cases.DECLARABLE[limit]) for limit in varied}
    answer = item.ask(build_question(item.gpu, backend, request, values))
    if answer.trouble:
        raise Inapplicable(f"{backend} cannot be built: {answer.trouble}")
    results = answer.data["results"]
    if not any(raised is None for _, _, raised in results):
        raise Inapplicable(f"{backend} cannot be built for {_PLAIN}: {results[0][2]['message']}")
    judged = 0
    for limit, value, raised in results:
        if raised is not None and "ours" in raised:
            continue  # it needs a device, or what the stand-ins lack
        says = declared.says(limit, value)
        judged += says is not None
        yield limit, value, says, raised
    item.counts["values"] = judged


@check(
    "{backend}-is-built-with-what-it-declares",
    "the implementation of {backend} can be built with each value that its class declares",
    "docs/reference/backends.md#declared",
    over=each_backend,
    level="advisory",
)
def is_built_with_what_it_declares(item: CheckItem, backend: str) -> Iterator[Defect]:
    for limit, value, says, raised in _built(item, backend):
        if says and raised is not None:
            first = str(raised["message"]).strip().partition("\n")[0]
            yield Defect(
                f"{backend} declares that it takes it, and cannot be built: {raised['error']}: {first}",
                deliberate=raised["deliberate"],
                traceback=raised["traceback"],
                value=f"{limit}={value}",
            )


@check(
    "{backend}-refuses-what-it-declares-not-to-take",
    "the implementation of {backend} refuses to be built with what its class declares that it does not take",
    "docs/reference/backends.md#declared",
    over=each_backend,
    level="advisory",
)
def refuses_what_it_does_not_take(item: CheckItem, backend: str) -> Iterator[Defect]:
    for limit, value, says, raised in _built(item, backend):
        if says is False and raised is None:
            yield Defect(
                f"{backend} declares that it does not take it, and is built: the selector alone keeps"
                " it away",
                value=f"{limit}={value}",
            )


CHECKS = (is_built_with_what_it_declares, refuses_what_it_does_not_take)
