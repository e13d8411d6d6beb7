"""AMD's pseudo-code of instructions, run: the language of the ISA guides, as far as tests need it.

Statements stand here, expressions in ``pseudo_expressions``, numbers in ``pseudo_values``.
``MEM[address]`` and ``VGPR[lane][register]`` are what the caller gives.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable

import numpy as np

from tests.plugin.emulator.pseudo_expressions import (
    Expressions,
    State,
    Store,
    Unreadable,
    type_of,
)
from tests.plugin.emulator.pseudo_values import (
    FALSE,
    TRUE,
    Value,
    arithmetic,
    converted,
    made,
    slice_of,
)

__all__ = ["FALSE", "TRUE", "Unreadable", "Value", "made", "run"]


def run(
    code: str,
    variables: dict[str, Value],
    functions: dict[str, Callable[..., Value]] | None = None,
    stores: dict[str, Store] | None = None,
) -> dict[str, Value]:
    """Return the variables after a piece of pseudo-code.

    Args:
        functions: besides those that the language has, as CalcDsAddr.
        stores: "MEM" and "VGPR".

    Raises:
        Unreadable: it uses what this interpreter lacks.
    """
    state = State(dict(variables), dict(functions or {}), {}, stores or {})
    lines, declared = _prepared(code)
    for name, width, kind, length in declared:
        if length:
            state.arrays[name] = {}
            if name == "S":  # the sources by number
                found = re.compile(r"S\d").fullmatch
                state.arrays[name] = {
                    int(key[1]): value for key, value in variables.items() if found(key)
                }
        elif name not in state.variables:
            state.variables[name] = made(0, kind, width)
    parser = Statements(lines, state)
    with np.errstate(all="ignore"):
        parser.block(live=True, until=())
    return parser.state.variables


@functools.cache
def _prepared(code: str) -> tuple[str, list[tuple[str, int, str, str]]]:
    """Return pseudo-code on one line, and its declarations: name, width, kind, length of an array."""
    lines = re.sub(r"//[^\n]*", "", code).replace("\n", " ")
    pattern = r"declare (\w+) : (\d+)'([UIFB])(?:\[(\d+)\])?\s*;"
    declared = [
        (name, int(width), kind.lower(), length)
        for name, width, kind, length in re.findall(pattern, lines)
    ]
    return re.sub(pattern, "", lines), declared


class _Break(Exception):
    pass


class _Return(Exception):
    def __init__(self, value: Value) -> None:
        super().__init__()
        self.value = value


Target = tuple[str, tuple[int, ...], "tuple[int, int] | None", "tuple[str, int] | None"]


class Statements(Expressions):
    """Reads statements, and does them."""

    # --- statements ---

    def block(self, *, live: bool, until: tuple[str, ...]) -> None:
        while self.at < len(self.tokens) and self.peek() not in until:
            self.statement(live)

    def statement(self, live: bool) -> None:
        self.dead = not live
        word = self.peek()
        if word == ";":
            self.take()
        elif word == "if":
            self.conditional(live)
        elif word == "for":
            self.loop(live)
        elif word == "break":
            self.take()
            if live:
                raise _Break
        elif word == "return":
            self.take()
            value = self.expression()
            if live:
                raise _Return(value)
        elif self.kind() == "name" and self.peek(1) == "(":  # s_nop(16'0U)
            self.take()
            self.take("(")
            while self.take() != ")":
                pass
        elif self.peek() in ("TRAPSTS", "WAVE_STATUS"):  # no result depends on them
            while self.take() != "=":
                pass
            self.expression()
        else:
            self.assign(live)

    def conditional(self, live: bool) -> None:
        done = False
        while True:
            word = self.take()
            if word in ("if", "elsif"):
                self.dead = not live or done
                holds = bool(self.expression())
                self.take("then")
            else:
                holds = True
            self.block(live=live and holds and not done, until=("elsif", "else", "endif"))
            done = done or holds
            if self.peek() == "endif":
                self.take()
                return

    def loop(self, live: bool) -> None:
        self.take("for")
        name = self.take()
        self.take("in")
        first = self.expression().number
        self.take(":")
        last = self.expression().number
        self.take("do")
        start = self.at
        try:
            for number in range(first, last + 1):
                self.at = start
                self.state.variables[name] = made(number, "i", 32)
                self.block(live=live, until=("endfor",))
        except _Break:
            pass
        depth = 1
        self.at = start
        while depth:  # past the end of this loop
            word = self.take()
            depth += (word == "for") - (word == "endfor")
            if not word:
                raise Unreadable("a loop without an end")

    def assign(self, live: bool) -> None:
        if self.peek() == "{":
            self.assign_several(live)
            return
        target = self.target()
        operator = self.take()
        if operator in ("+", "-", "|", "&") and self.peek() == "=":
            self.take()
        elif operator != "=":
            raise Unreadable(f"{target[0]} {operator}")
        if self.peek() == "lambda":
            self.define(target[0])
            return
        targets = [target]
        while self.another_target():
            targets.append(self.target())
            self.take("=")
        value = self.expression()
        if live:
            for one in targets:
                old = arithmetic(operator, self.read(one), value) if operator != "=" else value
                self.store(*one, old)

    def another_target(self) -> bool:
        """Whether ``name[...].type =`` follows, of a chain of assignments."""
        if self.kind() != "name":
            return False
        place = self.at + 1
        while place < len(self.tokens) and self.tokens[place][1] in (".", "["):
            if self.tokens[place][1] == "[":
                while self.tokens[place][1] != "]":
                    place += 1
            else:
                place += 1  # past the name of a type
            place += 1
        return place < len(self.tokens) and self.tokens[place][1] == "="

    def assign_several(self, live: bool) -> None:
        """``{ D1.u1, D0.u64 } = value``: the last takes the lowest bits."""
        self.take("{")
        targets = [self.target()]
        while self.peek() == ",":
            self.take()
            targets.append(self.target())
        self.take("}")
        self.take("=")
        bits = self.expression().bits
        for name, where, part, kind in reversed(targets):
            if kind is None:
                raise Unreadable("an assignment to several without types")
            if live:
                self.store(name, where, part, kind, Value(bits & (1 << kind[1]) - 1, "b", kind[1]))
            bits >>= kind[1]

    def target(self) -> Target:
        """Read what is assigned: its name, place in a store or array, bits and type."""
        name = self.take()
        where: tuple[int, ...] = ()
        part: tuple[int, int] | None = None
        kind: tuple[str, int] | None = None
        while self.peek() in ("[", "."):
            if self.take() == ".":
                kind = type_of(self.take())
                continue
            found = self.bits()
            if len(where) < self.places(name):
                where = (*where, found[0])
            else:
                part = found
        return name, where, part, kind

    def read(self, target: Target) -> Value:
        """Return the value of what is assigned."""
        name, where, part, kind = target
        if name in self.state.stores:
            return self.fetch(name, where, kind)
        value = self.state.arrays[name][where[0]] if where else self.state.variables[name]
        if part is not None:
            value = slice_of(value, *part)
        return value.as_type(*kind) if kind is not None else value

    def define(self, name: str) -> None:
        """Note a function: ``NAME = lambda(x, y) (expression or statements with return)``."""
        self.take()
        self.take("(")
        parameters = []
        while (word := self.take()) != ")":
            if word != ",":
                parameters.append(word)
        self.take("(")
        start, depth = self.at, 1
        while depth:
            word = self.take()
            depth += (word == "(") - (word == ")")
            if not word:
                raise Unreadable("a function without an end")
        body = self.tokens[start : self.at - 1]

        def call(*values: Value) -> Value:
            inner = Statements(
                "",
                State(
                    self.state.variables | dict(zip(parameters, values, strict=True)),
                    arrays=self.state.arrays,
                    stores=self.state.stores,
                ),
            )
            inner.tokens, inner.state.functions = body, self.state.functions
            if not any(word in ("if", "return") for _, word in body):
                return inner.expression()
            try:
                inner.block(live=True, until=())
            except _Return as returned:
                return returned.value
            raise Unreadable("a function without a result")

        self.state.functions[name] = call

    def store(
        self,
        name: str,
        where: tuple[int, ...],
        part: tuple[int, int] | None,
        kind: tuple[str, int] | None,
        value: Value,
    ) -> None:
        if name in self.state.stores:
            store = self.state.stores[name]
            if part is not None:
                high, low = part
                mask = (1 << high - low + 1) - 1 << low
                new = store.read(where, 32) & ~mask | value.bits << low & mask
                store.write(where, new, 32)
                return
            to, width = kind or ("b", value.width)
            store.write(where, converted(value, to, width).bits, width)
            return
        variables = self.state.variables
        if where:
            self.state.arrays[name][where[0]] = value
            return
        if part is None:
            variables[name] = value if kind is None else converted(value, *kind)
            return
        high, low = part
        width = high - low + 1
        bits = (converted(value, *kind) if kind is not None and kind[1] == width else value).bits
        old = variables.get(name, made(0, "b", 64))
        mask = (1 << width) - 1 << low
        new = old.bits & ~mask | bits << low & mask
        variables[name] = Value(new, "b", max(old.width, high + 1)).as_type(
            old.kind if old.kind not in ("f", "bf") else "b", max(old.width, high + 1)
        )
