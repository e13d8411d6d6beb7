"""What the ``rocm_env`` fixture and marker do; fixtures.py declares the fixture."""

from __future__ import annotations

import pytest

from pytest_rocm_attn.flags import VARIABLES, variable


class RocmEnv:
    """Sets and unsets ROCm attention variables for one test; everything is restored after it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch

    def __call__(self, **variables: str | bool | int | None) -> None:
        """Set the given variables; None unsets one.

        True and False become "1" and "0". A name that starts with VLLM_ROCM_ and that no release
        declares is refused, since a misspelt flag tests nothing.

        Raises:
            FlagError: a variable is misspelt, or its value cannot be parsed by its own rule. To set
                such a value on purpose, use monkeypatch.setenv.
        """
        for name, value in variables.items():
            if name not in VARIABLES and name.startswith("VLLM_ROCM_"):
                variable(name)  # raises, with the nearest names
            if value is None:
                self._monkeypatch.delenv(name, raising=False)
                continue
            text = str(int(value)) if isinstance(value, bool) else str(value)
            if name in VARIABLES:
                VARIABLES[name].parse(text)
            self._monkeypatch.setenv(name, text)

    def clear(self) -> None:
        """Unset every declared variable."""
        for name in VARIABLES:
            self._monkeypatch.delenv(name, raising=False)


def marked(node: pytest.Item, monkeypatch: pytest.MonkeyPatch) -> RocmEnv:
    """Return the fixture's value: every variable unset, then those of the markers set.

    Raises:
        pytest.UsageError: a marker has positional arguments.
        FlagError: as RocmEnv.
    """
    environment = RocmEnv(monkeypatch)
    environment.clear()
    for marker in reversed(list(node.iter_markers("rocm_env"))):
        if marker.args:
            raise pytest.UsageError(
                f"{node.nodeid}: the rocm_env marker takes NAME='value' pairs, not {marker.args!r}"
            )
        environment(**marker.kwargs)
    return environment
