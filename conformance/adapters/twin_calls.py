"""Twin calls: two calls of one function in one module, of which one has forgotten what the other heeds.

Two kinds are looked for, both in the source alone:

- an argument is a choice by a switch in one call, and in the other always what the switch chooses when it
  is off (or on);
- the calls are alike except for one argument by keyword, which one of them lacks, so that the default of a
  function of this module holds there.

Runs in the worker.
"""

from __future__ import annotations

import ast
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef
_ALIKE = 4  # arguments that calls must have in common, for one that is missing to be forgotten


@dataclass(frozen=True)
class Twin:
    """A call that forgets something.

    Args:
        callee: the function.
        argument: the keyword.
        line: of the call that forgets.
        other: line of the call that heeds.
        words: what is forgotten.
    """

    callee: str
    argument: str
    line: int
    other: int
    words: str


def twins(source: str) -> Iterator[Twin]:
    """Yield the calls of a module's source that forget what a twin heeds."""
    calls: dict[str, list[ast.Call]] = {}
    tree = ast.parse(source)
    own = {node.name: _defaults(node) for node in ast.walk(tree) if isinstance(node, _FUNCTIONS)}
    seen: set[tuple[int, str]] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and len(node.keywords) + len(node.args) >= 2:
            calls.setdefault(ast.unparse(node.func), []).append(node)
    for callee, found in calls.items():
        for first, second in itertools.permutations(found, 2):
            defaults = own.get(callee.removeprefix("self.").removeprefix("cls."), frozenset())
            for twin in (
                *_literal(callee, first, second),
                *_lacking(callee, first, second, defaults),
            ):
                if (twin.line, twin.argument) not in seen:
                    seen.add((twin.line, twin.argument))
                    yield twin


def _defaults(function: ast.FunctionDef | ast.AsyncFunctionDef) -> frozenset[str]:
    """Return the parameters by keyword that a function has a constant default for."""
    arguments = function.args
    pairs = [
        *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
        *zip(reversed(arguments.args), reversed(arguments.defaults), strict=False),
    ]
    return frozenset(one.arg for one, default in pairs if isinstance(default, ast.Constant))


def _keywords(call: ast.Call) -> dict[str, ast.expr]:
    return {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}


def _literal(callee: str, heeds: ast.Call, forgets: ast.Call) -> Iterator[Twin]:
    own = _keywords(forgets)
    for name, value in _keywords(heeds).items():
        if not isinstance(value, ast.IfExp) or not isinstance(own.get(name), ast.Constant):
            continue
        switch = value.test
        if not any(isinstance(node, ast.Call | ast.Attribute) for node in ast.walk(switch)):
            continue
        branches = {ast.dump(value.body), ast.dump(value.orelse)}
        if ast.dump(own[name]) in branches:
            words = (
                f"{name}={ast.unparse(own[name])}, where the other call chooses by"
                f" {ast.unparse(switch)}"
            )
            yield Twin(callee, name, forgets.lineno, heeds.lineno, words)


def _lacking(
    callee: str, heeds: ast.Call, forgets: ast.Call, defaults: frozenset[str]
) -> Iterator[Twin]:
    ours, theirs = _keywords(heeds), _keywords(forgets)
    lacking = ours.keys() - theirs.keys()
    if len(lacking) != 1 or theirs.keys() - ours.keys() or len(heeds.args) != len(forgets.args):
        return
    if len(theirs) + len(forgets.args) < _ALIKE:
        return
    (name,) = lacking
    if name not in defaults:
        return
    value = ours[name]
    alike = sum(ast.dump(ours[key]) == ast.dump(theirs[key]) for key in theirs)
    alike += sum(ast.dump(a) == ast.dump(b) for a, b in zip(heeds.args, forgets.args, strict=True))
    if alike < _ALIKE - 1 or not isinstance(value, ast.Name) or value.id != name:
        return
    words = f"lacks {name}, which the other call passes"
    yield Twin(callee, name, forgets.lineno, heeds.lineno, words)
