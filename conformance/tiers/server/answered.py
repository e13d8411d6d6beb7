"""Advisory checks that judge the answer to one question."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.isolation import Question
from pytest_rocm_attn.conformance.tiers.capabilities.check import Check, Defect
from pytest_rocm_attn.flags import USE_AITER
from pytest_rocm_attn.request import Request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pytest_rocm_attn.conformance.tiers.capabilities.answers import Answer
    from pytest_rocm_attn.conformance.tiers.capabilities.check import CheckItem
    from pytest_rocm_attn.gpu import Gpu

    Judge = Callable[..., Iterator[Defect]]

SWITCHED: dict[str, Mapping[str, str]] = {"by-default": {}, "with-aiter-on": {USE_AITER: "1"}}


def over_switched(gpu: Gpu) -> list[dict[str, str]]:
    """Return the arguments of a check that is made for each of SWITCHED."""
    return [{"flags": flags} for flags in SWITCHED]


def answered(
    name: str,
    promise: str,
    source: str,
    kind: str,
    *,
    detail: Callable[..., str] = lambda **_: "",
    environ: Callable[..., Mapping[str, str]] = lambda **_: {},
    **more: Any,
) -> Callable[[Judge], Check]:
    """Make a check of the function that judges the answer.

    Args:
        name, promise, source, environ, more: of the check; see Check.
        kind: of the question.
        detail: of the question, for the check's arguments.

    The function gets an item, the answer and the arguments. It is not called if the question cannot be
    answered, which is a defect.
    """

    def question(gpu: Gpu, **arguments: Any) -> Question:
        return Question.of(gpu, environ(**arguments), Request(), kind, detail(**arguments))

    def made(judge: Judge) -> Check:
        def find(item: CheckItem, **arguments: Any) -> Iterator[Defect]:
            answer: Answer = item.ask(question(item.gpu, **arguments))
            if answer.trouble:
                yield Defect(
                    f"it cannot be asked: {answer.trouble}",
                    environ=environ(**arguments),
                    deliberate=answer.deliberate,
                )
            else:
                yield from judge(item, answer, **arguments)

        return Check(
            name=name,
            promise=promise,
            source=source,
            find=find,
            asks=lambda gpu, **arguments: [question(gpu, **arguments)],
            level="advisory",
            environ=environ,
            **more,
        )

    return made
