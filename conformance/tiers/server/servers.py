"""Checks of servers that are described: whether each can be started, as far as that shows without a GPU."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec

from pytest_rocm_attn.conformance.adapters.start.started import NEEDS
from pytest_rocm_attn.conformance.isolation import Question, WorkerError
from pytest_rocm_attn.conformance.tiers.capabilities.answers import Answer, Inapplicable
from pytest_rocm_attn.conformance.tiers.capabilities.check import Defect, check
from pytest_rocm_attn.conformance.tiers.server.answered import answered
from pytest_rocm_attn.flags import USE_AITER
from pytest_rocm_attn.request import Request

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_rocm_attn.conformance.promise.servers_file import Server
    from pytest_rocm_attn.conformance.tiers.capabilities.check import Check, CheckItem
    from pytest_rocm_attn.gpu import Gpu

FLAGS: dict[str, Mapping[str, str]] = {
    "by-default": {},
    "with-aiter-on": {USE_AITER: "1"},
    "with-aiter-on-and-a-shuffled-cache": {
        USE_AITER: "1",
        "VLLM_ROCM_SHUFFLE_KV_CACHE_LAYOUT": "1",
    },
}
_SELECTING = "selecting a backend"


def environ_of(server: Server, flags: str) -> dict[str, str]:
    """Return the variables that a server is started with under one of FLAGS."""
    return {**FLAGS[flags], **server.environ}


def detail_of(server: Server, flags: str) -> str:
    """Return a server as the detail of a question."""
    return msgspec.json.encode(server).decode()


def question_of(gpu: Gpu, server: Server, flags: str) -> Question:
    """Return the question how far a server comes with one of FLAGS."""
    return Question.of(
        gpu, environ_of(server, flags), Request(), "server", detail_of(server, flags)
    )


def on(gpu: Gpu, servers: Sequence[Server]) -> list[Server]:
    """Return the servers that run on a GPU."""
    return [server for server in servers if not server.gpus or gpu.gfx in server.gpus]


def _answer(item: CheckItem, question: Question) -> Answer:
    """Ask how far a server starts; raises as _ours() does."""
    answer = item.ask(question)
    _ours(answer)
    return answer


def _ours(answer: Answer) -> None:
    """Look for what our stand-ins lack.

    Raises:
        WorkerError: the fork reads such a thing.
    """
    for fault in answer.data.get("faults", ()):
        if "ours" in fault:
            raise WorkerError(f"cannot tell: {fault['doing']}: {fault['message']}")


@answered(
    "{server.id}-starts-{flags}",
    "every layer is given a backend that can be built, and all layers can share one cache",
    "{server.source}",
    "server",
    detail=detail_of,
    environ=environ_of,
)
def starts(item: CheckItem, answer: Answer, server: Server, flags: str) -> Iterator[Defect]:
    environ = environ_of(server, flags)
    _ours(answer)
    item.counts["selected"] = len(answer.data["backends"])
    item.counts["parts left out"] = len(answer.data["left_out"])
    for fault in answer.data["faults"]:
        refused = fault["doing"] == _SELECTING and fault.get("deliberate", False)
        if refused:  # what a GPU or a release does not serve, it may refuse
            item.counts["refused"] = item.counts.get("refused", 0) + 1
            continue
        yield Defect(
            fault_words(fault, answer.data["backends"]),
            environ=environ,
            deliberate=fault.get("deliberate", True),
            traceback=fault.get("traceback", ""),
        )


def fault_words(fault: Mapping[str, Any], backends: Mapping[str, str]) -> str:
    """Return a fault in words, with each layer that it is about and what that was given."""
    about = [f"{name} ({backends[name]})" if name in backends else name for name in fault["layers"]]
    wrong = fault.get("words") or f"{fault['error']}: {fault['message']}".partition("\n")[0]
    return ": ".join(part for part in (" and ".join(about), fault["doing"], wrong) if part)


@check(
    "{need}-reaches-the-selector",
    "whether a backend can do what the server needs is asked before it is chosen",
    "vllm/v1/attention/selector.py (v0.33.0), AttentionSelectorConfig; vllm-project/vllm#40173",
    level="advisory",
)
def reaches_the_selector(item: CheckItem, need: str, servers: Sequence[Server]) -> Iterator[Defect]:
    needing = [
        server for server in servers if any(getattr(layer.request, need) for layer in server.layers)
    ]
    asked = 0
    for server in needing:
        try:
            answer = _answer(item, question_of(item.gpu, server, "by-default"))
        except Inapplicable:
            continue
        if answer.trouble or not answer.data["backends"]:
            continue
        asked += 1
        if need in answer.data["unasked"]:
            yield Defect(
                f"the selector chooses without being asked about {need}",
                environ=server.environ,
                value=server.id,
            )
    if not asked:
        raise Inapplicable(f"no server that needs {need} is given a backend")


@check(
    "the-short-way-fills-every-field",
    "a request says every field that the selector asks for",
    "vllm/v1/attention/selector.py (v0.33.0), AttentionSelectorConfig",
    asks=lambda gpu, server: [question_of(gpu, server, "by-default")],
    level="advisory",
)
def fills_every_field(item: CheckItem, server: Server) -> Iterator[Defect]:
    """Rows ask the platform directly: what a request cannot say stays at its default there."""
    answer = _answer(item, question_of(item.gpu, server, "by-default"))
    for name in answer.data.get("not_filled", ()):
        yield Defect("rows that ask the platform leave a field at its default", value=name)


@check(
    "chosen-backends-run-their-own-kernels-{flags}",
    "a backend is chosen for a kernel that takes the layer",
    "docs/server.md; vllm-project/vllm#54440",
    level="advisory",
    environ=lambda flags, **_: FLAGS[flags],
)
def runs_its_own_kernel(item: CheckItem, flags: str, servers: Sequence[Server]) -> Iterator[Defect]:
    asked = 0
    for server in servers:
        try:
            answer = _answer(item, question_of(item.gpu, server, flags))
        except (Inapplicable, WorkerError):  # the item of its start says so
            continue
        asked += not answer.trouble
        for fault in answer.data.get("joins", ()):
            yield Defect(
                fault_words(fault, answer.data["backends"]),
                environ=environ_of(server, flags),
                value=server.id,
            )
    if not asked:
        raise Inapplicable("no server can be started")


def checks_of(servers: Sequence[Server]) -> tuple[Check, ...]:
    """Return the checks of the described servers."""
    return (
        replace(
            starts,
            over=lambda gpu: [
                {"server": server, "flags": flags} for server in on(gpu, servers) for flags in FLAGS
            ],
        ),
        replace(
            reaches_the_selector,
            over=lambda gpu: [{"need": need, "servers": on(gpu, servers)} for need in NEEDS],
        ),
        replace(
            runs_its_own_kernel,
            over=lambda gpu: [{"flags": flags, "servers": on(gpu, servers)} for flags in FLAGS],
        ),
        replace(
            fills_every_field, over=lambda gpu: [{"server": one} for one in on(gpu, servers)[:1]]
        ),
    )
