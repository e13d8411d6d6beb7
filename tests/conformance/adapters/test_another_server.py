"""Selectors of other servers: their own names, what they prepare, packages that stand in, renamed variables."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest

from pytest_rocm_attn import Gpu, Request
from pytest_rocm_attn.conformance.adapters import adapt, unused
from pytest_rocm_attn.conformance.isolation import Pool, Question, Subject
from pytest_rocm_attn.conformance.isolation.inside import environment
from pytest_rocm_attn.outcome import Selected, Unrecognised

if TYPE_CHECKING:
    from pathlib import Path


class Selector:
    def __init__(self, *names: str) -> None:
        self.names = names
        self.prepared = 0

    def prepare(self) -> None:
        self.prepared += 1

    def select(self, request: Request) -> str:
        return "fast" if request.use_mla else "TRITON_ATTN"


def test_a_selector_brings_the_names_of_its_backends() -> None:
    adapter = adapt(Selector("fast", "slow"), "ours")
    gpu = Gpu("gfx942")
    assert adapter.select(Request(use_mla=True), {}, gpu) == Selected("fast")
    assert isinstance(adapter.select(Request(), {}, gpu), Unrecognised)
    without = adapt(Selector(), "ours")
    assert isinstance(without.select(Request(use_mla=True), {}, gpu), Unrecognised)
    assert without.select(Request(), {}, gpu) == Selected("TRITON_ATTN")


def test_a_selector_may_prepare_what_every_question_needs() -> None:
    selector = Selector("fast")
    adapt(selector, "ours").prepare(Gpu("gfx942"))
    assert selector.prepared == 1


def test_a_package_that_is_not_there_stands_in_and_one_that_is_stays() -> None:
    with unused.stand_ins("no_such_package_at_all", "json"):
        module = importlib.import_module("no_such_package_at_all.transforms.functional")
        assert module.Mode.NEAREST is not None
        assert "no_such_package_at_all" in sys.modules
        import json

        assert json.loads("1") == 1
    assert importlib.util.find_spec("no_such_package_at_all_either") is None
    for name in [name for name in sys.modules if name.startswith("no_such_package_at_all")]:
        del sys.modules[name]


# --- a fork that renamed vLLM's variables ----------------------------------------------------------


def test_a_renamed_variable_has_the_value_of_vllms_and_its_own_comes_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kind = type(os.environ)
    monkeypatch.setattr(kind, "__getitem__", kind.__getitem__)  # puts it back afterwards
    monkeypatch.setenv("VLLM_ROCM_USE_AITER", "1")
    monkeypatch.setenv("VLLM_ROCM_USE_AITER_MLA", "1")
    monkeypatch.setenv("OURS_ROCM_USE_AITER_MLA", "0")
    environment.rename_variables("OURS_")
    reads = environment.EnvironmentReads()
    with reads.recording():
        assert os.getenv("OURS_ROCM_USE_AITER") == "1"
        assert os.environ["OURS_ROCM_USE_AITER_MLA"] == "0"
        assert "OURS_ROCM_USE_AITER_MHA" not in os.environ
    # The side that drives knows vLLM's names only.
    assert reads.values["VLLM_ROCM_USE_AITER"] == "1"
    assert reads.values["VLLM_ROCM_USE_AITER_MHA"] is None


def test_a_row_sets_the_variable_that_the_fork_reads(tmp_path: Path) -> None:
    package = tmp_path / "renamed_fork"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "envs.py").write_text('names = {"RENAMED_ROCM_USE_AITER": 1}')
    source = """
        import os

        def select(request):
            on = os.getenv("RENAMED_ROCM_USE_AITER") == "1"
            return "ROCM_AITER_FA" if on else "TRITON_ATTN"
    """
    (package / "choose.py").write_text(textwrap.dedent(source))
    before = list(sys.path)
    sys.path.insert(0, str(tmp_path))
    pool = Pool(Subject("renamed_fork.choose:select", preload=()), lanes=1)
    try:
        asked = [
            Question.of(Gpu("gfx942"), environ, Request())
            for environ in ({}, {"VLLM_ROCM_USE_AITER": "1"})
        ]
        told = [future.result().outcome for future in pool.submit(asked)]
    finally:
        pool.close()
        sys.path[:] = before
    assert told == [Selected("TRITON_ATTN"), Selected("ROCM_AITER_FA")]
