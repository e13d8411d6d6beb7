"""Plugins of a fork: what it answers with those that are installed switched off.

vLLM loads what other packages name in its groups of entry points (``vllm.platform_plugins``,
``vllm.general_plugins``), unless VLLM_PLUGINS leaves it out. A plugin may have a switch of its own, such as
ATOM_DISABLE_VLLM_PLUGIN of ROCm/ATOM. A fork answers with either as if the package were not installed.
"""

from __future__ import annotations

import importlib.metadata
import re
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.adapters.capability import REQUESTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from importlib.metadata import EntryPoint

    from pytest_rocm_attn.request import Request

_GROUPS = ("platform_plugins", "general_plugins")
_SWITCH = re.compile(r"""["'](\w*DISABLE\w*PLUGIN\w*|\w*PLUGIN\w*DISABLE\w*)["']""")


def installed(top: str) -> list[EntryPoint]:
    """Return the plugins of a fork that other packages bring, by its top-level package."""
    groups = [f"{top}.{group}" for group in _GROUPS]
    found = [one for group in groups for one in importlib.metadata.entry_points(group=group)]
    return [one for one in found if _is_foreign(one, top)]


def _is_foreign(plugin: EntryPoint, top: str) -> bool:
    return plugin.module.partition(".")[0] != top


def hide(top: str) -> None:
    """Have no plugins of a fork from here on but its own."""
    real: Any = importlib.metadata.entry_points

    def others(**parameters: Any) -> Any:
        found = real(**parameters)
        if str(parameters.get("group", "")).partition(".")[0] != top:
            return found
        return type(found)(one for one in found if not _is_foreign(one, top))

    importlib.metadata.entry_points = others


def switches(top: str) -> list[str]:
    """Return the variables by which plugins of a fork can be disabled, by the names in their sources."""
    found: dict[str, None] = {}
    for plugin in installed(top):
        for file in (plugin.dist.files if plugin.dist is not None else None) or ():
            if file.suffix == ".py":
                found |= dict.fromkeys(_SWITCH.findall(file.read_text("utf-8")))
    return list(found)


def answers(platform: object, select: Callable[[Request], object]) -> Iterator[tuple[str, str]]:
    """Yield what is asked and what is answered, in words.

    Args:
        platform: the one that the fork has found.
        select: asks the selector.
    """
    yield "the platform", f"{type(platform).__module__}.{type(platform).__qualname__}"
    for words, request in REQUESTS.items():
        try:
            yield words, str(select(request))
        except Exception as error:  # noqa: BLE001  foreign code: what it raises is its answer
            yield words, f"{type(error).__name__}: {error}"
