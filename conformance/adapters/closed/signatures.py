"""The real signatures of closed kernels, as signatures.json has them (tools/record_closed_kernels.py)."""

from __future__ import annotations

import ast
import functools
import inspect
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_FILE = Path(__file__).parent / "signatures.json"


@functools.cache
def _data() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_FILE.read_text("utf-8"))
    return found


def _numbers(release: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", release)[:3]]


@dataclass(frozen=True)
class Aiter:
    """The AITER that a release is built with.

    Attributes:
        version: the recorded version whose signatures hold; the newest one if that is not recorded.
        exact: the release's own image builds this version.
        pinned: the version that the image builds; "" if the release is not known.
    """

    version: str
    exact: bool
    pinned: str

    def at_least(self, version: str) -> bool:
        """Whether it is that recorded version or a later one."""
        order = _data()["versions"]
        return bool(order.index(self.version) >= order.index(version))


def aiter_of(release: str) -> Aiter:
    """Return the AITER of a release of vLLM: by its image, or by that of the release before it."""
    versions, pins = _data()["versions"], _data()["pins"]
    earlier = [one for one in pins if _numbers(release) and _numbers(one) <= _numbers(release)]
    near = max(earlier, key=_numbers, default="")
    pinned = pins.get(near, "")
    if pinned in versions:
        return Aiter(pinned, near == release, pinned)
    return Aiter(versions[-1], exact=False, pinned=pinned)


def nearest(installed: str) -> Aiter:
    """Return the last recorded version that is not after an installed one; the newest one for ""."""
    versions = _data()["versions"]
    earlier = [
        one for one in versions if one.startswith("v") and _numbers(one) <= _numbers(installed)
    ]
    found = max(earlier, key=_numbers, default=versions[0]) if installed else versions[-1]
    return Aiter(found, exact=found.removeprefix("v") == installed, pinned=found)


@functools.cache
def function(name: str, version: str) -> inspect.Signature | None:
    """Return the signature that a function of AITER has in a recorded version, or None.

    Args:
        name: module and function, as callers import it.
        version: of AITER.
    """
    order = _data()["versions"]
    held = ""
    for since, said in _data()["functions"].get(name, ()):
        if order.index(since) <= order.index(version):
            held = said
    return parsed(held) if held else None


def schemas() -> dict[str, tuple[str, ...]]:
    """Return operator, such as "_C::merge_attn_states" -> its schemas in all releases, newest first."""
    return {
        name: tuple(said for _, said in reversed(entries) if said)
        for name, entries in _data()["operators"].items()
    }


def parsed(text: str) -> inspect.Signature:
    """Return a signature from the text of its parameters; a default that is not a literal stays text."""
    (definition,) = ast.parse(f"def function({text}): ...").body
    assert isinstance(definition, ast.FunctionDef)
    given = definition.args
    found = []
    positional = [*given.posonlyargs, *given.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(given.defaults))
    for one, default in zip(positional, [*defaults, *given.defaults], strict=True):
        found.append(_parameter(one.arg, inspect.Parameter.POSITIONAL_OR_KEYWORD, default))
    if given.vararg:
        found.append(inspect.Parameter(given.vararg.arg, inspect.Parameter.VAR_POSITIONAL))
    for one, own in zip(given.kwonlyargs, given.kw_defaults, strict=True):
        found.append(_parameter(one.arg, inspect.Parameter.KEYWORD_ONLY, own))
    if given.kwarg:
        found.append(inspect.Parameter(given.kwarg.arg, inspect.Parameter.VAR_KEYWORD))
    return inspect.Signature(found)


def _parameter(name: str, kind: Any, default: ast.expr | None) -> inspect.Parameter:
    if default is None:
        return inspect.Parameter(name, kind)
    try:
        value = ast.literal_eval(default)
    except ValueError:
        value = ast.unparse(default)
    return inspect.Parameter(name, kind, default=value)
