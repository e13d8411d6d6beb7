"""Opening a platform: the mock, then the import of the selector on it."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance import adapters
from pytest_rocm_attn.conformance.isolation.inside import startup
from pytest_rocm_attn.conformance.isolation.inside.environment import (
    EnvironmentReads,
    neutral_environment,
    set_environment,
)
from pytest_rocm_attn.conformance.isolation.inside.neutral import neutral_modules
from pytest_rocm_attn.conformance.isolation.inside.outcomes import crashed, failed_import, refresh
from pytest_rocm_attn.errors import SelectorError
from pytest_rocm_attn.gpu import Aiter, Amdsmi, Gpu

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_rocm_attn.conformance.isolation.inside.channel import Channel


def open_platform(
    channel: Channel, message: Mapping[str, Any]
) -> tuple[adapters.Adapter, EnvironmentReads]:
    """Enter the mocked platform, import the selector, and find its adapter."""
    gpu = Gpu(message["gfx"], Aiter(message["aiter"]), Amdsmi(message["amdsmi"]))
    evidence = message["evidence"]
    neutral = neutral_environment(os.environ, mocked=evidence != "real")
    set_environment(neutral | message["environ"])
    if evidence == "mock":
        from pytest_rocm_attn.mock import mock_rocm

        machine = mock_rocm(gpu, force=True)  # whoever started this process asked for the mock
        machine.enter()
    reads = EnvironmentReads()
    with reads.recording():
        adapter = adapters.adapt(adapters.load(message["selector"]), message["selector"])
        if evidence == "mock":
            startup.runtime_calls = machine.runtime_calls
        # From here on the selector is asked, so that what becomes of this process is not its import.
        channel.send(imported=True)
        if message["prepare"]:
            # Whatever is wrong here is wrong again, and judged, when a question asks.
            with contextlib.suppress(BaseException):
                adapter.prepare(gpu)
    return adapter, reads


def platform_ready(channel: Channel, message: Mapping[str, Any]) -> adapters.Adapter | None:
    """Open the platform and say so, or say why it cannot be."""
    try:
        adapter, reads = open_platform(channel, message)
    except SelectorError as error:
        channel.send(unusable=str(error))
    except BaseException as error:  # noqa: BLE001  its import may raise anything, SystemExit too
        outcome = crashed(error)
        channel.send(
            failed=outcome.traceback, error=outcome.error, failed_import=failed_import(error)
        )
    else:
        channel.send(
            ready=True,
            reads=reads.values,
            refreshes=message["refresh"] and refresh(adapter)[0],
            neutral=neutral_modules(message["selector"]),
        )
        return adapter
    return None
