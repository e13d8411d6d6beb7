"""Expressions of AMD's pseudo-code: tokens, names, literals, calls, parts of numbers."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from tests.plugin.emulator.pseudo_functions import FUNCTIONS, extreme, toward_zero
from tests.plugin.emulator.pseudo_values import (
    FALSE,
    TRUE,
    Value,
    arithmetic,
    converted,
    literal,
    made,
    slice_of,
)

_TOKEN = re.compile(
    r"\s*(?:(?P<cast>\d+'[UIFB](?=\())"
    r"|(?P<number>0x[0-9a-fA-F]+(?:ULL|LL|U|L)?|\d+\.\d+F?"
    r"|\d+'0x[0-9a-f]+|\d+'[A-Z]?[-+]?\d+(?:\.\d+|U)?"
    r"|\d+(?:ULL|LL|U|L)?F?)|(?P<name>[A-Za-z_]\w*)"
    r"|(?P<op>\*\*|\+:|<<|>>|<=|>=|==|!=|<>|&&|\|\||[-+*/%&|^~!<>?:()\[\]{},.=]))"
)


class Unreadable(Exception):
    """Pseudo-code that this interpreter does not know."""


class Store(Protocol):
    """Memory, or the vector registers: bits by address, or by lane and number of the register."""

    def read(self, place: tuple[int, ...], bits: int) -> int:
        """Return so many bits."""

    def write(self, place: tuple[int, ...], value: int, bits: int) -> None:
        """Set so many bits."""


@dataclass
class State:
    """Variables by name; results are read from here afterwards."""

    variables: dict[str, Value] = field(default_factory=dict)
    functions: dict[str, Callable[..., Value]] = field(default_factory=dict)
    arrays: dict[str, dict[int, Value]] = field(default_factory=dict)
    stores: dict[str, Store] = field(default_factory=dict)


@functools.cache
def _tokens(text: str) -> list[tuple[str, str]]:
    tokens: list[tuple[str, str]] = []
    place, text = 0, text.strip()
    while place < len(text):
        if text[place] in "; \n":
            if text[place] == ";":
                tokens.append(("op", ";"))
            place += 1
            continue
        match = _TOKEN.match(text, place)
        if match is None:
            raise Unreadable(text[place : place + 20])
        kind = match.lastgroup or ""
        tokens.append((kind, match[kind]))
        place = match.end()
    return tokens


def type_of(word: str) -> tuple[str, int]:
    """Return the kind and width that a suffix names, as u32, bf16, fp8."""
    if word in ("fp8", "bf8"):
        return "b", 8
    match = re.fullmatch(r"(bf|[uifb])(\d+)", word)
    if match is None:
        raise Unreadable(f"the type {word}")
    return match[1], int(match[2])


class Expressions:
    """Reads expressions, one token after the other, and gives their values."""

    def __init__(self, text: str, state: State) -> None:
        self.tokens = _tokens(text)
        self.at, self.state = 0, state
        self.dead = False  # what is read is not done: the branch is another one

    # --- tokens ---

    def peek(self, offset: int = 0) -> str:
        place = self.at + offset
        return self.tokens[place][1] if place < len(self.tokens) else ""

    def kind(self) -> str:
        return self.tokens[self.at][0] if self.at < len(self.tokens) else ""

    def take(self, wanted: str = "") -> str:
        found = self.peek()
        if wanted and found != wanted:
            raise Unreadable(f"{found!r}, wanted {wanted!r}")
        self.at += 1
        return found

    def places(self, name: str) -> int:
        """Return how many indices a name takes before those of bits."""
        if name in self.state.arrays:
            return 1
        return {"MEM": 1, "VGPR": 2}.get(name, 0) if name in self.state.stores else 0

    def fetch(self, name: str, where: tuple[int, ...], kind: tuple[str, int] | None) -> Value:
        """Return a value of memory or of a register."""
        to, width = kind or ("b", 32)
        if self.dead:
            return made(0, to, width)
        return Value(self.state.stores[name].read(where, width), "b", width).as_type(to, width)

    def bits(self) -> tuple[int, int]:
        """Read what stands between brackets, of which the first is taken: the highest bit and the lowest, or one."""
        high = self.expression().number
        low = high
        if self.peek() == ":":
            self.take()
            low = self.expression().number
        elif self.peek() == "+:":
            self.take()
            high = low + self.expression().number - 1
        self.take("]")
        return high, low

    # --- expressions ---

    def expression(self) -> Value:
        condition = self.binary(0)
        if self.peek() != "?":
            return condition
        self.take()
        yes = self.expression()
        self.take(":")
        no = self.expression()
        return yes if condition else no

    _LEVELS = (("||",), ("&&",), ("|",), ("^",), ("&",), ("==", "!=", "<>"),
               ("<", ">", "<=", ">="), ("<<", ">>"), ("+", "-"), ("*", "/", "%"), ("**",))  # fmt: skip

    def binary(self, level: int) -> Value:
        if level == len(self._LEVELS):
            return self.unary()
        left = self.binary(level + 1)
        while self.peek() in self._LEVELS[level] and self.kind() == "op":
            operator = self.take()
            left = arithmetic(operator, left, self.binary(level + 1))
        return left

    def unary(self) -> Value:
        word = self.peek()
        if word in ("-", "+", "~", "!") and self.kind() == "op":
            self.take()
            value = self.unary()
            if word == "!":
                return FALSE if value else TRUE
            if word == "~":
                return made(~value.bits, value.kind, value.width)
            return made(-value.number, value.kind, value.width) if word == "-" else value
        return self.postfix(self.primary())

    def primary(self) -> Value:
        kind, word = self.kind(), self.take()
        if kind == "number":
            return literal(word)
        if kind == "cast":
            width, to = word[:-1].rstrip("'"), word[-1].lower()
            self.take("(")
            bits = self.peek().startswith("0x") and self.peek(1) == ")"  # 32'F(0xffc00000)
            value = self.expression()
            self.take(")")
            if bits:
                return Value(value.bits, "b", int(width)).as_type(to, int(width))
            return converted(value, to, int(width))
        if word == "(":
            value = self.expression()
            self.take(")")
            return value
        if word == "{":
            parts = [self.expression()]
            while self.peek() == ",":
                self.take()
                parts.append(self.expression())
            self.take("}")
            joined, total = 0, 0
            for part in parts:
                joined, total = joined << part.width | part.bits, total + part.width
            return Value(joined, "b", total)
        if self.peek() == "(" and kind == "name":
            return self.call(word)
        if word == "PI":
            return Value(math.pi, "f", 64)
        if word in ("INF", "NAN"):
            number = math.inf if word == "INF" else math.nan
            if self.peek() == ".":
                self.take()
                return made(number, *type_of(self.take()))
            return Value(number, "f", 64)
        if self.places(word):
            return self.place(word)
        if word in ("WAVE_MODE", "MODE", "WAVE_STATUS"):
            self.take(".")
            self.take()
            return FALSE
        if word not in self.state.variables:
            if self.dead:
                return FALSE
            raise Unreadable(f"the name {word}")
        return self.state.variables[word]

    def place(self, name: str) -> Value:
        """Return an element of an array, or a value of a store."""
        where = []
        for _ in range(self.places(name)):
            self.take("[")
            where.append(int(self.expression().number))
            self.take("]")
        if name in self.state.arrays:
            return self.state.arrays[name].get(where[0], made(0, "b", 32))
        kind = None
        if self.peek() == ".":
            self.take()
            kind = type_of(self.take())
        return self.fetch(name, tuple(where), kind)

    def call(self, name: str) -> Value:
        self.take("(")
        arguments = []
        while self.peek() != ")":
            arguments.append(self.expression())
            if self.peek() == ",":
                self.take()
        self.take(")")
        if name in self.state.functions:
            return self.state.functions[name](*arguments)
        if match := re.fullmatch(r"v_(min|max)(3?)(?:_num)?_([uif])(\d+)", name):
            return extreme(match[1] == "min", arguments)
        if match := re.fullmatch(r"v_(min|max)imum(3?)_f(\d+)", name):
            nan = next((one for one in arguments if math.isnan(one.number)), None)
            return nan or extreme(match[1] == "min", arguments)
        if name not in FUNCTIONS:
            raise Unreadable(f"the function {name}")
        if name == "f32_to_f16" and self.state.variables.get("ROUND_MODE", FALSE):
            return toward_zero(arguments[0])
        return FUNCTIONS[name](*arguments)

    def postfix(self, value: Value) -> Value:
        while self.peek() in ("[", "."):
            if self.take() == ".":
                kind, width = type_of(self.take())
                narrowed = Value(value.bits, "b", value.width)
                if kind == "i" and width not in (8, 16, 32, 64):
                    value = made(narrowed.bits, "i", width)
                else:
                    value = narrowed.as_type(kind, width)
            else:
                value = slice_of(value, *self.bits())
        return value
