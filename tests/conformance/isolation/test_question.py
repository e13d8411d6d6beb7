"""Questions in groups, and what to do about an import that failed."""

from __future__ import annotations

import fnmatch

import pytest

from pytest_rocm_attn import Gpu, Request
from pytest_rocm_attn.conformance.isolation.question import FailedImport, Group, Question, apart


def test_what_needs_a_process_of_its_own_is_set_apart_and_keeps_its_environment() -> None:
    gpu, request, on = Gpu("gfx942"), Request(), {"VLLM_ROCM_USE_AITER": "1"}
    select, build = Question.of(gpu, on, request), Question.of(gpu, on, request, "construct")
    names = Question.of(gpu, on, request, "names", "ROCM_AITER_FA")
    plain = Question.of(gpu, {}, request)
    listed = {"HIP_VISIBLE_DEVICES": "1"}
    there = Question.of(gpu, listed, request)
    own, others = apart(
        [Group(on, [select, names, build]), Group({}, [plain]), Group(listed, [there])]
    )
    assert own == [Group(on, [names]), Group(listed, [there])]
    assert others == [Group(on, [select, build]), Group({}, [plain])]


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (
            "xgrammar.kernels",
            "install the package that has xgrammar.kernels (*): `pip install xgrammar`",
        ),
        ("vllm._rocm_C", "vllm._rocm_C is part of vllm itself (vllm.config imports it): build*"),
        ("vllm", "install vllm, or run `python -m pytest` in the folder that it is in"),
        ("_sqlite3", "_sqlite3 is part of Python (vllm.config imports it): *"),
        (
            "aiter.ops.gone",
            "the mocked platform's aiter lacks it (vllm.config imports it): report*",
        ),
        ("", ""),
    ],
)
def test_the_remedy_for_a_failed_import_depends_on_whose_module_it_is(
    module: str, words: str
) -> None:
    cure = FailedImport(module, "vllm.config").cure("vllm", mocked=True)
    assert fnmatch.fnmatchcase(cure, words)
    if module.startswith("aiter"):
        unmocked = FailedImport(module, "").cure("vllm", mocked=False)
        assert unmocked == "install the package that has aiter.ops.gone: `pip install aiter`"


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (
            "vllm",
            "vllm is part of vllm itself (vllm.config imports it): build and install it whole",
        ),
        (
            "xgrammar.kernels",
            "xgrammar.kernels lacks what is imported (*): install another version of xgrammar",
        ),
        ("json", "json is part of Python (*): use another version or build of Python"),
    ],
)
def test_a_module_that_exists_is_not_to_be_installed_but_to_be_replaced(
    module: str, words: str
) -> None:
    cure = FailedImport(module, "vllm.config", found=True).cure("vllm", mocked=True)
    assert fnmatch.fnmatchcase(cure, words)
