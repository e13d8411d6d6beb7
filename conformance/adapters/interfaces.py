"""What a fork's server reads of its platform and calls on backend classes, and what of it does not fit.

A class that overrides a method with other parameters fails at such a call, or takes an argument for another
one (vllm-project/vllm#26029). A method that one platform lacks fails when the server calls it there
(vllm-project/vllm#36845). Code that does not run on this machine is left out. Runs in the worker.
"""

from __future__ import annotations

import ast
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.adapters.live_code import has, holder_of, live

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

# What variables and attributes are called that hold the one or the other.
PLATFORM = frozenset({"current_platform"})
BACKEND = frozenset({"attn_backend", "backend", "backend_cls", "attn_backend_cls"})


@dataclass(frozen=True)
class Use:
    """An attribute that is read, or a method that is called.

    Args:
        place: module and line.
        name: of the attribute.
        positional: how many arguments a call gives by position; None if it is not called, or with ``*``.
        named: those that it gives by name.
    """

    place: str
    name: str
    positional: int | None = None
    named: tuple[str, ...] = ()


def trees(sources: Mapping[str, str], held_by: frozenset[str]) -> dict[str, ast.Module]:
    """Return module -> its tree, of the modules that read something of what these names hold."""
    return {
        module: ast.parse(source)
        for module, source in sources.items()
        if any(f"{name}." in source for name in held_by)
    }


def uses(
    modules: Mapping[str, ast.Module],
    held_by: frozenset[str],
    known: Mapping[str, Any],
    *,
    surely: bool = False,
) -> Iterator[Use]:
    """Yield what is read of, or called on, what these names hold.

    Args:
        modules: module -> its tree.
        held_by: names of variables and attributes.
        known: names, each with the object that it holds, by which tests in the code are answered.
        surely: only in code that runs whenever its function does.
    """
    for module, tree in modules.items():
        called = set()
        for node in live(tree, known, surely=surely):
            if isinstance(node, ast.Call) and _read_of(node.func, held_by):
                called.add(node.func)
                assert isinstance(node.func, ast.Attribute)
                yield _call(node, f"{module}:{node.lineno}", node.func.attr)
            elif _read_of(node, held_by) and node not in called:
                assert isinstance(node, ast.Attribute)
                yield Use(f"{module}:{node.lineno}", node.attr)


def _read_of(node: ast.AST, held_by: frozenset[str]) -> bool:
    return (
        isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Load)
        and holder_of(node.value) in held_by
    )


def _call(node: ast.Call, place: str, name: str) -> Use:
    named = tuple(keyword.arg for keyword in node.keywords if keyword.arg)
    if len(named) < len(node.keywords) or any(isinstance(one, ast.Starred) for one in node.args):
        return Use(place, name)
    return Use(place, name, len(node.args), named)


def misfits(
    made: Iterable[Use], owner: Any, expected: Callable[[str], bool]
) -> Iterator[tuple[Use, str]]:
    """Yield what an object lacks or does not take, each with the reason.

    Args:
        made: what the server reads and calls.
        owner: a class of a backend or of a platform, or an instance.
        expected: whether an attribute that the object lacks should be there.
    """
    cls = owner if isinstance(owner, type) else type(owner)
    for use in made:
        if not has(owner, use.name):
            if expected(use.name):
                yield use, "it has no such attribute"
            continue
        defining = [base for base in cls.__mro__ if use.name in vars(base)]
        if use.positional is None or not defining or defining == [cls.__mro__[-2]]:
            continue  # not called, or nothing that anybody but the root itself promises
        own, root = (_bound(base, use.name) for base in (defining[0], defining[-1]))
        if own is None or root is None or (len(defining) > 1 and _refuses(root, use)):
            continue
        if reason := _refuses(own, use):
            yield use, reason
        elif shifted := _shifted(own, root, use):
            yield (
                use,
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


def _refuses(signature: inspect.Signature, use: Use) -> str:
    """Return why a signature does not take a call; "" if it does."""
    try:
        signature.bind(*[None] * (use.positional or 0), **dict.fromkeys(use.named))
    except TypeError as error:
        return str(error)
    return ""


def _shifted(
    own: inspect.Signature, root: inspect.Signature, use: Use
) -> tuple[int, str, str] | None:
    """Return (number, own name, root's name) of the first argument that means something else."""
    pairs = zip(own.parameters.values(), root.parameters.values(), strict=False)
    for number, (ours, theirs) in enumerate(pairs, start=1):
        if number > (use.positional or 0) or ours.kind is ours.VAR_POSITIONAL:
            return None
        if ours.name.lstrip("_") != theirs.name.lstrip("_") and ours.name in root.parameters:
            return number, ours.name, theirs.name
    return None


def other_ways(source: str, way: str, like: str) -> Iterator[tuple[int, str]]:
    """Yield (line, words) of methods that do not take what their class's other way takes.

    Of an operation that each platform computes its own way, such as vLLM's CustomOp, callers know one signature.

    Args:
        source: of a module.
        way, like: the names of the methods, such as "forward_hip" and "forward_cuda".
    """
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.ClassDef):
            continue
        own = {one.name: one for one in node.body if isinstance(one, ast.FunctionDef)}
        if way not in own or like not in own or own[way].args.kwarg or own[way].args.vararg:
            continue
        takes, asked = (_parameters(own[name]) for name in (way, like))
        if lacking := [name for name in asked if name not in takes]:
            words = f"{node.name}.{way}: it lacks {', '.join(lacking)}, which {like} takes"
            yield own[way].lineno, words


def _parameters(function: ast.FunctionDef) -> list[str]:
    arguments = function.args
    return [one.arg for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]


def defined(source: str) -> set[str]:
    """Return the names that the classes of a module define."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef):
            for one in node.body:
                targets = [getattr(one, "target", None), *getattr(one, "targets", [])]
                found |= {target.id for target in targets if isinstance(target, ast.Name)}
                found |= {one.name} if isinstance(one, ast.FunctionDef) else set()
    return found
