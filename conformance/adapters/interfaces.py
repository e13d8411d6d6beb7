"""Calls that a fork's server makes to its platform and to backend classes, and which of them do not fit.

A server calls both by the signature of their common root. A class that overrides a method with other parameters
fails at such a call, or takes an argument for another one (vllm-project/vllm#26029). Runs in the worker.
"""

from __future__ import annotations

import ast
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

# What variables and attributes are called that hold the one or the other.
PLATFORM = frozenset({"current_platform"})
BACKEND = frozenset({"attn_backend", "backend", "backend_cls", "attn_backend_cls"})


@dataclass(frozen=True)
class PlatformCall:
    """A call of a method, by what it is called on.

    Args:
        place: module and line.
        method: its name.
        positional: how many arguments it gives by position.
        named: those that it gives by name.
    """

    place: str
    method: str
    positional: int
    named: tuple[str, ...]


def calls(sources: Mapping[str, str], held_by: frozenset[str]) -> Iterator[PlatformCall]:
    """Yield the calls of methods on what these names hold; calls with ``*`` or ``**`` are left out.

    Args:
        sources: module -> its source.
        held_by: names of variables and attributes.
    """
    for module, source in sources.items():
        if not any(f"{name}." in source for name in held_by):
            continue
        for node in ast.walk(ast.parse(source)):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            holder = node.func.value
            if getattr(holder, "attr", getattr(holder, "id", "")) not in held_by:
                continue
            if any(isinstance(one, ast.Starred) for one in node.args):
                continue
            named = tuple(keyword.arg for keyword in node.keywords if keyword.arg)
            if len(named) == len(node.keywords):
                place = f"{module}:{node.lineno}"
                yield PlatformCall(place, node.func.attr, len(node.args), named)


def misfits(made: Iterable[PlatformCall], owner: Any) -> Iterator[tuple[PlatformCall, str]]:
    """Yield the calls that a class does not take although its root does, each with the reason.

    Args:
        made: calls.
        owner: a class of a backend or of a platform, or an instance.
    """
    cls = owner if isinstance(owner, type) else type(owner)
    for call in made:
        defining = [base for base in cls.__mro__ if call.method in vars(base)]
        if len(defining) < 2:
            continue  # not overridden, or nothing that a root promises
        own, root = (_bound(base, call.method) for base in (defining[0], defining[-1]))
        if own is None or root is None or _refuses(root, call):
            continue
        if reason := _refuses(own, call):
            yield call, reason
        elif shifted := _shifted(own, root, call):
            yield (
                call,
                f"it takes argument {shifted[0]} for {shifted[1]}, and its root for {shifted[2]}",
            )


def _bound(base: type, method: str) -> inspect.Signature | None:
    """Return the signature of a method without self or cls; None if it cannot be read."""
    raw = vars(base)[method]
    function = inspect.unwrap(getattr(raw, "__func__", raw))
    if not inspect.isfunction(function):
        return None
    signature = inspect.signature(function)
    if isinstance(raw, staticmethod):
        return signature
    return signature.replace(parameters=list(signature.parameters.values())[1:])


def _refuses(signature: inspect.Signature, call: PlatformCall) -> str:
    """Return why a signature does not take a call; "" if it does."""
    try:
        signature.bind(*[None] * call.positional, **dict.fromkeys(call.named))
    except TypeError as error:
        return str(error)
    return ""


def _shifted(
    own: inspect.Signature, root: inspect.Signature, call: PlatformCall
) -> tuple[int, str, str] | None:
    """Return (number, own name, root's name) of the first argument that means something else."""
    pairs = zip(own.parameters.values(), root.parameters.values(), strict=False)
    for number, (ours, theirs) in enumerate(pairs, start=1):
        if number > call.positional or ours.kind is ours.VAR_POSITIONAL:
            return None
        if ours.name.lstrip("_") != theirs.name.lstrip("_") and ours.name in root.parameters:
            return number, ours.name, theirs.name
    return None
