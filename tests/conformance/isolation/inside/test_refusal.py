"""Which exceptions are a refusal, and which an import that went wrong."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

import pytest

from pytest_rocm_attn.conformance.isolation.inside.refusal import is_refusal
from pytest_rocm_attn.errors import MockError, SelectorError
from pytest_rocm_attn.mock import mock_rocm

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("kind", [ValueError, NotImplementedError, RuntimeError, AssertionError])
def test_four_kinds_of_exception_are_refusals(kind: type[Exception]) -> None:
    assert is_refusal(kind("no backend serves head size 7"))
    assert is_refusal(type("Special", (kind,), {})("no"))


@pytest.mark.parametrize(
    "kind",
    [ImportError, AttributeError, TypeError, NameError, KeyError, OSError, SystemExit]
    + [RecursionError, MockError, SelectorError],
)
def test_no_other_kind_is_one_whatever_it_says(kind: type[BaseException]) -> None:
    assert not is_refusal(kind("TRITON_ATTN cannot serve VLLM_ROCM_USE_AITER=1"))


def caught(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> Exception:
    """Return what a selector raises that imports a module with this body on the way."""
    (folder / "imported_on_the_way.py").write_text(body)
    monkeypatch.syspath_prepend(folder)

    def select() -> None:
        importlib.import_module("imported_on_the_way")

    with pytest.raises(Exception) as raised:
        select()
    return raised.value


@pytest.mark.parametrize("kind", ["RuntimeError", "AssertionError", "NotImplementedError"])
def test_what_an_import_raises_is_no_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    body = f"def probe():\n    raise {kind}('ROCm version file not found')\n\nprobe()\n"
    assert not is_refusal(caught(tmp_path, monkeypatch, body))


def test_an_aiter_that_is_broken_at_import_is_no_refusal() -> None:
    with mock_rocm("gfx942", aiter="broken"), pytest.raises(RuntimeError) as raised:
        importlib.import_module("aiter.ops.triton")
    assert not is_refusal(raised.value)


def test_a_variable_that_an_import_cannot_parse_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert is_refusal(caught(tmp_path, monkeypatch, "int('many')\n"))


def test_an_import_that_speaks_of_what_was_asked_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = "raise RuntimeError('ROCM_AITER_FA needs gfx9')\n"
    assert is_refusal(caught(tmp_path, monkeypatch, body))


def wrapped(message: str, *, behind: Exception, said: bool) -> Exception:
    """Return an exception that another one is behind: by ``from``, or because it was caught."""
    with pytest.raises(ValueError, match=".") as raised:
        try:
            raise behind
        except type(behind) as error:
            if said:
                raise ValueError(message) from error
            raise ValueError(message)
    return raised.value


@pytest.mark.parametrize("said", [True, False], ids=["cause", "context"])
def test_an_import_error_does_not_become_a_refusal_by_being_wrapped(said: bool) -> None:
    missing = ModuleNotFoundError("No module named 'aiter.ops'")
    assert not is_refusal(wrapped("cannot select", behind=missing, said=said))
    assert not is_refusal(wrapped("NOT_ROCM_AITER_FA", behind=missing, said=said))
    assert is_refusal(wrapped("ROCM_AITER_FA needs aiter", behind=missing, said=said))
    assert is_refusal(wrapped("unset VLLM_ROCM_USE_AITER.", behind=missing, said=said))
    assert is_refusal(wrapped("no such backend", behind=KeyError("x"), said=said))


def test_an_import_error_that_was_dealt_with_is_behind_nothing() -> None:
    with pytest.raises(ValueError, match="head size") as raised:
        try:
            raise ImportError("no aiter")
        except ImportError:
            raise ValueError("head size 7 is not supported") from None
    assert is_refusal(raised.value)


def test_a_chain_that_bites_its_tail_ends() -> None:
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert is_refusal(first)
