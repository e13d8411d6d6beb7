"""How hard the searching tiers look: options of pytest, read and checked once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Effort:
    """How hard to look.

    Attributes:
        seed: chooses the examples; the same seed, the same examples.
        examples: how many one search tries.
        budget: seconds that one search may take.
        example: the one example to try, as plain data, instead of searching.
    """

    seed: int = 0
    examples: int = 200
    budget: float = 60.0
    example: dict[str, Any] | None = None


def read(value_of: Callable[[str], Any]) -> Effort:
    """Read the options.

    Args:
        value_of: option, such as "seed" -> its text, or None when it is not given.

    Raises:
        pytest.UsageError: one line that says which option is wrong, and what would do.
    """
    plain = Effort()
    return Effort(
        _number(value_of, "seed", int, plain.seed, 0, "a whole number"),
        _number(value_of, "examples", int, plain.examples, 1, "how many examples a search tries"),
        _number(value_of, "budget", float, plain.budget, 0.001, "the seconds one search may take"),
        _example(value_of("example")),
    )


def _number(
    value_of: Callable[[str], Any], name: str, kind: type, plain: Any, least: float, wanted: str
) -> Any:
    text = value_of(name)
    if text is None:
        return plain
    try:
        number = kind(text)
    except ValueError:
        number = None
    if number is None or not least <= number < float("inf"):
        raise pytest.UsageError(f"--rocm-attn-{name}={text!r} will not do; give {wanted}")
    return number


def _example(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        data = json.loads(text)
    except ValueError as error:
        raise pytest.UsageError(
            f"--rocm-attn-example is not JSON: {error}; give it as the command of a shortfall shows it"
        ) from None
    if not isinstance(data, dict):
        raise pytest.UsageError(
            "--rocm-attn-example is not a JSON object; copy it whole from a report"
        )
    return data
