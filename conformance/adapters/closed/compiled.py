"""AITER's compiled functions, when AITER itself is imported: its host code runs, and what it chooses is recorded.

AITER declares such a function in Python, and builds or loads its code in the first call. Here the call is noted
and goes no further.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import sys
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.adapters.closed.calls import KernelCall, UnknownKernelError
from pytest_rocm_attn.conformance.adapters.closed.kernels import FACTS, RETURNS
from pytest_rocm_attn.conformance.adapters.closed.signatures import parsed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_DECORATOR = "compile_ops"
_TEMPLATES = "csrc"  # the package of functions that build HIP code from templates


@contextlib.contextmanager
def recorded() -> Iterator[list[KernelCall]]:
    """Record the calls of AITER's compiled functions while the block runs.

    A call whose result is not known raises UnknownKernelError, after it was recorded.
    """
    calls: list[KernelCall] = []
    modules = _aiters_modules()
    found = {
        id(function): _recorder(name, signature, calls)
        for name, function, signature in _compiled(modules)
    }
    kept: list[tuple[ModuleType, str, Any]] = []
    try:
        for module in modules:
            for name, value in list(vars(module).items()):
                if id(value) in found:
                    kept.append((module, name, value))
                    setattr(module, name, found[id(value)])
        yield calls
    finally:
        for module, name, value in kept:
            setattr(module, name, value)


def _aiters_modules() -> list[ModuleType]:
    return [
        module
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] in ("aiter", _TEMPLATES) and isinstance(module, ModuleType)
    ]


def _compiled(modules: list[ModuleType]) -> Iterator[tuple[str, Any, inspect.Signature]]:
    """Yield the name, the function and the signature of each function whose code is compiled."""
    for module in modules:
        if module.__name__.partition(".")[0] == _TEMPLATES:
            for name, value in vars(module).items():
                if isinstance(value, FunctionType) and value.__module__ == module.__name__:
                    yield name, value, inspect.signature(value)
            continue
        try:
            source = inspect.getsource(module)
        except (OSError, TypeError):  # a module without source
            continue
        if f"@{_DECORATOR}" not in source:
            continue
        for node in ast.parse(source).body:
            if isinstance(node, ast.FunctionDef) and any(
                isinstance(one, ast.Call) and getattr(one.func, "id", "") == _DECORATOR
                for one in node.decorator_list
            ):
                signature = parsed(ast.unparse(node.args))
                # Later versions have the compiled function as _pa_fwd_asm, behind one in Python.
                yield node.name.lstrip("_"), vars(module).get(node.name), signature


def _recorder(
    name: str, signature: inspect.Signature, calls: list[KernelCall]
) -> Callable[..., Any]:
    def record(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        facts, returns = FACTS.get(name), RETURNS.get(name)
        calls.append(KernelCall(name, facts(bound.arguments) if facts else {}))
        if returns is None:
            raise UnknownKernelError(f"the result of {name} is not known")
        return returns(bound.arguments)

    return record
