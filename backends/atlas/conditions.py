"""The conditions of a policy as decision trees, exactly.

A policy asks its questions with Python functions of request, flags and GPU. ``tree`` calls such a
function with stand-ins that report every fact that it reads and every comparison that it makes, once
for each way through the function, and so finds all that it does. A field with few values is
asked for its value; a number is asked the comparisons themselves. A function that does anything else
with a stand-in raises, so that a tree is never a guess.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, fields
from typing import Any, NoReturn, Self

from pytest_rocm_attn.flags import Kind, variable
from pytest_rocm_attn.gpu import Aiter, Gpu, known_gpus
from pytest_rocm_attn.request import ATTN_TYPES, DTYPES, KV_CACHE_DTYPES, Request

# A question about a request, flags or GPU: ("request", "dtype"), ("none", "block_size"),
# ("head_size", "==", 64), ("block_size", "%", 16, "==", 0), ("flag", NAME), ("gpu", "aiter").
Atom = tuple[str | int, ...]
Condition = Callable[..., bool]
Tree = bool | tuple["Atom", tuple[tuple[Any, "Tree"], ...]]

_TEXTS: dict[str, tuple[str, ...]] = {
    "dtype": DTYPES,
    "kv_cache_dtype": KV_CACHE_DTYPES,
    "attn_type": ATTN_TYPES,
    "run_kv_cache_dtype": ("", *KV_CACHE_DTYPES),
}
_TYPES = {field.name: str(field.type) for field in fields(Request)}


class UnknownConditionError(TypeError):
    """A condition does something with a request, flags or GPU that no atom says."""


class _Open(Exception):
    """The function asked a question that has no answer yet."""

    def __init__(self, atom: Atom, values: Sequence[Any]) -> None:
        super().__init__(atom)
        self.atom, self.values = atom, values


def tree(condition: Condition, known: dict[Hashable, Tree] | None = None) -> Tree:
    """Return a condition as a tree: the atom that is asked, and a tree for each of its values.

    Args:
        condition: a function with parameters named request, flags and gpu, or some of them.
        known: the trees so far: a function with the same code and the same values bound to it is the
            same condition.

    Raises:
        UnknownConditionError: it does something with them that cannot be followed.
    """
    known = {} if known is None else known
    identity = _identity(condition)
    if identity not in known:
        names = condition.__code__.co_varnames[: condition.__code__.co_argcount]
        known[identity] = _grow(condition, [name for name in names if name in _STAND_INS], {})
    return known[identity]


def _identity(value: Any) -> Hashable:
    code = getattr(value, "__code__", None)
    if code is None:
        return repr(value)
    cells = [cell.cell_contents for cell in value.__closure__ or ()]
    return code, *map(_identity, (*cells, *(value.__defaults__ or ())))


def _grow(condition: Condition, parameters: Sequence[str], answers: dict[Atom, Any]) -> Tree:
    way = _Way(answers)
    try:
        return bool(condition(**{name: _STAND_INS[name](way) for name in parameters}))
    except _Open as question:
        atom, values = question.atom, question.values
    branches = tuple(
        (value, _grow(condition, parameters, {**answers, atom: value})) for value in values
    )
    first = branches[0][1]
    return first if all(branch == first for _, branch in branches) else (atom, branches)


@dataclass(frozen=True)
class _Way:
    """The answers so far, on one way through a function."""

    answers: dict[Atom, Any]

    def ask(self, atom: Atom, values: Sequence[Any] = (False, True)) -> Any:
        try:
            return self.answers[atom]
        except KeyError:
            raise _Open(atom, values) from None


class _Request:
    def __init__(self, way: _Way) -> None:
        self._way = way

    def __getattr__(self, name: str) -> Any:
        kind = _TYPES.get(name)
        if kind is None:
            derived = getattr(Request, name, None)
            if not isinstance(derived, property) or derived.fget is None:
                raise UnknownConditionError(f"a condition reads request.{name}")
            return derived.fget(self)
        if kind == "bool":
            return self._way.ask(("request", name))
        if kind == "str":
            return self._way.ask(("request", name), _TEXTS[name])
        if "None" in kind and self._way.ask(("none", name)):
            return None
        return _Number(name, self._way)


class _Flags:
    def __init__(self, way: _Way) -> None:
        self._way = way

    def __getitem__(self, name: str) -> Any:
        declared = variable(name)
        if declared.kind in (Kind.BOOL, Kind.INT_BOOL, Kind.EXACT):
            return self._way.ask(("flag", name))
        if declared.kind is Kind.CHOICE:
            return self._way.ask(("flag", name), (None, *declared.choices))
        raise UnknownConditionError(f"a condition reads {name}, which has too many values")


class _Gpu:
    def __init__(self, way: _Way) -> None:
        self._way = way

    def __getattr__(self, name: str) -> Any:
        if name == "aiter":
            return self._way.ask(("gpu", name), tuple(Aiter))
        if name not in GPU_FACTS:
            raise UnknownConditionError(f"a condition reads gpu.{name}")
        values = dict.fromkeys(getattr(Gpu(gfx), name) for gfx in known_gpus())
        return self._way.ask(("gpu", name), tuple(values))


GPU_FACTS = ("gfx", "stands_for", "is_gfx9")  # that a condition may read, besides aiter


def _compared(name: str) -> Callable[[_Number, object], Any]:
    sign = {"eq": "==", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}[name]

    def compare(self: _Number, other: object) -> Any:
        if other is self:
            return sign in ("==", "<=", ">=")
        if type(other) is int:
            return self._way.ask((*self._of, sign, other))
        if isinstance(other, int | float):
            raise UnknownConditionError(
                f"a condition compares a number with {type(other).__name__}"
            )
        return NotImplemented

    return compare


def _not_followed(name: str) -> Callable[..., NoReturn]:
    def refuse(self: object, *_: object) -> NoReturn:
        raise UnknownConditionError(f"a condition computes {name} of a number of the request")

    return refuse


class _Number(int):
    """A number of a request. An int to whoever asks for its type; its value is never looked at."""

    _of: Atom
    _way: _Way

    def __new__(cls, name: str, way: _Way, of: Atom = ()) -> Self:
        number = super().__new__(cls)
        number._of, number._way = of or (name,), way
        return number

    __eq__ = _compared("eq")
    __lt__ = _compared("lt")
    __le__ = _compared("le")
    __gt__ = _compared("gt")
    __ge__ = _compared("ge")

    def __ne__(self, other: object) -> bool:
        equal = self.__eq__(other)
        return equal if equal is NotImplemented else not equal

    def __bool__(self) -> bool:
        return bool(self != 0)

    def __mod__(self, other: int) -> _Number:
        if type(other) is not int or len(self._of) > 1:
            raise UnknownConditionError("a condition computes a remainder of a remainder")
        return _Number("", self._way, (*self._of, "%", other))

    def __str__(self) -> str:
        return _Digits(self)

    __hash__ = _not_followed("the hash")


class _Digits(str):
    """The text of a number of a request, for comparisons with other texts."""

    _number: _Number

    def __new__(cls, number: _Number) -> Self:
        digits = super().__new__(cls, "?")
        digits._number = number
        return digits

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, str) or not re.fullmatch(r"0|[1-9]\d*", other):
            return False
        return bool(self._number == int(other))

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = _not_followed("the hash of the text")


for _class, _base in ((_Number, int), (_Digits, str)):
    for _name in ({*dir(_base)} - {*dir(object)} | {"__format__"}) - {*vars(_class)}:
        setattr(_class, _name, _not_followed(_name.strip("_")))

_STAND_INS: dict[str, Callable[[_Way], Any]] = {
    "request": _Request,
    "flags": _Flags,
    "gpu": _Gpu,
}
