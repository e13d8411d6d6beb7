"""A fork's predicates, and what each answers on the present GPU.

A predicate is a function of the platform's module, of the module of AITER's operations or of a backend's, that
says by its name and its annotation that it answers yes or no. Those whose parameters are known are asked
with plain values. Runs in the worker, under the mock.
"""

from __future__ import annotations

import inspect
import itertools
import re
import sys
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.adapters import predicates

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_NAMED = re.compile(r"^_*(is|on|use|uses|has|supports|can)_|_(supported|enabled|available)$")
_FEW = 2  # values of each parameter


def _values() -> dict[str, tuple[Any, ...]]:
    """Return plain values of the parameters that predicates have."""
    return predicates.plain_values() | {
        "num_heads": (8, 16),
        "max_qo_len": (1, 2),
        "max_seqlen_qo": (1, 2),
        "kv_cache_dtype": ("auto", "fp8"),
        "use_mla": (False, True),
        "has_sink": (False, True),
    }


def table(modules: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return predicate -> arguments, in words -> answer: "True", "False", or what was raised.

    Args:
        modules: names of imported modules, whose own functions and classes are looked at.
    """
    values = _values()
    found = {}
    for name, predicate in _predicates(modules):
        asked = list(inspect.signature(predicate).parameters.values())
        if any(
            one.name not in values and one.default is one.empty and one.kind is not one.VAR_KEYWORD
            for one in asked
        ):
            continue
        names = [one.name for one in asked if one.name in values]
        answers = {}
        for chosen in itertools.product(*(values[one][:_FEW] for one in names)):
            arguments = dict(zip(names, chosen, strict=True))
            words = ", ".join(f"{key}={value}" for key, value in arguments.items())
            answers[words] = _answer(predicate, arguments)
        found[name] = answers
    return found


def _answer(predicate: Callable[..., Any], arguments: dict[str, Any]) -> str:
    try:
        answer = predicate(**arguments)
    except Exception as error:  # noqa: BLE001  foreign code: what it raises is its answer
        return type(error).__name__
    return str(answer) if isinstance(answer, bool) else type(answer).__name__


def _predicates(modules: Iterable[str]) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield (qualified name, callable that needs no instance) of each predicate."""
    for module in map(sys.modules.get, modules):
        if module is None:
            continue
        owners: list[tuple[str, Any]] = [(module.__name__, module)]
        for value in list(vars(module).values()):
            if isinstance(value, type) and value.__module__ == module.__name__:
                owners.append((f"{module.__name__}.{value.__qualname__}", value))
        for prefix, owner in owners:
            for name, raw in list(vars(owner).items()):
                if not _NAMED.search(name):
                    continue
                bound = isinstance(raw, classmethod | staticmethod)
                if isinstance(owner, type) and not bound:
                    continue  # needs an instance
                value = getattr(owner, name)
                function = inspect.unwrap(getattr(value, "__func__", value))
                if not inspect.isfunction(function):
                    continue
                if not isinstance(owner, type) and function.__module__ != module.__name__:
                    continue
                if inspect.signature(function).return_annotation in (bool, "bool"):
                    yield f"{prefix}.{name}", value
