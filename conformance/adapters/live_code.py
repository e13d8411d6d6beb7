"""Which code may run on a machine, as far as the tests in it ask the platform or a backend's class.

``if current_platform.is_cuda():`` hides what follows from AMD GPUs, and ``hasattr(backend, "name")`` hides
a method from the classes that lack it. Such tests are answered by the real objects. Runs in the worker.
"""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_QUESTION = re.compile(r"(is|has|supports)_")
_ENDS = ast.Return | ast.Raise | ast.Continue | ast.Break
_TRIED = {"AttributeError", "TypeError", "Exception", "BaseException"}


def live(node: ast.AST, known: Mapping[str, Any], *, surely: bool = False) -> list[ast.AST]:
    """Return the nodes that may run; code that catches an attribute which is not there is left out.

    Args:
        node: the code.
        known: names of variables and attributes, each with the object that it holds.
        surely: leave out what hangs on a test without an answer as well: what remains runs whenever its
            function does and refuses nothing.
    """
    found: list[ast.AST] = []
    _add(node, known, surely, found)
    return found


def _add(node: ast.AST, known: Mapping[str, Any], surely: bool, found: list[ast.AST]) -> None:
    found.append(node)
    if isinstance(node, ast.If | ast.IfExp):
        _add(node.test, known, surely, found)
        for branch in _taken(node, known, surely):
            _add_body(branch, known, surely, found)
    elif isinstance(node, ast.BoolOp):
        for value in node.values:
            _add(value, known, surely, found)
            said = answer(value, known)
            if said is isinstance(node.op, ast.Or) or (surely and said is None):
                return
    elif isinstance(node, ast.Try) and any(_catches(one) for one in node.handlers):
        _add_body([*node.handlers, *node.orelse, *node.finalbody], known, surely, found)
    elif isinstance(node, ast.For | ast.While) and surely:
        return
    else:
        for name in node._fields:
            _add_body(getattr(node, name, None), known, surely, found)


def _taken(node: ast.If | ast.IfExp, known: Mapping[str, Any], surely: bool) -> list[Any]:
    """Return the branches that may run, or that surely do."""
    said = answer(node.test, known)
    if said is None:
        return [] if surely else [node.body, node.orelse]
    return [node.body if said else node.orelse]


def _add_body(value: Any, known: Mapping[str, Any], surely: bool, found: list[ast.AST]) -> None:
    """Add the nodes of a field; of statements, those before the first that ends the block, or may end it."""
    for one in value if isinstance(value, list) else (value,):
        if not isinstance(one, ast.AST) or isinstance(one, ast.expr_context | ast.operator):
            continue
        _add(one, known, surely, found)
        if isinstance(one, ast.If):
            branches = _taken(one, known, surely=False)
            ends = [branch[-1] for branch in branches if branch and isinstance(branch[-1], _ENDS)]
            # What is refused does not count: of what is not, the code that follows runs.
            leaves = any(not isinstance(end, ast.Raise) for end in ends)
            if (ends and len(branches) == 1) or (leaves and surely):
                return
        if isinstance(one, _ENDS):
            return


def _catches(handler: ast.ExceptHandler) -> bool:
    kind = handler.type
    kinds = kind.elts if isinstance(kind, ast.Tuple) else [kind]
    return any(one is None or getattr(one, "id", "") in _TRIED for one in kinds)


def answer(test: ast.expr, known: Mapping[str, Any]) -> bool | None:
    """Return what a test answers on this machine; None if it asks something else."""
    match test:
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            said = answer(operand, known)
            return None if said is None else not said
        case ast.BoolOp(op=op, values=values):
            ends = isinstance(op, ast.Or)
            answers = [answer(one, known) for one in values]
            if ends in answers:
                return ends
            return None if None in answers else not ends
        case ast.Call(func=ast.Name(id="hasattr"), args=[holder, ast.Constant(value=str(name))]):
            owner = _held(holder, known)
            return None if owner is None else has(owner, name)
        case ast.Call(func=ast.Attribute(value=holder, attr=name), args=given, keywords=[]):
            owner = _held(holder, known)
            if owner is None or not _QUESTION.match(name):
                return None
            return _asked(owner, name, given)
        case ast.Compare(left=holder, ops=[operator], comparators=[ast.Constant(value=None)]):
            if _held(holder, known) is None:
                return None
            return (
                isinstance(operator, ast.IsNot)
                if isinstance(operator, ast.Is | ast.IsNot)
                else None
            )
        case ast.Attribute() | ast.Name():
            said = _held(test, known)
            return said if isinstance(said, bool) else None
    return None


def _asked(owner: Any, name: str, given: Iterable[ast.expr]) -> bool | None:
    try:
        said = getattr(owner, name)(*[ast.literal_eval(one) for one in given])
    except Exception:  # noqa: BLE001  foreign code, or arguments that only the server has
        return None
    return said if isinstance(said, bool) else None


def holder_of(node: ast.AST) -> str:
    """Return the name of the variable or attribute that a node reads; "" for anything else."""
    return str(getattr(node, "attr", getattr(node, "id", "")))


def _held(node: ast.AST, known: Mapping[str, Any]) -> Any:
    return known.get(holder_of(node))


def has(owner: Any, name: str) -> bool:
    """Whether an object has an attribute: vLLM's platforms answer None for one that they lack."""
    return getattr(owner, name, None) is not None or name in _names(owner)


def _names(owner: Any) -> set[str]:
    cls = owner if isinstance(owner, type) else type(owner)
    annotated = [vars(base).get("__annotations__", {}) for base in cls.__mro__]
    return set(dir(owner)).union(*annotated)
