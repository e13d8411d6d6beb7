"""Errors and warnings of a fixture's user, shown where the user made them."""

from __future__ import annotations

import functools
import inspect
import sys
import warnings
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import pytest

from pytest_rocm_attn.errors import RocmAttnError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

P = ParamSpec("P")
T = TypeVar("T")


def raises_at_the_call(function: Callable[P, T], *, like: object = None) -> Callable[P, T]:
    """Return function, with each error that it raises on purpose raised at the line of the call.

    pytest then shows that line and the message, and neither frames of this package nor the errors
    that led to this one.

    Args:
        function: what a fixture hands to a test.
        like: a callable whose parameters the call must fit; default: function itself.
    """
    signature = inspect.signature(like if callable(like) else function)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        __tracebackhide__ = True
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{function.__name__}: {error}") from None
        try:
            return function(*args, **kwargs)
        except (RocmAttnError, pytest.UsageError, Warning) as error:
            raise error.with_traceback(None) from None

    return call


def warn_the_caller(text: str, category: type[Warning], *through: str) -> None:
    """Warn at the line that called into this package.

    Args:
        text: the message.
        category: of the warning.
        through: top-level packages whose frames are passed over as ours are.
    """
    passed = {__name__.partition(".")[0], *through}
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and _top_level(frame) in passed:
        frame, level = frame.f_back, level + 1
    warnings.warn(text, category, stacklevel=level)


def _top_level(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]
