"""AMD's pseudo-code of instructions, run: the language of the ISA guides, as far as tests need it.

A value is a Python number with a type such as ``u32``, ``i64``, ``f32`` or ``b16``; a literal that
names none is an ``int`` or a ``double``. Arithmetic wraps in the wider type of its operands.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

_TOKEN = re.compile(
    r"\s*(?:(?P<cast>\d+'[UIFB](?=\())"
    r"|(?P<number>0x[0-9a-fA-F]+(?:ULL|LL|U|L)?|\d+\.\d+F?"
    r"|\d+'[A-Z]?[-+]?\d+(?:\.\d+|U)?"
    r"|\d+(?:ULL|LL|U|L)?F?)|(?P<name>[A-Za-z_]\w*)"
    r"|(?P<op>\*\*|<<|>>|<=|>=|==|!=|<>|&&|\|\||[-+*/%&|^~!<>?:()\[\]{},.=]))"
)
_FORMS = {16: "<e", 32: "<f", 64: "<d"}


class Unreadable(Exception):
    """Pseudo-code that this interpreter does not know."""


@dataclass(frozen=True)
class Value:
    """A number of a type: kind "u", "i", "f" or "b" (bits), and how wide."""

    number: Any
    kind: str
    width: int

    @property
    def bits(self) -> int:
        """The bits, as an unsigned number."""
        if self.kind == "f":
            with np.errstate(over="ignore"):
                packed = _float(self.number, self.width)
            return int.from_bytes(struct.pack(_FORMS[self.width], packed), "little")
        return int(self.number) & (1 << self.width) - 1

    def as_type(self, kind: str, width: int) -> Value:
        """Return the same bits, read as another type."""
        bits = self.bits & (1 << width) - 1
        if kind == "f":
            return Value(
                struct.unpack(_FORMS[width], bits.to_bytes(width // 8, "little"))[0], "f", width
            )
        if kind == "i" and bits >> width - 1:
            bits -= 1 << width
        return Value(bits, kind, width)

    def __bool__(self) -> bool:
        return bool(self.number)


def _float(number: float, width: int) -> float:
    if width == 64:
        return float(number)
    return float((np.float32 if width == 32 else np.float16)(number))


def made(number: Any, kind: str, width: int) -> Value:
    """Return a number converted to a type: rounded, or wrapped."""
    if kind == "f":
        return Value(_float(number, width), "f", width)
    bits = int(number) & (1 << width) - 1
    if kind == "i" and bits >> width - 1:
        bits -= 1 << width
    return Value(bits, kind, width)


TRUE, FALSE = Value(1, "u", 1), Value(0, "u", 1)


@dataclass
class State:
    """Variables by name; results are read from here afterwards."""

    variables: dict[str, Value] = field(default_factory=dict)
    functions: dict[str, Callable[..., Value]] = field(default_factory=dict)


def run(code: str, variables: dict[str, Value]) -> dict[str, Value]:
    """Return the variables after a piece of pseudo-code.

    Raises:
        Unreadable: it uses what this interpreter lacks.
    """
    lines = re.sub(r"//[^\n]*", "", code).replace("\n", " ")
    for name, width, kind in re.findall(r"declare (\w+) : (\d+)'([UIFB])\s*;", lines):
        variables = variables | {name: made(0, kind.lower(), int(width))}
    lines = re.sub(r"declare \w+ : \d+'[UIFB]\s*;", "", lines)
    parser = _Parser(lines, State(dict(variables)))
    with np.errstate(all="ignore"):
        parser.block(live=True, until=())
    return parser.state.variables


class _Break(Exception):
    pass


class _Return(Exception):
    def __init__(self, value: Value) -> None:
        super().__init__()
        self.value = value


class _Parser:
    def __init__(self, text: str, state: State) -> None:
        self.tokens: list[tuple[str, str]] = []
        place = 0
        text = text.strip()
        while place < len(text):
            if text[place] in "; \n":
                if text[place] == ";":
                    self.tokens.append(("op", ";"))
                place += 1
                continue
            match = _TOKEN.match(text, place)
            if match is None:
                raise Unreadable(text[place : place + 20])
            kind = match.lastgroup or ""
            self.tokens.append((kind, match[kind]))
            place = match.end()
        self.at, self.state = 0, state

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
        else:
            self.assign(live)

    def conditional(self, live: bool) -> None:
        done = False
        while True:
            word = self.take()
            if word in ("if", "elsif"):
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
            raise Unreadable("an assignment to several")
        name = self.take()
        part: tuple[int, int] | None = None
        kind: tuple[str, int] | None = None
        while self.peek() in ("[", "."):
            if self.take() == ".":
                match = re.fullmatch(r"([uifb])(\d+)", self.take())
                if match is None:
                    raise Unreadable("a type")
                kind = match[1], int(match[2])
            else:
                high = self.expression().number
                low = high
                if self.peek() == ":":
                    self.take()
                    low = self.expression().number
                self.take("]")
                part = high, low
        operator = self.take()
        if operator in ("+", "-", "|", "&") and self.peek() == "=":
            self.take()
        elif operator != "=":
            raise Unreadable(f"{name} {operator}")
        if self.peek() == "lambda":
            self.define(name)
            return
        value = self.expression()
        if live:
            if operator != "=":
                value = _arithmetic(operator, self.state.variables[name], value)
            self.store(name, part, kind, value)

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
                "", State(self.state.variables | dict(zip(parameters, values, strict=True)))
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
        self, name: str, part: tuple[int, int] | None, kind: tuple[str, int] | None, value: Value
    ) -> None:
        variables = self.state.variables
        if part is None:
            if kind is None:
                variables[name] = value
            else:
                variables[name] = _converted(value, *kind)
            return
        high, low = part
        width = high - low + 1
        bits = (_converted(value, *kind) if kind is not None and kind[1] == width else value).bits
        old = variables.get(name, made(0, "b", 64))
        mask = (1 << width) - 1 << low
        new = old.bits & ~mask | bits << low & mask
        variables[name] = Value(new, "b", max(old.width, high + 1)).as_type(
            old.kind if old.kind != "f" else "b", max(old.width, high + 1)
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
            value = self.expression()
            self.take(")")
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
        if word == "INF":
            return Value(math.inf, "f", 64)
        if word == "NAN":
            return Value(math.nan, "f", 32)
        if word == "WAVE_MODE":
            self.take(".")
            self.take()
            return FALSE
        if word not in self.state.variables:
            raise Unreadable(f"the name {word}")
        return self.state.variables[word]

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
        return FUNCTIONS[name](*arguments)

    def postfix(self, value: Value) -> Value:
        while self.peek() in ("[", "."):
            if self.take() == ".":
                match = re.fullmatch(r"([uifb])(\d+)", self.take())
                if match is None:
                    raise Unreadable("a type")
                width = int(match[2])
                narrowed = Value(value.bits, "b", value.width)
                if match[1] == "i" and width not in (8, 16, 32, 64):
                    value = made(narrowed.bits, "i", width)
                else:
                    value = narrowed.as_type(match[1], width)
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
    "fma": _fma,
    "isNAN": lambda v: TRUE if math.isnan(v.number) else FALSE,
    "isSignalNAN": lambda v: FALSE,
    "isQuietNAN": lambda v: TRUE if math.isnan(v.number) else FALSE,
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
