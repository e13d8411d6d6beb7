"""Functions of aiter: found in either place, called by the names they take, or a message that mends."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from pytest_rocm_attn.aiter_probe import Probe
from pytest_rocm_attn.backends import aiter_function
from pytest_rocm_attn.backends.aiter_function import AiterFunction, parameters
from pytest_rocm_attn.errors import AiterError
from pytest_rocm_attn.gpu import Aiter

BACKEND = "ROCM_AITER_FA"


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    aiter_function._find.cache_clear()
    yield
    aiter_function._find.cache_clear()


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A module `aiter` that passes for AMD's, empty but for its name."""
    module = types.ModuleType("aiter")
    monkeypatch.setitem(sys.modules, "aiter", module)
    _probed(monkeypatch, Aiter.PRESENT, "amd-aiter 9.9 in /x/aiter")
    return module


def _probed(monkeypatch: pytest.MonkeyPatch, state: Aiter, reason: str) -> None:
    monkeypatch.setattr("pytest_rocm_attn.aiter_probe.probe", lambda: Probe(state, reason))


def function(*places: str, **neutral: Any) -> AiterFunction:
    return AiterFunction("work", places or ("aiter",), "docs/reference/aiter.md#functions", neutral)


@pytest.mark.parametrize(
    ("state", "mends"),
    [
        (Aiter.ABSENT, "install it: pip install amd-aiter"),
        (Aiter.BROKEN, "install it again: pip install --force-reinstall amd-aiter"),
        (Aiter.IMPOSTOR, "pip uninstall aiter, then pip install amd-aiter"),
    ],
)
def test_an_unusable_aiter_is_named_with_the_command_that_mends_it(
    monkeypatch: pytest.MonkeyPatch, state: Aiter, mends: str
) -> None:
    _probed(monkeypatch, state, "the reason found")
    with pytest.raises(AiterError) as error:
        function().call(BACKEND, q=1)
    assert str(error.value) == f"ROCM_AITER_FA needs AMD's aiter: the reason found; {mends}"


def test_arguments_go_by_name_whatever_their_order(installed: Any) -> None:
    installed.work = lambda k, q, inserted=3: (q, k, inserted)
    assert function().call(BACKEND, q=1, k=2) == (1, 2, 3)


def test_what_is_not_asked_for_is_left_out_where_it_is_unknown(installed: Any) -> None:
    installed.work = lambda q: q
    neutral = function(sinks=None, window=(-1, -1))
    assert neutral.call(BACKEND, q=1, sinks=None, window=(-1, -1)) == 1
    with pytest.raises(AiterError, match="does not take window .*pip install --upgrade amd-aiter"):
        neutral.call(BACKEND, q=1, sinks=None, window=(7, 0))
    with pytest.raises(AiterError, match="does not take sinks"):
        neutral.call(BACKEND, q=1, sinks=torch.zeros(4))


def test_a_new_required_argument_is_an_error_and_not_a_guess(installed: Any) -> None:
    installed.work = lambda q, brand_new: q
    with pytest.raises(AiterError, match="requires brand_new, which this version"):
        function().call(BACKEND, q=1)


def test_the_newer_place_is_tried_first_and_the_older_one_after(
    installed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed.__path__ = []
    older = types.ModuleType("aiter.old")
    vars(older)["work"] = lambda q: "old"
    monkeypatch.setitem(sys.modules, "aiter.old", older)
    assert function("aiter.new", "aiter.old").call(BACKEND, q=1) == "old"


def test_a_release_without_the_function_is_too_old(installed: Any) -> None:
    with pytest.raises(AiterError, match="amd-aiter 9.9 .*has no work in aiter .*--upgrade"):
        function().call(BACKEND, q=1)


def test_an_import_that_exits_is_an_error_of_ours(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """aiter does that where hipcc is missing (docs/reference/aiter.md#import)."""
    (tmp_path / "aiter.py").write_text("raise SystemExit('no hipcc')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "aiter", raising=False)
    _probed(monkeypatch, Aiter.PRESENT, "amd-aiter 9.9")
    with pytest.raises(AiterError, match="cannot be imported .*SystemExit: no hipcc"):
        function().call(BACKEND, q=1)


def test_an_operator_of_torch_tells_its_arguments() -> None:
    wanted = {"self": True, "dim": True, "dtype": False}
    assert parameters(torch.ops.aten.softmax.int) == wanted
    assert parameters(torch.ops.aten.relu) == {"self": True}
