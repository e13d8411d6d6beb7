"""What the ``mock_rocm`` fixture and marker do; fixtures.py declares the fixture."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Protocol

from pytest_rocm_attn.mock.platform import MockRocm, mock_rocm

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

    from pytest_rocm_attn.gpu import Gpu


class Enter(Protocol):
    """What the fixture's value is."""

    def __call__(self, gpu: Gpu | str, **options: Any) -> MockRocm: ...


def starter(request: pytest.FixtureRequest) -> Iterator[Enter]:
    """Yield a function that enters a mock for the rest of the test; the fixture's body.

    The mocks of the test's markers are entered first, the closest marker last.
    """
    with ExitStack() as stack:

        def enter(gpu: Gpu | str, **options: Any) -> MockRocm:
            return stack.enter_context(mock_rocm(gpu, **options))

        for marker in reversed(list(request.node.iter_markers("mock_rocm"))):
            enter(*marker.args, **marker.kwargs)
        yield enter
