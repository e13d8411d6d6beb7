"""AMD's pseudo-code of instructions, run: the language of the ISA guides, as far as tests need it.

A value is a Python number with a type such as ``u32``, ``i64``, ``f32``, ``bf16`` or ``b16``; a literal
that names none is an ``int`` or a ``double``. Arithmetic wraps in the wider type of its operands.
``MEM[address]`` and ``VGPR[lane][register]`` are what the caller gives.
"""

from __future__ import annotations

import functools
import math
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

_TOKEN = re.compile(
    r"\s*(?:(?P<cast>\d+'[UIFB](?=\())"
    r"|(?P<number>0x[0-9a-fA-F]+(?:ULL|LL|U|L)?|\d+\.\d+F?"
    r"|\d+'0x[0-9a-f]+|\d+'[A-Z]?[-+]?\d+(?:\.\d+|U)?"
    r"|\d+(?:ULL|LL|U|L)?F?)|(?P<name>[A-Za-z_]\w*)"
    r"|(?P<op>\*\*|<<|>>|<=|>=|==|!=|<>|&&|\|\||[-+*/%&|^~!<>?:()\[\]{},.=]))"
)
_FORMS = {16: "<e", 32: "<f", 64: "<d"}


class Unreadable(Exception):
    """Pseudo-code that this interpreter does not know."""


@dataclass(frozen=True)
class Value:
    """A number of a type: kind "u", "i", "f", "bf" (bfloat16) or "b" (bits), and how wide."""

    number: Any
    kind: str
    width: int
    raw: int | None = None  # the bits that a float was read from: a NaN has many

    @property
    def bits(self) -> int:
        """The bits, as an unsigned number."""
        if self.raw is not None:
            return self.raw
        if self.kind == "f":
            with np.errstate(over="ignore"):
                packed = _float(self.number, self.width)
            return int.from_bytes(struct.pack(_FORMS[self.width], packed), "little")
        if self.kind == "bf":
            return _bfloat16(self.number)
        return int(self.number) & (1 << self.width) - 1

    def as_type(self, kind: str, width: int) -> Value:
        """Return the same bits, read as another type."""
        bits = self.bits & (1 << width) - 1
        if kind == "f":
            number = struct.unpack(_FORMS[width], bits.to_bytes(width // 8, "little"))[0]
            return Value(number, "f", width, bits)
        if kind == "bf":
            return Value(struct.unpack("<f", (bits << 16).to_bytes(4, "little"))[0], "bf", 16)
        if kind == "i" and bits >> width - 1:
            bits -= 1 << width
        return Value(bits, kind, width)

    def __bool__(self) -> bool:
        return bool(self.number)


def _float(number: float, width: int) -> float:
    if width == 64:
        return float(number)
    return float((np.float32 if width == 32 else np.float16)(number))


def _bfloat16(number: float) -> int:
    """Return the bits of the nearest bfloat16, of the even one of two."""
    with np.errstate(over="ignore"):
        bits = int.from_bytes(struct.pack("<f", _float(number, 32)), "little")
    if math.isnan(number):
        return bits >> 16 | 64
    return bits + 0x7FFF + (bits >> 16 & 1) >> 16


def made(number: Any, kind: str, width: int) -> Value:
    """Return a number converted to a type: rounded, or wrapped."""
    if kind == "bf":
        return Value(_bfloat16(float(number)), "b", 16).as_type("bf", 16)
    if kind == "f":
        return Value(_float(number, width), "f", width)
    bits = int(number) & (1 << width) - 1
    if kind == "i" and bits >> width - 1:
        bits -= 1 << width
    return Value(bits, kind, width)


TRUE, FALSE = Value(1, "u", 1), Value(0, "u", 1)


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
    parser = _Parser(lines, state)
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


def _type(word: str) -> tuple[str, int]:
    """Return the kind and width that a suffix names, as u32, bf16, fp8."""
    if word in ("fp8", "bf8"):
        return "b", 8
    match = re.fullmatch(r"(bf|[uifb])(\d+)", word)
    if match is None:
        raise Unreadable(f"the type {word}")
    return match[1], int(match[2])


class _Break(Exception):
    pass


class _Return(Exception):
    def __init__(self, value: Value) -> None:
        super().__init__()
        self.value = value


Target = tuple[str, tuple[int, ...], "tuple[int, int] | None", "tuple[str, int] | None"]


class _Parser:
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
                old = _arithmetic(operator, self.read(one), value) if operator != "=" else value
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
                kind = _type(self.take())
                continue
            high = self.expression().number
            low = high
            if self.peek() == ":":
                self.take()
                low = self.expression().number
            self.take("]")
            if len(where) < self.places(name):
                where = (*where, high)
            else:
                part = high, low
        return name, where, part, kind

    def places(self, name: str) -> int:
        """Return how many indices a name takes before those of bits."""
        if name in self.state.arrays:
            return 1
        return {"MEM": 1, "VGPR": 2}.get(name, 0) if name in self.state.stores else 0

    def read(self, target: Target) -> Value:
        """Return the value of what is assigned."""
        name, where, part, kind = target
        if name in self.state.stores:
            return self.fetch(name, where, kind)
        value = self.state.arrays[name][where[0]] if where else self.state.variables[name]
        if part is not None:
            value = _slice(value, *part)
        return value.as_type(*kind) if kind is not None else value

    def fetch(self, name: str, where: tuple[int, ...], kind: tuple[str, int] | None) -> Value:
        """Return a value of memory or of a register."""
        to, width = kind or ("b", 32)
        if self.dead:
            return made(0, to, width)
        return Value(self.state.stores[name].read(where, width), "b", width).as_type(to, width)

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
            inner = _Parser(
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
            store.write(where, _converted(value, to, width).bits, width)
            return
        variables = self.state.variables
        if where:
            self.state.arrays[name][where[0]] = value
            return
        if part is None:
            variables[name] = value if kind is None else _converted(value, *kind)
            return
        high, low = part
        width = high - low + 1
        bits = (_converted(value, *kind) if kind is not None and kind[1] == width else value).bits
        old = variables.get(name, made(0, "b", 64))
        mask = (1 << width) - 1 << low
        new = old.bits & ~mask | bits << low & mask
        variables[name] = Value(new, "b", max(old.width, high + 1)).as_type(
            old.kind if old.kind not in ("f", "bf") else "b", max(old.width, high + 1)
        )

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
            left = _arithmetic(operator, left, self.binary(level + 1))
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
            return _literal(word)
        if kind == "cast":
            width, to = word[:-1].rstrip("'"), word[-1].lower()
            self.take("(")
            bits = self.peek().startswith("0x") and self.peek(1) == ")"  # 32'F(0xffc00000)
            value = self.expression()
            self.take(")")
            if bits:
                return Value(value.bits, "b", int(width)).as_type(to, int(width))
            return _converted(value, to, int(width))
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
                return made(number, *_type(self.take()))
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
            kind = _type(self.take())
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
            return _extreme(match[1] == "min", arguments)
        if name not in FUNCTIONS:
            raise Unreadable(f"the function {name}")
        if name == "f32_to_f16" and self.state.variables.get("ROUND_MODE", FALSE):
            return _toward_zero(arguments[0])
        return FUNCTIONS[name](*arguments)

    def postfix(self, value: Value) -> Value:
        while self.peek() in ("[", "."):
            if self.take() == ".":
                kind, width = _type(self.take())
                narrowed = Value(value.bits, "b", value.width)
                if kind == "i" and width not in (8, 16, 32, 64):
                    value = made(narrowed.bits, "i", width)
                else:
                    value = narrowed.as_type(kind, width)
            else:
                high = self.expression().number
                low = high
                if self.peek() == ":":
                    self.take()
                    low = self.expression().number
                self.take("]")
                value = _slice(value, high, low)
        return value


def _slice(value: Value, high: int, low: int) -> Value:
    """Bits of a value; the other way round if the first is the lower."""
    if high >= low:
        return Value(value.bits >> low & (1 << high - low + 1) - 1, "u", high - low + 1)
    width = low - high + 1
    bits = sum((value.bits >> high + i & 1) << width - 1 - i for i in range(width))
    return Value(bits, "u", width)


def _literal(word: str) -> Value:
    if "'" in word:
        width, _, digits = word.partition("'")
        if "." in digits:
            return made(float(digits), "f", int(width))
        if digits.startswith("0x"):
            return made(int(digits, 16), "u", int(width))
        return made(int(re.sub(r"[A-Z]", "", digits)), "u", int(width))
    if word.startswith("0x"):
        digits = re.sub(r"(ULL|LL|U|L)$", "", word)
        return made(int(digits, 16), "u" if "U" in word else "i", 64 if "LL" in word else 32)
    if "." in word or word.endswith("F"):
        return made(float(word.rstrip("F")), "f", 32 if word.endswith("F") else 64)
    digits = re.sub(r"[UL]+$", "", word)
    return made(int(digits), "u" if "U" in word else "i", 64 if "LL" in word else 32)


def _converted(value: Value, kind: str, width: int) -> Value:
    if kind == "b":
        return Value(value.bits & (1 << width) - 1, "b", width)
    if (value.kind, value.width) == (kind, width):
        return value
    if value.raw is not None and width == 64 and math.isnan(value.number):  # with its payload
        mantissa = {16: 10, 32: 23}[value.width]
        sign, payload = value.raw >> value.width - 1, value.raw & (1 << mantissa) - 1
        bits = sign << 63 | 0x7FF << 52 | payload << 52 - mantissa
        return Value(math.nan, "f", 64, bits)
    if value.kind == "b" and kind == "bf":
        return value.as_type("bf", 16)
    if value.kind == "b" or (value.kind == "f") == (kind == "f"):
        return value.as_type(kind, width) if value.kind == "b" else made(value.number, kind, width)
    return made(value.number, kind, width)


def _arithmetic(operator: str, a: Value, b: Value) -> Value:
    if operator in ("&&", "||"):
        holds = bool(a) and bool(b) if operator == "&&" else bool(a) or bool(b)
        return TRUE if holds else FALSE
    if operator in ("==", "!=", "<>", "<", ">", "<=", ">="):
        x, y = a.number, b.number
        holds = {"==": x == y, "!=": x != y, "<>": x < y or x > y, "<": x < y, ">": x > y,
                 "<=": x <= y, ">=": x >= y}[operator]  # fmt: skip
        return TRUE if holds else FALSE
    if operator == "<<":
        return made(a.bits << b.number if b.number < 128 else 0, a.kind, a.width)
    if operator == ">>":
        return made(a.number >> b.number, a.kind, a.width)
    width = max(a.width, b.width)
    if "bf" in (a.kind, b.kind) and "f" not in (a.kind, b.kind):
        x, y = a.number, b.number
        return made({"+": x + y, "-": x - y, "*": x * y}[operator], "bf", 16)
    if "f" in (a.kind, b.kind):
        kind = "f"
        width = max(one.width for one in (a, b) if one.kind == "f")
        if operator == "**":
            power = np.ldexp(np.float64(1), max(-3000, min(3000, int(b.number))))
            return Value(float(power), kind, 64)
    else:
        kind = "u" if "u" in (a.kind, b.kind) else a.kind if a.kind != "b" else b.kind
    x, y = (a.number, b.number) if kind != "b" else (a.bits, b.bits)
    if operator in ("&", "|", "^"):
        x, y = a.bits, b.bits
        return made({"&": x & y, "|": x | y, "^": x ^ y}[operator], kind, width)
    if operator in ("/", "%") and kind != "f":
        return made(x // y if operator == "/" else x % y, kind, width)
    if operator == "/":
        with np.errstate(all="ignore"):
            return made(float(np.float64(x) / np.float64(y)), kind, width)
    if kind == "f":
        numpy_type: Any = {16: np.float16, 32: np.float32, 64: np.float64}[width]
        with np.errstate(all="ignore"):
            x, y = numpy_type(x), numpy_type(y)
            return made(float({"+": x + y, "-": x - y, "*": x * y}[operator]), kind, width)
    return made({"+": x + y, "-": x - y, "*": x * y}[operator], kind, width)


def _to_integer(kind: str, width: int) -> Callable[[Value], Value]:
    low, high = (-(1 << width - 1), (1 << width - 1) - 1) if kind == "i" else (0, (1 << width) - 1)

    def convert(value: Value) -> Value:
        if math.isnan(value.number):
            return made(0, kind, width)
        if math.isinf(value.number):
            return made(high if value.number > 0 else low, kind, width)
        return made(min(max(math.trunc(value.number), low), high), kind, width)

    return convert


def _to_float(width: int) -> Callable[[Value], Value]:
    return lambda value: made(value.number, "f", width)


def _toward_zero(value: Value) -> Value:
    """Return the float16 that is not farther from zero than a number."""
    with np.errstate(over="ignore"):
        half = np.float16(value.number)
    if abs(float(half)) > abs(value.number):
        half = np.nextafter(half, np.float16(0))
    return made(float(half), "f", 16)


def _lowest_one(value: Value) -> Value:
    bits = value.bits
    return made((bits & -bits).bit_length() - 1, "i", 32)


def _fma(a: Value, b: Value, c: Value) -> Value:
    with np.errstate(all="ignore"):
        exact = np.longdouble(a.number) * np.longdouble(b.number) + np.longdouble(c.number)
        return made(float(exact), "f", a.width)


def _sign_extended(value: Value, width: Value) -> Value:
    if width.number == 0:
        return made(0, "i", 32)
    bits = value.bits & (1 << width.number) - 1
    return made(bits - (1 << width.number) if bits >> width.number - 1 else bits, "i", 32)


def _extreme(least: bool, values: list[Value]) -> Value:
    """The least or the largest of some; a NaN does not count."""
    numbers = [one for one in values if not (one.kind == "f" and math.isnan(one.number))]
    if not numbers:
        return values[0]

    def order(one: Value) -> Any:
        return one.number, not (one.kind == "f" and one.bits >> one.width - 1)

    return min(numbers, key=order) if least else max(numbers, key=order)


def _is_quiet(value: Value) -> bool:
    mantissa = {16: 10, 32: 23, 64: 52}[value.width]
    return bool(value.bits >> mantissa - 1 & 1)


def _mantissa(value: Value) -> Value:
    return made(math.frexp(value.number)[0], "f", value.width)


def _exponent(value: Value) -> Value:
    """The biased exponent."""
    mantissa, bits = {16: (10, 5), 32: (23, 8), 64: (52, 11)}[value.width]
    return made(value.bits >> mantissa & (1 << bits) - 1, "i", 32)


def _scaled(value: Value, power: Value) -> Value:
    with np.errstate(all="ignore"):
        scaled = np.ldexp(np.float64(value.number), max(-3000, min(3000, power.number)))
    return made(float(scaled), "f", value.width)


def _rounded(how: Callable[[float], float]) -> Callable[[Value], Value]:
    def apply(value: Value) -> Value:
        if not math.isfinite(value.number):
            return value
        return made(math.copysign(how(value.number), value.number), "f", value.width)

    return apply


def _elementary(how: Callable[[Any], Any]) -> Callable[[Value], Value]:
    def apply(value: Value) -> Value:
        with np.errstate(all="ignore"):
            return made(float(how(np.float64(value.number))), "f", value.width)

    return apply


FUNCTIONS: dict[str, Callable[..., Value]] = {
    "f32_to_i32": _to_integer("i", 32), "f32_to_u32": _to_integer("u", 32),
    "f64_to_i32": _to_integer("i", 32), "f64_to_u32": _to_integer("u", 32),
    "f16_to_i16": _to_integer("i", 16), "f16_to_u16": _to_integer("u", 16),
    "i32_to_f32": _to_float(32), "u32_to_f32": _to_float(32), "f16_to_f32": _to_float(32),
    "f32_to_f16": _to_float(16), "i16_to_f16": _to_float(16), "u16_to_f16": _to_float(16),
    "f32_to_f64": _to_float(64), "f64_to_f32": _to_float(32), "i32_to_f64": _to_float(64),
    "u32_to_f64": _to_float(64), "u8_to_u32": lambda v: made(v.bits, "u", 32),
    "bf16_to_f32": _to_float(32), "f32_to_bf16": lambda v: made(v.number, "bf", 16),
    "s_ff1_i32_b32": _lowest_one, "s_ff1_i32_b64": _lowest_one,
    "fma": _fma,
    "isNAN": lambda v: TRUE if math.isnan(v.number) else FALSE,
    "isSignalNAN": lambda v: TRUE if math.isnan(v.number) and not _is_quiet(v) else FALSE,
    "isQuietNAN": lambda v: TRUE if math.isnan(v.number) and _is_quiet(v) else FALSE,
    "cvtToQuietNAN": lambda v: v,
    "abs": lambda v: made(abs(v.number), v.kind, v.width),
    "sign": lambda v: Value(v.bits >> v.width - 1, "u", 1),
    "floor": _rounded(math.floor), "ceil": _rounded(math.ceil), "trunc": _rounded(math.trunc),
    "sqrt": _elementary(np.sqrt), "log2": _elementary(np.log2),
    "pow": lambda a, b: _elementary(lambda x: np.float64(a.number) ** x)(b),
    "ldexp": _scaled, "mantissa": _mantissa, "exponent": _exponent,
    "sin": _elementary(np.sin), "cos": _elementary(np.cos),
    "fract": _elementary(lambda x: x - np.floor(x)),
    "isEven": lambda v: TRUE if v.number % 2 == 0 else FALSE,
    "signext": lambda v: v.as_type("i", v.width), "signext_from_bit": _sign_extended,
}  # fmt: skip
