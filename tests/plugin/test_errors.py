"""The error classes, and the hint at the nearest known word."""

from __future__ import annotations

import inspect
import pickle

import pytest

from pytest_rocm_attn import errors
from pytest_rocm_attn.errors import RocmAttnError, SelectionError, nearest

CLASSES = [
    value
    for _, value in inspect.getmembers(errors, inspect.isclass)
    if issubclass(value, Exception) and value is not RocmAttnError
]
WARNINGS = [value for value in CLASSES if issubclass(value, Warning)]


@pytest.mark.parametrize("kind", [value for value in CLASSES if value not in WARNINGS])
def test_every_error_is_of_the_family_and_of_a_builtin_kind(kind: type[Exception]) -> None:
    assert issubclass(kind, RocmAttnError)
    assert issubclass(kind, (ValueError, OSError, RuntimeError))
    assert kind.__doc__


@pytest.mark.parametrize("kind", WARNINGS)
def test_every_warning_is_for_users_and_says_of_what(kind: type[Warning]) -> None:
    assert issubclass(kind, UserWarning)
    assert kind.__doc__


def test_a_selection_error_carries_backend_and_trace() -> None:
    error = SelectionError("no", backend="TRITON_MLA", trace=(1, 2))
    assert (str(error), error.backend, error.trace) == ("no", "TRITON_MLA", (1, 2))
    assert (SelectionError("no").backend, SelectionError("no").trace) == (None, ())


def test_a_selection_error_survives_the_way_between_processes() -> None:
    error = SelectionError("no", backend="TRITON_MLA", trace=(1, 2))
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.backend, again.trace) == ("no", "TRITON_MLA", (1, 2))


@pytest.mark.parametrize(
    ("word", "known", "hint"),
    [
        ("gfx942", ["gfx942"], " Did you mean 'gfx942'?"),
        ("TRITON_ATN", ["ROCM_ATTN", "TRITON_ATTN"], " Did you mean 'TRITON_ATTN' or 'ROCM_ATTN'?"),
        ("triton_attn", ["TRITON_ATTN"], " Did you mean 'TRITON_ATTN'?"),
        ("Decoder", ["decoder"], " Did you mean 'decoder'?"),
        ("xyz", ["TRITON_ATTN"], ""),
        ("", ["TRITON_ATTN"], ""),
        ("a", [], ""),
    ],
)
def test_the_nearest_known_words_are_offered_whatever_their_case(
    word: str, known: list[str], hint: str
) -> None:
    assert nearest(word, known) == hint


def test_at_most_two_words_are_offered() -> None:
    assert nearest("gfx11", ["gfx1100", "gfx1101", "gfx1150"]).count(" or ") == 1
