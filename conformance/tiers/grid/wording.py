"""How a restriction of one attribute is worded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.errors import FlagError
from pytest_rocm_attn.flags import EXPLICIT, USE_AITER, VARIABLES

if TYPE_CHECKING:
    from collections.abc import Sequence

_MANY = 4  # values that are listed; of more, the ones left out are listed when these are fewer


@dataclass(frozen=True, slots=True)
class Given:
    """A restriction: an attribute has one of these values.

    Attributes:
        name: "gfx", "aiter", "family", a variable, or a field of the request.
        values: those allowed; None is an unset variable, or a field that is not given.
        others: those of the grid that are excluded.
    """

    name: str
    values: tuple[Any, ...]
    others: tuple[Any, ...]

    def __str__(self) -> str:
        if self.name == EXPLICIT:
            return self._explicit()
        if self.name.isupper():  # a variable; fields, gfx, aiter and family are in lower case
            return self._variable()
        if set(self.values) | set(self.others) == {True, False}:
            return self.name if self.values[0] else f"not {self.name}"
        if _by_exclusion(self.values, self.others):
            return f"{self.name} other than {_join(self.others, 'and')}"
        if len(self.values) == 1:
            return f"{self.name} {_text(self.values[0])}"
        return f"{self.name} in {', '.join(map(_text, self.values))}"

    def _explicit(self) -> str:
        given = [value for value in self.values if value is not None]
        if not given:
            return "no explicit backend"
        others = [value for value in self.others if value is not None]
        if not others:
            return "an explicit backend is given"
        if _by_exclusion(given, others):
            named = f"an explicit backend other than {_join(others, 'and')}"
        else:
            named = f"explicit {_join(given, 'or')}"
        return f"no explicit backend or {named}" if None in self.values else named

    def _variable(self) -> str:
        texts = _representatives(self.name, self.values, self.others)
        if None in texts:
            set_to = [text for text in texts if text is not None]
            return f"{self.name} unset" + (f" or {_join(set_to, 'or')}" if set_to else "")
        if self.others == (None,) and len(texts) > 1:
            return f"{self.name} set"
        return f"{self.name}={_join(texts, 'or')}"


def rank(name: str) -> tuple[int, str]:
    """Sort key of attributes in a sentence: the machine, the environment, the request."""
    first = ("gfx", "aiter", USE_AITER)
    if name in first:
        return first.index(name), name
    if name.isupper():
        return (5 if name == EXPLICIT else 4), name
    return (6 if name.startswith("use_") else 8 if name == "family" else 7), name


def _representatives(name: str, values: Sequence[Any], others: Sequence[Any]) -> list[Any]:
    """Return the texts to list: of those that mean the same, one where all of them are there."""
    excluded = {_meaning(name, text) for text in others if text is not None}
    found: dict[Any, Any] = {}
    for text in values:
        meaning = None if text is None else _meaning(name, text)
        found.setdefault(text if meaning in excluded else ("means", meaning), text)
    return list(found.values())


def _meaning(name: str, text: str) -> Any:
    try:
        return repr(VARIABLES[name].parse(text))
    except (FlagError, KeyError):
        return ("text", text)


def _by_exclusion(values: Sequence[Any], others: Sequence[Any]) -> bool:
    return len(values) > _MANY and 2 * len(others) <= len(values)


def _text(value: Any) -> str:
    if value is None:
        return "none"
    text = str(value)
    return repr(text) if not text or text != text.strip() else text


def _join(values: Sequence[Any], word: str) -> str:
    texts = [_text(value) for value in values]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} {word} {texts[-1]}"
