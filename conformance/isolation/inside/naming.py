"""Asking a selector for a backend when something is named, as the fork's users name it."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from pytest_rocm_attn.conformance.adapters import LacksError, Names
from pytest_rocm_attn.conformance.isolation.inside.outcomes import ask_and_keep, outcome_of
from pytest_rocm_attn.conformance.promise.naming import Named
from pytest_rocm_attn.flags import EXPLICIT
from pytest_rocm_attn.outcome import Told

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_rocm_attn.conformance.adapters import Adapter
    from pytest_rocm_attn.conformance.isolation.question import Question
    from pytest_rocm_attn.outcome import Outcome


def answer(adapter: Adapter, question: Question) -> tuple[Outcome, object]:
    """Select with what the question's detail names.

    Returns:
        The outcome, Told if the selector has nothing to ask; and what was answered or raised.
    """
    named = Named.from_text(question.detail)
    request, gpu, environ = question.request, question.gpu, dict(question.environ)
    try:
        if isinstance(adapter, Names) and not adapter.named_by_variable(named):
            return adapter.select_named(request, environ, gpu, named), None
        if named.asks != "layer":
            raise LacksError("the selector's adapter does not know a server")
        if named.per_kind:
            raise LacksError("the selector is not asked by kind of layer")
        with _variable(named.backend) as variables:
            adapter.refresh()  # forgets what was selected for another name
            return ask_and_keep(adapter, request, {**environ, **variables}, gpu)
    except LacksError as error:
        return Told({"inapplicable": str(error)}), None
    except BaseException as error:  # noqa: BLE001  foreign code: SystemExit is an answer of its too
        return outcome_of(error), error


@contextlib.contextmanager
def _variable(backend: str | None) -> Iterator[dict[str, str]]:
    """Name a backend by the variable, as vLLM's users did up to 0.12."""
    if backend is None:
        yield {}
        return
    before = os.environ.get(EXPLICIT)
    os.environ[EXPLICIT] = backend
    try:
        yield {EXPLICIT: backend}
    finally:
        if before is None:
            os.environ.pop(EXPLICIT, None)
        else:
            os.environ[EXPLICIT] = before
