"""What the ``rocm_select`` fixture does: one question at a time to the selector under test."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, Protocol

from pytest_rocm_attn.caller import raises_at_the_call
from pytest_rocm_attn.conformance.isolation import Pool, Question
from pytest_rocm_attn.conformance.run.settings import subject_of
from pytest_rocm_attn.environment import warn_of
from pytest_rocm_attn.errors import FlagError, RequestError, nearest
from pytest_rocm_attn.flags import check_name
from pytest_rocm_attn.gpu import Gpu
from pytest_rocm_attn.request import Request

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import pytest

    from pytest_rocm_attn.outcome import Outcome


class RocmSelect(Protocol):
    """What the fixture's value is."""

    def __call__(
        self, environ: Mapping[str, str] | None = None, *, gpu: Gpu | str, **fields: Any
    ) -> Outcome: ...


def asker(config: pytest.Config) -> Iterator[RocmSelect]:
    """Yield a function that asks the selector that the options name; the fixture's body.

    The worker processes start with the first question and end with the test. What is wrong with a
    question is raised where the test asks it, as the RocmAttnError that says so.
    """
    pool: Pool | None = None

    def ask(environ: Mapping[str, str] | None = None, *, gpu: Gpu | str, **given: Any) -> Outcome:
        nonlocal pool
        target = Gpu(gpu) if isinstance(gpu, str) else gpu
        question = Question.of(target, _checked(environ or {}), _request(given))
        if pool is None:
            pool = Pool(subject_of(config), lanes=1)
        (future,) = pool.submit([question])
        return future.result().outcome

    ask.__name__ = "rocm_select"
    yield raises_at_the_call(ask)
    if pool is not None:
        pool.close()


def _checked(environ: Mapping[str, str]) -> Mapping[str, str]:
    for name, text in environ.items():
        if not isinstance(name, str) or not isinstance(text, str):
            raise FlagError(
                f"rocm_select: {name!r}: {text!r} is not an environment variable; both are strings"
            )
        check_name(name)
    warn_of(environ)
    return environ


def _request(given: Mapping[str, Any]) -> Request:
    known = [field.name for field in fields(Request)]
    for name in given:
        if name not in known:
            raise RequestError(
                f"rocm_select: a request has no field {name!r}.{nearest(name, known)}"
                f" Fields: {', '.join(known)}"
            )
    return Request(**given)
