"""What the fixture ``rocm_env`` and the marker ``rocm_attn_env`` do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_rocm_attn.caller import raises_at_the_call, warn_the_caller
from pytest_rocm_attn.errors import FlagError, FlagWarning
from pytest_rocm_attn.flags import VARIABLES, check_name, doubts
from pytest_rocm_attn.markers import ENV, of_kind, refuse

if TYPE_CHECKING:
    from collections.abc import Mapping


class RocmEnv:
    """Sets and unsets ROCm attention variables for one test; everything is restored after it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch

    @raises_at_the_call
    def __call__(self, **variables: str | bool | int | None) -> None:
        """Set the given variables; None unsets one.

        True and False become "1" and "0". A text that does not mean what it suggests, such as "yes",
        which is off, gives a FlagWarning.

        Raises:
            FlagError: a variable is misspelt, which tests nothing, or its value cannot be parsed by
                its own rule. To set such a value on purpose, use monkeypatch.setenv.
        """
        warn_of(self.set(variables))

    def set(self, variables: Mapping[str, str | bool | int | None]) -> dict[str, str]:
        """Set the given variables as a call does, without a warning; return those that are set."""
        texts = {name: text_of(name, value) for name, value in variables.items()}
        for name, text in texts.items():
            if text is None:
                self._monkeypatch.delenv(name, raising=False)
            else:
                self._monkeypatch.setenv(name, text)
        return {name: text for name, text in texts.items() if text is not None}

    def clear(self) -> None:
        """Unset every declared variable."""
        for name in VARIABLES:
            self._monkeypatch.delenv(name, raising=False)


def marked(node: pytest.Item, monkeypatch: pytest.MonkeyPatch) -> RocmEnv:
    """Return the fixture's value: every variable unset, then those of the markers set.

    What does not mean what it suggests gives a FlagWarning at the test's own place.
    """
    environment = RocmEnv(monkeypatch)
    given: dict[str, str] = {}
    environment.clear()
    for mark in reversed(of_kind(node, ENV)):
        given |= environment.set(mark.kwargs)
    for doubt in doubts(given):
        try:
            node.warn(FlagWarning(doubt))
        except FlagWarning as error:  # the suite makes errors of warnings
            refuse(node, str(error))
    return environment


def warn_of(environ: Mapping[str, str]) -> None:
    """Warn the caller of a fixture about each variable whose value does not mean what it suggests."""
    for doubt in doubts(environ):
        warn_the_caller(doubt, FlagWarning)


def text_of(name: str, value: str | bool | int | None) -> str | None:
    """Return what a variable is set to for a value, or None if it is unset.

    Raises:
        FlagError: as RocmEnv.
    """
    check_name(name)
    if value is None:
        return None
    if not isinstance(value, str | int):
        raise FlagError(f"{name}={value!r}; a value is text, a number, True, False, or None")
    text = str(int(value)) if isinstance(value, bool) else str(value)
    if name in VARIABLES:
        VARIABLES[name].parse(text)
    return text
