"""The outcome that a selector's answer, or its exception, stands for."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_rocm_attn.conformance.adapters import FILE_MODULE
from pytest_rocm_attn.conformance.isolation.inside.refusal import chain, is_refusal, text_of
from pytest_rocm_attn.conformance.isolation.question import FailedImport
from pytest_rocm_attn.outcome import Crashed, Outcome, Rejected

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_rocm_attn.conformance.adapters import Adapter
    from pytest_rocm_attn.gpu import Gpu
    from pytest_rocm_attn.request import Request

_TRACEBACK_LIMIT = 20_000  # characters: enough for any real one, bounded for a hostile one


@dataclass(frozen=True)
class Home:
    """What a process knows about the code that it asks.

    Attributes:
        package: the package that the code is in; "" for a file.
        mocked: the platform is mocked.
    """

    package: str = ""
    mocked: bool = False


home = Home()


def ask(adapter: Adapter, request: Request, environ: Mapping[str, str], gpu: Gpu) -> Outcome:
    """Put one question and return the outcome, whatever the selector does short of dying."""
    return ask_and_keep(adapter, request, environ, gpu)[0]


def ask_and_keep(
    adapter: Adapter, request: Request, environ: Mapping[str, str], gpu: Gpu
) -> tuple[Outcome, object]:
    """Return the outcome, and what was answered or raised, which may say how it came about."""
    try:
        return adapter.select(request, environ, gpu), getattr(adapter, "answered", None)
    except BaseException as error:  # noqa: BLE001  even SystemExit is the selector's answer
        return outcome_of(error), error


def outcome_of(error: BaseException) -> Rejected | Crashed:
    """Return the outcome of an exception of the selector's: a refusal, or a crash."""
    if is_refusal(error):
        return Rejected(type(error).__name__, text_of(error)[:_TRACEBACK_LIMIT])
    return crashed(error)


def failed_import(error: object) -> FailedImport | None:
    """Return the import that failed and is behind an exception; None if none is."""
    if not isinstance(error, BaseException):
        return None
    for each in chain(error):
        if isinstance(each, ImportError):
            homes = [
                str(frame.f_globals.get("__name__", "")).removeprefix(FILE_MODULE)
                for frame, _ in traceback.walk_tb(each.__traceback__)
            ]
            ours = ("importlib", "pytest_rocm_attn")
            homes = [home for home in homes if home.partition(".")[0] not in ours]
            found = not isinstance(each, ModuleNotFoundError)
            return FailedImport(str(each.name or ""), homes[-1] if homes else "", found)
    return None


def remedy(error: BaseException) -> str:
    """Return what to do about the import that failed and is behind an exception, to follow its message."""
    failed = failed_import(error)
    cure = failed.cure(home.package, mocked=home.mocked) if failed else ""
    return f"; {cure}" if cure else ""


def crashed(error: BaseException) -> Crashed:
    """Return the outcome for an exception that is not a refusal."""
    text = "".join(traceback.format_exception(error)).rstrip() + remedy(error)
    return Crashed(type(error).__name__, text[-_TRACEBACK_LIMIT:])


def refresh(adapter: Adapter) -> tuple[bool, Crashed | None]:
    """Return whether the adapter refreshed its selector, and how it failed, if it raised."""
    try:
        return bool(adapter.refresh()), None
    except BaseException as error:  # noqa: BLE001  foreign code: a fork's own, or a user's adapter
        return False, crashed(error)
