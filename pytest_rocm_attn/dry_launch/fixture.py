"""What the ``dry_launch`` fixture and marker do; fixtures.py declares the fixture."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Protocol

import pytest

from pytest_rocm_attn.dry_launch.session import dry_launch
from pytest_rocm_attn.errors import RocmAttnError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_rocm_attn.dry_launch.record import Launches
    from pytest_rocm_attn.gpu import Gpu


class Start(Protocol):
    """What the fixture's value is."""

    def __call__(self, gpu: str | Gpu | None = None) -> Launches: ...


def starter(request: pytest.FixtureRequest) -> Iterator[Start]:
    """Yield a function that starts a dry launch for the rest of the test; the fixture's body.

    ``launches = dry_launch("gfx942")`` returns the launches so far, as the context manager does.
    Without a target it takes that of the closest ``@pytest.mark.dry_launch("gfx942")``, else the
    GPU that is mocked. What keeps it from starting fails the test with the reason alone.

    Raises:
        pytest.UsageError: the marker has anything but one target.
    """
    marker = request.node.get_closest_marker("dry_launch")
    if marker is not None and (len(marker.args) != 1 or marker.kwargs):
        raise pytest.UsageError(
            f"{request.node.nodeid}: the dry_launch marker takes one gfx target, as in "
            f'dry_launch("gfx942"), not {marker.args!r} {marker.kwargs or ""}'.rstrip()
        )
    with contextlib.ExitStack() as stack:

        def start(gpu: str | Gpu | None = None) -> Launches:
            __tracebackhide__ = True
            if gpu is None and marker is not None:
                gpu = marker.args[0]
            try:
                return stack.enter_context(dry_launch(gpu))
            except RocmAttnError as error:
                pytest.fail(f"dry_launch: {error}", pytrace=False)

        yield start
