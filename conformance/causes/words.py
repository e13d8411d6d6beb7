"""The words of causes and conditions: sentences, from typed values alone."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytest_rocm_attn.conformance.causes.cause import (
    A_BACKEND,
    ANOTHER_ONE,
    OTHER_VARIABLES,
    VARIOUS,
)
from pytest_rocm_attn.conformance.causes.causes import PLAIN
from pytest_rocm_attn.conformance.causes.cells import ASKS, KIND, is_field, is_variable
from pytest_rocm_attn.conformance.causes.conditions import THE_NAMED_ONE
from pytest_rocm_attn.conformance.promise.grid.space import AITER, GFX
from pytest_rocm_attn.errors import FlagError
from pytest_rocm_attn.flags import EXPLICIT, VARIABLES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_rocm_attn.conformance.causes.cause import Cause
    from pytest_rocm_attn.conformance.causes.conditions import Change, Condition, Given
    from pytest_rocm_attn.conformance.promise.grid.outcomes import Behaviour

_TARGET = re.compile(r"gfx(\d{1,2})(\d)([0-9a-f])")  # major, minor, stepping
LONGEST = 159  # characters of a cause's sentence
_ROOMY = -2  # how much to leave out of a text that may be longer than LONGEST
_MANY = 4  # values that are listed; of more, the ones left out are listed if these are fewer


# --- conditions, exactly --------------------------------------------------------------------------


def condition_words(condition: Condition) -> str:
    """Return a condition in words: "where: expected A, got B"."""
    change = condition.change
    return f"{where_words(condition.where)}: expected {expected_words(change)}, got {change.got}"


def where_words(where: Iterable[Given]) -> str:
    """Return what cells have in common, exactly."""
    return " and ".join(map(given_words, where)) or "everywhere"


def expected_words(change: Change) -> str:
    """Return what was expected."""
    return change.wanted or str(change.expected)


def given_words(given: Given) -> str:
    """Return a restriction in words that list all its values."""
    if given.name == EXPLICIT:
        return _choice(given)
    if is_variable(given.name):
        return _variable(given)
    if set(given.values) | set(given.others) == {True, False}:
        return given.name if given.values[0] else f"not {given.name}"
    if _by_exclusion(given.values, given.others):
        return f"{given.name} other than {join(given.others, 'and')}"
    if len(given.values) == 1:
        return f"{given.name} {_text(given.values[0])}"
    return f"{given.name} in {', '.join(map(_text, in_order(given.values)))}"


def _choice(given: Given) -> str:
    names = [value for value in given.values if value is not None]
    if not names:
        return "no explicit backend"
    others = [value for value in given.others if value is not None]
    if not others:
        return "an explicit backend is given"
    if _by_exclusion(names, others):
        named = f"an explicit backend other than {join(others, 'and')}"
    else:
        named = f"explicit {join(names, 'or')}"
    return f"no explicit backend or {named}" if None in given.values else named


def _variable(given: Given) -> str:
    texts = _representatives(given)
    if None in texts:
        set_to = [text for text in texts if text is not None]
        return f"{given.name} unset" + (f" or {join(set_to, 'or')}" if set_to else "")
    if given.others == (None,) and len(texts) > 1:
        return f"{given.name} set"
    return f"{given.name}={join(texts, 'or')}"


def _representatives(given: Given) -> list[Any]:
    """Return the texts to list: of those that mean the same, one if all of them are there."""
    excluded = {_meaning(given.name, text) for text in given.others if text is not None}
    found: dict[Any, Any] = {}
    for text in given.values:
        meaning = None if text is None else _meaning(given.name, text)
        found.setdefault(text if meaning in excluded else ("means", meaning), text)
    return list(found.values())


def _meaning(name: str, text: str) -> Any:
    try:
        return repr(VARIABLES[name].parse(text))
    except (FlagError, KeyError):
        return ("text", text)


def _by_exclusion(values: Sequence[Any], others: Sequence[Any]) -> bool:
    return len(values) > _MANY and 2 * len(others) <= len(values)


def in_order(values: Iterable[Any]) -> list[Any]:
    """Return values as a reader expects them: numbers and targets by size, what is not given last."""
    found = list(values)
    targets = [_TARGET.fullmatch(str(value)) for value in found]
    if found and all(targets):
        sizes = {m[0]: (int(m[1]), int(m[2]), int(m[3], 16)) for m in targets if m}
        return sorted(found, key=lambda value: sizes[value])
    if any(isinstance(value, int | float) for value in found):
        return sorted(found, key=lambda value: (value is None, value or 0))
    return found


def join(values: Iterable[Any], word: str) -> str:
    """Return a list in words: "a, b or c"."""
    texts = [_text(value) for value in in_order(values)]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} {word} {texts[-1]}"


def _text(value: Any) -> str:
    if value is None:
        return "none"
    text = str(value)
    return repr(text) if not text or text != text.strip() else text


# --- causes, to be read ---------------------------------------------------------------------------


def sentence(cause: Cause, most: int = LONGEST) -> str:
    """Return a cause in one sentence: what was set or asked for, what changes, where, except when.

    Args:
        cause: what to say.
        most: characters; what does not fit is left out, the least important first.
    """
    first, *others = cause.parts or (cause,)
    first = replace(first, change=cause.change, backends=cause.backends)
    said_of_others = [_beside(other, first) for other in others]
    for count in range(len(others), -2, -1):
        tail = _also(said_of_others, count) if count >= 0 else ""
        for few in range(_MANY + 1):
            said = _Said(first, few)
            parts = (f"{said.lead}: {said.change}", *said.rest)
            if len(text := ", ".join(parts) + f"{tail}.") <= most:
                return text
    return text[: most - 3] + "..."


def _also(others: Sequence[str], count: int) -> str:
    """Return what follows the first part of a cause: some of the others, and how many more."""
    if not others:
        return ""
    rest = len(others) - count
    more = [f"in {rest} more cases" if rest > 1 else "in one more case"] if rest else []
    return f"; also {'; '.join([*others[:count], *more])}"


def _beside(part: Cause, first: Cause) -> str:
    """Return where a part of a cause is met, after the first part was said."""
    said, before = _Said(part, 1), _Said(first, 1)
    where = said.lead.removeprefix("Default for ")
    if part.variables == first.variables and said.named == before.named:
        if said.fields == before.fields:
            where = ""
        elif said.fields:
            where = f"with {' and '.join(said.fields)}"
    gpus = said.gpus if part.gpus != first.gpus else ""
    return " ".join(filter(None, [where, gpus])) or said.lead.removeprefix("Default for ")


def where_of(cause: Cause) -> str:
    """Return where a cause is met, in words."""
    parts = []
    for part in cause.parts or (cause,):
        said = _Said(part, _ROOMY)
        parts.append(", ".join((said.lead, *said.rest)))
    return "; ".join(parts)


def answers_of(cause: Cause) -> tuple[str, str]:
    """Return what was expected and what came, in words."""
    said = _Said(cause, _ROOMY)
    return said.expected, said.got


class _Said:
    """The parts of a cause's sentence.

    Args:
        cause: what to say.
        few: how much to leave out, _ROOMY to _MANY.
    """

    def __init__(self, cause: Cause, few: int) -> None:
        self._cause = cause
        self._few = few
        self._most = max(1, _MANY - few)  # values of a list
        self._given = {given.name: given for given in cause.where}

    @property
    def expected(self) -> str:
        change = self._cause.change
        return change.wanted or self._answer(change.expected)

    @property
    def got(self) -> str:
        return self._answer(self._cause.change.got)

    @property
    def change(self) -> str:
        return f"{self.expected} -> {self.got}"

    def _answer(self, answer: Behaviour) -> str:
        backends = self._cause.backends
        if answer == A_BACKEND and len(backends) <= self._most:
            return join(backends, "or")
        if answer == VARIOUS:
            return "any answer"
        words = {THE_NAMED_ONE: "the named one", ANOTHER_ONE: "another one", A_BACKEND: "a backend"}
        return words.get(answer, str(answer))

    @property
    def rest(self) -> list[str]:
        """What follows the change: the GPUs and the exceptions."""
        cause = self._cause
        found = [self.gpus]
        if self._few < _MANY:
            shown = cause.exceptions[: max(1, 3 - self._few)]
            but = ", ".join(asked(given, self._most) for given in shown)
            found.append(f"except {but}" if but else "")
        return [part for part in found if part]

    @property
    def lead(self) -> str:
        """What was set, named and asked for."""
        found = [
            asked(given, self._most)
            for name, given in self._given.items()
            if is_variable(name) and name != EXPLICIT
        ]
        if self._cause.theme == OTHER_VARIABLES and not found:
            found.append("another variable set")
        if self.named:
            few = len(self.named) <= min(2, self._most)
            found.append(f"{join(self.named, 'or')} named" if few else "a backend named")
        if AITER in self._given:
            found.append(asked(self._given[AITER], self._most))
        layers, some = self._layers, self._cause.precision < PLAIN
        if some:
            layers = f"some {layers.removeprefix('all ')}"
        layers += f" with {' and '.join(self.fields)}" if self.fields else ""
        if not found:
            default = self._cause.met == 0
            return f"Default for {layers}" if default else layers[:1].upper() + layers[1:]
        kind = any(name in self._given for name in KIND)
        return " and ".join(found) + (f", {layers}" if self.fields or kind or some else "")

    @property
    def fields(self) -> list[str]:
        """What the layer needs besides being of its kind."""
        return [
            asked(given, self._most)
            for name, given in self._given.items()
            if is_field(name) and name not in KIND
        ]

    @property
    def _layers(self) -> str:
        asks = self._given.get(ASKS)
        if asks is not None and None not in asks.values:
            return join((_ASKED.get(one, one) for one in asks.values), "and")
        mla, sparse = (self._given.get(name) for name in ("use_mla", "use_sparse"))
        if sparse is not None and sparse.values == (True,):
            return "sparse layers"
        if mla is None:
            return "all layers"
        return "MLA layers" if mla.values[0] else "ordinary layers"

    @property
    def named(self) -> tuple[Any, ...]:
        """The backends that are named; none if that is not asked."""
        choice = self._given.get(EXPLICIT)
        return choice.values if choice is not None and None not in choice.values else ()

    @property
    def gpus(self) -> str:
        """On which GPUs, if not on all."""
        cause = self._cause
        given = self._given.get(GFX)
        if cause.everywhere and given is None:
            return "on every GPU" if cause.met == 0 else ""
        gpus, others = (given.values, given.others) if given else (cause.gpus, ())
        if others and len(others) < len(gpus) and len(others) <= self._most:
            return f"on all GPUs but {join(others, 'and')}"
        few = len(gpus) <= self._most + 1
        return f"on {join(gpus, 'and')}" if few else f"on {len(gpus)} GPUs"


def asked(given: Given, most: int = _MANY) -> str:
    """Return in a few words what was set or asked for."""
    name, values = given.name, given.values
    if set(values) | set(given.others) == {True, False}:
        plain = _PLAIN.get(name, name)
        return plain if values[0] else f"no {plain}"
    if name == AITER:
        return f"aiter {join(values, 'or')}"
    if name == EXPLICIT:
        names = [value for value in values if value is not None]
        return f"{join(names, 'or')} named" if len(names) <= most else "other backends named"
    short = short_name(name)
    if is_variable(name):
        texts = [text for text in _representatives(given) if text is not None]
        return f"{short}={join(texts, 'or')}" if texts else f"{short} unset"
    words = short.replace("_", " ")
    if len(values) <= most + 1:
        return f"{words} {join(values, 'or')}"
    if len(given.others) <= most + 1:
        return f"{words} other than {join(given.others, 'and')}"
    return f"some {words}s"


_ASKED = {
    "vision": "vision encoders",
    "mla-prefill": "MLA prefill",
    "model": "some models",
    "draft": "drafts",
    "gdn-prefill": "GDN prefill",
}
_PLAIN = {
    "has_sink": "sinks",
    "use_mla": "MLA",
    "use_sparse": "sparse attention",
    "use_mm_prefix": "a multimodal prefix",
    "alibi": "ALiBi",
    "use_kv_connector": "a KV connector",
    "use_dcp": "DCP",
    "use_pcp": "PCP",
    "use_non_causal": "non-causal attention",
    "use_batch_invariant": "batch invariance",
    "use_rswa": "R-SWA",
    "use_adaptive_verification": "adaptive verification",
    "use_per_head_quant_scales": "scales per head",
    "encoder_decoder_model": "an encoder-decoder model",
}


def short_name(name: str) -> str:
    """Return a variable's name without what all have in common: AITER for VLLM_ROCM_USE_AITER."""
    return name.removeprefix("VLLM_").removeprefix("ROCM_USE_")
