"""Which of a kernel's arguments it writes to, as Triton's IR says."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_FUNCTION = re.compile(r"^\s*tt\.func public @\w+\((.*)\) attributes", re.MULTILINE)
_ID = r"%[\w.$-]+"  # MLIR, "Language Reference", suffix-id
_ARGUMENT = re.compile(rf"({_ID}): ")
_VALUE = re.compile(rf"{_ID}(?:#\d+)?")
_STATEMENT = re.compile(rf"(?:({_ID})(?::(\d+))? = )?\"?([\w.]+)\"?(.*)")
_PAIR = re.compile(rf"({_ID}) = ({_ID}(?:#\d+)?)")
_WRITES = re.compile(
    r"tt\.(?:atomic_\w+|(?:experimental_)?descriptor_(?:store|scatter|reduce)|store)"
)
_READS = re.compile(r"tt\.(?:load|(?:experimental_)?descriptor_(?:load|gather)|atomic_\w+)")
# The address is the first operand; what is added to it points nowhere.
_FIRST = ("tt.addptr", "tt.advance", "tt.make_tensor_ptr", "tt.make_tensor_descriptor")


def written_arguments(ttir: str) -> frozenset[int] | None:
    """Return the positions of a kernel's run-time arguments that it writes through.

    Args:
        ttir: the kernel in Triton's IR, after inlining.

    Returns: None if the IR does not show it, as when an address is itself loaded from memory.
    """
    function = _FUNCTION.search(ttir)
    if function is None:
        return None
    arguments = {name: n for n, name in enumerate(_ARGUMENT.findall(function.group(1)))}
    origins: dict[str, set[str]] = {}
    targets: list[str] = []
    for name, operands in _flow(ttir[function.end() :].splitlines()):
        if name is None:
            targets += operands
        else:
            origins.setdefault(name, set()).update(operands)
    found = [_reached(target, origins) & arguments.keys() for target in targets]
    if not all(found):
        return None
    return frozenset(arguments[name] for names in found for name in names)


def _reached(start: str, origins: dict[str, set[str]]) -> set[str]:
    seen, todo = {start}, [start]
    while todo:
        new = origins.get(todo.pop(), set()) - seen
        seen |= new
        todo += new
    return seen


def _flow(lines: Sequence[str]) -> Iterator[tuple[str | None, list[str]]]:
    """Yield (value, values that it may come from), and (None, [an address that is written to])."""
    blocks: list[list[str]] = []  # what the values that each open block yields go to
    for line in lines:
        text = line.strip().partition(" loc(")[0]
        if text.startswith("tt.func"):
            return  # another function: after inlining, one that is called
        while text.startswith("}"):
            text = text[1:].lstrip()
            if text.startswith(("else", "do")):
                break
            if blocks:
                blocks.pop()
        statement = _STATEMENT.match(text)
        if statement is None or text.startswith(("else", "do")):
            continue
        result, count, operation, rest = statement.groups()
        operands = _VALUE.findall(rest.partition(" : ")[0])
        results = [f"{result}#{n}" for n in range(int(count))] if count else [result or ""]
        if text.endswith("{"):
            pairs = _PAIR.findall(rest)
            into = [name for name, _ in pairs if name != "%"]
            if operation == "scf.for":  # the first pair is the counter and its bounds
                pairs = _PAIR.findall(rest.partition("iter_args(")[2])
                into = [name for name, _ in pairs]
            for name, value in pairs:
                yield name, [value]
            if result and into:
                for name, value in zip(results, into, strict=False):
                    yield name, [value]
            blocks.append(into or results)
        elif operation in ("scf.yield", "scf.condition") and blocks:
            values = operands[1:] if operation == "scf.condition" else operands
            for name, value in zip(blocks[-1], values, strict=False):
                yield name, [value]
        elif _WRITES.fullmatch(operation):
            yield None, operands[:1]
        elif result and not _READS.fullmatch(operation):
            for name in results:
                yield name, operands[:1] if operation in _FIRST else operands


def runtime_arguments(
    signature: dict[str, Any], values: Sequence[Any]
) -> Iterator[tuple[str, Any]]:
    """Yield (name, value) of each argument that the kernel has at run time, tuples taken apart.

    Args:
        signature: Triton's type of each argument, by name.
        values: of all arguments, in that order.
    """
    for (name, kind), value in zip(signature.items(), values, strict=False):
        yield from _leaves(str(name), kind, value)


def _leaves(name: str, kind: Any, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(kind, tuple | list):
        for number, (one, part) in enumerate(zip(kind, value, strict=False)):
            yield from _leaves(f"{name}[{number}]", one, part)
    elif kind != "constexpr":
        yield name, value
