"""The check that plugins of the fork change nothing if they are switched off."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_rocm_attn.conformance.adapters import plugins
from pytest_rocm_attn.conformance.isolation import Question
from pytest_rocm_attn.conformance.isolation.inside.environment import PLUGINS_HIDDEN
from pytest_rocm_attn.conformance.tiers.capabilities.check import Defect, check
from pytest_rocm_attn.request import Request

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_rocm_attn.conformance.tiers.capabilities.check import Check, CheckItem

_WITHOUT = {PLUGINS_HIDDEN: "1"}


@check(
    "plugins-that-are-off-change-nothing",
    "with its plugins switched off the fork answers as if they were not installed",
    "vllm/plugins/__init__.py (v0.33.0), VLLM_PLUGINS; ROCm/ATOM, ATOM_DISABLE_VLLM_PLUGIN",
    level="advisory",
)
def change_nothing_if_off(item: CheckItem, switches: tuple[str, ...]) -> Iterator[Defect]:
    ways = ({"VLLM_PLUGINS": ""}, *({name: "1"} for name in switches))
    asked = [Question.of(item.gpu, way, Request(), "plugins") for way in (_WITHOUT, *ways)]
    without, *off = map(item.ask, asked)
    item.counts["ways to switch them off"] = len(ways)
    for way, answer in zip(ways, off, strict=True):
        if trouble := answer.trouble or without.trouble:
            yield Defect(f"it cannot be asked: {trouble}", environ=way, deliberate=False)
            continue
        for words, said in without.data["answers"].items():
            if (other := answer.data["answers"][words]) != said:
                named = " ".join(f"{name}={value}" for name, value in way.items())
                yield Defect(
                    f"under {named} the answer is {other}, and {said} without the plugins",
                    environ=way,
                    value=words,
                )


def checks_of(top: str) -> tuple[Check, ...]:
    """Return the check of a fork's plugins, by its top-level package; none if it has no plugins."""
    if not plugins.installed(top):
        return ()
    switches = tuple(plugins.switches(top))
    return (replace(change_nothing_if_off, over=lambda _: [{"switches": switches}]),)
