"""Checks of the first steps of servers that are described, taken without a device."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_rocm_attn.conformance.tiers.capabilities.answers import Inapplicable
from pytest_rocm_attn.conformance.tiers.capabilities.check import Defect
from pytest_rocm_attn.conformance.tiers.server.answered import answered
from pytest_rocm_attn.conformance.tiers.server.servers import (
    FLAGS,
    detail_of,
    environ_of,
    fault_words,
    on,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_rocm_attn.conformance.promise.servers_file import Server
    from pytest_rocm_attn.conformance.tiers.capabilities.answers import Answer
    from pytest_rocm_attn.conformance.tiers.capabilities.check import Check, CheckItem


@answered(
    "{server.id}-steps-{flags}",
    "metadata of the first steps can be built, kernels fit the GPU, and closed kernels are given what they take",
    "{server.source}",
    "steps",
    detail=detail_of,
    environ=environ_of,
)
def takes_its_first_steps(
    item: CheckItem, answer: Answer, server: Server, flags: str
) -> Iterator[Defect]:
    steps = answer.data.get("steps")
    if steps is None:
        if missing := ", ".join(dict.fromkeys(answer.data["missing"])):
            raise Inapplicable(f"it takes no step, as these packages are not there: {missing}")
        raise Inapplicable(f"it takes no step: {server.id}-starts-{flags} says why")
    item.counts["steps"] = steps["taken"]
    item.counts["launches that fit"] = steps["launches"]
    item.counts["calls of closed kernels"] = len(steps["calls"])
    for fault in steps["faults"]:
        yield Defect(
            fault_words(fault, answer.data["backends"]),
            environ=environ_of(server, flags),
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
