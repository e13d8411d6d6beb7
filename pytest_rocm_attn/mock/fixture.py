"""What the fixture ``mock_rocm`` and the marker ``rocm_attn_mock`` do."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from pytest_rocm_attn.caller import raises_at_the_call
from pytest_rocm_attn.errors import RocmAttnError
from pytest_rocm_attn.markers import EMULATE, MOCK, ours, refuse
from pytest_rocm_attn.mock.platform import MockRocm, mock_rocm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_rocm_attn.gpu import Gpu


class Enter(Protocol):
    """What the fixture's value is."""

    def __call__(self, gpu: Gpu | str, **options: Any) -> MockRocm: ...


def starter() -> Iterator[Enter]:
    """Yield a function that enters a mock for the rest of the test; the fixture's body."""
    with ExitStack() as stack:

        def mock_rocm_fixture(gpu: Gpu | str, **options: Any) -> MockRocm:
            return stack.enter_context(mock_rocm(gpu, **options))

        mock_rocm_fixture.__name__ = "mock_rocm"
        yield raises_at_the_call(mock_rocm_fixture, like=MockRocm)


def marked(node: pytest.Item) -> Iterator[None]:
    """Enter the mocks of a test's markers for the rest of it, the closest marker last.

    Raises:
        pytest.fail.Exception: a mock cannot be entered; the message is one line.
    """
    with ExitStack() as stack:
        mocks = [(kind, mark) for kind, mark in ours(node) if kind in (MOCK, EMULATE)]
        for kind, mark in reversed(mocks):
            try:
                options = {"emulate": kind == EMULATE, **mark.kwargs}
                stack.enter_context(mock_rocm(*mark.args, **options))
            except RocmAttnError as error:
                refuse(node, f"the {mark.name} marker: {error}")
        yield
