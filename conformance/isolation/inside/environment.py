"""The environment of a worker: made again for each question, and watched while a selector is imported."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.adapters.shape import VLLM
from pytest_rocm_attn.flags import VARIABLES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# What a user's shell may hold that would change a row's meaning: every declared variable, and the
# lists of visible devices, which would hide the mocked GPU.
DEVICE_LISTS = {"HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"}
# With this variable a worker hides the plugins of the fork before it imports it.
PLUGINS_HIDDEN = "ROCM_ATTN_WITHOUT_PLUGINS"
# What decides about a worker before the selector is imported, so that no refresh follows it.
NOT_REFRESHED = DEVICE_LISTS | {PLUGINS_HIDDEN}


class EnvironmentReads:
    """Which environment variables were read through os.environ, and what each read gave."""

    def __init__(self) -> None:
        self.values: dict[str, str | None] = {}

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record while the block runs. Iterating over the environment reads all declared ones.

        Every other way to look (``in``, ``get``, ``os.getenv``) ends in these two methods.
        """
        kind: Any = type(os.environ)  # its methods are replaced for the while
        get, iterate = kind.__getitem__, kind.__iter__

        def recorded_get(environ: Any, name: str) -> str:
            try:
                value: str = get(environ, name)
            except KeyError:
                self.values.setdefault(name, None)
                raise
            self.values.setdefault(name, value)
            return value

        def recorded_iterate(environ: Any) -> Iterator[str]:
            for name in VARIABLES:
                environ.get(name)
            names: Iterator[str] = iterate(environ)
            return names

        kind.__getitem__ = recorded_get
        kind.__iter__ = recorded_iterate
        try:
            yield
        finally:
            kind.__getitem__ = get
            kind.__iter__ = iterate


def neutral_environment(keep: Mapping[str, str], *, mocked: bool = True) -> dict[str, str]:
    """Return an environment without any variable that a row may set.

    The lists of visible devices stay where the GPUs are real.
    """
    dropped = VARIABLES.keys() | (DEVICE_LISTS if mocked else set())
    return {
        name: value
        for name, value in keep.items()
        if name not in dropped and not name.startswith("VLLM_ROCM_")
    }


def set_environment(wanted: Mapping[str, str]) -> None:
    """Make os.environ equal to wanted."""
    for name in set(os.environ) - set(wanted):
        del os.environ[name]
    for name, value in wanted.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


def rename_variables(prefix: str) -> None:
    """Let a variable of that prefix have the value of vLLM's of the same name, until the process ends.

    Rows set vLLM's variables; a fork that renamed all of them reads its own. One that is set itself keeps
    its value.
    """
    if prefix == VLLM:
        return
    kind: Any = type(os.environ)
    get = kind.__getitem__

    def get_renamed(environ: Any, name: str) -> str:
        try:
            value: str = get(environ, name)
        except KeyError:
            if not str(name).startswith(prefix):
                raise
            # Through the class, so that who records reads sees vLLM's name.
            value = environ[VLLM + name.removeprefix(prefix)]
        return value

    kind.__getitem__ = get_renamed
