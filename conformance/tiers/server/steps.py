"""Checks of the first steps of servers that are described, taken without a device."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from pytest_rocm_attn.conformance.isolation import Question
from pytest_rocm_attn.conformance.tiers.capabilities.answers import Inapplicable
from pytest_rocm_attn.conformance.tiers.capabilities.check import Defect, check
from pytest_rocm_attn.conformance.tiers.server.servers import FLAGS, environ_of, fault_words, on
from pytest_rocm_attn.request import Request

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_rocm_attn.conformance.promise.servers_file import Server
    from pytest_rocm_attn.conformance.tiers.capabilities.check import Check, CheckItem
    from pytest_rocm_attn.gpu import Gpu


def steps_question(gpu: Gpu, server: Server, flags: str) -> Question:
    """Return the question how a server's first steps end with one of FLAGS."""
    detail = msgspec.json.encode(server).decode()
    return Question.of(gpu, environ_of(server, flags), Request(), "steps", detail)


@check(
    "{server.id}-steps-{flags}",
    "metadata of the first steps can be built, kernels fit the GPU, and closed kernels are given what they take",
    "{server.source}",
    asks=lambda gpu, server, flags: [steps_question(gpu, server, flags)],
    level="advisory",
    environ=lambda server, flags: environ_of(server, flags),
)
def takes_its_first_steps(item: CheckItem, server: Server, flags: str) -> Iterator[Defect]:
    answer = item.ask(steps_question(item.gpu, server, flags))
    environ = environ_of(server, flags)
    if answer.trouble:
        yield Defect(answer.trouble, environ=environ, deliberate=answer.deliberate)
        return
    steps = answer.data.get("steps")
    if steps is None:
        raise Inapplicable(f"it takes no step: {server.id}-starts-{flags} says why")
    item.counts["steps"] = steps["taken"]
    item.counts["launches that fit"] = steps["launches"]
    item.counts["calls of closed kernels"] = len(steps["calls"])
    for fault in steps["faults"]:
        yield Defect(
            fault_words(fault, answer.data["backends"]),
            environ=environ,
            deliberate=fault.get("deliberate", True),
            traceback=fault.get("traceback", ""),
        )
    if steps["declined"] and not steps["faults"]:
        words = "; ".join(fault_words(one, answer.data["backends"]) for one in steps["declined"])
        backends = ", ".join(dict.fromkeys(answer.data["backends"].values()))
        item.decline(backends, item.evidence, f"{words} ({steps['taken']} steps taken)")


def checks_of(servers: Sequence[Server]) -> tuple[Check, ...]:
    """Return the checks of the first steps of servers that are described."""
    return (
        replace(
            takes_its_first_steps,
            over=lambda gpu: [
                {"server": server, "flags": flags} for server in on(gpu, servers) for flags in FLAGS
            ],
        ),
    )
