"""Opening a platform: the mock, then the import of the selector on it."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from pytest_rocm_attn.conformance import adapters
from pytest_rocm_attn.conformance.adapters import plugins, shape
from pytest_rocm_attn.conformance.isolation import wire
from pytest_rocm_attn.conformance.isolation.inside import outcomes, startup
from pytest_rocm_attn.conformance.isolation.inside.environment import (
    DEVICE_LISTS,
    PLUGINS_HIDDEN,
    EnvironmentReads,
    neutral_environment,
    rename_variables,
    set_environment,
)
from pytest_rocm_attn.conformance.isolation.inside.neutral import neutral_modules
from pytest_rocm_attn.conformance.isolation.inside.outcomes import crashed, failed_import, refresh
from pytest_rocm_attn.conformance.isolation.question import Observation
from pytest_rocm_attn.errors import SelectorError

if TYPE_CHECKING:
    from pytest_rocm_attn.conformance.isolation.inside.channel import Channel


def open_platform(channel: Channel, wanted: wire.Open) -> tuple[adapters.Adapter, EnvironmentReads]:
    """Enter the mocked platform, import the selector, and find its adapter."""
    gpu, evidence = wanted.gpu, wanted.evidence
    neutral = neutral_environment(os.environ, mocked=evidence != "real")
    set_environment(neutral | wanted.environ)
    if evidence == "mock":
        from pytest_rocm_attn.mock import import_memory, mock_rocm
        from pytest_rocm_attn.mock.patching import Layer

        listed = any(name in wanted.environ for name in DEVICE_LISTS)
        count = 4 if listed else 1  # so that a list of devices can hide and reorder some
        machine = mock_rocm(
            gpu, force=True, count=count
        )  # whoever started this process asked for the mock
        machine.enter()
        import_memory.install(Layer())  # until the process ends
    outcomes.home = outcomes.Home(shape.package_of(wanted.selector), evidence == "mock")
    rename_variables(shape.prefix_of_spec(wanted.selector))
    reads = EnvironmentReads()
    with reads.recording():
        if os.environ.get(PLUGINS_HIDDEN):
            plugins.hide(wanted.selector.partition(":")[0].partition(".")[0])
        adapter = adapters.adapt(adapters.load(wanted.selector), wanted.selector)
        if evidence == "mock":
            startup.runtime_calls = machine.runtime_calls
            startup.calls_by_now = lambda: machine.runtime_calls
        # From here on the selector is asked, so that what becomes of this process is not its import.
        channel.send(wire.Imported())
        if wanted.prepare:
            # Whatever is wrong here is wrong again, and judged, when a question asks.
            with contextlib.suppress(BaseException):
                adapter.prepare(gpu)
    return adapter, reads


def platform_ready(channel: Channel, wanted: wire.Open) -> adapters.Adapter | None:
    """Open the platform and say so, or say why it cannot be."""
    try:
        adapter, reads = open_platform(channel, wanted)
    except SelectorError as error:
        channel.send(wire.Unusable(str(error)))
    except BaseException as error:  # noqa: BLE001  its import may raise anything, SystemExit too
        channel.send(Observation(crashed(error), failed_import=failed_import(error)))
    else:
        refreshes = wanted.refresh and refresh(adapter)[0]
        unfilled = adapter.unfilled() if isinstance(adapter, adapters.Fills) else ()
        neutral = neutral_modules(wanted.selector)
        channel.send(wire.Ready(reads.values, refreshes, neutral, unfilled))
        return adapter
    return None
