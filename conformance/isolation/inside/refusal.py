"""Which exceptions are a selector's refusal, and which are a crash in a refusal's clothes.

A refusal is one of a few kinds of exception, about what was asked. The same kinds also come out of
an import that goes wrong on the way: AMD's aiter raises RuntimeError if it finds no ROCm. That is
not about the request, so it is a crash, unless its own message mentions what was asked.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pytest_rocm_attn.errors import MockError, SelectorError
from pytest_rocm_attn.flags import VARIABLES
from pytest_rocm_attn.registry import EVERY_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator

_KINDS = (ValueError, NotImplementedError, RuntimeError, AssertionError)
_NO_REFUSAL = (MockError, SelectorError, RecursionError)  # ours, or the interpreter's
_ASKED = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, (*EVERY_NAME, *VARIABLES)))})(?!\w)")


def is_refusal(error: BaseException) -> bool:
    """Return whether an exception of the selector's is a deliberate refusal.

    That is a ValueError, NotImplementedError, RuntimeError or AssertionError, unless an import that
    failed is behind it and its message names neither a backend nor a variable. A ValueError that an
    import raises counts as a refusal: so a variable is refused that is parsed when it is imported.
    """
    if not isinstance(error, _KINDS) or isinstance(error, _NO_REFUSAL):
        return False
    return not any(map(_is_failed_import, chain(error))) or bool(_ASKED.search(text_of(error)))


def text_of(error: BaseException) -> str:
    """Return the message of an exception, or why it has none: its own code makes the text."""
    try:
        return str(error)
    except BaseException as raised:  # noqa: BLE001  foreign code
        return f"(no message: its __str__ raised {type(raised).__name__})"


def chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and those behind it, as a traceback shows them."""
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        hidden = following.__suppress_context__
        following = following.__cause__ or (None if hidden else following.__context__)


def _is_failed_import(error: BaseException) -> bool:
    if isinstance(error, ImportError):
        return True
    return not isinstance(error, ValueError) and _was_raised_while_importing(error)


def _was_raised_while_importing(error: BaseException) -> bool:
    """Whether the exception came through the body of a module, or through a loader."""
    step = error.__traceback__
    while step is not None:
        code = step.tb_frame.f_code
        if code.co_name == "<module>" or code.co_filename.startswith("<frozen importlib"):
            return True
        step = step.tb_next
    return False
