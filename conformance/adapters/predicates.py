"""Predicates that decide between two kernels, and what of a request they do not look at.

A function that asks a predicate and then runs one kernel or another, such as ROCM_ATTN's choice of
the custom paged attention kernel, must tell the predicate of whatever only one of the two kernels is
given: the other would compute as if it were not there. Runs in the worker.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import sys
from dataclasses import dataclass
from types import FunctionType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import ModuleType

# What of a request a kernel computes with, by the names that kernel wrappers give it.
ATTRIBUTES = ("sinks", "alibi_slopes", "sliding_window", "logits_soft_cap", "softcap")

# What such predicates are asked with; a function with a few of these is one.
_PARAMETERS = {
    *("qtype", "dtype", "head_size", "block_size", "gqa_ratio", "num_queries_per_kv"),
    *("max_seq_len", "sliding_window", "kv_cache_dtype", "alibi_slopes", "sinks"),
}
_ENOUGH = 3


@dataclass(frozen=True)
class Choice:
    """One place that asks a predicate and chooses a kernel by it.

    Attributes:
        module, function: the place.
        passed: which attributes the predicate receives there, by the names of its parameters.
        needed: those that one of the two branches is given, and the other is not.
    """

    module: str
    function: str
    passed: frozenset[str]
    needed: frozenset[str]


def candidates(module: ModuleType) -> dict[str, Callable[..., bool]]:
    """Return the functions of a platform's module that have the parameters of such a predicate."""
    found = {}
    for name, value in vars(module).items():
        if callable(value) and isinstance(inspect.unwrap(value), FunctionType):
            parameters = set(inspect.signature(value).parameters)
            if len(parameters & _PARAMETERS) >= _ENOUGH:
                found[name] = value
    return found


def unheeded(predicate: Callable[..., bool], top: str) -> dict[str, Any]:
    """Return what a predicate should look at and does not.

    Args:
        predicate: a function of the fork's platform module.
        top: the fork's top-level package; its imported modules are searched for callers.

    Returns: "callers": the places that were found; "taken": whether it is true of any plain layer
        here; "unheeded": in words, one text for each attribute and place.
    """
    parameters = list(inspect.signature(predicate).parameters)
    places = list(choices(predicate.__name__, parameters, top))
    plain = _true_for(predicate, parameters)
    found = []
    for choice in places:
        for name in sorted(choice.needed):
            if name not in choice.passed:
                why = "does not receive it"
            elif plain is not None and _ask(predicate, plain | {name: _unusual(name)}):
                why = "is true with it all the same"
            else:
                continue
            found.append(
                f"{predicate.__name__} {why}: {name}, which {choice.module}.{choice.function} passes to"
                " only one of the kernels that it chooses between"
            )
    callers = [f"{choice.module}.{choice.function}" for choice in places]
    return {"callers": callers, "taken": plain is not None, "unheeded": found}


# --- asking ---------------------------------------------------------------------------------------


def plain_values() -> dict[str, tuple[Any, ...]]:
    """Return plain values of the parameters that such predicates have; several where it matters."""
    import torch

    dtypes = (torch.bfloat16, torch.float16)
    return {
        "qtype": dtypes,
        "dtype": dtypes,
        "head_size": (128, 64),
        "block_size": (16, 32),
        "gqa_ratio": (8, 4, 1),
        "num_queries_per_kv": (8, 4, 1),
        "max_seq_len": (4096,),
        "sliding_window": (0,),
        "kv_cache_dtype": ("auto",),
        "alibi_slopes": (None,),
        "sinks": (None,),
    }


def _true_for(predicate: Callable[..., bool], parameters: list[str]) -> dict[str, Any] | None:
    """Return plain arguments that a predicate is true for; None if there are none, or unknown."""
    values = plain_values()
    known = inspect.signature(predicate).parameters
    if any(known[name].default is inspect.Parameter.empty for name in known.keys() - values.keys()):
        return None
    asked = [name for name in parameters if name in values]
    for one in itertools.product(*(values[name] for name in asked)):
        arguments = dict(zip(asked, one, strict=True))
        if _ask(predicate, arguments):
            return arguments
    return None


def _ask(predicate: Callable[..., bool], arguments: Mapping[str, Any]) -> bool:
    return bool(predicate(**arguments))


def _unusual(name: str) -> Any:
    import torch

    if name == "sliding_window":
        return 128
    return 30.0 if name in ("logits_soft_cap", "softcap") else torch.zeros(32)


# --- reading --------------------------------------------------------------------------------------


def choices(predicate: str, parameters: list[str], top: str) -> Iterator[Choice]:
    """Yield the places in a package's imported attention modules that choose a kernel by a predicate."""
    for name, module in sorted(sys.modules.items()):
        if not name.startswith(f"{top}.") or "attention" not in name:
            continue
        try:
            source = inspect.getsource(module)
        except (OSError, TypeError):
            continue
        if f"{predicate}(" not in source:
            continue
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield from _choices_in(node, name, predicate, parameters)


def _choices_in(
    function: ast.FunctionDef | ast.AsyncFunctionDef,
    module: str,
    predicate: str,
    parameters: list[str],
) -> Iterator[Choice]:
    answers: dict[str, ast.Call] = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and (call := _call_of(node.value, predicate)):
            answers |= {one.id: call for one in node.targets if isinstance(one, ast.Name)}
    for node in ast.walk(function):
        if not isinstance(node, ast.If) or not node.orelse:
            continue
        call = _call_of(node.test, predicate)
        if call is None and isinstance(node.test, ast.Name):
            call = answers.get(node.test.id)
        if call is not None:
            given = [_names(branch) & set(ATTRIBUTES) for branch in (node.body, node.orelse)]
            yield Choice(
                module, function.name, _passed(call, parameters), frozenset(given[0] ^ given[1])
            )


def _call_of(node: ast.AST, predicate: str) -> ast.Call | None:
    for one in ast.walk(node):
        if isinstance(one, ast.Call):
            name = getattr(one.func, "attr", getattr(one.func, "id", ""))
            if name == predicate:
                return one
    return None


def _passed(call: ast.Call, parameters: list[str]) -> frozenset[str]:
    """Return the parameters of a predicate that a call fills; names that it lacks are left out."""
    named = [keyword.arg for keyword in call.keywords if keyword.arg in parameters]
    return frozenset([*parameters[: len(call.args)], *(name for name in named if name)])


def _names(nodes: list[ast.stmt]) -> set[str]:
    return {one.id for node in nodes for one in ast.walk(node) if isinstance(one, ast.Name)}
