"""What the ``rocm_select`` fixture does: one question at a time to the selector under test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from pytest_rocm_attn.conformance.settings import subject_of
from pytest_rocm_attn.conformance.workers import Pool, Question
from pytest_rocm_attn.gpu import Gpu
from pytest_rocm_attn.request import Request

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import pytest

    from pytest_rocm_attn.outcome import Outcome


class Ask(Protocol):
    """What the fixture's value is."""

    def __call__(
        self, environ: Mapping[str, str] | None = None, *, gpu: Gpu | str, **fields: Any
    ) -> Outcome: ...


def asker(config: pytest.Config) -> Iterator[Ask]:
    """Yield a function that asks the selector that the options name; the fixture's body.

    The worker processes start with the first question and end with the test.
    """
    pool: Pool | None = None

    def ask(environ: Mapping[str, str] | None = None, *, gpu: Gpu | str, **fields: Any) -> Outcome:
        nonlocal pool
        if pool is None:
            pool = Pool(subject_of(config), lanes=1)
        target = Gpu(gpu) if isinstance(gpu, str) else gpu
        (future,) = pool.submit([Question.of(target, environ or {}, Request(**fields))])
        return future.result().outcome

    yield ask
    if pool is not None:
        pool.close()
