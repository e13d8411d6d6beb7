"""A suite that has nothing to do with this plugin, and happens to use its words."""

from __future__ import annotations

import re

import pytest

# Every name that a marker or a fixture of this plugin has or had, with a meaning of somebody else's.
CONFTEST = """
import pytest

NAMES = (
    "rocm", "aiter", "required", "advisory", "dry_launch",
    "rocm_gpu", "mock_rocm", "emulated_rocm", "rocm_env",
)

def pytest_configure(config):
    for name in NAMES:
        config.addinivalue_line("markers", f"{name}: ours")

def pytest_collection_modifyitems(items):
    for item in items:
        if "added" in item.name:
            item.add_marker(pytest.mark.aiter(timeout=3))
            item.add_marker("required")

def pytest_runtest_setup(item):
    for name in NAMES:
        item.add_marker(name)

@pytest.fixture
def mock_rocm():
    return "our mock"

@pytest.fixture
def emulated_rocm():
    raise OSError("nobody asks for it")

@pytest.fixture
def rocm_gpu():
    return "our GPU"

@pytest.fixture
def rocm_env():
    return {"PROD": 1}

@pytest.fixture
def dry_launch():
    return None

@pytest.fixture
def rocm_select():
    return "SELECT 1"
"""
SUITE = """
import os
import unittest

import pytest

pytestmark = pytest.mark.rocm("6.2", required=True)

@pytest.mark.rocm
@pytest.mark.rocm_gpu
@pytest.mark.mock_rocm
@pytest.mark.emulated_rocm
@pytest.mark.rocm_env
@pytest.mark.aiter
@pytest.mark.dry_launch
def test_bare(): pass

@pytest.mark.rocm("6.2")
@pytest.mark.rocm_gpu(2, memory="80G")
@pytest.mark.mock_rocm(autospec=True)
@pytest.mark.emulated_rocm("in QEMU")
@pytest.mark.rocm_env("prod", region="eu")
@pytest.mark.aiter(timeout=3)
@pytest.mark.dry_launch(False)
@pytest.mark.required("by law")
@pytest.mark.advisory(reason="soon")
def test_with_arguments(mock_rocm, rocm_gpu, rocm_env, dry_launch, rocm_select):
    assert (mock_rocm, rocm_gpu, rocm_env) == ("our mock", "our GPU", {"PROD": 1})
    assert (dry_launch, rocm_select) == (None, "SELECT 1")

@pytest.mark.rocm_gpu("RX 12000")
@pytest.mark.mock_rocm("MI6")
def test_with_names_that_are_no_product_of_ours(): pass

@pytest.mark.parametrize("n", [1, pytest.param(2, marks=pytest.mark.rocm_gpu("RX 7999"))])
def test_parametrised(n): assert n == 1

@pytest.mark.mock_rocm(lambda: "a factory")
class TestClass:
    def test_method(self):
        assert os.environ["VLLM_ROCM_USE_AITER"] == "1"

@pytest.mark.required
class TestCase(unittest.TestCase):
    def test_it(self): pass

def test_added(): pass

@pytest.fixture
def late(request):
    request.node.add_marker(pytest.mark.mock_rocm(7))

def test_added_by_a_fixture(late): pass

@pytest.mark.skip(reason="rocm: not today")
@pytest.mark.rocm
def test_skipped(): pass
"""


@pytest.mark.parametrize("selection", [[], ["-m", "required"], ["-m", "rocm and not aiter"]])
def test_nothing_of_it_changes_where_the_plugin_is_installed(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, selection: list[str]
) -> None:
    monkeypatch.setenv("VLLM_ROCM_USE_AITER", "1")
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(SUITE)
    options = ["-p", "no:randomly", "-p", "no:cacheprovider", "-v", "-rA", "--strict-markers"]
    with_plugin, without = (
        [
            re.sub(r"\d+\.\d\ds", "", line)
            for line in pytester.runpytest_subprocess(*options, *selection, *more).outlines
            if not line.startswith(("plugins: ", "hypothesis profile"))
        ]
        for more in ([], ["-p", "no:rocm_attn"])
    )
    assert any("passed" in line for line in without)
    assert with_plugin == without
