"""What the fixture ``dry_launch`` and the marker ``rocm_attn_dry_launch`` do."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Protocol

from pytest_rocm_attn.caller import raises_at_the_call
from pytest_rocm_attn.dry_launch.session import dry_launch
from pytest_rocm_attn.markers import DRY_LAUNCH, of_kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

    from pytest_rocm_attn.dry_launch.record import Launches
    from pytest_rocm_attn.gpu import Gpu


class Start(Protocol):
    """What the fixture's value is."""

    def __call__(
        self, gpu: str | Gpu | None = None, *, compile_timeout: float | None = None
    ) -> Launches: ...


def starter(request: pytest.FixtureRequest) -> Iterator[Start]:
    """Yield a function that starts a dry launch for the rest of the test; the fixture's body.

    ``launches = dry_launch("gfx942")`` returns the launches so far, as the context manager does.
    Without a target it takes that of the closest ``@pytest.mark.rocm_attn_dry_launch("gfx942")``,
    else the GPU that is mocked.
    """
    marks = of_kind(request.node, DRY_LAUNCH)
    target = marks[0].args[0] if marks else None
    with contextlib.ExitStack() as stack:

        def start(
            gpu: str | Gpu | None = None, *, compile_timeout: float | None = None
        ) -> Launches:
            gpu = target if gpu is None else gpu
            return stack.enter_context(dry_launch(gpu, compile_timeout=compile_timeout))

        start.__name__ = "dry_launch"
        yield raises_at_the_call(start)
